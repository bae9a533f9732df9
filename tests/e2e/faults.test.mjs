// kill -9 in the middle of a stream: what the tenant sees, that the process comes back, and that the books hold.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import OpenAI from 'openai';
import { long, model, question, sleep, Stack, until } from './stack.mjs';

// Short, because an audit waits for the witness of a process that will never tell.
const env = { GANTRY_BILLING_WITNESS_DEADLINE_MS: '3000' };

let stack;
before(async () => {
  stack = await Stack.up({ env });
});
after(async () => {
  await stack?.down();
});
// A test that failed half-way must not fail those after it.
beforeEach(() => stack.ready(30));

// Streams a long reply and calls `interrupt` after some of it. {text, chunks, usage, finish, error}
async function interrupted(interrupt, max_tokens = long.max_tokens) {
  const seen = { text: '', chunks: 0, usage: null, finish: null, error: null, id: null };
  try {
    const stream = await stack.client().chat.completions.create({
      model, messages: question, stream: true, stream_options: { include_usage: true }, ...long, max_tokens,
    });
    for await (const chunk of stream) {
      seen.id = chunk.id;
      seen.usage = chunk.usage ?? seen.usage;
      seen.finish = chunk.choices[0]?.finish_reason ?? seen.finish;
      if (chunk.choices[0]?.delta?.content) {
        seen.text += chunk.choices[0].delta.content;
        if (++seen.chunks === 30) await interrupt();
      }
    }
  } catch (error) {
    seen.error = error;
  }
  return seen;
}

async function isBack(name, oldPid) {
  await until(`${name} is started again`, 15, () => {
    const pid = stack.pid(name);
    return pid !== 0 && pid !== oldPid;
  });
  await stack.ready(30);
  const reply = await stack.client().chat.completions.create({ model, messages: question, max_tokens: 5 });
  assert.ok(reply.usage.completion_tokens > 0, 'the next request works');
}

for (const name of ['worker', 'router']) {
  test(`${name} killed: the stream ends in an error event, the next request works, the books hold`, async () => {
    let pid;
    const seen = await interrupted(() => (pid = stack.kill(name)));
    assert.ok(seen.chunks >= 30);
    assert.ok(seen.error instanceof OpenAI.APIError, String(seen.error));
    assert.ok(!(seen.error instanceof OpenAI.APIConnectionError), 'an event, not a broken connection');
    assert.equal(seen.finish, null, 'no finish reason for what did not finish');
    await isBack(name, pid);
    const row = await stack.usageOf(seen);
    assert.equal(row.outcome, 'aborted');
    assert.ok(row.output_tokens >= 30, 'what was delivered is billed');
    await stack.auditSettled();
  });

  test(`${name} killed: on the wire the body is terminated after the error event`, async () => {
    const request = stack.post('/v1/chat/completions', { model, messages: question, stream: true, ...long });
    await sleep(400);
    const pid = stack.kill(name);
    const reply = await request;
    assert.equal(reply.status, 200);
    assert.ok(reply.complete, 'the body is terminated');
    const events = reply.body.trim().split('\n\n');
    const error = JSON.parse(events.findLast((e) => e.includes('"error"')).replace(/^data: /, '')).error;
    assert.ok(error.message.length > 10);
    assert.equal(error.type, 'server_error');
    await isBack(name, pid);
    await stack.auditSettled();
  });
}

test('billing killed: the stream ends in order and everything is billed once billing is back', async () => {
  let pid;
  const max_tokens = 1500;  // several extensions of the hold beyond the first
  const seen = await interrupted(() => (pid = stack.kill('billing')), max_tokens);
  assert.equal(seen.error, null, String(seen.error));
  assert.equal(seen.finish, 'length');
  assert.equal(seen.usage.completion_tokens, max_tokens);
  await isBack('billing', pid);
  const row = await stack.usageOf(seen);
  assert.equal(row.output_tokens, max_tokens);
  assert.equal(row.outcome, 'completed');
  await stack.auditSettled();
});

