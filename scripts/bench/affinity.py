#!/usr/bin/env python3
"""How much of its prompts a proxied pair of model servers finds in its caches, by strategy.

Two fake servers with the slots and the prefix caches of llama-server (a request takes the free slot whose last prompt is
most like its own, else the one unused for longest; the prompt that it replaces goes to a cache in the host's memory, where
later requests find it; what neither holds is computed). The ideal is one server with all the slots, asked directly. Four
workloads, a Markdown table each:
  chats    50 conversations of 20 turns with the same 8 KB system prompt, 8 at a time, by every strategy
  agents   20 sessions of Claude Code of 20 turns, all at once, whose system prompt has a line that differs in every request;
           also on servers that compare bytes, without `stabilize` and with it
  turns    8 such sessions that take turns on two servers: how many of the 52 later turns go to another server than the last
  crowds   4, 6, 8 and 12 conversations of 12 turns at once on two servers of two slots, where computing a prompt takes time:
           share found in a cache, seconds in all, longest time in the queue. A hundred times as fast as a home server.
Usage: affinity.py [PROXY]
"""
import http.client, json, os, random, re, subprocess, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SIMILARITY = 0.1  # llama-server's --slot-prompt-similarity
CHARS = 4  # of a token
HOST_CACHE = 100_000  # tokens
FAST, HOME = (1_000_000, 0.004), (50_000, 0.08)  # prompt tokens a second, seconds for an answer
BILLING = "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch=%05x;"
TOOLS = [{"name": f"tool{n}", "description": "does what it says " * 20, "input_schema": {"type": "object"}} for n in range(15)]
SYSTEM = " ".join(f"rule {n}: do what is asked and nothing else." for n in range(190))[:8192]


