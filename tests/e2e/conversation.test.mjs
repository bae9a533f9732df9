// A conversation through the official OpenAI SDK, gateway, router and worker: of every turn only what is new is computed
// and paid in full. What `usage` says of the cache is exact, so it is compared with the cache's rules to the token.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { model, Stack, until } from './stack.mjs';

let stack, client;
before(async () => {
  stack = await Stack.up();
  client = stack.client();
});
after(async () => {
  await stack?.down();
});

const system = {
  role: 'system',
  content:
    'You are a patient librarian who explains the meaning of English words. Answer in one sentence, use plain words ' +
    'and do not make up anything that you do not know for certain. When a word has several meanings, give the most ' +
    'common one first and say that there are others. When you are thanked, be brief.',
};
const questions = [
  'What does the word river mean?',
  'And what does the word sea mean? I would like to know how it is different from the one before.',
  'Thank you. And the word ship?',
];

const page = (tokens) => tokens - (tokens % 64);

// How many tokens a stretch of a rendered prompt has.
async function count(prompt) {
  return (await client.completions.create({ model, prompt, max_tokens: 2, ignore_eos: true })).usage.prompt_tokens;
}

// Rows of prompts that the worker has computed. Its figures are of its last round but one, until it rests.
function computed() {
  return until('the worker rests', 10, async () => {
    const { body } = await stack.request('GET', '/metrics', { port: stack.port + 3, key: null });
    const figure = (name) => Number(new RegExp(`^gantry_worker_${name} (\\d+)`, 'm').exec(body)[1]);
    return figure('running_sequences') + figure('queued_sequences') === 0 && figure('prompt_tokens_total');
  });
}

// One turn, whole or streamed: {id, content, reasoning, usage}.
async function turn(by, request, stream) {
  const all = { model, temperature: 0, max_tokens: 40, ...request };
  if (!stream) {
    const reply = await by.chat.completions.create(all);
    const { content, reasoning_content } = reply.choices[0].message;
    return { id: reply.id, content, reasoning: reasoning_content ?? '', usage: reply.usage };
  }
  const reply = { content: '', reasoning: '' };
  const options = { ...all, stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await by.chat.completions.create(options)) {
    reply.id = chunk.id;
    reply.content += chunk.choices[0]?.delta?.content ?? '';
    reply.reasoning += chunk.choices[0]?.delta?.reasoning_content ?? '';
    reply.usage = chunk.usage ?? reply.usage;
  }
  return reply;
}

const modes = [
  ['without thinking', {}, '<|im_start|>assistant\n<think>\n\n</think>\n\n'],
  ['thinking', { chat_template_kwargs: { enable_thinking: true } }, '<|im_start|>assistant\n<think>\n'],
];
for (const [name, more, generationPrompt] of modes) {
  test(`three turns ${name}: what the last turn had up to its last message is not computed again`, async () => {
    const generation = await count(generationPrompt);
    // The next prompt has in common with this one what comes before the model's own words, and who speaks them.
    const speaker = await count('<|im_start|>assistant\n');
    const tenant = name.replaceAll(' ', '-');
    const by = stack.client({ apiKey: await stack.tenant(tenant, '1') });
    const messages = [system];
    let last = null, expected = 0;
    for (const [i, content] of questions.entries()) {
      messages.push({ role: 'user', content });
      const before = await computed();
      const reply = await turn(by, { messages, ...more }, i % 2 === 1);
      const prompt = reply.usage.prompt_tokens;
      const cached = reply.usage.prompt_tokens_details.cached_tokens;
      console.log(`# ${name}, turn ${i + 1}: ${cached} of ${prompt} tokens cached`);
      assert.equal(cached, expected);
      assert.equal((await computed()) - before, prompt - cached);
      if (last) {
        const fresh = await count(
          `<|im_start|>assistant\n${last.content}<|im_end|>\n<|im_start|>user\n${content}<|im_end|>\n${generationPrompt}`,
        );
        assert.equal(prompt - last.end, fresh, 'new are the answer, the question and the prompt for the next answer');
        assert.ok(cached > last.end - 64 && cached <= last.end + speaker, 'all but the rest of a page is cached');
      }
      const row = await stack.usageOf(reply, tenant);
      assert.equal(row.cached_tokens, cached);
      assert.equal(row.amount_pico, (prompt - cached) * 200_000 + cached * 50_000 + row.output_tokens * 800_000);

      const end = prompt - generation;
      last = { end, content: reply.content.trim() };
      // Snapshots stand where a page ends before the last message does, and before the prompt does.
      const reusable = [page(end), page(prompt - 1)].filter((tokens) => tokens <= end + speaker);
      expected = Math.max(expected, ...reusable);
      messages.push({ role: 'assistant', content: last.content, reasoning_content: reply.reasoning });
    }
    assert.ok(expected >= 128, 'the conversation is long enough to tell');
  });
}

test('another tenant who says the same word for word finds nothing of it', async () => {
  const request = { messages: [system, { role: 'user', content: questions[0] }] };
  const cachedFor = async (by) => (await turn(by, request, false)).usage.prompt_tokens_details.cached_tokens;
  const other = stack.client({ apiKey: await stack.tenant('other', '1') });
  await cachedFor(client);
  assert.ok((await cachedFor(client)) >= 64);
  assert.equal(await cachedFor(other), 0);
});

test('three choices share one prompt: it is computed once, and counted once', async () => {
  const by = stack.client({ apiKey: await stack.tenant('of-three', '1') });
  const messages = [system, { role: 'user', content: 'Write a story about the sea.' }];
  const ask = async (n) => {
    const before = await computed();
    const request = { model, messages, n, temperature: 1, seed: 7, max_tokens: 8, ignore_eos: true };
    const reply = await by.chat.completions.create(request);
    return { ...reply, computed: (await computed()) - before, texts: reply.choices.map((c) => c.message.content) };
  };
  const three = await ask(3);
  const prompt = three.usage.prompt_tokens;
  const rest = prompt - page(prompt - 1);  // what each choice computes behind the last whole page
  assert.ok(prompt - rest >= 64);
  assert.equal(three.computed, prompt + 2 * rest);
  assert.equal(three.usage.prompt_tokens_details.cached_tokens, 0, 'the first choice found nothing');
  assert.equal(three.usage.completion_tokens, 24);
  assert.equal(three.usage.total_tokens, prompt + 24);
  assert.equal(new Set(three.texts).size, 3, 'three different choices');

  const one = await ask(1);
  assert.deepEqual(one.texts, three.texts.slice(0, 1), 'the first of several choices is what one would be');
  const again = await ask(3);
  assert.deepEqual(again.texts, three.texts);
  assert.equal(again.computed, 3 * rest);
  assert.equal(again.usage.prompt_tokens_details.cached_tokens, prompt - rest);
  for (const [reply, cached] of [[three, 0], [again, prompt - rest]]) {
    const row = await stack.usageOf(reply, 'of-three');
    assert.deepEqual([row.prompt_tokens, row.cached_tokens, row.output_tokens], [prompt, cached, 24]);
  }
});

test('both witnesses agree on all of it', async () => {
  await stack.auditSettled();
});
