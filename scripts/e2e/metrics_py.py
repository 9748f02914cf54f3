"""Metrics of a running llmproxy at $LLMPROXY_URL that has seen the other suites, read by Prometheus' own parser."""

import http.client
import json
import os
import sys
import time
from urllib.parse import urlsplit

from cases import case, main
from prometheus_client.parser import text_string_to_metric_families

HOST = urlsplit(os.environ["LLMPROXY_URL"]).netloc


def scrape():
    connection = http.client.HTTPConnection(HOST, timeout=20)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.getheader("content-type").startswith("text/plain; version=0.0.4"), answer.headers
    return answer.read().decode()


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


@case
def every_family_is_valid_and_has_its_help():
    found = families(scrape())
    assert len(found) >= 15, sorted(found)
    for family in found.values():
        assert family.type in ("counter", "gauge", "histogram"), family
        assert family.documentation.endswith("."), family.documentation
        assert family.name.startswith("llmproxy_"), family.name
        for sample in family.samples:
            assert sample.value >= 0, sample


@case
def histograms_add_up_and_reach_ten_minutes():
    histograms = [family for family in families(scrape()).values() if family.type == "histogram"]
    assert len(histograms) >= 3, histograms
    for family in histograms:
        series = {}
        for sample in family.samples:
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            series.setdefault(labels, []).append(sample)
        for samples in series.values():
            buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
            assert buckets == sorted(buckets) and [v for _, v in buckets] == sorted(v for _, v in buckets), samples
            assert buckets[0][0] <= 0.005 and buckets[-2][0] == 600 and buckets[-1][0] == float("inf"), buckets
            (count,) = [s.value for s in samples if s.name.endswith("_count")]
            assert count == buckets[-1][1], samples


@case
def what_the_sdks_did_was_counted():
    found = families(scrape())
    kinds = {s.labels["kind"]: s.value for s in found["llmproxy_tokens"].samples if s.labels["endpoint"] == "toy-a"}
    assert kinds["prompt"] > 0 and kinds["completion"] > 0, kinds
    assert any(s.value > 0 for s in found["llmproxy_tokens_per_second"].samples)
    paths = {s.labels["path"] for s in found["llmproxy_http_requests"].samples}
    assert "/v1/chat/completions" in paths and all(path == "other" or path.startswith("/") for path in paths), paths


@case
def ten_thousand_made_up_names_leave_the_page_as_long_as_it_was():
    connection = http.client.HTTPConnection(HOST, timeout=20)

    def ask(name):
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": "hi"}]})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 404, answer.status

    ask("made-up")
    before = scrape().count("\n")
    for number in range(10_000):
        ask(f"made-up-{number}")
    after = scrape()
    assert after.count("\n") == before and "made-up" not in after, f"{before} lines became {after.count(chr(10))}"
    print(f"      {before} lines before and after")


@case
def gauges_are_back_at_zero():
    for _ in range(100):
        found = families(scrape())
        # This connection is one.
        busy = {name: sum(s.value for s in found[f"llmproxy_{name}"].samples) for name in ("endpoint_in_flight", "queue_length", "workers_busy")}
        if not any(busy.values()):
            return
        time.sleep(0.05)
    raise AssertionError(busy)


sys.exit(main())