def common(a, b):
    """Length of the longest common prefix."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


class Server(ThreadingHTTPServer):
    """One model server: `slots` prompts in memory, and those that left them in the host's."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, slots, speed=FAST, compares_bytes=False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.speed, self.compares_bytes = speed, compares_bytes
        self.host = []
        self.caches = [""] * slots
        self.used = [0.0] * slots
        self.free = set(range(slots))
        self.turn = threading.Condition()
        self.requests = self.prompt = self.cached = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def complete(self, prompt):
        with self.turn:
            while not self.free:
                self.turn.wait()
            like = {slot: common(self.caches[slot], prompt) for slot in self.free}
            slot = max(self.free, key=lambda slot: like[slot])
            if like[slot] < SIMILARITY * len(prompt):
                slot = min(self.free, key=lambda slot: self.used[slot])
            self.free.remove(slot)
            cached = self.swap(slot, prompt, like[slot])
        per_second, seconds = self.speed
        computing = (len(prompt) - cached) / CHARS / per_second
        # Answers differ in length, by what is asked.
        time.sleep(computing + seconds * (0.5 + hash(prompt) % 1000 / 1000))
        answer = "answer to " + prompt[-40:]
        with self.turn:
            self.caches[slot], self.used[slot] = prompt + answer, time.monotonic()
            self.free.add(slot)
            self.requests, self.prompt, self.cached = self.requests + 1, self.prompt + len(prompt), self.cached + cached
            self.turn.notify()
        timings = {"cache_n": cached // CHARS, "prompt_n": max((len(prompt) - cached) // CHARS, 1), "prompt_ms": computing * 1000}
        return answer, {**timings, "prompt_per_second": timings["prompt_n"] / max(computing, 1e-6)}

    def swap(self, slot, prompt, like):
        """Puts what the slot holds into the host's memory and the best that is there into the slot; returns how much of it helps."""
        if like < 0.5 * len(self.caches[slot]):
            self.host.append(self.caches[slot])
        best = max(self.host, key=lambda held: common(held, prompt), default="")
        found = common(best, prompt)
        if found > like:
            self.host.remove(best)
        while sum(map(len, self.host)) > HOST_CACHE * CHARS:
            self.host.pop(0)
        return max(found, like)


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_GET(self):
        if self.path == "/props":
            return self.send({"total_slots": len(self.server.caches)})
        self.send({"object": "list", "data": [{"id": "m"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        system = json.dumps([body.get("tools"), body.get("system")])
        if not self.server.compares_bytes:
            # As llama-server does, without the part that differs in every request.
            system = re.sub("cch=[^;]*;", "", system)
        prompt = system + "".join(f"<{m['role']}>{m['content']}" for m in body["messages"])
        answer, timings = self.server.complete(prompt)
        self.send({"choices": [{"message": {"role": "assistant", "content": answer}}], "timings": timings})

    def send(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Conversation:
    """One conversation; each turn sends everything said so far, as clients do."""

    def __init__(self, port, number, agent, words=35):
        self.number, self.agent, self.words, self.turn, self.waited = number, agent, words, 0, 0
        self.chance = random.Random(number)
        self.messages = [] if agent else [{"role": "system", "content": SYSTEM}]
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def say(self):
        """Takes a turn; returns the endpoint that answered."""
        said = " ".join(str(self.chance.random()) for _ in range(self.chance.randrange(self.words // 2, 2 * self.words)))
        self.messages.append({"role": "user", "content": f"task {self.number}.{self.turn}: {said}"})
        body, path = {"model": "m", "messages": self.messages}, "/v1/chat/completions"
        if self.agent:
            path, billing = "/v1/messages?beta=true", BILLING % random.randrange(16**5)
            texts = [{"type": "text", "text": text} for text in (billing, SYSTEM)]
            texts[1]["cache_control"] = {"type": "ephemeral"}
            body = {**body, "system": texts, "tools": TOOLS, "max_tokens": 100}
        self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        self.messages.append(json.loads(text)["choices"][0]["message"])
        self.turn += 1
        self.waited = max(self.waited, int(answer.headers.get("x-llmproxy-queue-ms", 0)))
        return answer.headers.get("x-llmproxy-endpoint")


def crowd(port, conversations, at_once, agent, turns=20, words=35):
    """All conversations to their end, so many at a time; returns the seconds, and the longest time in a queue in ms."""
    waiting = list(range(conversations))
    lock, began, waited = threading.Lock(), time.monotonic(), []

    def client():
        while True:
            with lock:
                if not waiting:
                    return
                number = waiting.pop(0)
            conversation = Conversation(port, number, agent, words)
            for _ in range(turns):
                conversation.say()
            conversation.connection.close()
            waited.append(conversation.waited)

    clients = [threading.Thread(target=client) for _ in range(at_once)]
    [client.start() for client in clients]
    [client.join() for client in clients]
    return time.monotonic() - began, max(waited)


def moved(port):
    """Turns of 8 sessions, one after another: how many of the 52 later ones went elsewhere than the one before."""
    sessions = [Conversation(port, number, True) for number in range(8)]
    homes, count, order = {}, 0, random.Random(1)
    # Every session once, then again in another order each time.
    rounds = [order.sample(sessions, len(sessions)) for _ in range(8)]
    for session in sum(rounds, [])[: 8 + 52]:
        home = session.say()
        count += homes.get(session.number, home) != home
        homes[session.number] = home
    return count


def share(servers):
    return sum(server.cached for server in servers) / sum(server.prompt for server in servers)


def proxied(binary, strategy, slots, run, speed=FAST):
    """Runs with a proxy before two servers; returns them and the result. The strategy may be followed by `bytes`, for servers
    that compare them, and by what the proxy makes `stable` for these."""
    strategy, *options = strategy.split(", ")
    servers = [Server(slots, speed, "bytes" in options) for _ in range(2)]
    endpoints = [{"name": n, "address": "127.0.0.1", "port": s.server_address[1]} for n, s in zip("ab", servers)]
    for endpoint in endpoints if "stable" in options else []:
        endpoint["stabilize"] = "claude-code"
    config = {"server": {"port": 0}, "endpoints": endpoints, "routing": {"strategy": strategy}, "log": {"level": "warn"}}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump(config, file)
        file.flush()
        proxy = subprocess.Popen([binary, "-c", file.name], stdout=subprocess.PIPE, text=True)
        try:
            result = run(int(proxy.stdout.readline().rsplit(":", 1)[1]))
        finally:
            proxy.terminate()
            proxy.wait()
    return servers, result


def table(binary, title, strategies, slots, *workload):
    # Which slot a request meets depends on chance.
    ideals = [Server(2 * slots) for _ in range(3)]
    for ideal in ideals:
        crowd(ideal.server_address[1], *workload)
    best = share(ideals)
    print(f"| {title} | found in cache | of the ideal | computed again | imbalance |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(f"| one server, {2 * slots} slots | {best:.1%} | 100.0% | {1 - best:.1%} | - |")
    for strategy in strategies:
        servers, _ = proxied(binary, strategy, slots, lambda port: crowd(port, *workload))
        found = share(servers)
        counts = [s.requests for s in servers]
        imbalance = (max(counts) - min(counts)) / (sum(counts) / 2)
        print(f"| {strategy} | {found:.1%} | {found / best:.1%} | {1 - found:.1%} | {imbalance:.1%} |", flush=True)
    print()


def crowds(binary):
    print("| crowds | strategy | found in cache | of one server's | seconds | longest in queue |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for conversations in [4, 6, 8, 12]:
        workload = (conversations, conversations, False, 12, 120)
        ideal = Server(4, HOME)
        seconds, _ = crowd(ideal.server_address[1], *workload)
        best = share([ideal])
        print(f"| {conversations} | one server, 4 slots | {best:.1%} | 100.0% | {seconds:.1f} | - |")
        for strategy in ["affinity", "least_busy"]:
            servers, (seconds, waited) = proxied(binary, strategy, 2, lambda port: crowd(port, *workload), HOME)
            found = share(servers)
            print(f"| {conversations} | {strategy} | {found:.1%} | {found / best:.1%} | {seconds:.1f} | {waited / 1000:.2f} s |", flush=True)
    print()


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    binary = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../target/release/llmproxy")
    every = ["affinity", "failover", "round_robin", "weighted_round_robin", "random", "least_busy"]
    crowds(binary)
    table(binary, "chats", every, 4, 50, 8, False)
    table(binary, "agents", ["affinity", "least_busy", "affinity, bytes", "affinity, bytes, stable"], 10, 20, 20, True)
    print("| turns | moved of 52 |")
    print("| --- | ---: |")
    for strategy in ["affinity", "round_robin"]:
        _, count = proxied(binary, strategy, 4, moved)
        print(f"| {strategy} | {count} |", flush=True)


main()
