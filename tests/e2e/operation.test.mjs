// What an operator does: up, down, up again, mistakes; and the figures that `gantry up` promises.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { after, test } from 'node:test';
import { freePorts, gantry, model, question, root, run, Stack, until } from './stack.mjs';

const leftovers = [];
after(async () => {
  for (const stack of leftovers) {
    await run(['down', '--data-dir', stack.dir]);
    stack.remove();
  }
});
async function up(options) {
  const stack = await Stack.up(options);
  leftovers.push(stack);
  return stack;
}
const oneLine = (text) => assert.match(text, /^[^\n]+\n$/);
const temporary = () => Stack.temporaryDir();

test('from gantry up to the first token of a curl: at most 3 s', async () => {
  const times = [];
  for (let i = 0; i < 2; ++i) {
    const from = Date.now();
    const stack = await up();
    const curl = spawn('bash', ['-c', /^ {2}(curl .*)$/m.exec(stack.greeting.out)[1]]);
    const first = await new Promise((resolve, reject) => {
      let seen = '';
      curl.stdout.on('data', (data) => {
        seen += data;
        if (/"content":"[^"]/.test(seen)) resolve(Date.now() - from);
      });
      curl.on('close', () => reject(new Error(`no token: ${seen}`)));
    });
    times.push(first);
    await stack.cli('down');
  }
  console.log(`# up to first token: ${times.join(', ')} ms`);
  assert.ok(Math.min(...times) <= 3000, `${times} ms`);
});

test('idle, gateway, router and billing each take at most 48 MiB', async () => {
  const stack = await up();
  const sizes = Object.fromEntries(['gateway', 'router', 'billing'].map((name) => [name, stack.rssKib(name)]));
  console.log(`# idle RSS in KiB: ${JSON.stringify(sizes)}`);
  for (const [name, kib] of Object.entries(sizes)) assert.ok(kib <= 48 * 1024, `${name}: ${kib} KiB`);
});

test('the curl line that up prints streams text, and the first up shows the key', async () => {
  const stack = leftovers.at(-1);
  const line = /^ {2}(curl .*)$/m.exec(stack.greeting.out)[1];
  assert.ok(line.includes(stack.key));
  const curl = spawnSync('bash', ['-c', line]);
  assert.equal(curl.status, 0);
  const text = [...String(curl.stdout).matchAll(/"content":"([^"]*)"/g)].map((m) => m[1]).join('');
  assert.match(text, /River means a large natural stream of water/);
});

test('status shows four processes that are ready', async () => {
  const status = await leftovers.at(-1).json('status');
  assert.ok(status.ready);
  assert.deepEqual(status.processes.map((p) => p.process), ['billing', 'router', 'worker', 'gateway']);
  for (const p of status.processes) assert.equal(p.state, 'ready', JSON.stringify(p));
});

test('secrets and sockets are for the owner alone', async () => {
  const dir = leftovers.at(-1).dir;
  const mode = (name) => fs.statSync(path.join(dir, name)).mode & 0o777;
  for (const name of ['demo.key', 'admin.key', 'identity/worker.key', 'run/billing.sock', 'billing/gantry.db']) {
    assert.equal(mode(name) & 0o077, 0, `${name} ${mode(name).toString(8)}`);
  }
});

test('a second up on the same data dir is refused and names the first', async () => {
  const stack = leftovers.at(-1);
  const second = await run(['up', '--detach', '--data-dir', stack.dir, '--port', String(await freePorts())]);
  assert.equal(second.code, 1);
  oneLine(second.err);
  assert.match(second.err, new RegExp(`already runs on .* with pid ${stack.state().supervisor_pid}`));
  assert.equal((await stack.get('/v1/models')).status, 200, 'the first goes on');
});

test('down ends everything, again down says so, and up again keeps key and books', async () => {
  const stack = leftovers.at(-1);
  await stack.client().chat.completions.create({ model, messages: question });
  await stack.auditSettled();
  const before = await stack.json('usage', '--tenant', 'demo');
  const pids = Object.values(stack.state().processes).map((p) => p.pid);
  assert.equal((await stack.cli('down')).out, 'stopped\n');
  for (const pid of pids) assert.ok(!fs.existsSync(`/proc/${pid}`), `pid ${pid} is gone`);
  const again = await stack.cli('down');
  assert.equal(again.code, 0);
  assert.match(again.out, /^nothing runs on /);
  assert.equal((await stack.cli('status')).code, 1);

  const next = await Stack.up({ dir: stack.dir });
  assert.equal(next.key, stack.key);
  assert.ok(!next.greeting.out.includes(stack.key), 'the key is shown once');
  assert.match(next.greeting.out, /demo\.key/);
  const curl = spawnSync('bash', ['-c', /^ {2}(curl .*)$/m.exec(next.greeting.out)[1]]);
  assert.match(String(curl.stdout), /\[DONE\]/);
  const usage = await next.json('usage', '--tenant', 'demo');
  assert.ok(usage.totals[0].requests >= before.totals[0].requests);
  await next.cli('down');
});

test('a lost key file gets a further key, and the first credit is not given twice', async () => {
  const stack = leftovers.at(-1);
  fs.rmSync(path.join(stack.dir, 'demo.key'));
  const next = await Stack.up({ dir: stack.dir });
  assert.notEqual(next.key, stack.key);
  assert.ok(next.greeting.out.includes(next.key));
  assert.equal((await next.get('/v1/models')).status, 200);
  assert.ok((await next.balance()).posted_micro <= 10_000_000);
  assert.equal((await next.json('key', 'list', '--tenant', 'demo')).length, 2);
  await next.cli('down');
});

