// The OpenAI SDK for Node against a running `llmproxy --demo` at $LLMPROXY_URL.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

// The SDK is installed outside the repository, at $LLMPROXY_E2E_NODE.
const { default: OpenAI } = createRequire(`${process.env.LLMPROXY_E2E_NODE}/`)("openai");

const URL = process.env.LLMPROXY_URL;
// From the client's close until the model server has noticed.
const CANCEL_LIMIT_MS = 250;
const SHARED = "toy-shared";
const ONLY_A = "toy-fast";
const ONLY_B = "toy-slow";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "sk-any-key-is-ignored", maxRetries: 0, timeout: 30_000 });
const cases = {};

async function http(url, method = "GET") {
  const answer = await fetch(url, { method, signal: AbortSignal.timeout(20_000) });
  assert.ok(answer.ok, `${method} ${url}: ${answer.status}`);
  return answer.json();
}

/** Address of a toy server, as the proxy tells it. */
async function toy(name) {
  const { data } = await http(`${URL}/v1/models`);
  const model = data.find((m) => m.provider === name);
  assert.ok(model, `no model is served by ${name}`);
  return `http://${model.endpoint}`;
}

const user = (content) => [{ role: "user", content }];

/** Sees the requests of toy-a come and go. Its stats answer as soon as a counter is reached. */
async function watch() {
  const address = await toy("toy-a");
  const before = await http(`${address}/demo/stats`);
  const wait = async (counter) => {
    const reached = before[counter] + 1;
    const stats = await http(`${address}/demo/stats?${counter}=${reached}`);
    assert.equal(stats[counter], reached, JSON.stringify(stats));
  };
  const cancelledSince = async (closed) => {
    await wait("cancelled");
    const seen = performance.now() - closed;
    while ((await http(`${URL}/health`)).endpoints["toy-a"].inFlight > 0) {
      assert.ok(performance.now() - closed < 5000, "inFlight never went back to 0");
    }
    const free = performance.now() - closed;
    console.log(`      server saw the leave after ${seen.toFixed(1)} ms, inFlight was 0 after ${free.toFixed(1)} ms`);
    assert.ok(free <= CANCEL_LIMIT_MS, `${free.toFixed(1)} ms is too late`);
  };
  return { wait, cancelledSince };
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

cases["models of both servers are listed once"] = async () => {
  const listed = await collect(client.models.list());
  const providers = Object.fromEntries(listed.map((m) => [m.id, m.provider]));
  assert.equal(listed.length, 3);
  assert.deepEqual(providers, { [SHARED]: "toy-a", [ONLY_A]: "toy-a", [ONLY_B]: "toy-b" });
  assert.ok(listed.every((m) => m.endpoint.startsWith("127.0.0.1:") && m.object === "model"));
  assert.equal((await client.models.retrieve(ONLY_B)).provider, "toy-b");
};

cases["chat whole, with usage"] = async () => {
  const ask = client.chat.completions.create({ model: ONLY_B, messages: user("hi"), max_tokens: 3 });
  const { data: chat, response, request_id } = await ask.withResponse();
  assert.equal(response.headers.get("x-llmproxy-endpoint"), "toy-b");
  assert.ok(request_id);
  assert.equal(chat.choices[0].message.content, "This is toy-b, ");
  assert.equal(chat.choices[0].finish_reason, "length");
  assert.deepEqual([chat.usage.prompt_tokens, chat.usage.completion_tokens, chat.usage.total_tokens], [1, 3, 4]);
};

cases["chat streamed piece by piece"] = async () => {
  const stream = await client.chat.completions.create({
    model: SHARED, messages: user("hi"), max_tokens: 8, stream: true,
  });
  const arrivals = [];
  let text = "";
  let finish = null;
  for await (const chunk of stream) {
    arrivals.push(performance.now());
    text += chunk.choices[0].delta.content ?? "";
    finish = chunk.choices[0].finish_reason ?? finish;
    assert.ok(!chunk.usage);
  }
  assert.deepEqual([text, finish], ["This is toy-a, one of two toy model ", "length"]);
  // Seven pauses of 50 ms lie between the words: a held-back stream would arrive at once.
  assert.ok(arrivals.length >= 9 && arrivals.at(-1) - arrivals[0] > 200, `${arrivals}`);
};

cases["chat stream with usage"] = async () => {
  const chunks = await collect(
    await client.chat.completions.create({
      model: ONLY_A, messages: user("one two"), stream: true, stream_options: { include_usage: true },
    }),
  );
  assert.equal(chunks.filter((c) => c.choices.length).at(-1).choices[0].finish_reason, "stop");
  const last = chunks.at(-1);
  assert.deepEqual([last.choices, last.usage.prompt_tokens], [[], 2]);
  assert.ok(last.usage.completion_tokens > 50);
};

cases["completions whole and streamed"] = async () => {
  const ask = { model: SHARED, prompt: "a b c", max_tokens: 2 };
  const whole = await client.completions.create(ask);
  assert.deepEqual([whole.choices[0].text, whole.usage.total_tokens], ["This is ", 5]);
  const pieces = await collect(await client.completions.create({ ...ask, stream: true }));
  assert.deepEqual(pieces.map((p) => p.choices[0].text), ["This ", "is ", ""]);
  assert.equal(pieces.at(-1).choices[0].finish_reason, "length");
};

cases["embeddings as base64 and as numbers"] = async () => {
  const ask = { model: SHARED, input: ["a red apple", "a pear"] };
  // The SDK asks for base64 and unpacks it when no format is named.
  const packed = (await client.embeddings.create(ask)).data.map((d) => d.embedding);
  const plain = (await client.embeddings.create({ ...ask, encoding_format: "float" })).data.map((d) => d.embedding);
  assert.deepEqual(packed.map((v) => v.length), [16, 16]);
  assert.notDeepEqual(packed[0], packed[1]);
  packed.flat().forEach((number, i) => assert.ok(Math.abs(number - plain.flat()[i]) < 1e-6));
};

cases["a wrong model is not found, and the right ones are named"] = async () => {
  await assert.rejects(client.chat.completions.create({ model: "no-such-model", messages: user("hi") }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    assert.deepEqual(error.error.available_models.toSorted(), [ONLY_A, SHARED, ONLY_B]);
    return true;
  });
};

cases["any key is taken when none is configured"] = async () => {
  const other = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "another", maxRetries: 0 });
  const chat = await other.chat.completions.create({ model: ONLY_A, messages: user("hi"), max_tokens: 1 });
  assert.equal(chat.choices.length, 1);
};

