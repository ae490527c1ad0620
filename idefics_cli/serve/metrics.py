"""What the server counts, in the text format of Prometheus.

Updated from several threads, so behind a lock.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

from ..backends import Outcome
from ..errors import ItemError
from ..values import Answer

AT_ONCE_BOUNDS = (1, 2, 4, 8, 16, 32, 64)
"""Upper bounds of the histogram of how many requests the model had."""
AT_ONCE = "requests_at_once"
HELP = {
    "requests_total": "Requests to the model by what became of them.",
    "calls_total": "HTTP calls by route and status.",
    "tokens_total": "Tokens: of prompts, of those taken from a shared prefix, and generated.",
    AT_ONCE: "How many requests the model had when each was given to it, itself included.",
    "answer_seconds_total": "Seconds that the model worked for what it answered.",
    "workers": "Processes that have the model, by whether they are ready.",
    "queue_requests": "Requests that wait for the model.",
    "cache_uses_total": "Prefixes and image features that were kept from before (hit) or computed (miss).",
    "cache_bytes": "Bytes of prefixes and image features that are kept.",
    "memory_in_flight_bytes": "Bytes that calls under way hold of --max-memory-in-flight.",
    "memory_bytes": "Bytes that the process (resident) and the device hold.",
}
_COUNTED = {"requests_total", "calls_total", "tokens_total", "answer_seconds_total", "cache_uses_total"}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters since the start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._at_once: Counter[int] = Counter()

    def count_call(self, route: str, status: int) -> None:
        with self._lock:
            self._counts["calls_total", (("route", route), ("status", str(status)))] += 1

    def count_given(self, requests: int, held: int) -> None:
        """Count requests that were given to the model, which now has so many."""
        with self._lock:
            self._at_once[held] += requests

    def count_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """Count requests by outcome, their tokens, and what each had of the model's time."""
        with self._lock:
            for one in outcomes:
                name = one.code if isinstance(one, ItemError) else "answered"
                self._counts["requests_total", (("outcome", name),)] += 1
                if isinstance(one, Answer):
                    usage = one.usage
                    kinds = {
                        "prompt": usage.prompt_tokens,
                        "shared": usage.shared_tokens,
                        "new": usage.new_tokens,
                    }
                    for kind, tokens in kinds.items():
                        self._counts["tokens_total", (("kind", kind),)] += tokens
                    self._counts["answer_seconds_total", ()] += one.seconds  # type: ignore[assignment]  # a sum

    def write(self, gauges: Mapping[tuple[str, Labels], float]) -> str:
        """All of them in the text format of Prometheus; `gauges` are current values."""
        with self._lock:
            values: dict[tuple[str, Labels], float] = {**self._counts, **gauges}
            at_once = dict(self._at_once)
        lines: list[str] = []
        for name, help in HELP.items():
            kind = "histogram" if name == AT_ONCE else "counter" if name in _COUNTED else "gauge"
            lines += [f"# HELP idefics_{name} {help}", f"# TYPE idefics_{name} {kind}"]
            if name == AT_ONCE:
                lines += _write_histogram(f"idefics_{AT_ONCE}", at_once)
            lines += [
                f"idefics_{name}{_write_labels(labels)} {value:.12g}"
                for (own, labels), value in sorted(values.items())
                if own == name
            ]
        return "\n".join(lines) + "\n"


def _write_histogram(name: str, counts: Mapping[int, int]) -> list[str]:
    lines = [
        f'{name}_bucket{{le="{bound}"}} {sum(n for size, n in counts.items() if size <= bound)}'
        for bound in AT_ONCE_BOUNDS
    ]
    total = sum(counts.values())
    together = sum(size * count for size, count in counts.items())
    return [*lines, f'{name}_bucket{{le="+Inf"}} {total}', f"{name}_sum {together}", f"{name}_count {total}"]


def _write_labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""
