// The official OpenAI SDK against a running installation: it streams, counts, and raises the errors it has types for.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import OpenAI from 'openai';
import { model, question, Stack } from './stack.mjs';

let stack, client, failed = false;
before(async () => {
  stack = await Stack.up();
  client = stack.client();
});
after(async () => {
  if (failed) stack?.showLogs();
  await stack?.down();
});
const check = (name, body) =>
  test(name, async () => {
    try {
      await body();
    } catch (error) {
      failed = true;
      throw error;
    }
  });

async function streamed(request) {
  let text = '', usage = null, reasons = [], id;
  const stream = await client.chat.completions.create({
    model,
    stream: true,
    stream_options: { include_usage: true },
    ...request,
  });
  for await (const chunk of stream) {
    id = chunk.id;
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? '';
      if (choice.finish_reason) reasons.push(choice.finish_reason);
    }
    usage = chunk.usage ?? usage;
  }
  return { text, usage, reasons, id };
}

check('the model is listed and can be retrieved', async () => {
  const models = await client.models.list();
  assert.deepEqual(models.data.map((m) => m.id), [model]);
  assert.equal((await client.models.retrieve(model)).id, model);
});

check('a streamed reply has text, one finish reason and usage', async () => {
  const reply = await streamed({ messages: question, temperature: 0 });
  assert.match(reply.text, /River means a large natural stream of water/);
  assert.deepEqual(reply.reasons, ['stop']);
  assert.ok(reply.usage.prompt_tokens > 5);
  assert.ok(reply.usage.completion_tokens > 5);
  assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
});

const prompts = [
  ['a word', 'What does the word river mean?', {}],
  ['a package', 'What does the package apt do?', {}],
  ['an untaught question', 'Write a story about the sea and three ships', { max_tokens: 120 }],
  ['other alphabets', 'Grüße aus Zürich, 東京 and 🚀🚀', { max_tokens: 120 }],
  ['a stop string', 'What does the word river mean?', { stop: ['natural'] }],
  ['a length limit', 'What does the word river mean?', { max_tokens: 4 }],
  ['ignored ends', 'What does the word river mean?', { max_tokens: 300, ignore_eos: true }],
];
for (const [name, content, more] of prompts) {
  check(`streamed and whole reply are the same: ${name}`, async () => {
    const request = { messages: [{ role: 'user', content }], temperature: 0, ...more };
    const whole = await client.chat.completions.create({ model, ...request });
    const stream = await streamed(request);
    assert.equal(stream.text, whole.choices[0].message.content ?? '');
    assert.deepEqual(stream.reasons, [whole.choices[0].finish_reason]);
    assert.deepEqual(stream.usage, whole.usage);
    assert.ok(!stream.text.includes('\uFFFD'), 'no half characters');
    if (more.stop) assert.ok(!stream.text.includes('natural'));
    if (more.max_tokens === 4) assert.equal(whole.usage.completion_tokens, 4);
  });
}

check('the same seed gives the same text, another seed another one', async () => {
  const ask = async (seed) =>
    (
      await client.chat.completions.create({
        model,
        messages: [{ role: 'user', content: 'Write a story about the sea' }],
        temperature: 1.5,
        max_tokens: 60,
        seed,
      })
    ).choices[0].message.content;
  assert.equal(await ask(7), await ask(7));
  assert.notEqual(await ask(7), await ask(8));
});

check('several choices are counted together', async () => {
  const reply = await client.chat.completions.create({ model, messages: question, n: 3, max_tokens: 5, temperature: 1 });
  assert.deepEqual(reply.choices.map((c) => c.index), [0, 1, 2]);
  assert.ok(reply.usage.completion_tokens > 5 && reply.usage.completion_tokens <= 15);
});

check('log probabilities come one per token', async () => {
  const reply = await client.chat.completions.create({
    model,
    messages: question,
    max_tokens: 5,
    temperature: 0,
    logprobs: true,
    top_logprobs: 2,
  });
  const tokens = reply.choices[0].logprobs.content;
  assert.equal(tokens.length, reply.usage.completion_tokens);
  for (const token of tokens) {
    assert.ok(token.logprob <= 0);
    assert.equal(token.top_logprobs.length, 2);
    assert.ok(token.top_logprobs[0].logprob >= token.logprob - 1e-6);
  }
});