test('gateway killed: the body is left unterminated, the SDK raises, what was delivered is billed', async () => {
  let pid;
  const wire = stack.post('/v1/chat/completions', { model, messages: question, stream: true, ...long });
  const seen = await interrupted(() => (pid = stack.kill('gateway')));
  assert.ok(seen.error, 'the SDK raises');
  assert.equal(seen.finish, null);
  const reply = await wire;
  assert.equal(reply.status, 200);
  assert.equal(reply.complete, false, 'the body is not terminated');
  assert.ok(!reply.body.includes('[DONE]'));
  await isBack('gateway', pid);
  const row = await stack.usageOf(seen);
  assert.equal(row.outcome, 'gateway_lost');
  assert.ok(row.output_tokens <= long.max_tokens);
  await stack.auditSettled();
});

test('billing away: requests work from the slice until it is spent, then 503, and work again when it is back', async () => {
  const small = await Stack.up({ env: { ...env, GANTRY_GATEWAY_SLICE_MICRO: '2000' } });
  try {
    const client = small.client();
    const ask = () =>
      client.chat.completions.create({ model, messages: question, max_tokens: 100, ignore_eos: true, temperature: 0 });
    const replies = [await ask()];
    const supervisor = small.state().supervisor_pid;
    process.kill(supervisor, 'SIGSTOP');  // so that billing stays away
    let refused = null, command;
    try {
      small.kill('billing');
      command = small.cli('tenant', 'list');
      for (let i = 0; i < 200 && !refused; ++i) {
        await ask().then((reply) => replies.push(reply), (error) => (refused = error));
      }
      const { code, err } = await command;
      assert.equal(code, 1);
      assert.match(err, /^gantry: billing does not answer within 10s; [^\n]+\n$/);
    } finally {
      process.kill(supervisor, 'SIGCONT');
    }
    assert.ok(replies.length > 5, `only ${replies.length} requests were served from the slice`);
    assert.ok(refused instanceof OpenAI.InternalServerError, String(refused));
    assert.equal(refused.status, 503);
    await small.ready(30);
    replies.push(await ask());
    for (const reply of replies) {
      const row = await small.usageOf(reply);
      assert.equal(row.output_tokens, reply.usage.completion_tokens);
    }
    assert.equal((await small.json('usage', '--tenant', 'demo')).rows.length, replies.length, 'nothing twice');
    await small.auditSettled();
  } catch (error) {
    small.showLogs();
    throw error;
  } finally {
    await small.down();
  }
});

test('under load, with a process killed again and again: every reply that ended is billed exactly once', async () => {
  const ended = [];
  let stop = false, errors = 0;
  const tenant = async (i) => {
    while (!stop) {
      try {
        const reply = await stack.client().chat.completions.create({
          model, messages: question, max_tokens: 10 + 10 * i, ignore_eos: true, temperature: 0, seed: i,
        });
        ended.push(reply);
      } catch {
        ++errors;
        await sleep(50);
      }
    }
  };
  const tenants = [1, 2, 3, 4].map(tenant);
  for (const name of ['worker', 'billing', 'gateway', 'router', 'billing', 'gateway', 'worker', 'router']) {
    await sleep(1200);
    if (stack.pid(name) !== 0) stack.kill(name);
  }
  await stack.ready(40);
  const served = ended.length;
  await until('requests are served again', 20, () => ended.length > served + 8);
  stop = true;
  await Promise.all(tenants);
  assert.ok(ended.length > 10 && errors > 0, `${ended.length} ended, ${errors} failed`);
  await stack.auditSettled();
  const { rows } = await stack.json('usage', '--tenant', 'demo');
  const byRequest = new Map(rows.map((row) => [row.request_id, row]));
  assert.equal(byRequest.size, rows.length);
  for (const reply of ended) {
    const row = byRequest.get(reply.id.replace('chatcmpl-', ''));
    assert.ok(row, `${reply.id} ended and is not on the books`);
    assert.equal(row.output_tokens, reply.usage.completion_tokens);
  }
});
