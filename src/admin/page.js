'use strict';
// Names of models, endpoints and clients come from others: they only ever become text, never markup.
const $ = (id) => document.getElementById(id);
const copy = (id) => $(id).content.firstElementChild.cloneNode(true);
// A link brings the token in its fragment, which never reaches a server; it does not stay in the address bar either.
const given = /^#token=(.+)$/.exec(location.hash);
if (given) {
  sessionStorage.setItem('token', decodeURIComponent(given[1]));
  history.replaceState(null, '', location.pathname);
}
addEventListener('hashchange', () => location.reload());
const state = { endpoints: [], models: [], history: new Map(), token: sessionStorage.getItem('token') || '', etag: null, log: [], recent: [], running: [] };

function row(cells) {
  const tr = document.createElement('tr');
  for (const [text, kind] of cells) {
    const td = document.createElement('td');
    if (text instanceof Node) td.append(text); else { td.textContent = text ?? ''; td.title = td.textContent; }
    if (kind) td.className = kind;
    tr.append(td);
  }
  return tr;
}
function button(text, label, act) {
  const one = document.createElement('button');
  one.type = 'button';
  one.className = 'small';
  one.textContent = text;
  one.setAttribute('aria-label', label);
  one.addEventListener('click', act);
  return one;
}
function time(ms) {
  if (ms == null) return '';
  if (ms < 1000) return `${ms} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(ms / 60000)}m ${Math.round((ms % 60000) / 1000)}s`;
}

async function ask(method, path, body, headers = {}) {
  const given = { ...headers };
  if (state.token) given.Authorization = `Bearer ${state.token}`;
  if (method === 'POST') given['Content-Type'] = 'application/json';
  const answer = await fetch(path, { method, headers: given, body: method === 'POST' ? JSON.stringify(body ?? {}) : undefined });
  if (answer.status === 401 || answer.status === 403) login(answer.status);
  return answer;
}
// The parts of a streamed answer, as they come.
async function* parts(answer, end) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const all = (text + value).split(end);
    text = all.pop();
    yield* all;
  }
}
async function told(answer) {
  const body = await answer.json().catch(() => ({}));
  return { body, text: body.error?.message || body.message || `status ${answer.status}` };
}
function login(status) {
  $('login').hidden = false;
  $('all').hidden = true;
  $('login-problem').textContent = status === 401 && state.token ? 'This token does not open the page.' : '';
  $('token').focus();
}
$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  state.token = $('token').value;
  sessionStorage.setItem('token', state.token);
  $('login').hidden = true;
  $('all').hidden = false;
  start();
});

// Live: one stream while the page is seen, none while it is hidden.
let stream = null;
async function watch() {
  const mine = new AbortController();
  stream?.abort();
  stream = mine;
  let pause = 1000;
  while (stream === mine) {
    try {
      const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
      const answer = await fetch('/admin/events', { headers, signal: mine.signal });
      if (answer.status === 401 || answer.status === 403) return login(answer.status);
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      pause = 1000;
      state.log = [];
      state.recent = [];
      state.running = [];
      for await (const event of parts(answer, '\n\n')) if (event.startsWith('data: ')) show(JSON.parse(event.slice(6)));
    } catch (error) {
      if (mine.signal.aborted) return;
    }
    if (stream !== mine) return;
    $('summary').textContent = 'connection lost; retrying';
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 15000);
  }
}
document.addEventListener('visibilitychange', () => {
  if (document.hidden) { stream?.abort(); stream = null; } else if ($('login').hidden) watch();
});