check('the older completions endpoint streams the text that it gives whole', async () => {
  const request = { model, prompt: 'River means', max_tokens: 30, temperature: 0 };
  const whole = await client.completions.create(request);
  let text = '';
  for await (const chunk of await client.completions.create({ ...request, stream: true })) {
    text += chunk.choices[0]?.text ?? '';
  }
  assert.ok(text.length > 0);
  assert.equal(text, whole.choices[0].text);
});

check('gantry chat prints what the SDK gets', async () => {
  const reply = await client.chat.completions.create({ model, messages: question, temperature: 0 });
  const chat = await stack.cli('chat', '--temperature', '0', question[0].content);
  assert.equal(chat.code, 0, chat.err);
  assert.equal(chat.out, reply.choices[0].message.content + '\n');
});

// ---- typed errors ----

const refuse = (what, type, expect, call) =>
  check(`${what} raises ${type.name}`, async () => {
    const error = await call().then(
      () => assert.fail('it was served'),
      (e) => e,
    );
    assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
    for (const [field, value] of Object.entries(expect)) assert.equal(error[field], value, `${field} of: ${error.message}`);
    assert.ok(error.error.message.length > 10, 'it says what is wrong');
  });
const ask = (more = {}, options = {}) =>
  stack.client(options).chat.completions.create({ model, messages: question, max_tokens: 5, ...more });

refuse('an unknown key', OpenAI.AuthenticationError, { status: 401, code: 'invalid_api_key' }, () =>
  ask({}, { apiKey: stack.key.replace(/^gk_live_./, (s) => s.slice(0, -1) + (s.endsWith('A') ? 'B' : 'A')) }));
refuse('a malformed key', OpenAI.AuthenticationError, { status: 401, code: 'invalid_api_key' }, () =>
  ask({}, { apiKey: 'sk-something-else' }));
refuse('an unknown model', OpenAI.NotFoundError, { status: 404, code: 'model_not_found', param: 'model' }, () =>
  ask({ model: 'gpt-9' }));
refuse('an empty conversation', OpenAI.BadRequestError, { status: 400, param: 'messages' }, () => ask({ messages: [] }));
refuse('a negative limit', OpenAI.BadRequestError, { status: 400, param: 'max_tokens' }, () => ask({ max_tokens: -1 }));
refuse('a prompt beyond the context', OpenAI.BadRequestError, { status: 400, code: 'context_length_exceeded' }, () =>
  ask({ messages: [{ role: 'user', content: 'river '.repeat(20_000) }] }));

refuse('an account without money', OpenAI.RateLimitError,
  { status: 429, code: 'insufficient_quota', type: 'insufficient_quota' },
  async () => ask({}, { apiKey: await stack.tenant('empty', null) }));
refuse('a streamed request without money', OpenAI.RateLimitError, { status: 429, code: 'insufficient_quota' },
  async () => ask({ stream: true }, { apiKey: await stack.newKey('empty') }));
refuse('more requests than the key may send', OpenAI.RateLimitError, { status: 429, code: 'rate_limit_exceeded' },
  async () => {
    const apiKey = await stack.newKey('demo', '--rpm', '2');
    await ask({}, { apiKey });
    await ask({}, { apiKey });
    return ask({}, { apiKey });
  });

check('what a rate limit says tells when to come back', async () => {
  const key = await stack.newKey('demo', '--rpm', '1');
  const body = { model, messages: question, max_tokens: 3 };
  const first = await stack.post('/v1/chat/completions', body, { key });
  assert.equal(first.status, 200);
  assert.equal(first.headers['x-ratelimit-limit-requests'], '1');
  assert.equal(first.headers['x-ratelimit-remaining-requests'], '0');
  const second = await stack.post('/v1/chat/completions', body, { key });
  assert.equal(second.status, 429);
  assert.ok(Number(second.headers['retry-after']) >= 1 && Number(second.headers['retry-after']) <= 61);
});

check('a revoked key stops working within a second', async () => {
  const apiKey = await stack.newKey('demo', '--label', 'short');
  await ask({}, { apiKey });
  const id = apiKey.split('_')[2];
  const revoked = await stack.cli('key', 'revoke', id);
  assert.equal(revoked.code, 0, revoked.err);
  const from = Date.now();
  while ((await stack.get('/v1/models', apiKey)).status !== 401) assert.ok(Date.now() - from < 1000, 'within a second');
  await assert.rejects(ask({}, { apiKey }), OpenAI.AuthenticationError);
});

check('the books hold after all of this', async () => {
  await stack.auditSettled();
});