test('an up that was killed while it set things up is repaired by the next', async () => {
  const dir = temporary();
  const port = await freePorts();
  for (const delay of [60, 120, 200, 350]) {
    const child = spawn(gantry, ['up', '--detach', '--data-dir', dir, '--port', String(port)], { stdio: 'ignore' });
    // Asked for before the delay: an up that is quick has ended by itself then.
    const ended = new Promise((resolve) => child.on('close', resolve));
    await new Promise((resolve) => setTimeout(resolve, delay));
    child.kill('SIGKILL');
    await ended;
    await run(['down', '--data-dir', dir]);
  }
  const stack = await up({ dir });
  assert.equal((await stack.balance()).posted_micro, 10_000_000);
  assert.equal((await stack.get('/v1/models')).status, 200);
  await stack.cli('down');
});

test('up and down again and again: every process ends in order, and soon', async () => {
  const dir = temporary();
  for (let i = 0; i < 6; ++i) {
    const stack = await Stack.up({ dir });
    await stack.client().chat.completions.create({ model, messages: question, max_tokens: 5 });
    const from = Date.now();
    await stack.down({ keep: true });
    assert.ok(Date.now() - from < 5000, `down took ${Date.now() - from} ms`);
    for (const [name, p] of Object.entries(stack.state().processes)) {
      assert.deepEqual([p.starts, p.last_exit], [1, 'exit code 0'], name);
    }
  }
  fs.rmSync(dir, { recursive: true });
});

test('attached, up stays until Ctrl-C and then ends everything', async () => {
  const dir = temporary();
  const child = spawn(gantry, ['up', '--data-dir', dir, '--port', String(await freePorts())]);
  let out = '';
  child.stdout.on('data', (data) => (out += data));
  await until('it serves', 20, () => out.includes('Ctrl-C'));
  child.kill('SIGINT');
  const code = await new Promise((resolve) => child.on('close', resolve));
  assert.equal(code, 0);
  assert.match((await run(['status', '--data-dir', dir])).err, /nothing runs on/);
  fs.rmSync(dir, { recursive: true });
});

test('attached, a killed up takes its processes along', async () => {
  const dir = temporary();
  const child = spawn(gantry, ['up', '--data-dir', dir, '--port', String(await freePorts())]);
  let out = '';
  child.stdout.on('data', (data) => (out += data));
  await until('it serves', 20, () => out.includes('Ctrl-C'));
  child.kill('SIGKILL');
  await until('everything has ended', 20, async () =>
    (await run(['status', '--data-dir', dir])).err.includes('nothing runs on'));
  fs.rmSync(dir, { recursive: true });
});

// ---- mistakes: one clear line each ----

test('a port in use is named before anything starts', async () => {
  const port = await freePorts();
  const server = net.createServer().listen(port + 2, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const dir = temporary();
  const result = await run(['up', '--detach', '--data-dir', dir, '--port', String(port)]);
  server.close();
  assert.equal(result.code, 1);
  oneLine(result.err);
  assert.match(result.err, new RegExp(`port ${port + 2} of 127.0.0.1 \\(metrics of router\\) cannot be used: Address already in use`));
  assert.ok(!fs.existsSync(path.join(dir, 'log', 'billing.log')));
  fs.rmSync(dir, { recursive: true });
});

test('a data dir that cannot be written is named', async () => {
  for (const dir of ['/proc/gantry', '/dev/null/gantry']) {
    const result = await run(['up', '--detach', '--data-dir', dir]);
    assert.equal(result.code, 1);
    oneLine(result.err);
    assert.match(result.err, new RegExp(`cannot create directory ${dir}: .*; choose a writable one with --data-dir`));
  }
});

test('a data dir whose sockets would not fit is refused', async () => {
  const result = await run(['up', '--detach', '--data-dir', '/tmp/' + 'x'.repeat(120)]);
  assert.equal(result.code, 2);
  oneLine(result.err);
  assert.match(result.err, /too long/);
});

// A copy of the demo model with one file changed.
function brokenModel(file, change) {
  const dir = temporary();
  const demo = path.join(root, 'models/demo');
  for (const name of fs.readdirSync(demo)) {
    if (fs.statSync(path.join(demo, name)).isFile()) fs.copyFileSync(path.join(demo, name), path.join(dir, name));
  }
  change(path.join(dir, file));
  return dir;
}
const models = [
  ['cut in half', 'model.safetensors', (f) => fs.truncateSync(f, 20_000_000), /model\.safetensors/],
  ['a header of rubbish', 'model.safetensors', (f) => fs.writeFileSync(f, Buffer.alloc(4096, 0x41)), /model\.safetensors/],
  ['a configuration that is no JSON', 'config.json', (f) => fs.writeFileSync(f, '{'), /config\.json/],
  ['without a tokenizer', 'tokenizer.json', (f) => fs.rmSync(f), /tokenizer\.json/],
];
for (const [name, file, change, says] of models) {
  test(`a model ${name}: up ends with one line that names the file`, async () => {
    const broken = brokenModel(file, change);
    const dir = temporary();
    const result = await run(['up', '--detach', '--data-dir', dir, '--port', String(await freePorts()), '--model', broken]);
    assert.equal(result.code, 1, result.out);
    oneLine(result.err);
    assert.match(result.err, says);
    assert.equal((await run(['down', '--data-dir', dir])).out, `nothing runs on ${dir}\n`);
    fs.rmSync(broken, { recursive: true });
    fs.rmSync(dir, { recursive: true });
  });
}

test('a model directory that is not there is named', async () => {
  const dir = temporary();
  const result = await run(['up', '--detach', '--data-dir', dir, '--model', '/nowhere']);
  assert.equal(result.code, 1);
  oneLine(result.err);
  assert.match(result.err, /model \/nowhere/);
  fs.rmSync(dir, { recursive: true });
});
