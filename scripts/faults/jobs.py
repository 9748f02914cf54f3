#!/usr/bin/env python3
"""Jobs under the worst: kill -9 at random moments, a full disk, 100,000 finished ones, 1,000 waiting ones.

usage: scripts/faults/jobs.py [kill [N] | full | many | waiting]...      `full` mounts a small tmpfs and needs root
LLMPROXY_BIN: the binary; without it target/release/llmproxy.
"""

import collections
import http.client
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

BIN = os.path.realpath(os.environ.get("LLMPROXY_BIN", "target/release/llmproxy"))
ASYNC = {"Content-Type": "application/json", "Prefer": "respond-async"}


class Model(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pause = 0.0

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.pause)
        body = json.dumps({"echo": asked["messages"][0]["content"]}).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, *_):
        pass


def model():
    server = Server(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


class Proxy:
    def __init__(self, work, port, jobs):
        config = os.path.join(work, "config.yml")
        with open(config, "w") as file:
            file.write(f"endpoints: [{{name: a, address: 127.0.0.1, port: {port}, models: [m], healthCheck: false}}]\n")
            file.write(f"server: {{perClient: 2000}}\njobs: {{enabled: true, {jobs}}}\nlog: {{level: warn, access: false}}\n")
        self.process = subprocess.Popen([BIN, "-c", config, "--port", "0"], cwd=work, stdout=subprocess.PIPE, text=True)
        started.append(self.process)
        self.port = int(re.search(r":(\d+)$", self.process.stdout.readline().strip()).group(1))
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(self, method, path, body=None, headers={}):
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def submit(self, text):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]})
        return self.ask("POST", "/v1/chat/completions", body, ASYNC)

    def look(self, job):
        return json.loads(self.ask("GET", f"/v1/chat/completions/{job}")[1])

    def memory(self, key="VmRSS"):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(rf"{key}:\s+(\d+)", status.read()).group(1)) / 1024

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def kill(work, times=1000):
    """Every accepted job ends in exactly one of completed or error, with the answer to its own question."""
    port = model()
    Model.pause = 0.005
    settings = "dir: spool, maxConcurrent: 4, attempts: 3, retention: 24h, maxQueued: 100000"
    accepted, starts = {}, []
    for round_ in range(times):
        began = time.monotonic()
        proxy = Proxy(work, port, settings)
        starts.append(time.monotonic() - began)
        end = time.monotonic() + random.random() * 0.15
        killer = threading.Timer(end - time.monotonic(), proxy.kill)
        killer.start()
        try:
            while True:
                text = f"question {len(accepted)} of round {round_}"
                status, body = proxy.submit(text)
                assert status == 202, (status, body)
                accepted[json.loads(body)["request_id"]] = text
                # About as many as can be done meanwhile: what counts is the moment, not the backlog.
                time.sleep(0.004)
        except (OSError, http.client.HTTPException):
            pass
        killer.join()
    proxy = Proxy(work, port, settings)
    while True:
        counts = json.loads(proxy.ask("GET", "/v1/jobs")[1])["counts"]
        if counts["pending"] + counts["processing"] == 0:
            break
        time.sleep(0.2)
    ends = collections.Counter()
    for job, text in accepted.items():
        seen = proxy.look(job)
        right = seen.get("response", {}).get("echo") == text
        kind = seen.get("error", {}).get("type", "")
        ends[f"{seen.get('status', 'lost')}{' (its own answer)' if right else ''}{f' ({kind})' if kind else ''}"] += 1
    files = [name for name in os.listdir(os.path.join(work, "spool")) if name != "lock"]
    known = {name.split(".")[1] for name in files}
    print(f"      {times} kills, {len(accepted)} jobs accepted: {dict(ends)}")
    print(f"      {len(files)} files for {len(known)} jobs; median start {sorted(starts)[len(starts) // 2] * 1e3:.0f} ms")
    assert set(ends) <= {"completed (its own answer)", "error (interrupted)"}, ends
    assert len(files) == len(known) and set(accepted) <= known and not any(name.startswith("tmp") for name in files)
    proxy.kill()


