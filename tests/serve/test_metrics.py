"""The metrics, read back by Prometheus' own parser of its format."""

from __future__ import annotations

import pytest

from gptcli.serve.metrics import Histogram, HttpMetrics, Metric, line, render


def parsed(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    parser = pytest.importorskip("prometheus_client.parser")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_a_histogram_counts_a_time_in_its_bucket_and_in_all_larger_ones() -> None:
    histogram = Histogram((0.1, 1))
    histogram.observe(0.1)
    histogram.observe(0.5, times=3)
    histogram.observe(7)
    found = parsed(render([Metric("t", "histogram", "Times.", histogram.lines("t", {"model": "m"}))]))
    buckets = {dict(labels)["le"]: value for labels, value in found["t_bucket"].items()}
    assert buckets == {"0.1": 1, "1": 4, "+Inf": 5}
    assert found["t_count"] == {(("model", "m"),): 5}
    assert found["t_sum"][(("model", "m"),)] == pytest.approx(8.6)


def test_labels_are_escaped() -> None:
    name = 'a"b\\c\nd'
    found = parsed(render([Metric("up", "gauge", "Up.", [line("up", {"model": name}, 1)])]))
    assert found["up"] == {(("model", name),): 1}


def test_requests_are_counted_by_route_method_and_status() -> None:
    http = HttpMetrics()
    for status in (200, 200, 404):
        http.observe("/health", "GET", status, 0.01)
    counts = parsed(render(http.metrics()))["gptcli_http_requests_total"]
    assert {dict(labels)["status"]: value for labels, value in counts.items()} == {"200": 2, "404": 1}