function show(now) {
  const up = now.endpoints.filter((one) => one.enabled && !['unhealthy', 'loading', 'asleep', 'waking'].includes(one.state)).length;
  const jobs = now.jobs.pending === undefined ? '' : `, jobs ${now.jobs.pending} waiting ${now.jobs.processing} running`;
  // Queued requests are in progress too.
  const working = Math.max(0, now.running.length - now.queue);
  $('summary').textContent = `${up} of ${now.endpoints.length} endpoints available, ${working} running, ${now.queue} waiting, ` +
    `${now.connections} connections${jobs}, ${now.version}` + (now.reload_success ? '' : ' — the last reload failed, see the log');
  $('queue').textContent = `${working} running, ${now.queue} waiting for a slot`;
  const names = now.endpoints.map((one) => one.name).join('\n');
  const renamed = names !== state.endpoints.join('\n');
  state.endpoints = now.endpoints.map((one) => one.name);
  now.endpoints.forEach(endpoint);
  for (const card of [...$('endpoints').children]) if (!state.endpoints.includes(card.dataset.name)) card.remove();
  if (renamed) document.querySelectorAll('select[data-key="Endpoint"]').forEach((one) => fillEndpoints(one, one.value));
  running(now.running);
  if (now.models) models(now.models);
  $('chat-key-label').hidden = !now.keys;
  state.apart = now.apart;
  if (now.recent.length) {
    state.recent = [...now.recent.reverse(), ...state.recent].slice(0, 200);
    $('recent').replaceChildren(...state.recent.map(recent));
  }
  if (now.log.length) {
    state.log = [...state.log, ...now.log].slice(-200);
    const log = $('log');
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    log.textContent = state.log.join('\n');
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}

function endpoint(one) {
  let card = [...$('endpoints').children].find((card) => card.dataset.name === one.name);
  if (!card) {
    card = copy('t-endpoint');
    card.dataset.name = one.name;
    card.querySelector('.name').textContent = one.name;
    card.querySelector('.switch').addEventListener('click', async (event) => {
      event.target.disabled = true;
      await ask('POST', `/admin/endpoints/${encodeURIComponent(one.name)}/${card.dataset.on ? 'disable' : 'enable'}`);
      event.target.disabled = false;
    });
    $('endpoints').append(card);
  }
  card.className = `card ${one.state}`;
  card.dataset.on = one.enabled ? '1' : '';
  const control = card.querySelector('.switch');
  control.textContent = one.enabled ? 'Disable' : 'Enable';
  control.setAttribute('aria-label', `${control.textContent} ${one.name}`);
  card.querySelector('.why').textContent = `${one.state}${one.why ? `: ${one.why}` : ''}`;
  const share = one.slots ? Math.min(one.in_flight / one.slots, 1) : Math.min(one.in_flight / 8, 1);
  const bar = card.querySelector('.bar');
  bar.firstElementChild.style.width = `${Math.round(share * 100)}%`;
  bar.setAttribute('aria-label', `${one.in_flight} of ${one.slots ?? 'any number of'} slots used`);
  const speeds = [...(state.history.get(one.name) ?? []), one.tokens_per_second].slice(-60);
  state.history.set(one.name, speeds);
  const facts = [
    ['address', one.address], ['slots', `${one.in_flight} of ${one.slots ?? '∞'}`], ['tokens/s', one.tokens_per_second.toFixed(1)],
    ['cached share', one.cached_share === null ? '–' : `${one.cached_share} %`], ['context', one.context ?? '–'],
  ];
  card.querySelector('dl').replaceChildren(...facts.flatMap(([name, value]) => {
    const dt = document.createElement('dt');
    const dd = document.createElement('dd');
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
  const most = Math.max(...speeds, 1);
  const points = speeds.map((value, at) => `${60 - speeds.length + at + 1},${15 - (14 * value) / most}`);
  card.querySelector('polyline').setAttribute('points', points.join(' '));
}

// Of known requests only changes are sent.
function running(updates) {
  const known = new Map(state.running.map((one) => [one.id, one]));
  const all = updates.map((one) => ({ began: performance.now() - one.age_ms, ...known.get(one.id), ...one }));
  state.running = all;
  const focused = document.activeElement?.dataset?.id;
  $('running').replaceChildren(...all.map((one) => {
    const stop = button(one.stopping ? 'stopping' : 'Stop', `Stop the request for ${one.model ?? one.path}`, async () => {
      stop.disabled = true;
      await ask('POST', `/admin/requests/${encodeURIComponent(one.id)}/cancel`);
    });
    stop.dataset.id = one.id;
    stop.disabled = one.stopping;
    return row([
      [one.model ?? one.path], [one.endpoint ?? 'waiting'], [one.tokens_per_second?.toFixed(1), 'n'], [stop], [one.tokens || '', 'n'],
      [time(one.first_byte_ms), 'n'], [time(Math.round(performance.now() - one.began)), 'n'], [one.key ?? one.client],
    ]);
  }));
  if (!all.length) $('running').replaceChildren(row([['No requests in progress.']]));
  if (focused) document.querySelector(`#running [data-id="${CSS.escape(focused)}"]`)?.focus();
}
function recent(one) {
  const bad = one.status >= 400 || one.end === 'upstream_lost' || one.end === 'timeout' ? 'bad' : '';
  return row([
    [one.at.slice(11, 19)], [one.status, `n ${bad}`], [one.model ?? one.path], [one.endpoint], [one.reason], [one.end, one.end === 'done' ? '' : 'bad'], [time(one.queue_ms), 'n'],
    [time(one.first_byte_ms), 'n'], [time(one.total_ms), 'n'], [one.tokens_in, 'n'], [one.cached, 'n'], [one.recomputed],
    [one.tokens_out, 'n'], [one.tokens_per_second?.toFixed(1), 'n'],
  ]);
}
function models(all) {
  state.models = all;
  $('models').replaceChildren(...all.map((one) => row([[one.id], [one.endpoints.join(', ')], [one.strategy], [one.source]])));
  const chosen = $('chat-model').value;
  $('chat-model').replaceChildren(...all.filter((one) => one.endpoints.length).map((one) => new Option(one.id, one.id)));
  if (all.some((one) => one.id === chosen)) $('chat-model').value = chosen;
}

// Routes
// What a route may have beside its backends. Whole numbers beyond 2^53 stay as they are where the browser can do that.
const MORE = ['Set', 'Default', 'Remove', 'Variants', 'Match', 'Stabilize'];
const exact = (text) => JSON.parse(text, (key, value, context) => (Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source && JSON.rawJSON ? JSON.rawJSON(context.source) : value));
function fillEndpoints(select, chosen) {
  const names = state.endpoints.includes(chosen) || !chosen ? state.endpoints : [...state.endpoints, chosen];
  select.replaceChildren(new Option('–', ''), ...names.map((name) => new Option(name, name)));
  select.value = chosen || '';
}
function backend(route, given = {}) {
  const one = copy('t-backend');
  fillEndpoints(one.querySelector('[data-key="Endpoint"]'), given.Endpoint);
  for (const input of one.querySelectorAll('[data-key]')) {
    const value = given[input.dataset.key];
    if (input.type === 'checkbox') input.checked = value !== false;
    else if (input.dataset.key === 'ApiKeys') input.value = (value || []).join(', ');
    else if (input.dataset.key !== 'Endpoint') input.value = value ?? input.value;
    input.addEventListener('input', () => { route.classList.add('changed'); input.removeAttribute('aria-invalid'); });
  }
  one.querySelector('.remove').addEventListener('click', () => { one.remove(); route.classList.add('changed'); });
  route.querySelector('.backends').append(one);
  return one;
}
function routeOf(name, model) {
  const route = copy('t-route');
  route.dataset.name = name;
  route.querySelector('legend').textContent = name;
  route.querySelector('.strategy').value = model.Strategy || 'RoundRobin';
  const more = Object.fromEntries(MORE.filter((key) => key in model).map((key) => [key, model[key]]));
  route.querySelector('.more').value = Object.keys(more).length ? JSON.stringify(more) : '';
  for (const input of route.querySelectorAll('.strategy, .more')) input.addEventListener('input', () => route.classList.add('changed'));
  (model.Backends || []).forEach((one) => backend(route, one));
  route.querySelector('.add-backend').addEventListener('click', () => backend(route).querySelector('input').focus());
  route.querySelector('.save').addEventListener('click', () => save(route));
  route.querySelector('.delete').addEventListener('click', () => drop(route));
  return route;
}
function problem(route, path, text) {
  const at = /^backends\[(\d+)\]\.?(\w+)?/i.exec(path);
  const one = at && route.querySelectorAll('.backend')[Number(at[1])];
  (one || route).querySelector('.problem').textContent += `${text} `;
  const input = one && [...one.querySelectorAll('[data-key]')].find((input) => input.dataset.key.toLowerCase() === (at[2] || '').toLowerCase());
  if (input) { input.setAttribute('aria-invalid', 'true'); input.focus(); }
}
function read(route) {
  const backends = [...route.querySelectorAll('.backend')].map((one) => {
    const out = {};
    for (const input of one.querySelectorAll('[data-key]')) {
      const key = input.dataset.key;
      if (input.type === 'checkbox') out[key] = input.checked;
      else if (key === 'ApiKeys') out[key] = input.value.split(',').map((text) => text.trim()).filter(Boolean);
      else if (key === 'Weight') out[key] = Number(input.value) || 1;
      else if (key === 'Vision') out[key] = input.value ? input.value === 'true' : null;
      else if (key === 'Under' && /^\d+$/.test(input.value)) out[key] = Number(input.value);
      else out[key] = input.value.trim() || null;
    }
    return out;
  });
  return { ...exact(route.querySelector('.more').value.trim() || '{}'), Strategy: route.querySelector('.strategy').value, Backends: backends };
}
async function save(route) {
  route.querySelectorAll('.problem').forEach((one) => { one.textContent = ''; });
  let given;
  try { given = read(route); } catch (error) { return problem(route, '', `Not JSON: ${error.message}.`); }
  const answer = await ask('POST', `/admin/config/${encodeURIComponent(route.dataset.name)}`, given, state.etag ? { 'If-Match': state.etag } : {});
  const { body, text } = await told(answer);
  $('routes-told').textContent = text;
  if (answer.ok) { state.etag = answer.headers.get('etag'); route.classList.remove('changed'); return routes(); }
  (body.error?.details || [{ path: '', message: text }]).forEach((one) => problem(route, one.path, one.message));
}
async function drop(route) {
  if (!confirm(`Delete the route of ${route.dataset.name}?`)) return;
  const answer = await ask('DELETE', `/admin/config/${encodeURIComponent(route.dataset.name)}`, undefined, state.etag ? { 'If-Match': state.etag } : {});
  const { text } = await told(answer);
  $('routes-told').textContent = text;
  if (answer.ok) { state.etag = answer.headers.get('etag'); route.remove(); routes(); } else if (answer.status === 404) route.remove(); else problem(route, '', text);
}
async function routes() {
  const answer = await ask('GET', '/admin/config');
  if (answer.status === 401 || answer.status === 403) return;
  if (!answer.ok) { $('routes-told').textContent = (await told(answer)).text; return; }
  state.etag = answer.headers.get('etag');
  const { Models } = exact(await answer.text());
  // Unsaved edits are kept.
  const edited = [...document.querySelectorAll('.route.changed')];
  const fresh = Object.entries(Models).map(([name, model]) => routeOf(name, model));
  $('routes').replaceChildren(...fresh.map((one) => edited.find((other) => other.dataset.name === one.dataset.name) || one), ...edited.filter((one) => !(one.dataset.name in Models)));
}
$('add').addEventListener('submit', (event) => {
  event.preventDefault();
  const name = $('add-name').value.trim();
  if (!name) return;
  let route = [...$('routes').children].find((one) => one.dataset.name === name);
  if (!route) {
    route = routeOf(name, { Strategy: 'Failover' });
    route.classList.add('changed');
    backend(route);
    $('routes').prepend(route);
  }
  $('add-name').value = '';
  route.querySelector('input').focus();
});
$('reload').addEventListener('click', async () => {
  const { body, text } = await told(await ask('POST', '/admin/reload'));
  $('routes-told').textContent = body.restart?.length ? `${text} A restart is needed for ${body.restart.join(', ')}.` : text;
  alert($('routes-told').textContent);
  routes();
});

// Chat
let chat = null;
$('chat-stop').addEventListener('click', () => chat?.abort());
$('chat').addEventListener('submit', async (event) => {
  event.preventDefault();
  chat = new AbortController();
  $('chat-send').disabled = true;
  $('chat-stop').disabled = false;
  const out = $('chat-answer');
  out.textContent = '';
  $('chat-told').textContent = 'waiting';
  const began = performance.now();
  let first = null;
  let tokens = 0;
  let where = '';
  let speed = null;
  const tell = (end) => {
    const passed = first ? (performance.now() - first) / 1000 : 0;
    const rate = speed ?? (passed > 0.2 ? tokens / passed : null);
    $('chat-told').textContent = [end, where && `from ${where}`, first && `first token after ${time(Math.round(first - began))}`, `${tokens} tokens`, rate && `${rate.toFixed(1)} tokens/s`].filter(Boolean).join(', ');
  };
  try {
    const headers = { 'Content-Type': 'application/json', Prefer: 'wait' };
    // On a listener of its own the token opens the API too; elsewhere it must not be sent there.
    if (state.apart && state.token) headers.Authorization = `Bearer ${state.token}`;
    if ($('chat-key').value) headers.Authorization = `Bearer ${$('chat-key').value}`;
    const body = { model: $('chat-model').value, stream: true, messages: [{ role: 'user', content: $('chat-text').value }] };
    const answer = await fetch('/v1/chat/completions', { method: 'POST', headers, body: JSON.stringify(body), signal: chat.signal });
    where = answer.headers.get('x-llmproxy-endpoint') || '';
    if (!answer.ok) throw new Error((await told(answer)).text);
    for await (const line of parts(answer, '\n')) {
      if (!line.startsWith('data: ') || line === 'data: [DONE]') continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices?.[0]?.delta;
      const piece = delta?.content || delta?.reasoning_content;
      if (piece) { first ??= performance.now(); tokens += 1; out.textContent += piece; }
      speed = event.timings?.predicted_per_second ?? speed;
      tell('');
    }
    tell('done');
  } catch (error) {
    tell(error.name === 'AbortError' ? 'stopped' : `failed: ${error.message}`);
  }
  $('chat-send').disabled = false;
  $('chat-stop').disabled = true;
});

function start() { watch(); routes(); }
start();
