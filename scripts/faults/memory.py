#!/usr/bin/env python3
"""Peak resident memory while clients send, ask for, or do not read what is large: one release process for each.

usage: scripts/faults/memory.py [submit | readers | viewers | list]...
LLMPROXY_BIN: the binary; without it target/release/llmproxy. Each part prints its peak, and fails above its bound.
"""

import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

BIN = os.path.realpath(os.environ.get("LLMPROXY_BIN", "target/release/llmproxy"))
MIB = 1 << 20
# `server.bodyMemory` as it is without a word of it, and what the process takes by itself.
BODY_MEMORY, OWN = 256, 64


class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models = [{"id": "m"}]
    answer = {"choices": []}
    silent = threading.Event()  # set: chat requests are never answered

    def reply(self, value):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass

    def do_GET(self):
        self.reply({"object": "list", "data": self.models} if self.path.endswith("/models") else {})

    def do_POST(self):
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 16)))
        if self.silent.is_set():
            time.sleep(60)
        self.reply(self.answer)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, *_):
        pass


class Proxy:
    """The program in a folder of its own, with an upstream in front of it."""

    def __init__(self, extra, endpoint=""):
        Upstream.models, Upstream.answer = [{"id": "m"}], {"choices": []}
        Upstream.silent.clear()
        self.work = tempfile.mkdtemp(prefix="llmproxy-memory-")
        self.extra, self.endpoint = extra, endpoint

    def __enter__(self):
        self.upstream = Server(("127.0.0.1", 0), Upstream)
        threading.Thread(target=self.upstream.serve_forever, daemon=True).start()
        config = os.path.join(self.work, "config.yml")
        with open(config, "w") as file:
            file.write(f"endpoints: [{{name: a, address: 127.0.0.1, port: {self.upstream.server_port}{self.endpoint}}}]\n{self.extra}")
        log = open(os.path.join(self.work, "log"), "w")
        self.process = subprocess.Popen([BIN, "-c", config, "--port", "0"], cwd=self.work, stdout=subprocess.PIPE, stderr=log, text=True)
        self.port = int(re.search(r":(\d+)$", self.process.stdout.readline().strip()).group(1))
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.upstream.shutdown()
        shutil.rmtree(self.work, ignore_errors=True)

    def ask(self, method, path, body=None, headers={}):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def unread(self, path, headers=""):
        """A client that asks and takes nothing."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", self.port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        return client

    def peak(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+)", status.read()).group(1)) / 1024


def side_by_side(count, work):
    ends = [None] * count

    def one(number):
        try:
            ends[number] = work(number)
        except (OSError, http.client.HTTPException) as error:
            ends[number] = type(error).__name__

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {str(end): ends.count(end) for end in sorted(set(ends), key=str)}


def chat(content):
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]})


def submit():
    """64 jobs of 1.2 MiB, submitted side by side (U18)."""
    with Proxy("jobs: {enabled: true, dir: spool}\nlog: {access: false}\n", ", models: [m]") as proxy:
        Upstream.silent.set()
        body = chat("x" * int(1.2 * MIB))
        ends = side_by_side(64, lambda _: proxy.ask("POST", "/v1/chat/completions", body, {"Prefer": "respond-async"})[0])
        # Each body once, with room to grow, and two that run.
        return proxy.peak(), 64 * 1.2 * 1.5 + OWN, ends


def readers():
    """40 clients ask for a job of 6 MiB and do not read (U08)."""
    with Proxy("jobs: {enabled: true, dir: spool}\nlog: {access: false}\n", ", models: [m]") as proxy:
        Upstream.answer = {"choices": [], "text": "y" * (6 * MIB)}
        status, body = proxy.ask("POST", "/v1/chat/completions", chat("x"), {"Prefer": "respond-async"})
        assert status == 202, body
        path = f"/v1/chat/completions/{json.loads(body)['request_id']}"
        end = time.monotonic() + 30
        while json.loads(proxy.ask("GET", path)[1]).get("status") != "completed":
            assert time.monotonic() < end, "the job does not end"
            time.sleep(0.1)
        clients = [proxy.unread(path) for _ in range(40)]
        time.sleep(3)
        heads = [client.recv(12).decode("latin-1").split(" ")[-1] for client in clients]
        assert proxy.ask("GET", "/health")[0] == 200
        # A quarter of the budget for one address, what is on its way, and what running the job took.
        return proxy.peak(), BODY_MEMORY / 4 + 6 * 6 + OWN, {head: heads.count(head) for head in sorted(set(heads))}


def viewers():
    """8 viewers of /admin/events that do not read, under log traffic (U02)."""
    token = "0123456789abcdef0123456789abcdef"
    extra = f"admin: {{enabled: true, token: {token}}}\nlog: {{level: debug, access: true}}\n"
    with Proxy(extra, ", models: [m]") as proxy:
        clients = [proxy.unread("/admin/events", f"Authorization: Bearer {token}\r\n") for _ in range(8)]
        end = time.monotonic() + 20

        def write_log(_):
            connection, lines = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20), 0
            while time.monotonic() < end:
                connection.request("GET", "/v1/models/" + "x" * 1000)
                connection.getresponse().read()
                lines += 1
            connection.close()
            written.append(lines)

        written = []
        side_by_side(8, write_log)
        peak = proxy.peak()
        heads = [client.recv(12).decode("latin-1").split(" ")[-1] for client in clients]
        return peak, OWN, {"requests logged": sum(written), "views": heads}


def list_():
    """A model list of 7.6 MiB with aliases (U29)."""
    with Proxy("healthCheck: {interval: 1s}\ncache: {ttlMs: 0}\nlog: {access: false}\n") as proxy:
        names = [f"model-{number:06d}" for number in range(37_000)]
        Upstream.models = [{"id": name, "aliases": [f"{name}-{n}-{'x' * 12}" for n in range(4)], "note": "y" * 40} for name in names]
        size = len(json.dumps(Upstream.models)) / MIB
        ends = []
        for _ in range(10):
            time.sleep(1)
            ends.append(len(json.loads(proxy.ask("GET", "/v1/models")[1])["data"]))
        assert proxy.ask("GET", "/health")[0] == 200
        assert ends[-1] > 0, "the list was not taken"
        return proxy.peak(), 8 * size + OWN, {"MiB of list": round(size, 1), "models": ends[-1]}


def main():
    known = {"submit": submit, "readers": readers, "viewers": viewers, "list": list_}
    chosen, failed = sys.argv[1:] or list(known), 0
    for name in chosen:
        try:
            peak, bound, ends = known[name]()
            failed += peak > bound
            print(f"{'ok  ' if peak <= bound else 'FAIL'}  {peak:6.0f} MiB at most (bound {bound:.0f})  {known[name].__doc__}  {ends}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL  {name}: {error!r}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return failed > 0


sys.exit(main())
