// Variants, edits and patterns of a model through the OpenAI SDK for Node, against the proxy of names_py.py at $LLMPROXY_NAMES_URL.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { default: OpenAI } = createRequire(`${process.env.LLMPROXY_E2E_NODE}/`)("openai");
const client = new OpenAI({ baseURL: `${process.env.LLMPROXY_NAMES_URL}/v1`, apiKey: "any", maxRetries: 0, timeout: 20_000 });
const messages = [{ role: "user", content: "hé" }];

const ids = [];
for await (const model of client.models.list()) ids.push(model.id);
assert.deepEqual(ids, ["qwen", "qwen-nothink"]);
assert.equal((await client.models.retrieve("qwen-nothink")).root, "qwen");

for (const [model, thinks] of [["qwen", true], ["qwen-nothink", false], ["gpt-5", true]]) {
  const answer = await client.chat.completions.create({ model, messages, user: "me" });
  const text = answer.choices[0].message.content;
  assert.match(text, /"seed":9007199254740993[,}]/);
  const { seed, ...sent } = JSON.parse(text);
  assert.deepEqual(sent, { chat_template_kwargs: { enable_thinking: thinks }, temperature: 0.7, model: "qwen", messages });
}
let text = "";
const stream = await client.chat.completions.create({ model: "qwen-nothink", messages, temperature: 0, stream: true });
for await (const chunk of stream) text += chunk.choices[0].delta.content;
const { model, temperature, chat_template_kwargs } = JSON.parse(text);
assert.deepEqual({ model, temperature, chat_template_kwargs }, { model: "qwen", temperature: 0, chat_template_kwargs: { enable_thinking: false } });
