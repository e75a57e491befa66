"""Counts and times of a server in Prometheus' text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
"""Upper bounds of the buckets of times."""
ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labels = Mapping[str, str]
MetricKind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """The lines of one metric."""

    name: str
    kind: MetricKind
    help: str
    samples: Iterable[str]

    def lines(self) -> Iterator[str]:
        """Yield the lines, the description first."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        yield from self.samples


class Histogram:
    """How often a time fell into each bucket. One thread observes; others may read."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a time, as often as given."""
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.sum += seconds * times

    @property
    def count(self) -> int:
        """Times that were observed."""
        return sum(self.counts)

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        """Yield the lines of the histogram, whose buckets include all smaller times."""
        totals = list(accumulate(self.counts))
        for bound, total in zip((*map(str, self.bounds), "+Inf"), totals, strict=True):
            yield line(f"{name}_bucket", {**labels, "le": bound}, total)
        yield line(f"{name}_sum", labels, self.sum)
        yield line(f"{name}_count", labels, totals[-1])


def line(name: str, labels: Labels, value: float) -> str:
    """Return one sample: `name{label="value"} 1`."""
    shown = ",".join(f'{key}="{text.translate(ESCAPES)}"' for key, text in labels.items())
    return f"{name}{{{shown}}} {value}" if shown else f"{name} {value}"


class HttpMetrics:
    """Counts of requests by route, method and status, and their times by route."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.seconds: dict[str, Histogram] = {}
        self.under_way = 0

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that has been answered."""
        self.requests[route, method, status] += 1
        self.seconds.setdefault(route, Histogram()).observe(seconds)

    def metrics(self) -> Iterator[Metric]:
        """Yield the metrics of HTTP."""
        name = "gptcli_http_requests_total"
        counts = [
            line(name, {"route": route, "method": method, "status": str(status)}, count)
            for (route, method, status), count in sorted(self.requests.items())
        ]
        yield Metric(name, "counter", "Requests that were answered.", counts)
        name = "gptcli_http_request_seconds"
        times = [text for route, found in sorted(self.seconds.items()) for text in found.lines(name, {"route": route})]
        yield Metric(name, "histogram", "Time from the head of a request to the end of its answer.", times)
        name = "gptcli_http_requests_under_way"
        yield Metric(name, "gauge", "Requests that are being answered.", [line(name, {}, self.under_way)])


def render(metrics: Iterable[Metric]) -> str:
    """Return metrics in the text format."""
    return "".join(f"{text}\n" for metric in metrics for text in metric.lines())
