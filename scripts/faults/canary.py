#!/usr/bin/env python3
"""Where prompts and keys go: sends marked ones and looks for the marks everywhere but where they belong.

Marks: a prompt, an answer, the key of a client, a wrong key, keys of endpoints (from the environment and from a file), the
page's token, the query of a path. Looked through: log at level debug, page, metrics, health, --print-config, arguments and environment
of the process, and every file; while requests are in progress, afterwards, and once a job is deleted. At the end the process
is killed as a crash would, with core files allowed: there must be none. What its memory still holds before that is printed
only: freed memory is not wiped.

usage: scripts/faults/canary.py     LLMPROXY_BIN: the binary; without it target/release/llmproxy
"""

import http.client
import http.server
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time

BIN = os.path.realpath(os.environ.get("LLMPROXY_BIN", "target/release/llmproxy"))
MARKS = {name: f"canary-{name}-{os.urandom(8).hex()}" for name in ("prompt", "answer", "client", "wrong", "endpoint", "file", "token", "query")}
failures = 0


def check(name, found, expected=()):
    """`found`: the marks that are there; `expected`: those that must be, and no other."""
    global failures
    ok = set(found) == set(expected)
    failures += not ok
    print(f"{'ok   ' if ok else 'FAIL '} {name}: {', '.join(sorted(found)) or 'none'}")


def marks(text):
    text = text if isinstance(text, bytes) else text.encode()
    return {name for name, mark in MARKS.items() if mark.encode() in text}


class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    release = threading.Event()  # while it is not set, answers wait
    keys = set()

    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply({"object": "list", "data": [{"id": "m"}]})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.keys.add(self.headers["Authorization"])
        self.release.wait(30)
        message = {"role": "assistant", "content": MARKS["answer"]}
        self.reply({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def log_message(self, *_):
        pass


work = tempfile.mkdtemp(prefix="llmproxy-canary-")
upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
upstream.daemon_threads = True
threading.Thread(target=upstream.serve_forever, daemon=True).start()
os.mkdir(os.path.join(work, "etc"))
config = os.path.join(work, "etc", "endpoints.yml")
key_file = os.path.join(work, "etc", "key")
with open(key_file, "w") as file:
    file.write(MARKS["file"] + "\n")
with open(config, "w") as file:
    file.write(
        f"""
endpoints:
  - {{name: a, address: 127.0.0.1, port: {upstream.server_port}, apiKey: "${{CANARY}}"}}
  - {{name: b, address: 127.0.0.1, port: {upstream.server_port}, apiKeyFile: {key_file}, models: [by-file]}}
auth: {{keys: [{{name: laptop, key: {MARKS["client"]}}}]}}
admin: {{enabled: true, token: {MARKS["token"]}, routesFile: routes.json}}
jobs: {{enabled: true, dir: jobs}}
log: {{level: debug}}
"""
    )
log_file = os.path.join(work, "etc", "log")
environment = {**os.environ, "CANARY": MARKS["endpoint"]}
def start():
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    return subprocess.Popen(
        [BIN, "-c", config, "--port", "0"],
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=open(log_file, "a"),
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, unlimited),
    )


proxy = start()
first = proxy.stdout.readline()
port = int(re.search(r":(\d+)", first.split("http://")[1]).group(1))


def ask(method, path, key="client", body=None, headers={}):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    fields = {"Content-Type": "application/json", "Authorization": f"Bearer {MARKS[key]}", **headers}
    connection.request(method, path, body and json.dumps(body), fields)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def files():
    """Marks in each file below the folder the program runs in, its configuration and log left out."""
    found = {}
    for folder, _, names in os.walk(work):
        for name in names:
            path = os.path.join(folder, name)
            if not path.startswith(os.path.join(work, "etc")):
                assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0, f"others may read {path}"
                found[path] = marks(open(path, "rb").read())
    return found


def look(when, on_disk, logged=""):
    """`logged`: the line that shows that the log, which a thread of its own writes, is there."""
    while not re.search(logged, log := open(log_file).read()):
        time.sleep(0.01)
    check(f"{when}: log at debug", marks(log))
    check(f"{when}: page", marks(ask("GET", "/admin/status", "token")[1]))
    check(f"{when}: routes at the page", marks(ask("GET", "/admin/config", "token")[1]))
    for path in ("/metrics", "/health", "/v1/models"):
        check(f"{when}: {path}", marks(ask("GET", path)[1]))
    check(f"{when}: arguments", marks(open(f"/proc/{proxy.pid}/cmdline", "rb").read()))
    check(f"{when}: environment", marks(open(f"/proc/{proxy.pid}/environ", "rb").read()), {"endpoint"})
    check(f"{when}: files", set().union(*files().values()), on_disk)


def memory():
    held = set()
    with open(f"/proc/{proxy.pid}/maps") as maps, open(f"/proc/{proxy.pid}/mem", "rb", 0) as mem:
        for line in maps:
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            try:
                mem.seek(start)
                held |= marks(mem.read(end - start))
            except (OSError, ValueError, OverflowError):
                pass
    return held


try:
    chat = {"model": "m", "messages": [{"role": "user", "content": MARKS["prompt"]}]}
    answers = []
    client = threading.Thread(target=lambda: answers.append(ask("POST", f"/v1/chat/completions?x={MARKS['query']}", body=chat)))
    client.start()
    while not Upstream.keys:
        time.sleep(0.01)
    look("in progress", set())
    Upstream.release.set()
    client.join()
    assert answers[0][0] == 200 and MARKS["answer"].encode() in answers[0][1], answers
    assert ask("POST", "/v1/chat/completions", body={**chat, "model": "by-file"})[0] == 200
    assert Upstream.keys == {f"Bearer {MARKS[name]}" for name in ("endpoint", "file")}, "the client's key must stay here"
    assert ask("POST", "/v1/chat/completions", "wrong", chat)[0] == 401
    look("afterwards", set(), r"POST /v1/chat/completions 401")

    status, text = ask("POST", "/v1/chat/completions", body=chat, headers={"Prefer": "respond-async"})
    assert status == 202, text
    job = json.loads(text)["request_id"]
    while json.loads(ask("GET", f"/v1/chat/completions/{job}")[1]).get("status") in ("pending", "processing"):
        time.sleep(0.01)
    look("a job", {"prompt", "answer"}, f"job {job}: completed")
    status, text = ask("DELETE", f"/v1/chat/completions/{job}")
    assert status in (200, 204), text
    look("a deleted job", set(), f"DELETE /v1/chat/completions/{job} ")

    printed = subprocess.run([BIN, "-c", config, "--print-config"], env=environment, capture_output=True, check=True)
    check("--print-config", marks(printed.stdout + printed.stderr))
    print(f"      memory afterwards still holds: {', '.join(sorted(memory())) or 'none'}")
    proxy.send_signal(signal.SIGTERM)
    assert proxy.wait(30) == 0
    check("standard output", marks(first + proxy.stdout.read()), {"token"} if MARKS["token"] in first else ())

    proxy = start()
    proxy.stdout.readline()
    before = files()
    proxy.send_signal(signal.SIGABRT)
    assert proxy.wait(30) == -signal.SIGABRT
    check("a core file", files().keys() - before.keys())
finally:
    proxy.kill()
    proxy.wait()
    upstream.shutdown()
    shutil.rmtree(work, ignore_errors=True)

print(f"{failures} failures")
raise SystemExit(failures > 0)
