"""Prometheus metrics of a server. They contain no users and no texts."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


TOTALS = {
    "hits": "Requests whose adapter was in memory", "misses": "Requests whose adapter was not in memory",
    "evictions": "Adapters taken out of memory", "tokens": "Tokens of answers, chosen labels included",
    "passes": "Passes through the model", "chosen": "Labels chosen",
}  # fmt: skip
GAUGES = {
    "queued": "Requests that wait.", "live": "Answers under way.", "slots_used": "Adapters in memory.",
    "slots": "Slots for adapters.",
}  # fmt: skip


class _Engine(Protocol):
    def counts(self) -> Mapping[str, float]: ...


class Metrics:
    """Counters of one server.

    Args:
        engine: Engine with gauges of its own.
    """

    def __init__(self, engine: _Engine) -> None:
        registry = self._registry = CollectorRegistry()
        registry.register(_EngineCollector(engine))
        self._requests = Counter(
            "ownlm_requests", "Requests, by route and status.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "ownlm_request_seconds", "From a request to the end of its answer, by route.", ("route",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "ownlm_first_token_seconds", "From a request to the first token of its answer.", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.tokens = Counter("ownlm_tokens", "Of prompts and of answers.", ("kind",), registry=registry)
        self._answers = Counter(
            "ownlm_answers", "Complete answers: written, or a label chosen; and how they ended.", ("how", "finish"),
            registry=registry,
        )  # fmt: skip
        self._failed = Counter(
            "ownlm_answer_errors", "Answers that failed, by code; of streams, too.", ("how", "code"), registry=registry
        )
        self.answer_seconds = Histogram(
            "ownlm_answer_seconds", "From a request to the end of an answer.", ("how",), buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._jobs = Gauge(
            "ownlm_jobs", "Jobs that the home keeps: the last 200 of each user.", ("kind", "state"), registry=registry
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request.

        Args:
            route: Template of the route; the path itself may contain ids of records.
            status: HTTP status of the response.
            seconds: Time until the end of the response.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answered(self, how: str, finish: str, prompt_tokens: int, answer_tokens: int, seconds: float) -> None:
        """Counts a complete answer.

        Args:
            how: "written" or "chosen".
            finish: "stop" or "length".
            prompt_tokens: Number of prompt tokens.
            answer_tokens: Number of answer tokens.
            seconds: Time from the request to the end of the answer.
        """
        self._answers.labels(how, finish).inc()
        self.tokens.labels("prompt").inc(prompt_tokens)
        self.tokens.labels("answer").inc(answer_tokens)
        self.answer_seconds.labels(how).observe(seconds)

    def failed(self, how: str, code: str) -> None:
        """Counts an answer that failed with an error of this code."""
        self._failed.labels(how, code).inc()

    def text(self, jobs: Mapping[tuple[str, str], int] | None = None) -> bytes:
        """Returns all metrics in Prometheus's text format.

        Args:
            jobs: Numbers of jobs in the home, by kind and state.
        """
        self._jobs.clear()
        for (kind, state), count in (jobs or {}).items():
            self._jobs.labels(kind, state).set(count)
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        for key, value in self._engine.counts().items():
            name = f"ownlm_engine_{key}"
            if key in TOTALS:
                yield CounterMetricFamily(name, f"{TOTALS[key]}, since the server was started.", value=value)
            else:
                yield GaugeMetricFamily(name, GAUGES.get(key, key), value=value)
