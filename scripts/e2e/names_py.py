"""Variants, edits and patterns of a model through the OpenAI SDKs: this one, and the one for Node, which `names_js.mjs` uses
against the same proxy. scripts/e2e/names_py.py BINARY"""

import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading

from cases import case, main
from openai import OpenAI

BINARY = os.path.realpath(sys.argv[1])
HERE = os.path.dirname(os.path.abspath(__file__))
CONFIG = """
endpoints: [{name: echo, address: 127.0.0.1, port: PORT}]
models:
  qwen:
    set: {chat_template_kwargs.enable_thinking: true, seed: 9007199254740993}
    default: {temperature: 0.7}
    remove: [user]
    variants: {nothink: {set: {chat_template_kwargs.enable_thinking: false}}}
    match: ["gpt-*"]
"""


class Echo(http.server.BaseHTTPRequestHandler):
    """A model server that answers with the request's body as text."""

    def answer(self, kind, text):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        self.answer("application/json", json.dumps({"object": "list", "data": [{"id": "qwen", "object": "model", "owned_by": "x", "created": 1}]}))

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        choice = {"index": 0, "finish_reason": "stop"}
        if json.loads(text).get("stream"):
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "qwen", "choices": [{**choice, "delta": {"content": text}}]}
            return self.answer("text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")
        message = {"role": "assistant", "content": text}
        self.answer("application/json", json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "qwen", "choices": [{**choice, "message": message}]}))

    def log_message(self, *_):
        pass


echo = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
threading.Thread(target=echo.serve_forever, daemon=True).start()
work = tempfile.TemporaryDirectory()
path = os.path.join(work.name, "config.yml")
with open(path, "w") as file:
    file.write(CONFIG.replace("PORT", str(echo.server_port)))
process = subprocess.Popen([BINARY, "-c", path, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
address = re.search(r"http://\S+", process.stdout.readline())[0]
client = OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=20)
HELLO = [{"role": "user", "content": "hé"}]
ASKED = {"messages": HELLO, "user": "me", "extra_body": {"x": 12345678901234567890123}}


@case
def variants_are_listed_with_their_model():
    assert [model.id for model in client.models.list()] == ["qwen", "qwen-nothink"]
    assert client.models.retrieve("qwen-nothink").root == "qwen"


@case
def requests_of_each_name_are_edited():
    for name, thinks in [("qwen", True), ("qwen-nothink", False), ("gpt-5", True)]:
        answer = client.chat.completions.with_raw_response.create(model=name, **ASKED)
        assert answer.headers["x-llmproxy-model"] == "qwen", answer.headers
        text = answer.parse().choices[0].message.content
        expected = {"chat_template_kwargs": {"enable_thinking": thinks}, "seed": 2**53 + 1, "temperature": 0.7, "model": "qwen"}
        assert json.loads(text) == {**expected, "messages": HELLO, "x": 12345678901234567890123}, text
    stream = client.chat.completions.create(model="qwen-nothink", stream=True, temperature=0, **ASKED)
    sent = json.loads("".join(chunk.choices[0].delta.content for chunk in stream))
    assert (sent["model"], sent["temperature"], sent["chat_template_kwargs"]) == ("qwen", 0, {"enable_thinking": False}), sent


@case
def the_sdk_for_node_sees_the_same():
    environment = {**os.environ, "LLMPROXY_NAMES_URL": address}
    subprocess.run(["node", os.path.join(HERE, "names_js.mjs")], env=environment, timeout=60, check=True)


try:
    failed = main()
finally:
    process.terminate()
    process.wait()
    work.cleanup()
sys.exit(failed)
