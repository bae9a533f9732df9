// An installation of its own for one test file: started with `gantry up`, driven through the CLI and over HTTP, ended
// with `gantry down`. Its data dir is thrown away unless a test failed.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import OpenAI from 'openai';

const bin = process.env.GANTRY_BIN_DIR ?? new URL('../../build/release/bin', import.meta.url).pathname;
export const gantry = path.join(bin, 'gantry');
export const root = new URL('../..', import.meta.url).pathname;
export const model = 'gantry-demo';

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Polls until `look` gives something true; fails naming `what` after `seconds`.
export async function until(what, seconds, look) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < end, `not within ${seconds} s: ${what}`);
    await sleep(20);
  }
}

function listens(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', () => resolve(true));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(false)));
  });
}

// Five ports in a row that nobody uses: P for requests, four for metrics.
export async function freePorts() {
  for (;;) {
    const port = 20000 + Math.floor(Math.random() * 12000);
    const taken = await Promise.all([0, 1, 2, 3, 4].map((i) => listens(port + i)));
    if (!taken.some(Boolean)) return port;
  }
}

// Runs the CLI to its end. Never throws: {code, out, err}.
export function run(args, env = {}) {
  const child = spawn(gantry, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  return new Promise((resolve) => {
    let out = '', err = '';
    child.stdout.on('data', (data) => (out += data));
    child.stderr.on('data', (data) => (err += data));
    child.on('close', (code) => resolve({ code, out, err }));
  });
}

export class Stack {
  static temporaryDir() {
    return fs.mkdtempSync(path.join(os.tmpdir(), 'gantry-e2e-'));
  }

  // env: settings of the processes (GANTRY_GATEWAY_SLICE_MICRO and the like).
  static async up({ env = {}, args = [], dir = Stack.temporaryDir(), port } = {}) {
    const stack = new Stack();
    stack.dir = dir;
    stack.port = port ?? (await freePorts());
    stack.env = env;
    const started = Date.now();
    stack.greeting = await run(
      ['up', '--detach', '--data-dir', stack.dir, '--port', String(stack.port), ...args],
      env,
    );
    stack.upMs = Date.now() - started;
    if (stack.greeting.code !== 0) {
      stack.showLogs();
      throw new Error(`gantry up: ${stack.greeting.err}`);
    }
    stack.endpoint = `http://127.0.0.1:${stack.port}`;
    stack.key = fs.readFileSync(path.join(stack.dir, 'demo.key'), 'utf8').trim();
    return stack;
  }

  async down({ keep = false } = {}) {
    const result = await this.cli('down');
    assert.equal(result.code, 0, result.err);
    this.assertLogsAreJson();
    if (!keep) this.remove();
  }
  // A line that is not ours comes from a library that has something to complain about.
  assertLogsAreJson() {
    for (const file of fs.readdirSync(path.join(this.dir, 'log'))) {
      const lines = fs.readFileSync(path.join(this.dir, 'log', file), 'utf8').split('\n');
      const strange = lines.filter((line) => line && !line.startsWith('{'));
      assert.deepEqual(strange, [], file);
    }
  }
  remove() {
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
  // What the processes said last, for a test that failed.
  showLogs() {
    for (const name of ['supervisor', 'billing', 'router', 'worker', 'gateway']) {
      const file = path.join(this.dir, 'log', `${name}.log`);
      if (!fs.existsSync(file)) continue;
      console.error(`--- ${file}`);
      console.error(fs.readFileSync(file, 'utf8').split('\n').slice(-15).join('\n'));
    }
  }

  cli(...args) {
    return run([...args, '--data-dir', this.dir], this.env);
  }
  // The CLI's answer as JSON; fails when the command does.
  async json(...args) {
    const result = await this.cli(...args, '--json');
    assert.equal(result.code, 0, `gantry ${args.join(' ')}: ${result.err}${result.out}`);
    return JSON.parse(result.out);
  }
  // One key of a tenant that is created when it is not there, with `credit` in EUR.
  async tenant(name, credit, ...keyFlags) {
    const created = await this.cli('tenant', 'create', name);
    assert.equal(created.code, 0, created.err);
    if (credit) assert.equal((await this.cli('topup', '--tenant', name, credit)).code, 0);
    return this.newKey(name, ...keyFlags);
  }
  async newKey(name, ...flags) {
    const made = await this.cli('key', 'create', '--tenant', name, '--quiet', ...flags);
    assert.equal(made.code, 0, made.err);
    const key = made.out.trim();
    // The gateway hears of it within a second.
    await until('the new key works', 5, async () => (await this.get('/v1/models', key)).status === 200);
    return key;
  }

  // ---- the processes ----

  state() {
    return JSON.parse(fs.readFileSync(path.join(this.dir, 'state.json'), 'utf8'));
  }
  pid(name) {
    return this.state().processes[name].pid;
  }
  kill(name, signal = 'SIGKILL') {
    const pid = this.pid(name);
    assert.ok(pid > 0, `${name} runs`);
    process.kill(pid, signal);
    return pid;
  }
  // Until every process answers that it is ready, with a pid other than `not`.
  async ready(seconds = 20) {
    await until('every process is ready', seconds, async () => (await this.cli('status')).code === 0);
  }
  rssKib(name) {
    const status = fs.readFileSync(`/proc/${this.pid(name)}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)[1]);
  }

  // ---- the endpoint ----

  client(options = {}) {
    return new OpenAI({ apiKey: this.key, baseURL: `${this.endpoint}/v1`, maxRetries: 0, timeout: 60_000, ...options });
  }
  // A raw request: {status, headers, body, complete}. `complete` is false when the body broke off.
  request(method, target, { key = this.key, headers = {}, body, port = this.port } = {}) {
    return new Promise((resolve, reject) => {
      const all = { ...(key ? { authorization: `Bearer ${key}` } : {}), ...headers };
      if (body !== undefined && !all['content-type']) all['content-type'] = 'application/json';
      const request = http.request({ host: '127.0.0.1', port, method, path: target, headers: all }, (response) => {
        const chunks = [];
        response.on('data', (chunk) => chunks.push(chunk));
        const finish = () =>
          resolve({
            status: response.statusCode,
            headers: response.headers,
            body: Buffer.concat(chunks).toString('utf8'),
            complete: response.complete,
          });
        response.on('end', finish);
        response.on('error', finish);
      });
      request.on('error', reject);
      if (body !== undefined) request.write(body);
      request.end();
    });
  }
  get(target, key = this.key) {
    return this.request('GET', target, { key });
  }
  post(target, body, options = {}) {
    const raw = typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body);
    return this.request('POST', target, { ...options, body: raw });
  }

  // ---- the books ----

  // The usage row of a reply, once billing has it.
  async usageOf(reply, tenant = 'demo') {
    const id = reply.id.replace(/^(chatcmpl|cmpl)-/, '');
    return until(`usage of ${reply.id}`, 10, async () => {
      const usage = await this.json('usage', '--tenant', tenant);
      return usage.rows.find((row) => row.request_id === id);
    });
  }
  async balance(tenant = 'demo') {
    const all = await this.json('tenant', 'list');
    return all.find((party) => party.name === tenant);
  }
  async auditSettled(timeoutS = 60) {
    const audit = await this.cli('audit', '--settled', '--timeout', String(timeoutS));
    assert.equal(audit.code, 0, `gantry audit --settled: ${audit.err}\n${audit.out}`);
    return audit;
  }
  // Rows of the database. Only after `down`: nobody may open the live file.
  sql(statement) {
    const script =
      'import json,sqlite3,sys\n' +
      'db=sqlite3.connect("file:"+sys.argv[1]+"?mode=ro",uri=True); db.row_factory=sqlite3.Row\n' +
      'print(json.dumps([{k:(v.hex() if isinstance(v,bytes) else v) for k,v in dict(r).items()} ' +
      'for r in db.execute(sys.argv[2])]))\n';
    const result = spawnSync('python3', ['-c', script, path.join(this.dir, 'billing', 'gantry.db'), statement]);
    assert.equal(result.status, 0, String(result.stderr));
    return JSON.parse(String(result.stdout));
  }
}

// A question that the demo model was taught, and one that it answers with many tokens whatever it says.
export const question = [{ role: 'user', content: 'What does the word river mean?' }];
export const long = { max_tokens: 4000, ignore_eos: true, temperature: 0 };
