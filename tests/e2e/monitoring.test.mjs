// A real Prometheus scrapes the running installation with the configuration we ship; every query of the dashboard and
// every alert must parse there, and every panel must have data once there has been traffic.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { freePorts, model, question, root, sleep, Stack, until } from './stack.mjs';

const dashboard = JSON.parse(fs.readFileSync(path.join(root, 'deploy/grafana/dashboards/gantry.json'), 'utf8'));
const panels = dashboard.panels.filter((panel) => panel.type !== 'row');

let stack, prometheus, work, address;

// The shipped configuration for the ports and the pace of this test.
function configure() {
  const config = fs
    .readFileSync(path.join(root, 'deploy/prometheus/prometheus.yml'), 'utf8')
    .replace(/127\.0\.0\.1:808(\d)/g, (_, n) => `127.0.0.1:${stack.port + Number(n)}`)
    .replace(/scrape_interval: \w+/, 'scrape_interval: 1s')
    .replace(/evaluation_interval: \w+/, 'evaluation_interval: 1s');
  fs.writeFileSync(path.join(work, 'prometheus.yml'), config);
  fs.copyFileSync(path.join(root, 'deploy/prometheus/alerts.yml'), path.join(work, 'alerts.yml'));
}

async function api(target) {
  const response = await fetch(`http://${address}${target}`);
  return response.json();
}
const query = (expression) => api(`/api/v1/query?query=${encodeURIComponent(expression)}`);

// A query as Grafana would send it.
const asSent = (expression) => expression.replaceAll('$__rate_interval', '30s').replaceAll('$model', '.*');

before(async () => {
  stack = await Stack.up();
  work = fs.mkdtempSync(path.join(os.tmpdir(), 'gantry-prometheus-'));
  configure();
  address = `127.0.0.1:${await freePorts()}`;
  prometheus = spawn('prometheus', [
    `--config.file=${path.join(work, 'prometheus.yml')}`,
    `--storage.tsdb.path=${path.join(work, 'data')}`,
    `--web.listen-address=${address}`,
  ]);
  let log = '';
  prometheus.stderr.on('data', (data) => (log += data));
  prometheus.on('error', (error) => (log += error));
  await until('prometheus scrapes all four processes', 30, async () => {
    try {
      const targets = (await api('/api/v1/targets')).data.activeTargets;
      return targets.length === 4 && targets.every((target) => target.health === 'up');
    } catch {
      assert.equal(prometheus.exitCode, null, log);
      return false;
    }
  });
  await traffic();
});
after(async () => {
  if (prometheus) {
    const ended = new Promise((resolve) => prometheus.on('close', resolve));
    prometheus.kill('SIGTERM');
    await ended;
  }
  if (work) fs.rmSync(work, { recursive: true });
  await stack?.down();
});

// Something of everything that the dashboard shows, twice with scrapes between, so that every rate has two samples.
async function traffic() {
  const client = stack.client();
  for (let round = 0; round < 2; ++round) {
    for (let i = 0; i < 3; ++i) {
      await client.chat.completions.create({ model, messages: question, max_tokens: 40 });
      for await (const chunk of await client.chat.completions.create({ model, messages: question, stream: true, max_tokens: 200, ignore_eos: true })) chunk;
    }
    await stack.post('/v1/chat/completions', { model, messages: [] });
    await stack.post('/v1/chat/completions', { model, messages: question }, { key: 'gk_live_nobody' });
    await sleep(2500);
  }
}

test('promtool accepts configuration and alerts', () => {
  for (const args of [['config', 'prometheus.yml'], ['rules', 'alerts.yml']]) {
    const checked = spawnSync('promtool', ['check', args[0], path.join(root, 'deploy/prometheus', args[1])]);
    assert.equal(checked.status, 0, String(checked.stderr) + String(checked.stdout));
  }
});

test('the dashboard is one that Grafana can provision', () => {
  assert.equal(dashboard.schemaVersion, 39);
  assert.ok(dashboard.uid);
  const ids = dashboard.panels.map((panel) => panel.id);
  assert.equal(new Set(ids).size, ids.length, 'panel ids are unique');
  assert.deepEqual(dashboard.templating.list.map((v) => [v.name, v.type]), [['datasource', 'datasource'], ['model', 'query']]);
  for (const panel of panels) {
    assert.ok(panel.description, `${panel.title} says what it shows`);
    assert.equal(panel.datasource.uid, '${datasource}');
    for (const target of panel.targets) assert.equal(target.datasource.uid, '${datasource}');
    assert.ok(panel.gridPos.x + panel.gridPos.w <= 24);
  }
});

for (const panel of panels) {
  for (const target of panel.targets) {
    test(`panel ${panel.title}${panel.targets.length > 1 ? ` (${target.legendFormat})` : ''} has data`, async () => {
      const answer = await query(asSent(target.expr));
      assert.equal(answer.status, 'success', `${target.expr}: ${answer.error}`);
      assert.ok(answer.data.result.length > 0, `no data: ${target.expr}`);
      for (const series of answer.data.result) assert.notEqual(series.value[1], 'NaN', target.expr);
    });
  }
}

test('every alert is evaluated, and none fires on a healthy installation', async () => {
  const rules = await until('the rules are evaluated', 10, async () => {
    const all = (await api('/api/v1/rules')).data.groups.flatMap((group) => group.rules);
    return all.length > 0 && all.every((rule) => rule.health !== 'unknown') && all;
  });
  for (const rule of rules) {
    assert.equal(rule.health, 'ok', `${rule.name}: ${rule.lastError}`);
    assert.equal(rule.state, 'inactive', `${rule.name} is ${rule.state}`);
    assert.ok(rule.annotations.summary && rule.annotations.action, rule.name);
  }
});

test('every metric that the operator\'s page names is there', async () => {
  const page = fs.readFileSync(path.join(root, 'docs/operator.md'), 'utf8');
  const names = new Set([...page.matchAll(/`(gantry_[a-z_]+)/g)].map((match) => match[1]));
  assert.ok(names.size > 15);
  for (const name of names) {
    const answer = await query(`{__name__=~"${name}(_bucket)?"}`);
    assert.ok(answer.data.result.length > 0, `${name} is not exposed`);
  }
});
