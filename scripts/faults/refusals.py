#!/usr/bin/env python3
"""Refusals while a body is still coming (SPEC 3): 413 and 401 of a 40 MB body, by four kinds of client.

usage: scripts/faults/refusals.py [TIMES]        default: 20 times each; needs node, curl and Python's requests
LLMPROXY_BIN: the binary; without it target/release/llmproxy. Prints a line for each client and case and ends with ok or
FAIL. A client that is not installed fails its lines.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile

BIN = os.path.realpath(os.environ.get("LLMPROXY_BIN", "target/release/llmproxy"))
TIMES = int(sys.argv[1]) if len(sys.argv) > 1 else 20
SIZE = 40_000_000
RIGHT = "canary-right-key-0123456789"
NODE = """
const [url, key, chunked, times, size] = process.argv.slice(1);
const body = new Uint8Array(Number(size)).fill(120);
const stream = () => new ReadableStream({
    start(to) { for (let at = 0; at < body.length; at += 1 << 20) to.enqueue(body.slice(at, at + (1 << 20))); to.close(); }
});
for (let n = 0; n < Number(times); n++) {
    try {
        const made = chunked === "1" ? {body: stream(), duplex: "half"} : {body};
        const answer = await fetch(url, {method: "POST", headers: {authorization: `Bearer ${key}`}, ...made});
        await answer.text();
        console.log(answer.status);
    } catch (error) { console.log(`${error.message}: ${error.cause?.code ?? error.cause?.message}`); }
}
"""


def node(url, key, chunked):
    command = ["node", "--input-type=module", "-e", NODE, url, key, "1" if chunked else "0", str(TIMES), str(SIZE)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300).stdout.split("\n")[:-1]


def curl(url, key, chunked):
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(SIZE)
        command = ["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", "-H", f"Authorization: Bearer {key}",
                   "-H", "Expect:", "--data-binary", f"@{file.name}", url]
        if chunked:
            command[1:1] = ["-H", "Transfer-Encoding: chunked"]
        results = []
        for _ in range(TIMES):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            results.append(done.stdout if done.returncode == 0 else done.stderr.strip())
        return results


def with_requests(url, key, chunked):
    import requests

    def pieces():
        for _ in range(SIZE // 1_000_000):
            yield b"x" * 1_000_000

    results = []
    for _ in range(TIMES):
        try:
            body = pieces() if chunked else b"x" * SIZE
            answer = requests.post(url, data=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)
            results.append(str(answer.status_code))
        except requests.RequestException as problem:
            results.append(repr(problem))
    return results


def raw(url, key, chunked):
    """Writes all, then reads."""
    host, port = re.search(r"//([^:]+):(\d+)", url).groups()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {SIZE}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n{framing}\r\n\r\n"
    chunk = b"x" * 1_000_000
    chunk = b"%x\r\n" % len(chunk) + chunk + b"\r\n" if chunked else chunk
    results = []
    for _ in range(TIMES):
        try:
            with socket.create_connection((host, int(port)), 60) as client:
                client.sendall(head.encode())
                for _ in range(SIZE // 1_000_000):
                    client.sendall(chunk)
                client.sendall(b"0\r\n\r\n" if chunked else b"")
                answer = b""
                while piece := client.recv(65536):
                    answer += piece
                results.append(answer.split()[1].decode())
        except (OSError, IndexError) as problem:
            results.append(repr(problem))
    return results


class Proxy:
    def __init__(self, max_body):
        self.config = tempfile.NamedTemporaryFile("w", suffix=".yml")
        self.config.write(
            f"server: {{port: 0, maxBody: {max_body}}}\nauth: {{keys: [{{name: one, key: {RIGHT}}}]}}\n"
            "log: {level: error, access: false}\n"
            "endpoints: [{name: a, address: 127.0.0.1, port: 1, models: [m], healthCheck: false}]\n"
        )
        self.config.flush()
        self.process = subprocess.Popen([BIN, "-c", self.config.name], stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        port = re.search(r":(\d+)\s*$", self.process.stdout.readline())[1]
        return f"http://127.0.0.1:{port}/v1/chat/completions"

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self.config.close()


def main():
    cases = [
        ("413 declared", "32MiB", RIGHT, False),
        ("413 chunked", "32MiB", RIGHT, True),
        ("401 declared", "64MiB", "wrong", False),
        ("401 chunked", "64MiB", "wrong", True),
    ]
    failed = 0
    for name, client in [("node fetch", node), ("curl", curl), ("python requests", with_requests), ("raw", raw)]:
        for case, max_body, key, chunked in cases:
            # One proxy for each, since after 20 wrong keys a minute further ones are 429.
            with Proxy(max_body) as url:
                try:
                    results = client(url, key, chunked)
                except (OSError, ImportError, subprocess.SubprocessError) as problem:
                    results = [repr(problem)]
            fine = results.count(case[:3])
            print(f"{name:16} {case:13} {fine} of {TIMES}", *sorted(set(results) - {case[:3]})[:3], flush=True)
            failed += fine != TIMES
    print(f"FAIL: {failed}" if failed else "ok")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
