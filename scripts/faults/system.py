#!/usr/bin/env python3
"""What an operating system can do to a proxy (FAULTS group E): system calls that fail, too little of everything.

usage: scripts/faults/system.py [CASE...]        needs strace and root, or a user who may trace and limit
LLMPROXY_BIN: the binary; without it target/release/llmproxy. Each case prints what happened and ends with ok or FAIL.
"""

import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

BIN = os.path.realpath(os.environ.get("LLMPROXY_BIN", "target/release/llmproxy"))
WORK = tempfile.mkdtemp(prefix="llmproxy-faults-")
CHAT = json.dumps({"model": "toy-shared", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]})
cases = []


def case(function):
    cases.append(function)
    return function


def toys():
    """The endpoints of a demo that runs beside, untouched by what is done to the proxy under test."""
    demo = Proxy("--demo")
    models = json.loads(demo.ask("GET", "/v1/models", None)[1])["data"]
    places = {model["provider"]: model["endpoint"].split(":") for model in models}
    entries = [f"  - {{name: {name}, address: {host}, port: {port}}}" for name, (host, port) in sorted(places.items())]
    return demo, "endpoints:\n" + "\n".join(entries) + "\n"


class Proxy:
    """A running llmproxy in front of two toy servers, or one with another configuration."""

    def __init__(self, *options, config=None, strace=(), before=None):
        self.demo = None
        args = [BIN, "--port", "0", *options]
        if "--demo" not in options:
            if config is None:
                self.demo, config = toys()
            path = os.path.join(WORK, "config.yml")
            with open(path, "w") as file:
                file.write(config)
            args += ["-c", path]
        self.log = tempfile.TemporaryFile("w+", dir=WORK)
        if strace:
            args = ["strace", "-f", "-qq", "-o", os.path.join(WORK, "strace.txt"), *strace, *args]
        self.process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=self.log, text=True, preexec_fn=before)
        line = self.process.stdout.readline()
        found = re.search(r"http://([^:]+):(\d+)", line)
        assert found, f"it did not start: {line!r}\n{self.text()}"
        self.host, self.port = found.group(1), int(found.group(2))
        # Under strace the process is a child of the one that was started.
        self.pid = self.process.pid
        if strace:
            with open(f"/proc/{self.pid}/task/{self.pid}/children") as children:
                self.pid = int(children.read().split()[0])

    def ask(self, method="POST", path="/v1/chat/completions", body=CHAT, timeout=10):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            try:
                connection.request(method, path, body if method == "POST" else None, headers)
            except (BrokenPipeError, ConnectionResetError):
                # Refused before the whole body was sent: the answer is here already.
                status = connection.sock.recv(65536).split(b" ")
                if len(status) < 2:
                    raise http.client.RemoteDisconnected("closed without an answer")
                return int(status[1]), b""
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def tries(self, n):
        """How many of n requests were answered 200, and how the others ended."""
        ends = {}
        for _ in range(n):
            try:
                end = self.ask()[0]
            except (OSError, http.client.HTTPException) as error:
                end = type(error).__name__
            ends[end] = ends.get(end, 0) + 1
        return ends

    def text(self):
        self.log.flush()
        with open(self.log.fileno(), closefd=False) as log:
            log.seek(0)
            return log.read()

    def memory(self, key="VmHWM"):
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(rf"{key}:\s+(\d+)", status.read()).group(1)) / 1024

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()
        if self.demo:
            self.demo.__exit__()
        assert "panicked" not in self.text(), self.text()


@case
def e1_out_of_descriptors():
    """E1: EMFILE on accept: it backs off, and serves within a second after descriptors are back."""
    with Proxy() as proxy:
        assert proxy.ask()[0] == 200
        soft, hard = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{proxy.pid}/fd"))
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (used, hard))
        waiting = [socket.create_connection((proxy.host, proxy.port)) for _ in range(20)]
        time.sleep(1)
        before = sum(map(float, open(f"/proc/{proxy.pid}/stat").read().split()[13:15]))
        time.sleep(1)
        ticks = sum(map(float, open(f"/proc/{proxy.pid}/stat").read().split()[13:15])) - before
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (soft, hard))
        back = time.monotonic()
        assert proxy.ask(timeout=5)[0] == 200
        took = time.monotonic() - back
        for one in waiting:
            one.close()
        print(f"      {ticks:.0f} ticks of processor in a second without descriptors; served {took * 1e3:.0f} ms after")
        assert took < 1 and ticks < 50, "it span, or came back late"
        assert "accept" in proxy.text(), proxy.text()


@case
def e1_the_table_of_files_is_full():
    """E1: ENFILE on accept and on the connection to an endpoint."""
    inject = "inject=accept4,accept:error=ENFILE:when=3..12", "inject=socket:error=ENFILE:when=20..24"
    with Proxy(strace=("-e", "trace=accept4,accept,socket", "-e", inject[0], "-e", inject[1])) as proxy:
        ends = proxy.tries(40)
        print(f"      {ends}")
        assert ends.pop(200, 0) >= 30 and set(ends) <= {502, 503}, ends
        assert proxy.tries(5) == {200: 5}


