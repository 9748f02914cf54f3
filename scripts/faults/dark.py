#!/usr/bin/env python3
"""Hosts that go dark, servers that restart, are killed, or work on for clients that have left.

usage: scripts/faults/dark.py [CASE...]        cases: dark ghost restart killed; without any all
LLMPROXY_BIN: the binary; without it target/release/llmproxy. DARK_SECONDS: how long the host is dark (default 180).
Default settings throughout. Each case prints what happened and ends with ok or FAIL. Needs neither root nor iptables: a
listener whose queue is full drops further SYNs, as a host without power does.
"""

import http.client
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time

BIN = os.path.realpath(os.environ.get("LLMPROXY_BIN", "target/release/llmproxy"))
DARK_SECONDS = float(os.environ.get("DARK_SECONDS", "180"))
WORK = tempfile.mkdtemp(prefix="llmproxy-dark-")
cases = []


def case(function):
    cases.append(function)
    return function


def event(text):
    data = f'data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}\n\n'.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


class Llama:
    """As much of a llama-server as matters: slots, a prompt that takes its time, no notice of clients that leave."""

    def __init__(self, slots=2):
        self.slots = threading.BoundedSemaphore(slots)
        self.total, self.working, self.port = slots, 0, 0
        self.connections, self.fill = [], []
        self.start()

    def start(self):
        self.dark = self.stopped = False
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self.listener.listen(64)
        self.thread = threading.Thread(target=self.accept, args=(self.listener,), daemon=True)
        self.thread.start()

    def accept(self, listener):
        while not (self.dark or self.stopped):
            if select.select([listener], [], [], 0.05)[0]:
                connection = listener.accept()[0]
                self.connections.append(connection)
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def go_dark(self):
        self.dark = True
        self.thread.join()
        self.listener.listen(0)
        for _ in range(8):
            one = socket.socket()
            one.settimeout(0.3)
            self.fill.append(one)
            try:
                one.connect(("127.0.0.1", self.port))
            except OSError:
                return
        raise RuntimeError("the queue does not fill up")

    def kill(self):
        self.stopped = True
        self.thread.join()
        self.listener.close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.connections.clear()

    def serve(self, connection):
        try:
            reader = connection.makefile("rb")
            line = reader.readline().decode()
            length = 0
            while (field := reader.readline().strip()):
                if field.lower().startswith(b"content-length:"):
                    length = int(field.split(b":")[1])
            path, body = line.split(" ")[1].split("?")[0], reader.read(length)
            if path == "/v1/chat/completions":
                self.chat(connection, json.loads(body))
            else:
                self.tell(connection, path)
        except OSError:
            pass
        finally:
            # Not `close` alone: the reader holds the socket too.
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    def tell(self, connection, path):
        states = [{"id": n, "is_processing": n < self.working} for n in range(self.total)]
        answers = {
            "/health": {"status": "ok"},
            "/v1/models": {"object": "list", "data": [{"id": "m", "object": "model"}]},
            "/props": {"total_slots": self.total, "default_generation_settings": {"n_ctx": 4096}},
            "/slots": states,
        }
        self.answer(connection, 200 if path in answers else 404, answers.get(path, {}))

    def answer(self, connection, status, body):
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + text)

    def chat(self, connection, body):
        with self.slots:
            self.working += 1
            try:
                if body.get("stream"):
                    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                    connection.sendall(head)
                time.sleep(body.get("prompt_seconds", 0))
                if not body.get("stream"):
                    return self.answer(connection, 200, {"choices": []})
                for n in range(body.get("max_tokens", 1)):
                    while self.dark:
                        time.sleep(0.1)
                    connection.sendall(event(f"t{n}"))
                    time.sleep(0.1)
                connection.sendall(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            finally:
                self.working -= 1


class Proxy:
    def __init__(self, **servers):
        path = os.path.join(WORK, "config.yml")
        with open(path, "w") as file:
            file.write("endpoints:\n")
            for name, server in servers.items():
                file.write(f"  - {{name: {name}, address: 127.0.0.1, port: {server.port}}}\n")
        self.log = open(os.path.join(WORK, "log"), "w+")
        args = [BIN, "--port", "0", "-c", path]
        self.process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=self.log, text=True)
        found = re.search(r"http://([^:]+):(\d+)", self.process.stdout.readline())
        assert found, "it did not start"
        self.host, self.port = found.group(1), int(found.group(2))

    def send(self, **body):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=130)
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        return connection

    def ask(self, **body):
        """Status, endpoint, seconds, text."""
        began = time.monotonic()
        answer = self.send(**body).getresponse()
        text = answer.read().decode(errors="replace")
        return answer.status, answer.getheader("x-llmproxy-endpoint"), time.monotonic() - began, text

    def stop(self):
        self.process.terminate()
        self.process.wait(40)


