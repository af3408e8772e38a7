"""What a server counts, in Prometheus's format. It names no person, and no text."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


TOTALS = {
    "hits": "Requests whose adapter was in memory", "misses": "Requests whose adapter was not",
    "evictions": "Adapters taken out of memory", "tokens": "Tokens of answers, chosen labels included",
    "passes": "Passes through the model", "chosen": "Labels chosen",
}  # fmt: skip
NOW = {
    "queued": "Requests that wait.", "live": "Answers under way.", "slots_used": "Adapters in memory.",
    "slots": "Slots for adapters.",
}  # fmt: skip


class _Counted(Protocol):
    def counts(self) -> Mapping[str, float]: ...


class Metrics:
    """Counters of one server.

    Args:
        engine: tells what it does just now.
    """

    def __init__(self, engine: _Counted) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(engine))
        self._requests = Counter(
            "ownlm_requests", "Requests, by route and status.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "ownlm_request_seconds", "From a request to the end of its answer, by route.", ("route",),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "ownlm_first_token_seconds", "From a request to the first of its answer.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.tokens = Counter("ownlm_tokens", "Of prompts and of answers.", ("kind",), registry=self._registry)
        self._answers = Counter(
            "ownlm_answers", "Complete answers: written, or a label chosen; and how they ended.", ("how", "finish"),
            registry=self._registry,
        )  # fmt: skip
        self._failed = Counter(
            "ownlm_answer_errors", "Answers that failed, by code; of streams, too.", ("how", "code"),
            registry=self._registry,
        )  # fmt: skip
        self.answer_seconds = Histogram(
            "ownlm_answer_seconds", "From a request to the end of an answer.", ("how",), buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip

        self._jobs = Gauge(
            "ownlm_jobs", "Jobs that the home keeps: of each user the last 200.", ("kind", "state"),
            registry=self._registry,
        )  # fmt: skip

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request is done.

        Args:
            route: its template: what stands in a path is nobody's business.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answered(self, how: str, finish: str, prompt_tokens: int, answer_tokens: int, seconds: float) -> None:
        """An answer is complete.

        Args:
            how: "written" or "chosen".
            finish: "stop" or "length".
        """
        self._answers.labels(how, finish).inc()
        self.tokens.labels("prompt").inc(prompt_tokens)
        self.tokens.labels("answer").inc(answer_tokens)
        self.answer_seconds.labels(how).observe(seconds)

    def failed(self, how: str, code: str) -> None:
        """An answer failed with an error of this code."""
        self._failed.labels(how, code).inc()

    def text(self, jobs: Mapping[tuple[str, str], int] | None = None) -> bytes:
        """All of it, as Prometheus reads it.

        Args:
            jobs: numbers of jobs in the home, by kind and state.
        """
        self._jobs.clear()
        for (kind, state), count in (jobs or {}).items():
            self._jobs.labels(kind, state).set(count)
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, engine: _Counted) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        for name, value in self._engine.counts().items():
            told = f"ownlm_engine_{name}"
            if name in TOTALS:
                yield CounterMetricFamily(told, f"{TOTALS[name]}, since the server was started.", value=value)
            else:
                yield GaugeMetricFamily(told, NOW.get(name, name), value=value)
