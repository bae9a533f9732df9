// One number in four places: the usage of a reply, the row that billing shows, the row in SQLite, the invoice line.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { long, model, question, sleep, Stack, until } from './stack.mjs';

// As `gantry up` publishes them, in micro-units per million tokens.
const prices = { input: 200_000n, cached_input: 50_000n, output: 800_000n };

let stack, client;
before(async () => {
  stack = await Stack.up();
  client = stack.client();
});
after(async () => {
  stack?.remove();
});

const costPico = (row) =>
  BigInt(row.prompt_tokens - row.cached_tokens) * prices.input +
  BigInt(row.cached_tokens) * prices.cached_input +
  BigInt(row.output_tokens) * prices.output;

const ended = [];  // {id, usage} of replies that ended in order

test('every ended reply is one usage row with the same counts, priced exactly', async () => {
  const ask = async (more) => {
    const reply = await client.chat.completions.create({ model, messages: question, temperature: 0, ...more });
    ended.push({ id: reply.id, usage: reply.usage });
  };
  await ask({});
  await ask({ max_tokens: 3 });
  await ask({ n: 2, temperature: 1, max_tokens: 20 });
  await ask({ max_tokens: 600, ignore_eos: true });  // beyond the first hold: extensions
  await ask({ stop: ['natural'] });
  for (const content of ['What does the word tree mean?', 'What does the package apt do?']) {
    let id, usage;
    const stream = await client.chat.completions.create({
      model, messages: [{ role: 'user', content }], temperature: 0, stream: true, stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      id = chunk.id;
      usage = chunk.usage ?? usage;
    }
    ended.push({ id, usage });
  }
  for (const reply of ended) {
    const row = await stack.usageOf(reply);
    assert.equal(row.prompt_tokens, reply.usage.prompt_tokens);
    assert.equal(row.cached_tokens, reply.usage.prompt_tokens_details?.cached_tokens ?? 0);
    assert.equal(row.output_tokens, reply.usage.completion_tokens);
    assert.equal(BigInt(row.amount_pico), costPico(row));
    assert.equal(row.model, model);
  }
  assert.equal((await stack.json('usage', '--tenant', 'demo')).rows.length, ended.length);
});

test('a client that leaves pays what it was sent, at most what was made', async () => {
  const before = (await stack.json('usage', '--tenant', 'demo')).rows.length;
  const stream = await client.chat.completions.create({ model, messages: question, stream: true, ...long });
  let chunks = 0;
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta?.content && ++chunks === 20) break;  // leaves: the SDK aborts the request
  }
  const row = await until('the aborted request is on the books', 10, async () => {
    const { rows } = await stack.json('usage', '--tenant', 'demo');
    return rows.length > before && rows[0];
  });
  assert.equal(row.outcome, 'aborted');
  assert.ok(row.output_tokens >= 10 && row.output_tokens < 4000, `${row.output_tokens} tokens`);
  assert.equal(BigInt(row.amount_pico), costPico(row));
});

test('refused requests are charged nothing and leave no row', async () => {
  await stack.auditSettled();
  const before = await stack.json('usage', '--tenant', 'demo');
  const balance = await stack.balance();
  const bad = [
    [{ model, messages: [] }, 400],
    [{ model, messages: question, max_tokens: -5 }, 400],
    [{ model: 'nobody', messages: question }, 404],
    [{ model, messages: [{ role: 'user', content: 'river '.repeat(20_000) }] }, 400],
    ['{', 400],
  ];
  for (const [body, status] of bad) assert.equal((await stack.post('/v1/chat/completions', body)).status, status);
  assert.equal((await stack.post('/v1/chat/completions', { model, messages: question }, { key: 'gk_live_x' })).status, 401);
  await sleep(300);
  await stack.auditSettled();
  assert.deepEqual((await stack.json('usage', '--tenant', 'demo')).totals, before.totals);
  assert.equal((await stack.balance()).posted_micro, balance.posted_micro);
});