def injected(call, error, when):
    with Proxy(strace=("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}")) as proxy:
        ends = proxy.tries(60)
        print(f"      {call} {error} {when}: {ends}")
        return ends


@case
def e2_errors_of_single_calls():
    """E2: errors that come and go cost the connection they belong to at most; the loop survives."""
    for error in ["ECONNABORTED", "EPROTO", "ENOMEM", "EINTR", "EPERM", "ENETDOWN"]:
        ends = injected("accept4", error, "2+3")
        assert ends == {200: 60}, ends
    assert injected("epoll_wait,epoll_pwait", "EINTR", "3+2") == {200: 60}
    for call, error in [("recvfrom", "EINTR"), ("sendmsg", "EINTR"), ("writev", "EINTR"), ("ppoll", "EINTR")]:
        assert injected(call, error, "5+3") == {200: 60}, call
    for call, error in [("recvfrom", "ECONNRESET"), ("recvfrom", "ENOMEM"), ("sendmsg", "ENOMEM"), ("writev", "ENOMEM"), ("writev", "EPIPE")]:
        ends = injected(call, error, "20+9")
        assert ends.get(200, 0) >= 20, ends
        strange = set(ends) - {200, 502, 503, "RemoteDisconnected", "ConnectionResetError", "BadStatusLine", "IncompleteRead"}
        assert not strange, strange


@case
def e3_no_more_threads():
    """E3: EAGAIN on the start of threads: fewer workers; a probe that cannot start is left for its next turn."""
    for first in (12, 30, 60):
        strace = ("-e", "trace=clone3,clone", "-e", f"inject=clone3,clone:error=EAGAIN:when={first}+")
        with Proxy(strace=strace) as proxy:
            ends = proxy.tries(20)
            said = [line for line in proxy.text().splitlines() if "could" in line and "start" in line]
            print(f"      from thread {first} on: {ends}; {said[0].split('] ')[-1] if said else 'all started'}")
            assert set(ends) <= {200, 503}, ends
            assert proxy.ask("GET", "/health", None)[0] == 200


def group(limit):
    """A memory group with this limit, as a function that puts its caller into it; None where there is none."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        path, file = "/sys/fs/cgroup/llmproxy-faults", "memory.max"
    else:
        path, file = "/sys/fs/cgroup/memory/llmproxy-faults", "memory.limit_in_bytes"
    try:
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, file), "w") as out:
            out.write(str(limit))
    except OSError as error:
        print(f"      no memory group here: {error}")
        return None, None

    def enter():
        with open(os.path.join(path, "cgroup.procs"), "w") as out:
            out.write(str(os.getpid()))

    return path, enter


@case
def e8_little_memory():
    """E8: 64 MiB, 64 bodies of 16 MiB at once: refused from the budget, nobody is killed."""
    path, enter = group(64 << 20)
    config = "endpoints: [{name: a, address: 127.0.0.1, port: 1, models: [m], healthCheck: false}]\n"
    body = b'{"model":"m","x":"' + b"a" * ((16 << 20) - 20) + b'"}'
    with Proxy(config=config, before=enter) as proxy:
        ends, lock = {}, threading.Lock()

        def send():
            try:
                end = proxy.ask(body=body, timeout=60)[0]
            except (OSError, http.client.HTTPException) as error:
                end = type(error).__name__
            with lock:
                ends[end] = ends.get(end, 0) + 1

        threads = [threading.Thread(target=send) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert proxy.process.poll() is None, "it was killed"
        print(f"      {ends}; at most {proxy.memory():.1f} MiB resident{'' if path else ' (measured, not limited)'}")
        assert set(ends) <= {413, 502, 503, "BrokenPipeError", "ConnectionResetError"} and ends.get(503, 0) > 0, ends
        assert proxy.memory() < 64
        assert proxy.ask("GET", "/health", None)[0] == 200
    if path:
        os.rmdir(path)


@case
def e9_the_event_loop_dies():
    """E9: the listener thread cannot go on: the process ends with 1, so that systemd starts it again."""
    proxy = Proxy(strace=("-e", "trace=epoll_wait,epoll_pwait", "-e", "inject=epoll_wait,epoll_pwait:error=EBADF:when=10+"))
    for _ in range(20):
        try:
            proxy.ask(timeout=1)
        except (OSError, http.client.HTTPException):
            break
    try:
        code = proxy.process.wait(timeout=10)
    finally:
        if proxy.process.poll() is None:
            os.kill(proxy.pid, signal.SIGKILL)
        if proxy.demo:
            proxy.demo.__exit__()
    last = proxy.text().strip().splitlines()[-1]
    print(f"      exit code {code}: {last}")
    assert code == 1, code


def main():
    wanted = sys.argv[1:]
    failed = 0
    chosen = [one for one in cases if not wanted or any(one.__name__.startswith(name) for name in wanted)]
    for function in chosen:
        try:
            function()
            print(f"ok    {function.__doc__.strip()}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL  {function.__name__}: {error!r}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return failed > 0


sys.exit(main())
