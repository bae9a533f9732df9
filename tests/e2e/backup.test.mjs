// The restore drill as an operator does it: a backup while everything runs, billing's disk lost, books and keys back in a
// clean data dir, with a command log and without.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { long, model, question, run, Stack, until } from './stack.mjs';

const leftovers = [];
const places = [];
after(async () => {
  for (const stack of leftovers) {
    await run(['down', '--data-dir', stack.dir]);
    stack.remove();
  }
  for (const dir of places) fs.rmSync(dir, { recursive: true, force: true });
});
async function up(options) {
  const stack = await Stack.up(options);
  leftovers.push(stack);
  return stack;
}
// Another disk: backups, their passphrase, a command log.
function place() {
  const dir = Stack.temporaryDir();
  places.push(dir);
  fs.mkdirSync(path.join(dir, 'log'));
  fs.writeFileSync(path.join(dir, 'passphrase'), 'nine clouds over the river\n', { mode: 0o600 });
  return dir;
}
const ask = (stack, key = stack.key) =>
  stack.client({ apiKey: key }).chat.completions.create({ model, messages: question, max_tokens: 8 });
const requests = async (stack) => (await stack.json('usage', '--tenant', 'demo')).rows.length;

// What the tenant had when the disk was lost.
async function disaster(stack, dir) {
  await ask(stack);
  const revoked = await stack.newKey('demo');
  const passphrase = ['--passphrase-file', path.join(dir, 'passphrase')];
  // A stream runs while the backup is made.
  const stream = await stack.client().chat.completions.create({ model, messages: question, stream: true, ...long, max_tokens: 600 });
  const backup = await stack.cli('backup', 'create', dir, ...passphrase);
  assert.equal(backup.code, 0, backup.err);
  for await (const chunk of stream) assert.ok(chunk);
  const file = /^(\S+\.backup): \d+ files, .* read back and verified$/m.exec(backup.out)[1];
  assert.equal(fs.statSync(file).mode & 0o777, 0o600);
  const bytes = fs.readFileSync(file);
  for (const name of ['billing/pepper', 'admin.key']) {
    const secret = fs.readFileSync(path.join(stack.dir, name));
    assert.ok(!bytes.includes(secret.subarray(0, 16)), `${name} is not readable in it`);
  }
  const added = await stack.newKey('demo');
  assert.equal((await stack.cli('topup', '--tenant', 'demo', '3.50')).code, 0);
  const id = revoked.split('_')[2];
  assert.equal((await stack.cli('key', 'revoke', id)).code, 0);
  await ask(stack, added);
  await until('billing has all usage', 10, async () => (await requests(stack)) === 3);
  stack.kill('billing');
  await stack.cli('down');
  fs.rmSync(path.join(stack.dir, 'billing'), { recursive: true });
  return { file, passphrase, added, revoked };
}

test('with a command log everything comes back: money, keys, revocations, usage', async () => {
  const disk = place();
  const env = { GANTRY_BILLING_COMMAND_LOG: path.join(disk, 'log') };
  const old = await up({ env });
  const { file, passphrase, added, revoked } = await disaster(old, disk);

  const verified = await run(['backup', 'verify', file, ...passphrase]);
  assert.equal(verified.code, 0, verified.err);
  assert.match(verified.out, /: ok\n.*made .*\n.*command log +goes on after \d+\n/s);
  assert.match(verified.out, /file +billing\/gantry\.db, \d+ bytes, SHA-256 [0-9a-f]{64}\n/);
  assert.match(verified.out, /file +identity\/gateway\.key/);

  const dir = Stack.temporaryDir();
  const restored = await run(['backup', 'restore', file, ...passphrase, '--data-dir', dir, '--command-log', path.join(disk, 'log')]);
  assert.equal(restored.code, 0, restored.err + restored.out);
  assert.match(restored.out, /everything acknowledged came back: \d+ commits/);
  assert.match(restored.out, /the books hold/);
  const stack = await up({ dir, env });
  assert.equal(stack.key, old.key);
  assert.equal((await stack.get('/v1/models', old.key)).status, 200, 'a key from before the backup');
  assert.equal((await stack.get('/v1/models', added)).status, 200, 'a key from after it');
  assert.equal((await stack.get('/v1/models', revoked)).status, 401, 'revoked after it');
  assert.equal(await requests(stack), 3);
  const { posted_micro } = await stack.balance();
  assert.ok(posted_micro > 13_000_000 && posted_micro < 13_500_000, `10 + 3.50 - usage: ${posted_micro}`);
  await ask(stack);
  // What the old gateway held is fenced and stays open until nobody can come back with usage of it (R9).
  const audit = await stack.cli('audit');
  assert.equal(audit.code, 0, audit.out + audit.err);
});

