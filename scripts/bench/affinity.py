#!/usr/bin/env python3
"""How much of its prompts a proxied pair of model servers finds in its caches, by strategy.

Two fake servers with the slots and the prefix cache of llama-server (a request takes the free slot whose last prompt is
most like its own, else the one unused for longest, and computes what the slot does not hold), 50 agent-like conversations of
20 turns with the same 8 KB system prompt, 8 at a time. The ideal is one server with all the slots, asked directly.
Prints a Markdown table. Usage: affinity.py [PROXY]
"""
import http.client, json, os, random, subprocess, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONVERSATIONS, TURNS, AT_ONCE, SLOTS = 50, 20, 8, 4
SIMILARITY = 0.1  # llama-server's --slot-prompt-similarity
PROMPT_CHARS_PER_SECOND, ANSWER_SECONDS = 4_000_000, 0.004
SYSTEM = " ".join(f"rule {n}: do what is asked and nothing else." for n in range(190))[:8192]


def common(a, b):
    """Length of the longest common prefix."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


class Server(ThreadingHTTPServer):
    """One model server: `slots` prompts in memory."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, slots):
        super().__init__(("127.0.0.1", 0), Handler)
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
            cached = like[slot]
        time.sleep((len(prompt) - cached) / PROMPT_CHARS_PER_SECOND + ANSWER_SECONDS)
        answer = "answer to " + prompt[-40:]
        with self.turn:
            self.caches[slot], self.used[slot] = prompt + answer, time.monotonic()
            self.free.add(slot)
            self.requests, self.prompt, self.cached = self.requests + 1, self.prompt + len(prompt), self.cached + cached
            self.turn.notify()
        return answer


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_GET(self):
        if self.path == "/props":
            return self.send({"total_slots": len(self.server.caches)})
        self.send({"object": "list", "data": [{"id": "m"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = "".join(f"<{m['role']}>{m['content']}" for m in body["messages"])
        self.send({"choices": [{"message": {"role": "assistant", "content": self.server.complete(prompt)}}]})

    def send(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def converse(port, number):
    """One conversation; each turn sends everything said so far, as clients do."""
    chance = random.Random(number)
    messages = [{"role": "system", "content": SYSTEM}]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for turn in range(TURNS):
        said = " ".join(str(chance.random()) for _ in range(chance.randrange(10, 60)))
        messages.append({"role": "user", "content": f"task {number}.{turn}: {said}"})
        body = json.dumps({"model": "m", "messages": messages})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        messages.append(json.loads(answer.read())["choices"][0]["message"])
    connection.close()


def run(port):
    waiting = list(range(CONVERSATIONS))
    lock = threading.Lock()

    def client():
        while True:
            with lock:
                if not waiting:
                    return
                number = waiting.pop(0)
            converse(port, number)

    clients = [threading.Thread(target=client) for _ in range(AT_ONCE)]
    [client.start() for client in clients]
    [client.join() for client in clients]


def proxied(binary, strategy):
    servers = [Server(SLOTS), Server(SLOTS)]
    endpoints = [{"name": n, "address": "127.0.0.1", "port": s.server_address[1]} for n, s in zip("ab", servers)]
    config = {"server": {"port": 0}, "endpoints": endpoints, "routing": {"strategy": strategy}, "log": {"level": "warn"}}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump(config, file)
        file.flush()
        proxy = subprocess.Popen([binary, "-c", file.name], stdout=subprocess.PIPE, text=True)
        try:
            run(int(proxy.stdout.readline().rsplit(":", 1)[1]))
        finally:
            proxy.terminate()
            proxy.wait()
    return servers


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    binary = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../target/release/llmproxy")
    ideal = Server(2 * SLOTS)
    run(ideal.server_address[1])
    best = ideal.cached / ideal.prompt
    print("| strategy | found in cache | of the ideal | computed again | imbalance |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(f"| one server, {2 * SLOTS} slots | {best:.1%} | 100.0% | {1 - best:.1%} | - |")
    for strategy in ["affinity", "failover", "round_robin", "weighted_round_robin", "random", "least_busy"]:
        servers = proxied(binary, strategy)
        share = sum(s.cached for s in servers) / sum(s.prompt for s in servers)
        counts = [s.requests for s in servers]
        imbalance = (max(counts) - min(counts)) / (sum(counts) / 2)
        print(f"| {strategy} | {share:.1%} | {share / best:.1%} | {1 - share:.1%} | {imbalance:.1%} |", flush=True)


main()
