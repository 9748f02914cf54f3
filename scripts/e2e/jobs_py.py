"""Jobs of a real llmproxy in front of the demo's servers: the documented client by Node, webhooks verified with the PyPI
package standardwebhooks. scripts/e2e/jobs_py.py BINARY, with $LLMPROXY_URL the address of a running `llmproxy --demo`."""

import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from standardwebhooks.webhooks import Webhook

BINARY = os.path.realpath(sys.argv[1])
HERE = os.path.dirname(os.path.abspath(__file__))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
letters = []


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        letters.append((dict(self.headers.items()), body))
        # It refuses twice.
        self.send_response(200 if len(letters) > 2 else 500)
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.BaseHTTPRequestHandler):
    """A model server that takes any model's name, as the documented example's does."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Authorization"] == "Bearer your-api-key-here", self.headers
        message = {"role": "assistant", "content": f"{asked['model']} says: Paris."}
        body = json.dumps({"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def get(url, **options):
    with urllib.request.urlopen(urllib.request.Request(url, **options), timeout=20) as answer:
        return json.load(answer)


def start(work, *args, env=None):
    process = subprocess.Popen([BINARY, *args], cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = re.search(r"http://\S+", process.stdout.readline()).group(0).replace("0.0.0.0", "127.0.0.1")
    return process, address


def documented(_):
    """Format 004: a `.env` file and no other."""
    server = serve(Server)
    with tempfile.TemporaryDirectory() as work:
        with open(os.path.join(work, ".env"), "w") as file:
            file.write(f"PORT=0\nOPENAI_API_KEY=your-api-key-here\nOPENAI_API_BASE_URL={server}/v1\nMAX_CONCURRENT=2\nAPI_KEY=secret\n")
        process, address = start(work, env={"PATH": os.environ["PATH"]})
        try:
            env = {**os.environ, "LLMPROXY_JOBS_URL": address, "LLMPROXY_JOBS_KEY": "secret"}
            subprocess.run(["node", os.path.join(HERE, "jobs_js.mjs")], env=env, timeout=60, check=True)
        finally:
            process.terminate()
            process.wait()


def webhook(server):
    receiver = serve(Receiver)
    with tempfile.TemporaryDirectory() as work:
        config = os.path.join(work, "config.yml")
        with open(config, "w") as file:
            host, port = server.removeprefix("http://").split(":")
            file.write(f"endpoints: [{{name: a, address: {host}, port: {port}}}]\n")
            file.write(f"jobs: {{enabled: true, webhooks: {{allow: [127.0.0.1], secret: {SECRET}}}}}\n")
        process, address = start(work, "-c", config, "--port", "0")
        try:
            hook = f"{receiver}/done"
            body = {"model": "toy-shared", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "webhookUrl": hook}
            job = get(f"{address}/v1/chat/completions", data=json.dumps(body).encode(), method="POST")
            path = f"{address}/v1/chat/completions/{job['request_id']}"
            deadline = time.monotonic() + 30
            while get(path).get("webhook", {}).get("status") != "delivered":
                assert time.monotonic() < deadline, get(path)
                time.sleep(0.1)
        finally:
            process.terminate()
            process.wait()
    assert len(letters) == 3, len(letters)
    for headers, text in letters:
        told = Webhook(SECRET).verify(text, {name.lower(): value for name, value in headers.items()})
        assert told["request_id"] == job["request_id"] and told["status"] == "completed", told
    try:
        Webhook(SECRET).verify(letters[0][1] + b" ", {name.lower(): value for name, value in letters[0][0].items()})
    except Exception:
        return
    raise AssertionError("a changed letter was believed")


def main():
    url = os.environ["LLMPROXY_URL"]
    server = "http://" + get(f"{url}/v1/models")["data"][0]["endpoint"]
    failed = 0
    for name, case in [("the documented client of format 004", documented), ("a webhook told once after two refusals, signature verified", webhook)]:
        try:
            case(server)
            print(f"ok    {name}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL  {name}: {error!r}", flush=True)
    print(f"{2 - failed} passed, {failed} failed")
    return failed > 0


sys.exit(main())
