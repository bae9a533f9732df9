// Two gateways on one billing: limits and money hold over both, and one that is lost is given up.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { Stack, freePorts, model, sleep, until } from './stack.mjs';

const bin = process.env.GANTRY_BIN_DIR ?? new URL('../../build/release/bin', import.meta.url).pathname;
const sliceMicro = '600';
let stack, second, port;

// Another gateway of the same installation, with a state directory of its own.
async function startSecond() {
  port = await freePorts();
  const run = (name) => `unix:${path.join(stack.dir, 'run', `${name}.sock`)}`;
  const args = ['--listen', run('gateway2'), '--identity-dir', path.join(stack.dir, 'identity'),
    '--admin-key-file', path.join(stack.dir, 'admin.key'), '--http', `127.0.0.1:${port}`, '--router', run('router'),
    '--billing', run('billing'), '--state-dir', path.join(stack.dir, 'gateway2'), '--metrics', `127.0.0.1:${port + 1}`];
  second = spawn(path.join(bin, 'gantry-gateway'), args, {
    env: { ...process.env, GANTRY_GATEWAY_SLICE_MICRO: sliceMicro }, stdio: 'ignore',
  });
  await until('the second gateway serves', 20, async () => {
    const models = await stack.request('GET', '/v1/models', { port }).catch(() => null);
    return models?.status === 200 && JSON.parse(models.body).data.length > 0;
  });
}

const ask = (key, at, max_tokens = 4) =>
  stack.post('/v1/chat/completions', { model, max_tokens, messages: [{ role: 'user', content: 'Hi' }] },
    { key, port: at });

before(async () => {
  stack = await Stack.up({ env: { GANTRY_GATEWAY_SLICE_MICRO: sliceMicro } });
  await startSecond();
});
after(async () => {
  second.kill('SIGKILL');
  await stack.down();
});

test('a limit per minute holds over both', async () => {
  const key = await stack.newKey('demo', '--rpm', '20');
  await until('the second knows the key', 5, async () =>
    (await stack.request('GET', '/v1/models', { key, port })).status === 200);
  const seen = {};
  for (let i = 0; i < 12; ++i) {
    for (const at of [stack.port, port]) {
      const { status } = await ask(key, at);
      seen[status] = (seen[status] ?? 0) + 1;
    }
  }
  assert.deepEqual(seen, { 200: 20, 429: 4 });
});

test('a balance is used up, whichever gateway has set it aside', async () => {
  // What one gateway sets aside is nearly half of it.
  const key = await stack.tenant('poor', '0.0014');
  await until('the second knows the key', 5, async () =>
    (await stack.request('GET', '/v1/models', { key, port })).status === 200);
  const broke = async (at) => {
    for (let i = 0; i < 2000; ++i) {
      const answer = await ask(key, at, 200);
      if (answer.status === 429) return JSON.parse(answer.body).error;
      assert.equal(answer.status, 200, answer.body);
    }
    assert.fail('never refused');
  };
  for (let i = 0; i < 3; ++i) assert.equal((await ask(key, stack.port, 200)).status, 200);
  const errors = await Promise.all([broke(stack.port), broke(port)]);
  for (const error of errors) assert.equal(error.code, 'insufficient_quota');
  const tenants = await stack.json('tenant', 'list');
  const { posted_micro: left } = tenants.find((tenant) => tenant.name === 'poor');
  // A request of 13 prompt tokens holds 13 x 0.2 + 200 x 0.8 = 163 millionths.
  assert.ok(left >= 0 && left < 163 + 160, `${left} millionths are left`);
});