cases["leaving a stream before the first token frees the server"] = async () => {
  const { wait, cancelledSince } = await watch();
  const stream = await client.chat.completions.create({ model: SHARED, messages: user("slow"), stream: true });
  await wait("started");
  const closed = performance.now();
  stream.controller.abort();
  await cancelledSince(closed);
};

/** Starts a request that gets no byte for a while, aborts it, and expects the server to be free. */
async function abortInSilence(ask) {
  const { wait, cancelledSince } = await watch();
  const abort = new AbortController();
  const rejected = assert.rejects(
    client.chat.completions.create(ask, { signal: abort.signal }),
    OpenAI.APIUserAbortError,
  );
  await wait("started");
  const closed = performance.now();
  abort.abort();
  await rejected;
  await cancelledSince(closed);
}

cases["leaving a stream before its head frees the server"] = () =>
  abortInSilence({ model: SHARED, messages: user("queued"), stream: true });

cases["leaving a whole answer frees the server"] = () => abortInSilence({ model: SHARED, messages: user("slow") });

cases["leaving a stream after the first token frees the server"] = async () => {
  // Of a model that only this server has: the slots of those who left before may not be free yet.
  const { cancelledSince } = await watch();
  const stream = await client.chat.completions.create({ model: ONLY_A, messages: user("hi"), stream: true });
  let closed = 0;
  for await (const chunk of stream) {
    if (!chunk.choices[0].delta.content) continue;
    closed = performance.now();
    // Leaving the loop aborts the request.
    break;
  }
  await cancelledSince(closed);
};

cases["a server lost in mid-stream is an error, and the next request goes to the other"] = async () => {
  const first = await toy("toy-a");
  const seen = [];
  let finish = null;
  const read = async () => {
    const stream = await client.chat.completions.create({ model: ONLY_A, messages: user("hi"), stream: true });
    for await (const chunk of stream) {
      seen.push(chunk.system_fingerprint);
      finish = chunk.choices[0].finish_reason ?? finish;
      if (seen.length === 3) await http(`${first}/demo/pause`, "POST");
    }
  };
  try {
    await assert.rejects(read(), (error) => {
      console.log(`      ${error.constructor.name}: ${error.message}`);
      return !(error instanceof assert.AssertionError);
    });
    assert.deepEqual([new Set(seen), finish], [new Set(["toy-a"]), null]);
    const next = await client.chat.completions.create({ model: SHARED, messages: user("hi"), max_tokens: 2 });
    assert.equal(next.system_fingerprint, "toy-b");
    const health = await http(`${URL}/health/force-check`, "POST");
    assert.equal(health.endpoints["toy-a"].healthy, false);
    const left = (await collect(client.models.list())).map((m) => m.id);
    assert.deepEqual(left.toSorted(), [SHARED, ONLY_B]);
  } finally {
    await http(`${first}/demo/resume`, "POST");
  }
  const health = await http(`${URL}/health/force-check`, "POST");
  assert.equal(health.endpoints["toy-a"].healthy, true);
  const back = await client.chat.completions.create({ model: SHARED, messages: user("hi"), max_tokens: 2 });
  assert.equal(back.system_fingerprint, "toy-a");
};

let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  const started = performance.now();
  try {
    await run();
    console.log(`ok    ${name} (${((performance.now() - started) / 1000).toFixed(2)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n${error.stack}`);
  }
}
console.log(`${Object.keys(cases).length - failed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
