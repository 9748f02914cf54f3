#!/usr/bin/env python3
"""kill -9 at random moments while the page's file of routes is saved (FAULTS E7): it is always whole, the old or the new one.

A disk that is full or read-only changes nothing (FAULTS D9; mounts a small tmpfs, needs root).

usage: scripts/faults/routes.py [TIMES]     LLMPROXY_BIN: the binary; without it target/release/llmproxy
"""

import http.client
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time

BIN = os.path.realpath(os.environ.get("LLMPROXY_BIN", "target/release/llmproxy"))
TIMES = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
work = tempfile.mkdtemp(prefix="llmproxy-routes-")
routes = os.path.join(work, "dynamic_routing.json")
# The documented file, as it stands.
here = os.path.dirname(os.path.abspath(__file__))
shutil.copy(os.path.join(here, "..", "..", "config", "old", "003-dynamic_routing.json"), routes)
NAME = "general-model-name-for-client"


def start(routes=routes):
    process = subprocess.Popen([BIN, "-c", routes, "--port", "0", "--host", "127.0.0.1", "--log-level", "warn"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    line = process.stdout.readline()
    found = re.search(r":(\d+)$", line.strip())
    assert found, f"it did not start over {open(routes).read()!r}"
    return process, int(found.group(1))


saved = acknowledged = strays = kept = 0
last = None
for round_ in range(TIMES):
    process, port = start()
    strays += sum(1 for name in os.listdir(work) if ".tmp-" in name)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    if round_:
        connection.request("GET", "/admin/config")
        models = json.loads(connection.getresponse().read())["Models"]
        assert NAME in models and len(models[NAME]["Backends"]) == 2, models
        # The last one that was acknowledged, or the one that was under way.
        assert models.get("page", {}).get("Backends", [{}])[0].get("Weight") in (last, last + 1 if last else 1), (models, last)
        kept += 1
    killer = threading.Timer(random.random() * 0.03, process.send_signal, [signal.SIGKILL])
    killer.start()
    weight = (last or 0) % 60_000
    try:
        while True:
            weight += 1
            backend = {"Name": "x", "BaseUrl": "http://127.0.0.1:9/v1", "ApiKeys": ["k" * 2000], "Weight": weight}
            body = json.dumps({"Strategy": "Failover", "Backends": [backend]})
            saved += 1
            connection.request("POST", "/admin/config/page", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            last = weight
            acknowledged += 1
    except (OSError, http.client.HTTPException):
        pass
    killer.join()
    process.wait()
    process.stdout.close()
    mode = stat.S_IMODE(os.stat(routes).st_mode)
    whole = json.loads(re.sub(r"(?m)(^|[\s{},\"\]])//.*$", r"\1", open(routes).read()))
    assert "Models" in whole and (mode == 0o600 or last is None), oct(mode)
print(f"      {TIMES} kills over {saved} saves, {acknowledged} acknowledged: the file was whole each time, mode 0600; {strays} stray files seen at a start")
print("ok    the file of routes is the old or the new one, whole")

small = os.path.join(work, "small")
os.makedirs(small)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
try:
    there = os.path.join(small, "dynamic_routing.json")
    shutil.copy(os.path.join(here, "..", "..", "config", "old", "003-dynamic_routing.json"), there)
    process, port = start(there)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    before = open(there, "rb").read()

    def post():
        backend = {"Name": "x", "BaseUrl": "http://127.0.0.1:9/v1", "ApiKeys": ["k" * 3000]}
        connection.request("POST", "/admin/config/page", json.dumps({"Backends": [backend]}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["error"]["message"]

    with open(os.path.join(small, "rest"), "wb", buffering=0) as rest:
        try:
            while True:
                rest.write(b"x" * 4096)
        except OSError:
            pass
    full = post()
    os.remove(os.path.join(small, "rest"))
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    fixed = post()
    connection.request("GET", "/v1/models")
    served = json.loads(connection.getresponse().read())["data"]
    print(f"      full: {full}; read-only: {fixed}")
    assert full[0] == 507 and fixed[0] == 500 and open(there, "rb").read() == before and len(served) == 1, served
    assert os.listdir(small) == ["dynamic_routing.json"], os.listdir(small)
    process.kill()
    process.wait()
finally:
    subprocess.run(["umount", "-l", small], check=True)
print("ok    a disk that is full or read-only changes nothing")
print("2 passed, 0 failed")
shutil.rmtree(work, ignore_errors=True)
