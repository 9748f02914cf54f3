#!/usr/bin/env python3
"""How much of its prompts a proxied pair of model servers finds in its caches, by strategy.

Two fake servers with the slots and the prefix cache of llama-server (a request takes the free slot whose last prompt is
most like its own, else the one unused for longest, and computes what the slot does not hold). The ideal is one server with
all the slots, asked directly. Three workloads, a Markdown table each:
  chats    50 conversations of 20 turns with the same 8 KB system prompt, 8 at a time, by every strategy
  agents   20 sessions of Claude Code of 20 turns, all at once, whose system prompt has a line that differs in every request
  turns    8 such sessions that take turns on two servers: how many of the 52 later turns go to another server than the last
Usage: affinity.py [PROXY]
"""
import http.client, json, os, random, re, subprocess, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TURNS = 20
SIMILARITY = 0.1  # llama-server's --slot-prompt-similarity
PROMPT_CHARS_PER_SECOND, ANSWER_SECONDS = 4_000_000, 0.004
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
        # As servers do, without the part that differs in every request.
        system = re.sub("cch=[^;]*;", "", json.dumps([body.get("tools"), body.get("system")]))
        prompt = system + "".join(f"<{m['role']}>{m['content']}" for m in body["messages"])
        message = {"role": "assistant", "content": self.server.complete(prompt)}
        self.send({"choices": [{"message": message}]})

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

    def __init__(self, port, number, agent):
        self.number, self.agent, self.turn = number, agent, 0
        self.chance = random.Random(number)
        self.messages = [] if agent else [{"role": "system", "content": SYSTEM}]
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def say(self):
        """Takes a turn; returns the endpoint that answered."""
        said = " ".join(str(self.chance.random()) for _ in range(self.chance.randrange(10, 60)))
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
        return answer.headers.get("x-llmproxy-endpoint")


def crowd(port, conversations, at_once, agent):
    """All conversations to their end, so many at a time."""
    waiting = list(range(conversations))
    lock = threading.Lock()

    def client():
        while True:
            with lock:
                if not waiting:
                    return
                number = waiting.pop(0)
            conversation = Conversation(port, number, agent)
            for _ in range(TURNS):
                conversation.say()
            conversation.connection.close()

    clients = [threading.Thread(target=client) for _ in range(at_once)]
    [client.start() for client in clients]
    [client.join() for client in clients]


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


def proxied(binary, strategy, slots, run):
    """Runs with a proxy before two servers; returns them and the result."""
    servers = [Server(slots), Server(slots)]
    endpoints = [{"name": n, "address": "127.0.0.1", "port": s.server_address[1]} for n, s in zip("ab", servers)]
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
    ideal = Server(2 * slots)
    crowd(ideal.server_address[1], *workload)
    best = ideal.cached / ideal.prompt
    print(f"| {title} | found in cache | of the ideal | computed again | imbalance |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(f"| one server, {2 * slots} slots | {best:.1%} | 100.0% | {1 - best:.1%} | - |")
    for strategy in strategies:
        servers, _ = proxied(binary, strategy, slots, lambda port: crowd(port, *workload))
        share = sum(s.cached for s in servers) / sum(s.prompt for s in servers)
        counts = [s.requests for s in servers]
        imbalance = (max(counts) - min(counts)) / (sum(counts) / 2)
        print(f"| {strategy} | {share:.1%} | {share / best:.1%} | {1 - share:.1%} | {imbalance:.1%} |", flush=True)
    print()


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    binary = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../target/release/llmproxy")
    every = ["affinity", "failover", "round_robin", "weighted_round_robin", "random", "least_busy"]
    table(binary, "chats", every, 4, 50, 8, False)
    table(binary, "agents", ["affinity", "least_busy"], 10, 20, 20, True)
    print("| turns | moved of 52 |")
    print("| --- | ---: |")
    for strategy in ["affinity", "round_robin"]:
        _, count = proxied(binary, strategy, 4, moved)
        print(f"| {strategy} | {count} |", flush=True)


main()
