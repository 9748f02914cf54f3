"""The OpenAI SDK for Python against a running `llmproxy --demo` at $LLMPROXY_URL."""

import asyncio
import json
import os
import sys
import time
import urllib.request

import openai
from cases import case, main

URL = os.environ["LLMPROXY_URL"]
# From the client's close until the model server has noticed.
CANCEL_LIMIT = 0.250
SHARED, ONLY_A, ONLY_B = "toy-shared", "toy-fast", "toy-slow"

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="sk-any-key-is-ignored", max_retries=0, timeout=30)


def http(url, method="GET"):
    request = urllib.request.Request(url, method=method, data=b"" if method == "POST" else None)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def toy(name):
    """Address of a toy server, as the proxy tells it."""
    for model in http(f"{URL}/v1/models")["data"]:
        if model["provider"] == name:
            return f"http://{model['endpoint']}"
    raise AssertionError(f"no model is served by {name}")


def user(text):
    return [{"role": "user", "content": text}]


class Watch:
    """Sees the requests of toy-a come and go. Its stats answer as soon as a counter is reached."""

    def __init__(self):
        self.address = toy("toy-a")
        self.before = http(f"{self.address}/demo/stats")

    def wait(self, counter):
        reached = self.before[counter] + 1
        stats = http(f"{self.address}/demo/stats?{counter}={reached}")
        assert stats[counter] == reached, f"{counter} never became {reached}: {stats}"

    def cancelled_since(self, closed):
        self.wait("cancelled")
        seen = time.monotonic() - closed
        while http(f"{URL}/health")["endpoints"]["toy-a"]["inFlight"] > 0:
            assert time.monotonic() - closed < 5, "inFlight never went back to 0"
        free = time.monotonic() - closed
        print(f"      server saw the leave after {seen * 1e3:.1f} ms, inFlight was 0 after {free * 1e3:.1f} ms")
        assert free <= CANCEL_LIMIT, f"{free:.3f} s is too late"


@case
def models_of_both_servers_are_listed_once():
    listed = list(client.models.list())
    assert sorted(m.id for m in listed) == sorted([SHARED, ONLY_A, ONLY_B]), listed
    providers = {m.id: m.provider for m in listed}
    assert providers == {SHARED: "toy-a", ONLY_A: "toy-a", ONLY_B: "toy-b"}, providers
    assert all(m.endpoint.startswith("127.0.0.1:") and m.object == "model" for m in listed), listed
    assert client.models.retrieve(ONLY_B).provider == "toy-b"


@case
def chat_whole_with_usage():
    raw = client.chat.completions.with_raw_response.create(model=ONLY_B, messages=user("hi"), max_tokens=3)
    chat = raw.parse()
    assert raw.headers["x-llmproxy-endpoint"] == "toy-b" and raw.headers["x-request-id"], dict(raw.headers)
    assert chat.choices[0].message.content == "This is toy-b, ", chat
    assert chat.choices[0].finish_reason == "length" and chat.model == ONLY_B, chat
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens, chat.usage.total_tokens) == (1, 3, 4), chat


@case
def chat_streamed_piece_by_piece():
    started = time.monotonic()
    arrivals, text, finish = [], "", None
    for chunk in client.chat.completions.create(model=SHARED, messages=user("hi"), max_tokens=8, stream=True):
        arrivals.append(time.monotonic() - started)
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
        assert chunk.usage is None, chunk
    assert text == "This is toy-a, one of two toy model " and finish == "length", (text, finish)
    # Seven pauses of 50 ms lie between the words: a held-back stream would arrive at once.
    assert len(arrivals) >= 9 and arrivals[-1] - arrivals[0] > 0.2, arrivals


@case
def chat_stream_with_usage():
    chunks = list(
        client.chat.completions.create(
            model=ONLY_A, messages=user("one two"), stream=True, stream_options={"include_usage": True}
        )
    )
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop", chunks[-2]
    assert chunks[-1].choices == [] and chunks[-1].usage.prompt_tokens == 2, chunks[-1]
    assert chunks[-1].usage.completion_tokens > 50, chunks[-1]


@case
def completions_whole_and_streamed():
    ask = {"model": SHARED, "prompt": "a b c", "max_tokens": 2}
    whole = client.completions.create(**ask)
    assert whole.choices[0].text == "This is " and whole.usage.total_tokens == 5, whole
    pieces = list(client.completions.create(**ask, stream=True))
    assert [p.choices[0].text for p in pieces] == ["This ", "is ", ""], pieces
    assert pieces[-1].choices[0].finish_reason == "length", pieces


