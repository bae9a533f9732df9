// A reseller and its customer on a real installation, as docs/reseller.md describes it: the customer's requests are paid at
// every hop at its own price, and the books hold.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Stack, model, question } from './stack.mjs';

let stack;
let key;

before(async () => {
  stack = await Stack.up();
  for (const command of [
    ['tenant', 'create', 'alpine', '--kind', 'reseller', '--time-zone', 'Europe/Vienna'],
    ['topup', '--tenant', 'alpine', '50'],
    ['plan', 'publish', 'standard', '--seller', 'alpine', '--markup', '20'],
    ['tenant', 'create', 'acme', '--parent', 'alpine'],
    ['topup', '--tenant', 'acme', '20', '--promotional'],
  ]) {
    const done = await stack.cli(...command);
    assert.equal(done.code, 0, `${command.join(' ')}: ${done.err}`);
  }
  const created = await stack.cli('key', 'create', '--tenant', 'acme');
  key = /gk_\S+/.exec(created.out)[0];
});
after(async () => {
  await stack?.down();
});

test('a request of the customer is paid by it and by its reseller', async () => {
  const reply = await stack.client({ apiKey: key }).chat.completions.create({ model, messages: question, max_tokens: 16 });
  await stack.auditSettled();
  const { prompt_tokens: prompt, completion_tokens: output, prompt_tokens_details: details } = reply.usage;
  const cached = details?.cached_tokens ?? 0;
  // Prices of the demo installation: 0.20, cached 0.05, output 0.80 a million; a fifth more for the customer.
  const house = (prompt - cached) * 200_000 + cached * 50_000 + output * 800_000;
  const [sold] = await stack.json('margin', '--seller', 'alpine');
  assert.equal(sold.buyer, 'acme');
  assert.equal(sold.bought_pico, house);
  assert.equal(sold.sold_pico * 10, house * 12);
  const [own] = await stack.json('margin');
  assert.deepEqual([own.buyer, own.sold_pico, own.bought_pico], ['alpine', house, 0]);
});

test('each hop has an invoice of its own, from its own seller', async () => {
  const invoice = async (tenant) => JSON.parse((await stack.cli('invoice', 'show', '--tenant', tenant)).out);
  const customer = await invoice('acme'), reseller = await invoice('alpine');
  assert.equal(customer.seller, 'alpine');
  assert.notEqual(reseller.seller, 'alpine');
  const used = ({ lines }) =>
    lines.filter((line) => line.kind === 'usage').reduce((sum, line) => sum + line.amount_pico, 0);
  assert.ok(used(customer) > used(reseller) && used(reseller) > 0);
  // What it was given paid for it: that is not owed.
  assert.ok(customer.lines.some((line) => line.kind === 'promotion' && line.amount_pico < 0));
  assert.equal(customer.total, '0.00');
});