def full(work):
    """A disk without room: 507, nothing half-written; answers wait for room, and come when there is some."""
    port = model()
    Model.pause = 0.0
    spool = os.path.join(work, "spool")
    os.makedirs(spool)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", spool], check=True)
    try:
        proxy = Proxy(work, port, "dir: spool")
        ends = collections.Counter(proxy.submit("x" * 20_000)[0] for _ in range(30))
        left = [name for name in os.listdir(spool) if name.startswith("tmp")]
        print(f"      {dict(ends)}; unfinished files: {left}")
        assert set(ends) == {202, 507} and not left, ends
        assert proxy.ask("GET", "/health")[0] == 200
        time.sleep(5)
        jobs = lambda: json.loads(proxy.ask("GET", "/v1/jobs")[1])
        print(f"      5 s later: {jobs()['counts']}")
        read = 0
        if not jobs()["counts"]["completed"]:
            # All room went to those that wait: one of them makes some. Cancelled, then dropped.
            one = next(job["request_id"] for job in jobs()["data"] if job["status"] == "pending")
            for _ in range(2):
                assert proxy.ask("DELETE", f"/v1/chat/completions/{one}")[0] == 200
            ends[202] -= 1
        while jobs()["data"]:
            for job in [job["request_id"] for job in jobs()["data"] if job["status"] in ("completed", "error")]:
                assert proxy.look(job)["response"]["echo"] == "x" * 20_000
                assert proxy.ask("DELETE", f"/v1/chat/completions/{job}")[0] == 200
                read += 1
            time.sleep(0.2)
        print(f"      {read} read, and deleted to make room")
        assert read == ends[202]
        assert proxy.submit("small")[0] == 202
        proxy.kill()
    finally:
        subprocess.run(["umount", spool], check=True)


def many(work):
    """100,000 finished jobs: the start in 2 s, memory below 32 MiB."""
    port = model()
    spool = os.path.join(work, "spool")
    os.makedirs(spool)
    now = int(time.time())
    for number in range(100_000):
        job = f"{number:020d}"
        record = {"version": 1, "id": job, "owner": None, "group": None, "path": "/v1/chat/completions", "webhook": None,
                  "request": {"model": "m", "messages": []}, "response": {"echo": number}}
        name = f"{(now * 1000 - 100_000 + number) << 16:016x}.{job}.00000000.completed.{now}"
        with open(os.path.join(spool, name), "w") as file:
            json.dump(record, file)
    took = []
    for _ in range(5):
        began = time.monotonic()
        proxy = Proxy(work, port, "dir: spool, retention: 24h")
        took.append(time.monotonic() - began)
        assert proxy.look(f"{77_777:020d}")["response"] == {"echo": 77_777}
        began = time.monotonic()
        assert len(json.loads(proxy.ask("GET", "/v1/jobs")[1])["data"]) == 1000
        listed = time.monotonic() - began
        resident = proxy.memory(), proxy.memory("VmHWM")
        proxy.kill()
    print(f"      start {min(took):.2f} to {max(took):.2f} s, resident {resident[0]:.1f} MiB (at most {resident[1]:.1f}), list {listed * 1e3:.0f} ms")
    assert max(took) <= 2 and resident[1] <= 32


def waiting(work):
    """202 with 1,000 jobs waiting: the time of it, and the share of the disk."""
    port = model()
    Model.pause = 60.0
    proxy = Proxy(work, port, "dir: spool, maxQueued: 5000")
    for number in range(1002):
        assert proxy.submit(f"number {number}")[0] == 202
    times = []
    for number in range(500):
        began = time.monotonic()
        status, body = proxy.submit(f"late {number}")
        times.append(time.monotonic() - began)
        assert status == 202 and json.loads(body)["queue_position"] == 1001 + number, body
    # The same on the same disk by hand: write, fsync, rename, fsync of the folder.
    raw = []
    folder = os.open(os.path.join(work, "spool"), os.O_RDONLY)
    for number in range(500):
        began = time.monotonic()
        path = os.path.join(work, "spool", f"tmp-raw-{number}")
        with open(path, "wb") as file:
            file.write(b"x" * 300)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path, path + ".x")
        os.fsync(folder)
        raw.append(time.monotonic() - began)
    mean = lambda all_: sum(all_) / len(all_)
    line = lambda all_: f"mean {mean(all_) * 1e3:.2f}, p50 {sorted(all_)[250] * 1e3:.2f}, p99 {sorted(all_)[494] * 1e3:.2f} ms"
    print(f"      202: {line(times)}\n      the disk alone: {line(raw)}: {mean(raw) / mean(times):.0%} of it")
    proxy.kill()


started = []


def main():
    known = {"waiting": waiting, "full": full, "many": many, "kill": kill}
    chosen, failed = [], 0
    for word in sys.argv[1:]:
        if word.isdigit() and chosen:
            chosen[-1] += (int(word),)
        else:
            chosen.append((word,))
    for name, *numbers in chosen or [(name,) for name in known]:
        work = tempfile.mkdtemp(prefix="llmproxy-jobs-")
        try:
            known[name](work, *numbers)
            print(f"ok    {known[name].__doc__}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL  {name}: {error!r}", flush=True)
        for process in started:
            process.kill()
            process.wait()
        started.clear()
        shutil.rmtree(work, ignore_errors=True)
    total = len(chosen or known)
    print(f"{total - failed} passed, {failed} failed")
    return failed > 0


sys.exit(main())
