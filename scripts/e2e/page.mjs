// The page in headless Chromium, against a proxy of our own in front of the demo's servers: what seed 003's text walks
// through [S003-25..30], a stop button, hostile names, a token, and a picture of each look.
// usage: node page.mjs BINARY [FOLDER-FOR-PICTURES], with $LLMPROXY_URL the address of a running `llmproxy --demo`,
// $LLMPROXY_E2E_NODE a folder with playwright-core, $LLMPROXY_CHROMIUM the browser.

import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { mkdtempSync, readFileSync, rmSync, writeFileSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const require = createRequire(join(process.env.LLMPROXY_E2E_NODE, 'node_modules', 'x.js'));
const { chromium } = require('playwright-core');
const [binary, pictures] = process.argv.slice(2);
const work = mkdtempSync(join(tmpdir(), 'llmproxy-page-'));
const demo = process.env.LLMPROXY_URL;
const toys = Object.entries(Object.fromEntries((await (await fetch(`${demo}/v1/models`)).json()).data.map((one) => [one.provider, one.endpoint])));
const toyB = `http://${toys.find(([name]) => name === 'toy-b')[1]}`;
const toyA = `http://${toys.find(([name]) => name === 'toy-a')[1]}`;
const hostile = '<img src=x onerror=alert(1)>"\'&{{x}}';

class Proxy {
  constructor(more = '') {
    const endpoints = toys.map(([name, place]) => `  - {name: ${name}, address: ${place.split(':')[0]}, port: ${place.split(':')[1]}}\n`).join('');
    const file = join(work, `${Math.random()}.yml`);
    writeFileSync(file, `endpoints:\n${endpoints}admin: {enabled: true, routesFile: ${join(work, 'routes.json')}${more}}\n`);
    this.log = '';
    this.out = '';
    // Without a token of the configuration a link with one is printed.
    this.linked = !more.includes('token');
    this.child = spawn(binary, ['-c', file, '--port', '0'], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.child.stderr.on('data', (data) => { this.log += data; });
  }
  async ready() {
    for await (const data of this.child.stdout) {
      this.out += data;
      const found = /listening on (http:\/\/\S+)\n/.exec(this.out);
      const link = /\/admin\/#token=(\S+)\n/.exec(this.out);
      if (found && (link || !this.linked)) { this.child.stdout.resume(); this.url = found[1]; this.token = link?.[1]; return this; }
    }
    throw new Error(`it did not start: ${this.log}`);
  }
  async stop() {
    this.child.kill('SIGTERM');
    await new Promise((resolve) => this.child.on('exit', resolve));
  }
  chat(model, more = {}) {
    const body = { model, max_tokens: 3, messages: [{ role: 'user', content: 'hi' }], ...more };
    return fetch(`${this.url}/v1/chat/completions`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
  }
  ticks() {
    const stat = readFileSync(`/proc/${this.child.pid}/stat`, 'utf8').split(') ')[1].split(' ');
    return Number(stat[11]) + Number(stat[12]);
  }
}

let proxy = await new Proxy().ready();
const browser = await chromium.launch({ executablePath: process.env.LLMPROXY_CHROMIUM, args: ['--no-sandbox'] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const page = await context.newPage();
page.setDefaultTimeout(45000);
const requests = [];
const wrong = [];
page.on('request', (request) => requests.push(request));
page.on('pageerror', (error) => wrong.push(String(error)));
// What a restart of the proxy breaks off, and refusals that are asked for, are none.
const expected = /40[0-9]|503|net::ERR_(CONNECTION|INCOMPLETE|EMPTY_RESPONSE)/;
page.on('console', (message) => { if (message.type() === 'error' && !expected.test(message.text())) wrong.push(message.text()); });
let dialogs = [];
page.on('dialog', (dialog) => { dialogs.push(dialog.message()); dialog.accept(); });

const route = (name) => page.locator('.route').filter({ has: page.locator('legend', { hasText: new RegExp(`^${name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`) }) });
const field = (name, key, at = 0) => route(name).locator('.backend').nth(at).locator(`[data-key="${key}"]`);
const open = async () => { await page.goto('about:blank'); await page.goto(`${proxy.url}/admin/#token=${proxy.token}`); await page.locator('#endpoints .card').nth(1).waitFor(); };
const save = async (name) => { await route(name).locator('.save').click(); await page.locator('#routes-told', { hasText: 'updated' }).waitFor(); };
const check = (so, what) => { if (!so) throw new Error(what); };

const cases = [];
const test = (name, run) => cases.push([name, run]);

test('the page opens from its link with its own three files only, below 60 KB', async () => {
  await open();
  check(page.url() === `${proxy.url}/admin/`, `the token stays in the address bar: ${page.url()}`);
  check(requests.every((one) => !one.url().includes(proxy.token)), 'the token went to the server in a URL');
  const files = requests.filter((one) => !/\/admin\/(events|config|status)$/.test(one.url()) && !one.url().endsWith('/admin'));
  check(files.every((one) => one.url().startsWith(`${proxy.url}/admin/`)), files.map((one) => one.url()).join());
  check(files.length === 3, files.map((one) => one.url()).join());
  const sizes = await Promise.all(['', 'page.css', 'page.js'].map(async (name) => (await (await fetch(`${proxy.url}/admin/${name}`)).arrayBuffer()).byteLength));
  const sum = sizes.reduce((a, b) => a + b);
  check(sum <= 60 * 1024, `${sum} bytes`);
  console.log(`      ${sum} bytes in three files`);
  await page.locator('#summary', { hasText: '2 of 2 endpoints available' }).waitFor();
  check(await page.locator('.route').count() === 0, 'there are routes that nobody made');
});

test('a model is added, and served at once', async () => {
  await page.fill('#add-name', 'walk');
  await page.click('#add button');
  await field('walk', 'Name').fill('OpenAI-Primary');
  await field('walk', 'BaseUrl').fill(`${toyA}/v1`);
  await field('walk', 'ApiKeys').fill('canary-page-1, canary-page-2');
  await field('walk', 'BackendModelName').fill('toy-shared');
  await save('walk');
  check((await proxy.chat('walk')).status === 200, 'it is not served');
  await page.locator('#models tr', { hasText: 'walk' }).waitFor();
});

test('what is saved is there after a reload, with its keys masked', async () => {
  await route('walk').locator('.strategy').selectOption('Weighted');
  await field('walk', 'Weight').fill('7');
  await route('walk').locator('.add-backend').click();
  await field('walk', 'Endpoint', 1).selectOption('toy-b');
  await field('walk', 'BackendModelName', 1).fill('toy-shared');
  await save('walk');
  await page.reload();
  await route('walk').waitFor();
  check(await route('walk').locator('.strategy').inputValue() === 'Weighted', 'strategy');
  check(await field('walk', 'Weight').inputValue() === '7', 'weight');
  check(await field('walk', 'Endpoint', 1).inputValue() === 'toy-b', 'endpoint');
  check(/^\*\*\*\w+, \*\*\*\w+$/.test(await field('walk', 'ApiKeys').inputValue()), 'masks');
  check(!(await page.content()).includes('canary'), 'a key is on the page');
  const stored = JSON.parse(readFileSync(join(work, 'routes.json')));
  check(stored.Models.walk.Backends[0].ApiKeys.join() === 'canary-page-1,canary-page-2', 'the masks did not keep the keys');
});

test('edits and further names of a route are shown and kept, whole numbers of any size too', async () => {
  const more = '{"Set":{"seed":9007199254740993},"Variants":{"low":{"Set":{"max_tokens":5}}},"Match":["gpt-*"]}';
  await route('walk').locator('.more').fill(more);
  await field('walk', 'Under').fill('4k');
  await field('walk', 'Vision').selectOption('no');
  await save('walk');
  await page.reload();
  await route('walk').waitFor();
  check(await route('walk').locator('.more').inputValue() === more, await route('walk').locator('.more').inputValue());
  check(await field('walk', 'Under').inputValue() === '4k' && await field('walk', 'Vision').inputValue() === 'false', 'backend');
  await field('walk', 'Weight').fill('8');
  await save('walk');
  const text = readFileSync(join(work, 'routes.json'), 'utf8');
  check(text.includes('"seed": 9007199254740993') && JSON.parse(text).Models.walk.Backends[0].Vision === false, text);
  check((await proxy.chat('walk-low')).status === 200 && (await proxy.chat('gpt-9')).status === 200, 'not served by its other names');
  await route('walk').locator('.more').fill('{');
  await route('walk').locator('.save').click();
  await route('walk').locator('.problem', { hasText: 'Not JSON' }).first().waitFor();
  await route('walk').locator('.more').fill('');
  await field('walk', 'Under').fill('');
  await field('walk', 'Vision').selectOption('');
  await save('walk');
  const plain = JSON.parse(readFileSync(join(work, 'routes.json'))).Models.walk;
  check(Object.keys(plain).join() === 'Strategy,Backends' && !('Under' in plain.Backends[0]), JSON.stringify(plain));
});

test('what is wrong is told beside its field', async () => {
  await field('walk', 'BaseUrl').fill('nonsense');
  await field('walk', 'ApiKeys').fill('canary-page-1');
  await route('walk').locator('.save').click();
  await route('walk').locator('.backend').first().locator('.problem', { hasText: /\S/ }).waitFor();
  check(await field('walk', 'BaseUrl').getAttribute('aria-invalid') === 'true', 'the field is not marked');
  await page.reload();
  await route('walk').waitFor();
  check(await field('walk', 'BaseUrl').inputValue() === `${toyA}/v1`, 'it was stored');
});

test('it is there after a restart, and can be deleted', async () => {
  await proxy.stop();
  proxy = await new Proxy().ready();
  await open();
  check((await proxy.chat('walk')).status === 200, 'it is not served after a restart');
  dialogs = [];
  await route('walk').locator('.delete').click();
  await page.locator('#routes-told', { hasText: 'deleted' }).waitFor();
  await route('walk').waitFor({ state: 'detached' });
  check(dialogs.length === 1, 'it did not ask');
  check((await proxy.chat('walk')).status === 404, 'it is still served');
});

test('a stop button ends the request upstream within 250 ms', async () => {
  const before = await (await fetch(`${toyB}/demo/stats`)).json();
  const running = await proxy.chat('toy-slow', { stream: true, max_tokens: 100000 });
  const reader = running.body.getReader();
  await reader.read();
  const drain = (async () => { try { for (;;) { if ((await reader.read()).done) return; } } catch { /* cut, as it should be */ } })();
  await page.locator('#running button', { hasText: 'Stop' }).waitFor();
  const [began] = await Promise.all([page.evaluate(() => { document.querySelector('#running button').click(); return Date.now(); })]);
  const stats = await (await fetch(`${toyB}/demo/stats?cancelled=${before.cancelled + 1}`)).json();
  const took = Date.now() - began;
  check(stats.cancelled === before.cancelled + 1, JSON.stringify(stats));
  console.log(`      the server saw it ${took} ms after the click`);
  check(took <= 250, `${took} ms`);
  await drain;
  await page.locator('#recent tr', { hasText: 'stopped' }).first().waitFor();
});

test('what runs and what waits are told apart, with the speed of each, and nothing is cut off', async () => {
  const clients = [];
  for (let n = 0; n < 6; n += 1) clients.push(proxy.chat('toy-slow', { stream: true, max_tokens: 100000 }));
  await page.locator('#queue', { hasText: /^[1-9] running, [1-9] waiting for a slot$/ }).waitFor();
  const rows = await page.locator('#running tr').count();
  check(rows === 6, `${rows} rows`);
  await page.locator('#endpoints .card', { hasText: 'toy-b' }).locator('dd', { hasText: /^[1-9][0-9]*\.[0-9]$/ }).waitFor();
  await proxy.chat('nobody-has-it');
  await page.locator('#recent tr', { hasText: 'nobody-has-it' }).first().waitFor();
  const cut = await page.evaluate(() => [...document.querySelectorAll('.scroll')].map((one) => one.scrollWidth - one.clientWidth));
  check(cut.every((one) => one <= 0), `cut by ${cut}`);
  const token = { Authorization: `Bearer ${proxy.token}` };
  const { running } = await (await fetch(`${proxy.url}/admin/status`, { headers: token })).json();
  const stop = (one) => fetch(`${proxy.url}/admin/requests/${one.id}/cancel`, { method: 'POST', headers: { 'Content-Type': 'application/json', Origin: proxy.url, ...token }, body: '{}' });
  await Promise.all(running.map(stop));
  await Promise.all(clients.map(async (one) => { try { await (await one).text(); } catch { /* cut, as it should be */ } }));
});

test('names that look like markup stay text', async () => {
  dialogs = [];
  await page.fill('#add-name', hostile);
  await page.click('#add button');
  await field(hostile, 'Name').fill(hostile);
  await field(hostile, 'BaseUrl').fill(`${toyA}/v1`);
  await save(hostile);
  await proxy.chat(hostile);
  await page.reload();
  await page.locator('#models tr', { hasText: hostile }).waitFor();
  await page.locator('#recent tr', { hasText: hostile }).first().waitFor();
  await page.locator('#endpoints .card', { hasText: hostile }).waitFor();
  check(await page.locator('img').count() === 0 && dialogs.length === 0, `markup: ${dialogs}`);
  await route(hostile).locator('.delete').click();
  await page.locator('#routes-told', { hasText: 'deleted' }).waitFor();
});

test('a chat streams, and tells who answered how fast', async () => {
  await page.selectOption('#chat-model', 'toy-shared');
  await page.click('#chat-send');
  await page.locator('#chat-told', { hasText: /^done, from toy-[ab], .*tokens\/s/ }).waitFor();
  check((await page.textContent('#chat-answer')).includes('toy-'), 'no answer');
});

test('an endpoint is switched off and on', async () => {
  const card = page.locator('#endpoints .card', { hasText: 'toy-b' });
  await card.locator('.switch', { hasText: 'Disable' }).click();
  await card.locator('.why', { hasText: 'switched off' }).waitFor();
  await card.locator('.switch', { hasText: 'Enable' }).click();
  await card.locator('.why', { hasText: 'healthy' }).waitFor();
});

test('every control has a name and the keyboard reaches it', async () => {
  const nameless = await page.evaluate(() => [...document.querySelectorAll('main input, main select, main textarea, button')]
    .filter((one) => one.offsetParent && !one.getAttribute('aria-label') && !one.textContent.trim() && !one.labels?.length).map((one) => one.outerHTML));
  check(nameless.length === 0, nameless.join());
  await open();
  const reached = new Set();
  for (let n = 0; n < 25; n += 1) { await page.keyboard.press('Tab'); reached.add(await page.evaluate(() => document.activeElement?.id || document.activeElement?.className || '')); }
  for (const one of ['reload', 'chat-model', 'chat-text', 'chat-send', 'add-name']) check(reached.has(one), `${one} is not reached: ${[...reached]}`);
});

test('an open page costs little', async () => {
  const before = proxy.ticks();
  await new Promise((resolve) => setTimeout(resolve, 5000));
  const share = (proxy.ticks() - before) / 5;
  console.log(`      ${share.toFixed(1)} % of a core`);
  check(share <= 1.5, `${share} %`);
});

test('pictures of each look', async () => {
  if (pictures) mkdirSync(pictures, { recursive: true });
  const left = new AbortController();
  const ask = { model: 'toy-slow', stream: true, messages: [{ role: 'user', content: 'x' }] };
  for (let n = 0; n < 3; n += 1) fetch(`${proxy.url}/v1/chat/completions`, { method: 'POST', body: JSON.stringify(ask), signal: left.signal }).then((answer) => answer.text()).catch(() => {});
  // Two run, and show their speed; the third one waits for a slot.
  await page.waitForFunction(() => [...document.querySelectorAll('#running td:nth-child(3)')].some((one) => /^\d/.test(one.textContent)));
  for (const colorScheme of ['light', 'dark']) {
    for (const [name, viewport] of [['desktop', { width: 1280, height: 900 }], ['phone', { width: 390, height: 844 }]]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize(viewport);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      check(wide <= 0, `${name} scrolls sideways by ${wide}`);
      // What was laid out anew is painted with the frame after the next.
      await page.evaluate(() => new Promise((done) => { scrollTo(0, 0); requestAnimationFrame(() => requestAnimationFrame(done)); }));
      if (pictures) await page.screenshot({ path: join(pictures, `${name}-${colorScheme}.png`), fullPage: true });
    }
  }
  left.abort();
});

test('with a token the page asks for it', async () => {
  await proxy.stop();
  await page.evaluate(() => sessionStorage.clear());
  proxy = await new Proxy(', token: canary-token').ready();
  await page.goto(`${proxy.url}/admin/`);
  await page.locator('#login').waitFor();
  await page.fill('#token', 'wrong');
  await page.click('#login button');
  await page.locator('#login-problem', { hasText: 'does not open' }).waitFor();
  await page.fill('#token', 'canary-token');
  await page.click('#login button');
  await page.locator('#endpoints .card').nth(1).waitFor();
  check(!(await page.textContent('main')).includes('needs its token'), 'it still asks for the token');
  check(!proxy.log.includes('canary'), 'the token is in the log');
});

test('nothing went wrong in the browser', async () => { check(wrong.length === 0, wrong.join('\n')); });

let failed = 0;
for (const [name, run] of cases) {
  try {
    await run();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n${error.stack}`);
    if (pictures) await page.screenshot({ path: join(pictures, `failed-${failed}.png`) }).catch(() => {});
  }
}
await browser.close();
await proxy.stop();
rmSync(work, { recursive: true, force: true });
console.log(`${cases.length - failed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
