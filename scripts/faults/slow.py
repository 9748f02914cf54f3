#!/usr/bin/env python3
"""Slow bodies (SPEC 2, bodyTimeout): many clients that send a byte now and then, in four framings.

usage: scripts/faults/slow.py [CLIENTS [BODY_TIMEOUT]]        default: 1000 clients, 10 seconds
LLMPROXY_BIN: the binary; without it target/release/llmproxy. All slow clients must be answered 408 and closed within
2 x BODY_TIMEOUT, and every good request beside them must be served. Prints what it saw and ends with ok or FAIL.
"""

import http.server
import json
import os
import re
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time

BIN = os.path.realpath(os.environ.get("LLMPROXY_BIN", "target/release/llmproxy"))
CLIENTS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
TIMEOUT = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
PAUSE = 0.5  # between two bytes of one client
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
CHUNKED = "Transfer-Encoding: chunked"
# Framing, start of the body, what is sent again and again. Each also after 64 KiB that came at once.
SHAPES = {
    "content-length": ("Content-Length: 300000", b"", b"x"),
    "chunks": (CHUNKED, b"", b"1\r\nx\r\n"),
    "extension": (CHUNKED, b"5;", b"e"),
    "trailer": (CHUNKED, b"0\r\nX-A: ", b"t"),
}


class Upstream(http.server.BaseHTTPRequestHandler):
    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(b'{"object":"list","data":[{"id":"m","object":"model"}]}')

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b'{"choices":[]}')

    def log_message(self, *_):
        pass


class Slow:
    def __init__(self, addr, shape, much):
        framing, start, self.drip = SHAPES[shape]
        self.shape = shape + (" after 64 KiB" if much else "")
        if much:
            start = b"x" * 65536 if shape == "content-length" else b"10000\r\n" + b"x" * 65536 + b"\r\n" + start
        self.socket = socket.create_connection(addr, 10)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n"
        self.socket.sendall(head.encode() + start)
        self.socket.setblocking(False)
        self.began = time.monotonic()
        self.heard = b""
        self.took = None

    def send(self):
        try:
            self.socket.send(self.drip)
        except (BlockingIOError, OSError):
            pass

    def hear(self):
        """True when it is over."""
        try:
            piece = self.socket.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        self.heard += piece
        if piece:
            return False
        self.took = time.monotonic() - self.began
        self.socket.close()
        return True


def good(addr, stop, results):
    """Good requests, one after the other, each on a connection of its own."""
    while not stop.is_set():
        began = time.monotonic()
        try:
            with socket.create_connection(addr, 10) as client:
                head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                client.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(CHAT) + CHAT)
                status = client.makefile("rb").readline().split()[1].decode()
        except (OSError, IndexError) as problem:
            status = repr(problem)
        results.append((status, time.monotonic() - began))
        stop.wait(0.02)


def rss(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])


def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 3 * CLIENTS + 500), hard))
    http.server.ThreadingHTTPServer.request_queue_size = 128
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    upstream.daemon_threads = True
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    config = tempfile.NamedTemporaryFile("w", suffix=".yml")
    config.write(
        f"server: {{port: 0, maxConnections: {CLIENTS + 100}, perClient: {CLIENTS + 100}, bodyTimeout: {int(TIMEOUT * 1000)}, "
        f"workers: 4}}\nlog: {{level: error, access: false}}\n"
        f"endpoints: [{{name: a, address: 127.0.0.1, port: {upstream.server_address[1]}}}]\n"
    )
    config.flush()
    proxy = subprocess.Popen([BIN, "-c", config.name], stdout=subprocess.PIPE, text=True)
    failed = []
    try:
        port = int(re.search(r":(\d+)\s*$", proxy.stdout.readline())[1])
        addr = ("127.0.0.1", port)
        before = most = rss(proxy.pid)
        stop, results = threading.Event(), []
        asking = threading.Thread(target=good, args=(addr, stop, results))
        asking.start()
        names = list(SHAPES)
        slow = [Slow(addr, names[n % 4], n // 4 % 2 == 1) for n in range(CLIENTS)]
        open_ones, selector = set(slow), selectors.DefaultSelector()
        for one in slow:
            selector.register(one.socket, selectors.EVENT_READ, one)
        due, until = 0.0, time.monotonic() + 2 * TIMEOUT + 5
        while open_ones and time.monotonic() < until:
            if time.monotonic() >= due:
                due = time.monotonic() + PAUSE
                most = max(most, rss(proxy.pid))
                for one in open_ones:
                    one.send()
            for key, _ in selector.select(max(0.0, min(due - time.monotonic(), PAUSE))):
                if key.data.hear():
                    open_ones.discard(key.data)
                    selector.unregister(key.fileobj)
        stop.set()
        asking.join()
        for shape in sorted({one.shape for one in slow}):
            mine = [one for one in slow if one.shape == shape]
            times = sorted(one.took for one in mine if one.took is not None)
            told = sum(one.heard.startswith(b"HTTP/1.1 408 ") for one in mine)
            late = sum(one.took is None or one.took > 2 * TIMEOUT for one in mine)
            span = f"{times[0]:.1f} to {times[-1]:.1f} s" if times else "never"
            print(f"{shape:28} {len(mine):4} clients, {told:4} told 408, ended after {span}, {late} late")
            if late or told != len(mine):
                failed.append(shape)
        times = sorted(took for _, took in results)
        bad = [status for status, _ in results if status != "200"]
        print(f"good requests: {len(results)}, {len(bad)} failed, median {times[len(times) // 2] * 1000:.1f} ms, "
              f"longest {times[-1] * 1000:.0f} ms")
        print(f"memory (RSS): {before} KiB before, {most} KiB at most, {rss(proxy.pid)} KiB after")
        if bad or not results:
            failed.append(f"good requests: {bad[:3]}")
    finally:
        proxy.terminate()
        proxy.wait(30)
    print("FAIL: " + ", ".join(failed) if failed else "ok")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
