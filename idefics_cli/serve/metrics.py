"""What the server counts, in the text format of Prometheus.

Updated from several threads, so behind a lock.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

from ..errors import ItemError
from ..values import Answer

BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64)
"""Upper bounds of the histogram of how many requests were answered together."""
HELP = {
    "requests_total": "Requests to the model by what became of them.",
    "calls_total": "HTTP calls by route and status.",
    "tokens_total": "Tokens: of prompts, of those taken from a shared prefix, and generated.",
    "batch_size": "Requests that were answered together.",
    "answer_seconds_total": "Seconds that the model worked.",
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
        self._batches: Counter[int] = Counter()

    def count_call(self, route: str, status: int) -> None:
        with self._lock:
            self._counts["calls_total", (("route", route), ("status", str(status)))] += 1

    def count_batch(self, size: int, seconds: float) -> None:
        """Count what was answered in one batch, by the number of requests."""
        with self._lock:
            self._batches[size] += 1
            self._counts["answer_seconds_total", ()] += seconds  # type: ignore[assignment]  # a sum of seconds

    def count_outcomes(self, outcomes: Iterable[Answer | ItemError]) -> None:
        """Count requests by outcome, and their tokens."""
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

    def write(self, gauges: Mapping[tuple[str, Labels], float]) -> str:
        """All of them in the text format of Prometheus; `gauges` are current values."""
        with self._lock:
            values: dict[tuple[str, Labels], float] = {**self._counts, **gauges}
            batches = dict(self._batches)
        lines: list[str] = []
        for name, help in HELP.items():
            kind = "histogram" if name == "batch_size" else "counter" if name in _COUNTED else "gauge"
            lines += [f"# HELP idefics_{name} {help}", f"# TYPE idefics_{name} {kind}"]
            if name == "batch_size":
                lines += _write_histogram(batches)
            lines += [
                f"idefics_{name}{_write_labels(labels)} {value:.12g}"
                for (own, labels), value in sorted(values.items())
                if own == name
            ]
        return "\n".join(lines) + "\n"


def _write_histogram(batches: Mapping[int, int]) -> list[str]:
    name = "idefics_batch_size"
    lines = [
        f'{name}_bucket{{le="{bound}"}} {sum(n for size, n in batches.items() if size <= bound)}'
        for bound in BATCH_BOUNDS
    ]
    total = sum(batches.values())
    asked = sum(size * count for size, count in batches.items())
    return [*lines, f'{name}_bucket{{le="+Inf"}} {total}', f"{name}_sum {asked}", f"{name}_count {total}"]


def _write_labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""