def first_event(connection):
    answer = connection.getresponse()
    while not answer.readline().startswith(b"data:"):
        pass
    return answer


@case
def dark():
    """The first of two goes dark with a stream in flight: at most one request takes longer than 1 s."""
    first, second = Llama(), Llama()
    proxy = Proxy(a=first, b=second)
    streaming = proxy.send(stream=True, max_tokens=100_000)
    first_event(streaming)
    first.go_dark()
    slow, asked, end = [], 0, time.monotonic() + DARK_SECONDS
    while time.monotonic() < end:
        status, endpoint, took, _ = proxy.ask()
        asked += 1
        if took > 1:
            slow.append(round(took, 2))
        assert (status, endpoint) == (200, "b"), (status, endpoint)
        time.sleep(max(0, 5 - took))
    print(f"  {asked} requests, slower than 1 s: {slow}")
    proxy.stop()
    assert len(slow) <= 1


@case
def ghost():
    """A client leaves `a` in its prompt while another streams from there: short requests go to `a2`."""
    first, second = Llama(), Llama()
    proxy = Proxy(a=first, a2=second)
    streaming = proxy.send(stream=True, max_tokens=300)
    first_event(streaming)
    for stream in [False, True]:
        leaver = proxy.send(stream=stream, prompt_seconds=8)
        while first.working < 2:
            time.sleep(0.01)
        time.sleep(0.3)
        leaver.sock.shutdown(socket.SHUT_RDWR)
        leaver.close()
        time.sleep(0.2)
        answers = [proxy.ask()[:3] for _ in range(5)]
        print(f"  stream={stream}:", [(endpoint, round(took, 2)) for _, endpoint, took in answers])
        assert all(status == 200 and endpoint == "a2" and took < 1 for status, endpoint, took in answers)
        while first.working > 1:
            time.sleep(0.1)
        began = time.monotonic()
        while proxy.ask()[1] != "a":
            time.sleep(0.1)
        print(f"  used again {time.monotonic() - began:.2f} s after its slot was free")
        assert time.monotonic() - began < 3
    proxy.stop()


@case
def restart():
    """The only server restarts, ready after 0.93 s: served again within 2 s of its readiness."""
    server = Llama()
    proxy = Proxy(a=server)
    assert proxy.ask()[0] == 200
    server.kill()
    refused = [proxy.ask()[0] for _ in range(5)]
    time.sleep(0.93)
    server.start()
    ready = time.monotonic()
    while (status := proxy.ask()[0]) != 200 and time.monotonic() < ready + 40:
        time.sleep(0.05)
    took = time.monotonic() - ready
    print(f"  refused: {refused}, served again {took:.2f} s after its readiness")
    proxy.stop()
    assert status == 200 and took <= 2


@case
def killed():
    """Killed in the prompt of a stream whose head is out: the other one answers."""
    first, second = Llama(), Llama()
    proxy = Proxy(a=first, b=second)
    asking = proxy.send(stream=True, prompt_seconds=30)
    while first.working < 1:
        time.sleep(0.01)
    time.sleep(0.3)
    first.kill()
    # The other one has no such prompt to think about.
    second.chat = lambda connection, body: Llama.chat(second, connection, {**body, "prompt_seconds": 0})
    answer = asking.getresponse()
    text = answer.read().decode()
    print(f"  {answer.status}, {answer.getheader('x-llmproxy-endpoint')}, {text.count('data:')} events")
    proxy.stop()
    assert answer.status == 200 and "[DONE]" in text and "error" not in text


failed = 0
for one in cases:
    if len(sys.argv) > 1 and one.__name__ not in sys.argv[1:]:
        continue
    print(f"{one.__name__}: {one.__doc__}", flush=True)
    try:
        one()
        print("  ok", flush=True)
    except Exception as e:  # a case that breaks is a case that failed
        failed += 1
        print(f"  FAIL {type(e).__name__}: {e}", flush=True)
sys.exit(failed > 0)
