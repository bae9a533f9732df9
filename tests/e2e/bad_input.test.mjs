// What clients send by mistake or on purpose: the OpenAI error object with the right status, and a server that goes on.
import assert from 'node:assert/strict';
import net from 'node:net';
import { after, before, test } from 'node:test';
import { model, question, Stack } from './stack.mjs';

let stack;
before(async () => {
  stack = await Stack.up();
});
after(async () => {
  await stack?.down();
});

const chat = '/v1/chat/completions';
const valid = { model, messages: question, max_tokens: 3 };

async function stillServes() {
  const reply = await stack.post(chat, valid);
  assert.equal(reply.status, 200, reply.body);
}

function assertErrorObject(reply, status) {
  assert.equal(reply.status, status, reply.body.slice(0, 300));
  assert.match(reply.headers['content-type'], /^application\/json/);
  const { error } = JSON.parse(reply.body);
  assert.deepEqual(Object.keys(error).sort(), ['code', 'message', 'param', 'type']);
  assert.ok(error.message.length > 5);
  return error;
}

const bodies = [
  ['nothing', '', 400],
  ['half an object', '{"model":', 400],
  ['an array', '[]', 400],
  ['a number', '42', 400],
  ['10 MB of [', '['.repeat(10_000_000), 400],
  ['10 MB of {"a":', '{"a":'.repeat(2_000_000), 400],
  ['10 MB of spaces', ' '.repeat(10_000_000), 400],
  ['more than the largest body', Buffer.alloc(17 << 20, 0x20), 413],
  ['invalid UTF-8', Buffer.from('{"model":"\xff\xfe","messages":[]}', 'latin1'), 400],
  ['invalid UTF-8 in a message',
    Buffer.concat([Buffer.from(`{"model":"${model}","messages":[{"role":"user","content":"`), Buffer.from([0xc3, 0x28]), Buffer.from('"}]}')]), 400],
  ['half a surrogate pair', `{"model":"${model}","messages":[{"role":"user","content":"\\ud800"}]}`, 400],
  ['no model', { messages: question }, 400],
  ['a model that is a number', { ...valid, model: 5 }, 400],
  ['an unknown model', { ...valid, model: 'nobody' }, 404],
  ['no messages', { model }, 400],
  ['empty messages', { ...valid, messages: [] }, 400],
  ['messages that are text', { ...valid, messages: 'hello' }, 400],
  ['an unknown role', { ...valid, messages: [{ role: 'emperor', content: 'hello' }] }, 400],
  ['content that is a number', { ...valid, messages: [{ role: 'user', content: 5 }] }, 400],
  ['an image by URL', { ...valid, messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://127.0.0.1/x.png' } }] }] }, 400],
  ['negative max_tokens', { ...valid, max_tokens: -1 }, 400],
  ['zero max_tokens', { ...valid, max_tokens: 0 }, 400],
  ['huge max_tokens', { ...valid, max_tokens: 1e300 }, 400],
  ['max_tokens beyond 64 bits', `{"model":"${model}","messages":[{"role":"user","content":"x"}],"max_tokens":99999999999999999999999}`, 400],
  ['max_tokens as text', { ...valid, max_tokens: '5' }, 400],
  ['a fraction of a token', { ...valid, max_tokens: 1.5 }, 400],
  ['temperature 3', { ...valid, temperature: 3 }, 400],
  ['top_p 2', { ...valid, top_p: 2 }, 400],
  ['n 1000', { ...valid, n: 1000 }, 400],
  ['stream as text', { ...valid, stream: 'yes' }, 400],
  ['a stop that is a number', { ...valid, stop: 5 }, 400],
  ['an empty stop string', { ...valid, stop: '' }, 400],
  ['a logit bias beyond its range', { ...valid, logit_bias: { 5: 1000 } }, 400],
  ['a prompt beyond the context', { ...valid, messages: [{ role: 'user', content: 'river '.repeat(10_000) }] }, 400],
  ['a prompt and a limit beyond the context', { ...valid, max_tokens: 2_000_000_000 }, 400],
  ['a tool without a name', { ...valid, tools: [{ type: 'function', function: {} }] }, 400],
];
for (const [name, body, status] of bodies) {
  test(`body: ${name} -> ${status}`, async () => {
    assertErrorObject(await stack.post(chat, body), status);
    await stillServes();
  });
}

test('the body may be asked for by any spelling of application/json only', async () => {
  assert.equal((await stack.post(chat, valid, { headers: { 'content-type': 'Application/JSON; charset=utf-8' } })).status, 200);
  assertErrorObject(await stack.post(chat, valid, { headers: { 'content-type': 'text/plain' } }), 415);
});

const routes = [
  ['GET', '/', 404], ['GET', '/v1', 404], ['GET', '/v2/models', 404], ['GET', chat, 405], ['POST', '/v1/models', 405],
  ['GET', '/v1/models/nobody', 404], ['GET', '/../../etc/passwd', 404], ['GET', '/metrics', 404],
  ['DELETE', '/v1/models/' + model, 405],
];
for (const [method, target, status] of routes) {
  test(`route: ${method} ${target} -> ${status}`, async () => {
    assertErrorObject(await stack.request(method, target), status);
  });
}

test('internal services are not on the public listener', async () => {
  for (const method of ['BillingAdmin/ListParties', 'Credit/GrantSlice', 'Inference/Generate', 'Process/Status', 'Fleet/Attach']) {
    const reply = await stack.request('POST', `/gantry.v1.${method}`, {
      headers: { 'content-type': 'application/grpc', te: 'trailers' }, body: Buffer.alloc(5),
    });
    assertErrorObject(reply, 404);
  }
});

const keys = [
  ['no key', null], ['an empty key', ' '], ['another product\'s key', 'sk-proj-abc'], ['a key with a typing mistake', 'flip'],
  ['a key of 8 KB', 'gk_live_' + 'A'.repeat(8000)],
];
for (const [name, key] of keys) {
  test(`key: ${name} -> 401`, async () => {
    const sent = key === 'flip' ? stack.key.slice(0, -1) + (stack.key.endsWith('A') ? 'B' : 'A') : key;
    const reply = await stack.post(chat, valid, { key: sent });
    const error = assertErrorObject(reply, 401);
    assert.equal(error.code, 'invalid_api_key');
    assert.ok(!reply.body.includes(stack.key), 'the key is not repeated');
  });
}

// Bytes that are no HTTP request.
function raw(bytes, waitMs = 3000) {
  return new Promise((resolve) => {
    const socket = net.connect(stack.port, '127.0.0.1');
    let answer = '';
    const done = () => { socket.destroy(); resolve(answer); };
    socket.on('data', (data) => (answer += data));
    socket.on('error', done);
    socket.on('close', done);
    socket.setTimeout(waitMs, done);
    socket.write(bytes);
  });
}
const garbage = [
  ['not HTTP', 'hello\r\n\r\n'],
  ['HTTP/2 prior knowledge', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
  ['TLS', Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x0d, 0x0a, 0x0d, 0x0a])],
  ['a header of 64 KB', `GET /v1/models HTTP/1.1\r\nHost: x\r\nX: ${'y'.repeat(65536)}\r\n\r\n`],
  ['two lengths', 'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'],
  ['a negative length', 'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n'],
];
for (const [name, bytes] of garbage) {
  test(`connection: ${name} is refused and the server goes on`, async () => {
    const answer = await raw(bytes);
    assert.ok(answer === '' || /^HTTP\/1\.1 4\d\d /.test(answer), answer.slice(0, 100));
    await stillServes();
  });
}

test('after all of this no process has been started again and nothing but the probes was charged', async () => {
  for (const [name, process] of Object.entries(stack.state().processes)) assert.equal(process.starts, 1, name);
  await stack.auditSettled();
  const { rows } = await stack.json('usage', '--tenant', 'demo');
  for (const row of rows) assert.ok(row.output_tokens <= 3, JSON.stringify(row));
});