test('a rotated key serves on through the overlap, with one budget for both', async () => {
  const old = await stack.newKey('demo', '--budget', '1', '--budget-period', 'month');
  assert.equal((await ask(old, stack.port)).status, 200);
  const [id] = (await stack.json('key', 'list', '--tenant', 'demo')).slice(-1).map((key) => key.id);
  const rotated = await stack.cli('key', 'rotate', id, '--overlap', '1h', '--quiet');
  assert.equal(rotated.code, 0, rotated.err);
  const fresh = rotated.out.trim();
  await until('the new key works', 5, async () => (await stack.get('/v1/models', fresh)).status === 200);
  assert.equal((await ask(old, stack.port)).status, 200);
  assert.equal((await ask(fresh, stack.port)).status, 200);
  const shown = await until('usage has arrived', 10, async () => {
    const keys = (await stack.json('key', 'list', '--tenant', 'demo')).slice(-2);
    return keys[0].used_micro > 0 && keys[0].used_micro === keys[1].used_micro && keys;
  });
  assert.equal(shown[1].budget_period, 'month');
  assert.ok(shown[1].resets > shown[1].created);
  assert.ok(shown[0].expires > shown[0].created && shown[1].expires === '');
});

test('the nonce of the digests comes with the reply', async () => {
  const request = { model, max_tokens: 8, messages: [{ role: 'user', content: 'Hi' }], return_token_ids: true };
  const whole = await stack.client().chat.completions.create(request).withResponse();
  const nonce = whole.response.headers.get('gantry-receipt-nonce');
  assert.match(nonce, /^[0-9a-f]{64}$/);
  const { data, response } = await stack.client().chat.completions
    .create({ model, stream: true, max_tokens: 4, messages: [{ role: 'user', content: 'Hi' }] }).withResponse();
  for await (const chunk of data) void chunk;
  assert.match(response.headers.get('gantry-receipt-nonce'), /^[0-9a-f]{64}$/);
  const reply = whole.data;
  await stack.usageOf(reply);
  const receipt = await stack.cli('receipt', 'get', reply.id);
  assert.equal(receipt.code, 0, receipt.err);
  const file = path.join(stack.dir, 'receipt.jsonl');
  fs.writeFileSync(file, receipt.out);
  assert.match(JSON.parse(receipt.out).receipt.output_digest, /^[0-9a-f]{64}$/);
  const write = (name, ids) => {
    fs.writeFileSync(path.join(stack.dir, name), JSON.stringify(ids));
    return path.join(stack.dir, name);
  };
  const good = await stack.cli('receipt', 'verify', file, '--nonce', nonce, '--prompt-ids',
    write('prompt.txt', reply.prompt_token_ids), '--output-ids', write('output.txt', reply.choices[0].token_ids));
  assert.equal(good.code, 0, good.err);
  assert.equal(reply.choices[0].token_ids.length, reply.usage.completion_tokens);
  const ids = write('ids.txt', [1, 2, 3, 4]);
  const wrong = await stack.cli('receipt', 'verify', file, '--nonce', nonce, '--output-ids', ids);
  assert.equal(wrong.code, 1);
  assert.match(wrong.err, /output_digest: is not that of the 4 ids/);
});

test('a gateway that is lost is given up, and is refused until it starts anew', async () => {
  const attached = await stack.json('gateway', 'list');
  assert.deepEqual(attached.map((gateway) => gateway.state), ['attached', 'attached']);
  const lost = attached[1].id;
  const early = await stack.cli('gateway', 'forget', lost);
  assert.equal(early.code, 1);
  assert.match(early.err, /is attached: it is not lost/);
  second.kill('SIGKILL');
  await until('billing has noticed', 10, async () => (await stack.json('gateway', 'list'))[1].state === 'away');
  const forgotten = await stack.cli('gateway', 'forget', lost);
  assert.equal(forgotten.code, 0, forgotten.err);
  const [first, gone] = await stack.json('gateway', 'list');
  assert.equal(gone.state, 'forgotten');
  assert.equal(first.state, 'attached, alone');
  await sleep(10);
  await startSecond();
  assert.equal((await stack.json('gateway', 'list'))[1].state, 'attached', 'started anew');
});

test('the books hold', async () => {
  const audit = await stack.cli('audit');
  assert.equal(audit.code, 0, audit.out);
});