test('without a command log the backup comes back, and the usage that gateway and worker still hold', async () => {
  const disk = place();
  const env = { GANTRY_BILLING_WITNESS_DEADLINE_MS: '3000' };
  const old = await up({ env });
  const { file, passphrase, added, revoked } = await disaster(old, disk);

  const dir = Stack.temporaryDir();
  const restored = await run(['backup', 'restore', file, ...passphrase, '--data-dir', dir]);
  assert.equal(restored.code, 0, restored.err + restored.out);
  assert.match(restored.out, /What was acknowledged after that cannot come back/);
  assert.match(restored.out, /new ones are of series R2/);
  for (const state of ['gateway', 'worker']) {
    fs.cpSync(path.join(old.dir, state), path.join(dir, state), { recursive: true });
  }
  const stack = await up({ dir, env });
  assert.equal((await stack.get('/v1/models', old.key)).status, 200);
  assert.equal((await stack.get('/v1/models', added)).status, 401, 'made after the backup');
  assert.equal((await stack.get('/v1/models', revoked)).status, 200, 'restore said that it must be revoked again');
  await until('the usage of the old key is there again', 15, async () => (await requests(stack)) >= 2);
  await stack.auditSettled();
});

test('what cannot be restored is one line: wrong passphrase, damage, books that are there', async () => {
  const stack = leftovers.at(-1);
  const disk = place();
  const backup = await stack.cli('backup', 'create', path.join(disk, 'one.backup'), '--passphrase-file', path.join(disk, 'passphrase'));
  assert.equal(backup.code, 0, backup.err);
  const file = path.join(disk, 'one.backup');
  fs.writeFileSync(path.join(disk, 'wrong'), 'ten clouds over the river\n', { mode: 0o600 });
  const refused = async (says, ...args) => {
    const result = await run(['backup', ...args]);
    assert.equal(result.code, 1, result.out);
    assert.match(result.err, /^gantry: [^\n]+\n$/);
    assert.match(result.err, says);
  };
  const with_ = (name) => ['--passphrase-file', path.join(disk, name)];
  await refused(/the passphrase does not open it/, 'verify', file, ...with_('wrong'));
  const bytes = fs.readFileSync(file);
  bytes[bytes.length >> 1] ^= 1;
  fs.writeFileSync(path.join(disk, 'damaged'), bytes);
  await refused(/damaged or cut off at chunk/, 'verify', path.join(disk, 'damaged'), ...with_('passphrase'));
  await refused(/gantry runs on .*: ?stop it|gantry runs on/, 'restore', file, ...with_('passphrase'), '--data-dir', stack.dir);
  await stack.cli('down');
  await refused(/has books already/, 'restore', file, ...with_('passphrase'), '--data-dir', stack.dir);
  const dir = Stack.temporaryDir();
  places.push(dir);
  await refused(/damaged or cut off/, 'restore', path.join(disk, 'damaged'), ...with_('passphrase'), '--data-dir', dir);
  assert.deepEqual(fs.readdirSync(dir), [], 'nothing is left of it');
});
