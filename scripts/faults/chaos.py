#!/usr/bin/env python3
"""Three model servers that break in every way and forty clients that behave in every way, for SECONDS (150).

    LLMPROXY_BIN=target/release/llmproxy scripts/faults/chaos.py [SECONDS]

Holds: no answer looks whole that is not, every gauge is back at zero, memory is flat. Loopback only, no packages.
"""
import asyncio, collections, json, os, random, re, subprocess, sys, tempfile, time

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 150
BIN = os.environ.get("LLMPROXY_BIN", "target/release/llmproxy")
CLIENTS = 40
seen = collections.Counter()
wrong = []


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(n, of):
    return b"data: " + json.dumps({"n": n, "of": of, "choices": [{"delta": {"content": "x" * random.randint(1, 200)}}]}).encode() + b"\n\n"


class Server:
    """A fake llama-server; `up` decides whether it listens."""

    def __init__(self):
        self.server, self.port, self.writers = None, 0, set()

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def die(self):
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()
        await asyncio.sleep(random.uniform(0.2, 2))
        await self.start()

    async def serve(self, reader, writer):
        self.writers.add(writer)
        try:
            while await self.one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def one(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""

        async def answer(status, data, kind=b"application/json"):
            writer.write(b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (status, kind, len(data), data))
            await writer.drain()
            return True

        if head.startswith(b"GET /v1/models"):
            return await answer(b"200 OK", b'{"object":"list","data":[{"id":"m"}]}')
        if not head.startswith(b"POST /v1/chat"):
            return await answer(b"200 OK", b'{"status":"ok"}')
        fault = random.choices(["none", "reset", "close", "stall", "500", "503", "late", "never"], [12, 2, 2, 1, 2, 2, 2, 1])[0]
        if fault in ("500", "503"):
            return await answer(fault.encode() + b" Broken", b'{"error":{"message":"on purpose"}}')
        if fault == "late":
            await asyncio.sleep(random.uniform(0.1, 1))
        if fault == "never":
            await asyncio.sleep(4)
            return False
        of = random.randint(1, 40)
        end = of if fault in ("none", "late") else random.randint(0, of - 1)
        if not json.loads(body).get("stream"):
            data = json.dumps({"of": of, "text": ["x" * 300] * of, "last": True}).encode()
            if fault in ("none", "late"):
                return await answer(b"200 OK", data)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data))
            writer.write(data[: len(data) * end // of])
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for n in range(end):
                writer.write(chunk(event(n, of)))
                await writer.drain()
                await asyncio.sleep(random.choice([0, 0, 0.002, 0.02]))
            if fault in ("none", "late"):
                writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
                await writer.drain()
                return True
        await writer.drain()
        if fault == "stall":
            await asyncio.sleep(4)
        elif fault == "reset":
            writer.transport.abort()
        return False


async def read_answer(reader, leave, slow, is_10):
    """(status, kind of end, body): the end is `whole`, `cut` or `left`."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split()[1])
    length = re.search(rb"(?i)content-length: (\d+)", head)
    body = b""
    try:
        if length:
            while len(body) < int(length[1]):
                data = await reader.read(min(slow or 65536, int(length[1]) - len(body)))
                if not data:
                    return status, "cut", body
                body += data
            return status, "whole", body
        if is_10:
            while data := await reader.read(slow or 65536):
                body += data
            return status, "whole", body
        while True:
            size = int((await reader.readline()).strip(), 16)
            data = await reader.readexactly(size + 2)
            if size == 0:
                return status, "whole", body
            body += data[:-2]
            if leave and len(body) > leave:
                return status, "left", body
            if slow:
                await asyncio.sleep(0.005)
    except (ValueError, OSError, asyncio.IncompleteReadError):
        return status, "cut", body


def check(status, end, body, stream):
    if status != 200 or end != "whole":
        return
    if stream:
        lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
        numbers = [json.loads(line) for line in lines if line != "[DONE]"]
        good = lines[-1:] == ["[DONE]"] and [one.get("n") for one in numbers] == list(range(numbers[0]["of"]))
    else:
        good = json.loads(body).get("last") is True
    if not good:
        wrong.append((status, end, body[-300:]))


async def client(port, until):
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        except OSError:
            seen["refused"] += 1
            continue
        try:
            for _ in range(random.randint(1, 8)):
                stream = random.random() < 0.7
                is_10 = random.random() < 0.05
                kind = random.choices(["read", "leave", "slow", "half-body", "silent"], [14, 3, 2, 1, 1])[0]
                body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "x" * random.choice([10, 10, 5000])}]}).encode()
                request = b"POST /v1/chat/completions HTTP/1.%d\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (0 if is_10 else 1, len(body))
                if kind == "half-body":
                    writer.write(request + body[: len(body) // 2])
                    seen[kind] += 1
                    break
                writer.write(request + body)
                if kind == "silent":
                    await asyncio.sleep(random.uniform(0, 0.2))
                    seen[kind] += 1
                    break
                leave = random.randint(1, 2000) if kind == "leave" else 0
                status, end, answer = await asyncio.wait_for(
                    read_answer(reader, leave, 512 if kind == "slow" else 0, is_10), 30)
                seen[f"{status} {end}"] += 1
                check(status, end, answer, stream)
                if end != "whole" or is_10:
                    break
        except asyncio.TimeoutError:
            wrong.append("no end within 30 s")
        except (OSError, asyncio.IncompleteReadError):
            seen["closed before a head"] += 1
        finally:
            writer.transport.abort() if random.random() < 0.5 else writer.close()


async def get(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode())
    text = (await reader.read()).decode()
    writer.close()
    return text


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read())[1]) // 1024


async def main():
    servers = [Server() for _ in range(3)]
    for server in servers:
        await server.start()
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as config:
        config.write("server: {port: 0, workers: 32}\nlog: {access: false, level: error}\nqueue: {length: 64, timeout: 3s}\n"
                     "timeouts: {connect: 500ms, firstByte: 2s, idle: 2s}\nhealthCheck: {interval: 500ms}\nendpoints:\n")
        for n, server in enumerate(servers):
            config.write(f"  - {{name: e{n}, address: 127.0.0.1, port: {server.port}, maxConcurrent: 6}}\n")
        config.flush()
        proxy = subprocess.Popen([BIN, "-c", config.name], stdout=subprocess.PIPE, text=True)
        try:
            port = int(re.search(r"http://[^ ]*?:(\d+)", proxy.stdout.readline())[1])
            until = time.monotonic() + SECONDS

            async def chaos():
                while time.monotonic() < until:
                    await asyncio.sleep(random.uniform(0.5, 4))
                    await random.choice(servers).die()

            async def watch():
                await asyncio.sleep(SECONDS / 3)
                return resident(proxy.pid)

            early, *_ = await asyncio.gather(watch(), chaos(), *(client(port, until) for _ in range(CLIENTS)))
            late = resident(proxy.pid)
            # Slots of servers whose clients left, and lingering connections, end soon.
            for _ in range(100):
                await asyncio.sleep(0.2)
                text = await get(port, "/metrics")
                busy = re.findall(r"^(llmproxy_(?:endpoint_in_flight|queue_length|workers_busy)\S* [1-9]\S*)", text, re.M)
                connections = int(re.search(r"^llmproxy_connections (\d+)", text, re.M)[1])
                if not busy and connections <= 1:
                    break
            print(json.dumps(dict(sorted(seen.items(), key=lambda pair: -pair[1])), indent=1))
            print(f"answers that looked whole and were not: {len(wrong)}; still busy: {busy}, {connections} connections; "
                  f"resident after a third {early} MiB, at the end {late} MiB")
            for one in wrong[:5]:
                print(one)
            assert proxy.poll() is None, "the proxy has died"
            assert not wrong and not busy and connections <= 1 and late < early + 8
        finally:
            proxy.kill()


asyncio.run(main())