test('the invoice has the same quantities and exact amounts, as JSON, CSV, PDF and HTML', async () => {
  await stack.auditSettled();
  const { rows, totals } = await stack.json('usage', '--tenant', 'demo');
  const sum = (field) => rows.reduce((total, row) => total + row[field], 0);
  assert.equal(totals[0].output_tokens, sum('output_tokens'));
  assert.equal(totals[0].requests, rows.length);

  const shown = await stack.cli('invoice', 'show', '--tenant', 'demo', '--format', 'json');
  assert.equal(shown.code, 0, shown.err);
  const invoice = JSON.parse(shown.out);
  const line = Object.fromEntries(invoice.lines.map((l) => [l.token_class, l]));
  assert.equal(line.input.quantity, sum('prompt_tokens') - sum('cached_tokens'));
  assert.equal(line.output.quantity, sum('output_tokens'));
  assert.equal(BigInt(line.input.amount_pico), BigInt(line.input.quantity) * prices.input);
  assert.equal(BigInt(line.output.amount_pico), BigInt(line.output.quantity) * prices.output);
  assert.equal(BigInt(invoice.amount_pico), rows.reduce((total, row) => total + costPico(row), 0n));
  assert.equal(invoice.requests, rows.length);
  assert.equal(invoice.state, 'draft');

  const csv = (await stack.cli('invoice', 'show', '--tenant', 'demo', '--format', 'csv')).out.trim().split('\r\n');
  const columns = csv[0].split(',');
  const output = csv.find((l) => l.includes(',output,')).split(',');
  assert.equal(Number(output[columns.indexOf('quantity')]), line.output.quantity);
  assert.equal(output[columns.indexOf('amount_pico')], String(line.output.amount_pico));

  // For people: the same total and quantities, with thousands apart.
  const file = path.join(stack.dir, 'invoice.pdf');
  const drawn = await stack.cli('invoice', 'show', '--tenant', 'demo', '--output', file);
  assert.equal(drawn.code, 0, drawn.err);
  const text = execFileSync('pdftotext', ['-layout', file, '-'], { encoding: 'utf8' });
  const html = (await stack.cli('invoice', 'show', '--tenant', 'demo', '--format', 'html')).out;
  for (const shown of [invoice.total, line.output.quantity.toLocaleString('en'), 'DRAFT']) {
    assert.ok(text.includes(shown), `${shown} in ${text}`);
    assert.ok(html.includes(shown), `${shown} in ${html}`);
  }
});

test('what was paid in is what is left plus what was used', async () => {
  await stack.auditSettled();
  const { rows } = await stack.json('usage', '--tenant', 'demo');
  const used = rows.reduce((total, row) => total + BigInt(row.amount_pico), 0n);
  const balance = await stack.balance();
  // The ledger counts whole micro-units; what is less stays with the account until it adds up.
  assert.equal(BigInt(balance.posted_micro), 10_000_000n - used / 1_000_000n);
});

test('a tenant of another plan pays that plan\'s prices, and a new version holds for later requests only', async () => {
  const publish = (price) =>
    stack.cli('plan', 'publish', 'partners', '--input', price, '--cached-input', '0', '--output', '1.5');
  assert.equal((await publish('0.1')).code, 0);
  const created = await stack.cli('tenant', 'create', 'acme', '--plan', 'partners', '--legal-name', 'Acme GmbH');
  assert.equal(created.code, 0, created.err);
  assert.equal((await stack.cli('topup', '--tenant', 'acme', '5')).code, 0);
  const acme = stack.client({ apiKey: await stack.newKey('acme') });
  const pays = async (inputMicro) => {
    const row = await stack.usageOf(await acme.chat.completions.create({ model, messages: question, max_tokens: 7 }), 'acme');
    return row.amount_pico === row.prompt_tokens * inputMicro + row.output_tokens * 1_500_000;
  };
  assert.ok(await pays(100_000));
  assert.equal((await publish('0.3')).code, 0);
  await until('the new prices hold', 5, () => pays(300_000));
  const plans = await stack.json('plan', 'list');
  assert.deepEqual(plans.filter((v) => v.plan === 'partners').map((v) => v.version), [1, 2]);
  const invoice = JSON.parse((await stack.cli('invoice', 'show', '--tenant', 'acme')).out);
  const inputs = invoice.lines.filter((line) => line.token_class === 'input');
  assert.deepEqual(inputs.map((line) => line.price_micro_per_m).sort((a, b) => a - b), [100_000, 300_000]);
  assert.equal(invoice.legal_name, 'Acme GmbH');
});

