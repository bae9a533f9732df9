// What a house's administrator does with people: users with roles, messages to a receiver, an offer that is accepted, and
// a tenant that leaves in the middle of an answer.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { model, question, run, Stack, until } from './stack.mjs';

let stack, receiver;
const received = [];

before(async () => {
  receiver = http.createServer((request, response) => {
    let body = '';
    request.on('data', (data) => (body += data));
    request.on('end', () => {
      received.push({ headers: request.headers, body });
      response.writeHead(204).end();
    });
  });
  await new Promise((resolve) => receiver.listen(0, '127.0.0.1', resolve));
  stack = await Stack.up({ env: { GANTRY_BILLING_WEBHOOK_PRIVATE_NETWORKS: '127.0.0.0/8' } });
});
after(async () => {
  receiver?.close();
  await stack?.down();
});

const done = async (...args) => {
  const result = await stack.cli(...args);
  assert.equal(result.code, 0, `gantry ${args.join(' ')}: ${result.err}`);
  return result.out;
};

test('a user does what its role allows, within its party', async () => {
  await done('tenant', 'create', 'north', '--kind', 'reseller');
  const token = (await done('user', 'create', 'ada@north.example', '--party', 'north', '--role', 'billing', '--quiet')).trim();
  const as = (...args) => run([...args, '--data-dir', stack.dir], { GANTRY_USER_TOKEN: token });
  assert.match((await as('user', 'whoami')).out, /^ada@north\.example, billing of north: see usage prices money notify\n$/);
  assert.equal((await as('plan', 'publish', 'standard', '--seller', 'north', '--markup', '10')).code, 0);
  for (const beyond of [
    ['tenant', 'list'],                                   // the whole house
    ['usage', '--tenant', 'demo'],                        // somebody else's
    ['topup', '--tenant', 'north', '100'],                // its own money
    ['key', 'create', '--tenant', 'north'],               // not its role
    ['audit'],                                            // the house's
  ]) {
    const result = await as(...beyond);
    assert.equal(result.code, 1, beyond.join(' '));
    assert.match(result.err, /PERMISSION_DENIED|right|expected|users of the house/, beyond.join(' '));
  }
});

test('a webhook is told what the books say, signed with the secret that was shown', async () => {
  const url = `http://127.0.0.1:${receiver.address().port}/hooks`;
  const secret = /whsec_\S+/.exec(await done('notify', 'add', url, '--party', 'demo', '--topic', 'credit.*'))[0];
  await done('topup', '--tenant', 'demo', '5', '--promotional', '--expires', new Date(Date.now() + 3_600_000).toISOString());
  await until('the webhook arrives', 30, () => received.length > 0);
  const { headers, body } = received[0];
  assert.equal(headers['gantry-topic'], 'credit.expiring');
  const [, time, digest] = /^t=(\d+),v1=1:([0-9a-f]+)$/.exec(headers['gantry-signature']);
  assert.equal(crypto.createHmac('sha256', secret).update(`${time}.${body}`).digest('hex'), digest);
  const message = JSON.parse(body);
  assert.equal(message.id, headers['gantry-message-id']);
  assert.equal(message.data.amount_micro, 5_000_000);
  const row = await until('it is marked', 10, async () =>
    (await stack.json('outbox', 'list')).find((item) => item.topic === 'credit.expiring' && item.state === 'delivered'));
  assert.equal(row.attempts, 1);
  assert.equal(received.length, 1);
});

test('an offer to two peers: a letter, and who accepts pays its prices from then on', async () => {
  const plan = path.join(stack.dir, 'partners.toml');
  fs.writeFileSync(plan, `plan = "partners"
currency = "EUR"
${['input', 'cached_input', 'output'].map((name) => `[[line]]\nclass = "${name}"\nprice = "0.10"\n`).join('')}
[[line]]
class = "request"
price = "0"
`);
  const day = (days) => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10);
  const quotes = await stack.json('quote', 'draft', '--file', plan, '--to', 'demo', '--to', 'beta=Beta GmbH',
    '--open-until', day(30), '--starts', day(0), '--promised-until', day(365));
  assert.deepEqual(quotes.map((quote) => quote.buyer), ['demo', 'beta']);
  const { number } = quotes[1];
  assert.equal((await stack.cli('quote', 'accept', number, '--by', 'Bo')).code, 1);  // not sent yet
  await done('quote', 'send', number);
  const letter = path.join(stack.dir, 'offer.pdf');
  await done('quote', 'letter', number, '--output', letter);
  assert.equal(fs.readFileSync(letter).subarray(0, 5).toString(), '%PDF-');
  await Promise.all([1, 2, 3].map(() => done('quote', 'accept', number, '--by', 'Bo')));
  const beta = (await stack.json('tenant', 'list')).find((party) => party.name === 'beta');
  assert.equal(beta.plan, `partners-${number.toLowerCase()}`);
  await done('topup', '--tenant', 'beta', '5');
  const key = await stack.newKey('beta');
  const reply = await stack.client({ apiKey: key }).chat.completions.create({ model, messages: question, max_tokens: 8 });
  const [row] = (await stack.json('usage', '--tenant', 'beta')).rows.length
    ? (await stack.json('usage', '--tenant', 'beta')).rows
    : [await until('it is booked', 10, async () => (await stack.json('usage', '--tenant', 'beta')).rows[0])];
  assert.equal(row.amount_pico, (reply.usage.prompt_tokens + reply.usage.completion_tokens) * 100_000);
});

test('a tenant that is closed in the middle of an answer pays what it got, and is forgotten', async () => {
  const key = await stack.tenant('leaver', '7');
  await done('user', 'create', 'eve@leaver.example', '--party', 'leaver', '--role', 'owner');
  const stream = await stack.client({ apiKey: key }).chat.completions.create({
    model, messages: question, stream: true, max_tokens: 4000, ignore_eos: true,
  });
  let tokens = 0, failed;
  try {
    for await (const chunk of stream) {
      tokens += chunk.choices[0]?.delta?.content ? 1 : 0;
      if (tokens === 5) await done('tenant', 'close', 'leaver', '--refund', '--reason', 'the contract ended');
    }
  } catch (error) {
    failed = error;
  }
  assert.ok(failed, 'the stream ends with an error');
  assert.equal((await stack.get('/v1/models', key)).status, 401);
  const closing = await until('it is closed', 60, async () => {
    const now = await stack.json('tenant', 'closing', 'leaver');
    return now.done ? now : undefined;
  });
  assert.match(closing.party, /^closed-[0-9a-f]{16}$/);
  assert.equal(closing.invoices.length, 1);
  assert.equal(closing.kept_micro, 0);
  // Less than a cent was used, and invoices are in cents.
  assert.equal(closing.refunded_micro, 7_000_000);
  const [row] = (await stack.json('usage', '--tenant', closing.party)).rows;
  assert.ok(row.output_tokens >= tokens && row.output_tokens < 4000, `${row.output_tokens} of ${tokens} seen`);
  const statement = JSON.parse(await done('statement', '--tenant', closing.party));
  assert.equal(statement.closing_micro, 0);
  assert.equal((await stack.cli('user', 'list', '--party', 'leaver')).code, 1);
  await stack.auditSettled();
});