@case
def embeddings_as_base64_and_as_numbers():
    texts = ["a red apple", "a pear"]
    # The SDK asks for base64 and unpacks it when no format is named.
    packed = [d.embedding for d in client.embeddings.create(model=SHARED, input=texts).data]
    plain = [d.embedding for d in client.embeddings.create(model=SHARED, input=texts, encoding_format="float").data]
    assert [len(v) for v in packed] == [16, 16] and packed[0] != packed[1], packed
    assert all(abs(a - b) < 1e-6 for p, q in zip(packed, plain) for a, b in zip(p, q)), (packed, plain)


@case
def a_wrong_model_is_not_found_and_the_right_ones_are_named():
    try:
        client.chat.completions.create(model="no-such-model", messages=user("hi"))
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error.body
        assert sorted(error.body["available_models"]) == sorted([SHARED, ONLY_A, ONLY_B]), error.body
    else:
        raise AssertionError("no error")


@case
def any_key_is_taken_when_none_is_configured():
    other = openai.OpenAI(base_url=f"{URL}/v1", api_key="another", max_retries=0)
    assert other.chat.completions.create(model=ONLY_A, messages=user("hi"), max_tokens=1).choices


@case
def leaving_a_stream_before_the_first_token_frees_the_server():
    watch = Watch()
    stream = client.chat.completions.create(model=SHARED, messages=user("slow"), stream=True)
    watch.wait("started")
    closed = time.monotonic()
    stream.close()
    watch.cancelled_since(closed)


@case
def leaving_a_stream_before_its_head_frees_the_server():
    watch = Watch()
    try:
        client.chat.completions.create(model=SHARED, messages=user("queued"), stream=True, timeout=0.5)
    except openai.APITimeoutError:
        closed = time.monotonic()
        watch.cancelled_since(closed)
    else:
        raise AssertionError("no error")


@case
def leaving_a_stream_after_the_first_token_frees_the_server():
    watch = Watch()
    stream = client.chat.completions.create(model=ONLY_A, messages=user("hi"), stream=True)
    assert any(chunk.choices[0].delta.content for chunk in stream)
    closed = time.monotonic()
    stream.close()
    watch.cancelled_since(closed)


@case
def leaving_a_whole_answer_frees_the_server():
    watch = Watch()
    try:
        client.chat.completions.create(model=SHARED, messages=user("slow"), timeout=0.5)
    except openai.APITimeoutError:
        closed = time.monotonic()
        watch.cancelled_since(closed)
    else:
        raise AssertionError("no error")


@case
def an_async_task_streams_and_its_cancel_frees_the_server():
    async def main():
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="any", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model=ONLY_A, messages=user("hi"), max_tokens=3, stream=True
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == "This is toy-a, ", text

            watch = await asyncio.to_thread(Watch)
            task = asyncio.create_task(client.chat.completions.create(model=SHARED, messages=user("queued")))
            await asyncio.to_thread(watch.wait, "started")
            closed = time.monotonic()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.to_thread(watch.cancelled_since, closed)

    asyncio.run(main())


@case
def a_server_lost_in_mid_stream_is_an_error_and_the_next_request_goes_to_the_other():
    first = toy("toy-a")
    # Of a model that only this server has: it may still hold slots of clients that left.
    seen, finish = [], None
    try:
        for chunk in client.chat.completions.create(model=ONLY_A, messages=user("hi"), stream=True):
            seen.append(chunk.system_fingerprint)
            finish = chunk.choices[0].finish_reason or finish
            if len(seen) == 3:
                http(f"{first}/demo/pause", "POST")
    except Exception as error:
        print(f"      {type(error).__name__}: {error}")
    else:
        raise AssertionError("the stream ended as if it were whole")
    finally:
        paused = http(f"{first}/demo/stats")["paused"]
    try:
        assert paused and set(seen) == {"toy-a"} and finish is None, (paused, seen, finish)
        next_one = client.chat.completions.create(model=SHARED, messages=user("hi"), max_tokens=2)
        assert next_one.system_fingerprint == "toy-b", next_one
        health = http(f"{URL}/health/force-check", "POST")
        assert health["endpoints"]["toy-a"]["healthy"] is False, health
        assert SHARED in [m.id for m in client.models.list()]
        assert ONLY_A not in [m.id for m in client.models.list()]
    finally:
        http(f"{first}/demo/resume", "POST")
        health = http(f"{URL}/health/force-check", "POST")
    assert health["endpoints"]["toy-a"]["healthy"] is True, health
    back = client.chat.completions.create(model=SHARED, messages=user("hi"), max_tokens=2)
    assert back.system_fingerprint == "toy-a", back


sys.exit(main())