test('a month is finalised, paid, credited and stated from the terminal', async () => {
  const cli = async (...args) => {
    const done = await stack.cli(...args);
    assert.equal(done.code, 0, `${args.join(' ')}: ${done.err}`);
    return done.out;
  };
  const house = (await stack.json('tenant', 'list')).find((party) => party.kind === 'house').name;
  await cli('profile', 'set', house, '--legal-name', 'Haus der Maschinen GmbH', '--address', 'Ring 1', '--country', 'AT',
    '--vat-id', 'ATU12345678', '--tax', 'S:20', '--terms-days', '14', '--pay-to', 'IBAN AT00');
  await cli('profile', 'set', 'acme', '--legal-name', 'Acme GmbH', '--country', 'AT', '--reference', 'PO 7');
  assert.equal((await stack.json('profile', 'show', house)).sells_with, 'S:20');
  const before = new Date();
  before.setUTCDate(0);
  const period = before.toISOString().slice(0, 7);
  const finalized = await cli('invoice', 'finalize', '--tenant', 'acme', '--period', period);
  const number = /invoice (\S+): 0.00 EUR/.exec(finalized)[1];
  assert.match(number, /^G\d{4}-000001$/);
  const early = await stack.cli('invoice', 'finalize', '--tenant', 'acme', '--period', new Date().toISOString().slice(0, 7));
  assert.match(early.err, /is not over/);
  const invoice = JSON.parse(await cli('invoice', 'show', '--number', number));
  assert.equal(invoice.state, 'final');
  assert.equal(invoice.seller_details.vat_id, 'ATU12345678');
  assert.equal(invoice.buyer_reference, 'PO 7');
  assert.deepEqual((await stack.json('invoice', 'list', '--tenant', 'acme')).map((row) => row.number), [number]);
  assert.deepEqual(await stack.json('invoice', 'overdue'), []);

  // Nothing was charged: there is nothing to credit, and it can be void and issued anew.
  const credit = await stack.cli('invoice', 'credit', number, '--whole', '--reason', 'none');
  assert.match(credit.err, /nothing left that could be taken back/);
  assert.match(await cli('invoice', 'void', number, '--reason', 'wrong reference'), /is void/);
  assert.match(await cli('invoice', 'finalize', '--tenant', 'acme', '--period', period), /-000002: 0.00 EUR/);

  const paid = await cli('payment', 'record', '--tenant', 'acme', '7', '--method', 'bank transfer', '--reference', 'wire 1');
  assert.match(paid, /7.00 EUR; pays nothing yet; left 7.00/);
  const payments = await stack.json('payment', 'list', '--tenant', 'acme');
  assert.deepEqual(payments.map((row) => [row.method, row.amount]), [['top-up', '5.00'], ['bank transfer', '7.00']]);
  const statement = JSON.parse(await cli('statement', '--tenant', 'acme'));
  assert.equal(statement.closing, '-12.000000');
  const file = path.join(stack.dir, 'statement.pdf');
  await cli('statement', '--tenant', 'acme', '--output', file);
  const text = execFileSync('pdftotext', ['-layout', file, '-'], { encoding: 'utf8' });
  assert.match(text, /Closing balance\s+-12.00/);
  await stack.auditSettled();
});

test('SQLite holds the same rows', async () => {
  const { rows } = await stack.json('usage', '--tenant', 'demo');
  await stack.down({ keep: true });
  const stored = stack.sql('SELECT request_id, prompt_tokens, cached_tokens, output_tokens, amount_pico FROM usage_event ' +
    "JOIN party USING (party_no) JOIN rating ON event_seq = seq AND level = 0 WHERE party.name = 'demo'");
  assert.equal(stored.length, rows.length);
  for (const row of rows) {
    const same = stored.find((s) => s.request_id === row.request_id);
    assert.deepEqual(
      [same.prompt_tokens, same.cached_tokens, same.output_tokens, same.amount_pico],
      [row.prompt_tokens, row.cached_tokens, row.output_tokens, row.amount_pico],
    );
  }
  const states = stack.sql('SELECT count(*) AS n FROM unmatched');
  assert.equal(states[0].n, 0, 'both witnesses agree on every request');
});
