"""How fast answers are generated, alone and in a batch, and which share of the machine's copy rate that reaches.

A decoding step reads the weights once, however many rows it has; those bytes a second are compared with the copy rate.
Keys and values are left out, so the real share is a little higher. What a token asks of the device is counted in runs
of their own, which are not timed.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import asdict, dataclass

from ..backends import Backend, close_backends
from ..backends.local import LocalBackend
from ..errors import ItemError
from ..figures import align
from ..models.devices import choose_device, choose_dtype
from ..models.loading import open_family
from .launches import count_launches
from .measure import ArmJob, Open, open_local, read_peak, reset_peak
from .roofline import PROBE, count_decoding_bytes, measure_copy_rate, name_device
from .workloads import compose_work

ROUNDS = 3
HEADINGS = (
    *("batch", "first token", "tokens/s", "of the copy rate"),
    *("reads/token", "launches/token", "peak MB"),
)


@dataclass(frozen=True, slots=True)
class Speed:
    """For a number of requests at a time: seconds until all have their first token, and tokens a second of all.

    A launch is an operator that computes, or the replay of a recorded step; a read is a value that the host waits for.
    """

    batch_size: int
    first_token_seconds: float
    tokens_per_second: float
    copy_fraction: float
    reads_per_token: float
    launches_per_token: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class DecodingSpeed:
    """The measured values. `read_bytes` are the bytes of weights that a step reads."""

    device: str
    dtype: str
    quantization: str | None
    copy_bytes: float
    read_bytes: float
    speeds: tuple[Speed, ...]


def measure_decoding(job: ArmJob, open_with: Open = open_local) -> DecodingSpeed:
    """One request at a time, then a batch of the job's size. Raises ItemError if not even one fits."""
    family = open_family(job.spec)
    device = choose_device(job.spec.device)
    dtype = choose_dtype(job.spec.dtype, device, family)
    copy_bytes = measure_copy_rate(device)
    read_bytes = count_decoding_bytes(family, dtype, job.spec.quantization)
    try:
        backend = open_with(job)
        speeds = [
            _measure(backend, size, job.new_tokens, read_bytes / copy_bytes, device.type)
            for size in sorted({1, job.batch_size})
        ]
    finally:
        close_backends()
    return DecodingSpeed(
        name_device(device),
        str(dtype).removeprefix("torch."),
        job.spec.quantization,
        copy_bytes,
        read_bytes,
        tuple(speeds),
    )


def _measure(backend: Backend, size: int, new_tokens: int, least_seconds: float, device: str) -> Speed:
    """The shortest of several runs; each has images of its own, so that no cache helps.

    `least_seconds` is the time of a step at the copy rate.
    """
    seeds = itertools.count(2)

    def run(tokens: int) -> tuple[float, int]:
        work = compose_work(PROBE, backend.style, images=size, new_tokens=tokens, seed=next(seeds))
        began = time.perf_counter()
        answers = backend.answer(work.requests, work.images)
        seconds = time.perf_counter() - began
        made = 0
        for answer in answers:
            if isinstance(answer, ItemError):
                raise answer
            made += answer.usage.new_tokens
        return seconds, made

    def count(tokens: int) -> tuple[int, int]:
        """The reads and launches of a run."""
        replays = _count_replays(backend)
        with count_launches(device) as counts:
            run(tokens)
        return counts.reads, counts.operators + _count_replays(backend) - replays

    run(2)
    reset_peak()
    short, begun = min(run(1) for _ in range(ROUNDS))
    long, made = min(run(1 + new_tokens) for _ in range(ROUNDS))
    seconds = max(long - short, 1e-9)
    tokens, peak_bytes = made - begun, read_peak()
    reads, launches = ((more - less) / tokens for less, more in zip(count(1), count(1 + new_tokens), strict=True))
    share = least_seconds * tokens / size / seconds
    return Speed(size, short, tokens / seconds, share, reads, launches, peak_bytes)


def _count_replays(backend: Backend) -> int:
    return backend.measure()["replays"] if isinstance(backend, LocalBackend) else 0


def tabulate_decoding(model: str, measured: DecodingSpeed) -> str:
    """The table for people."""
    held = measured.dtype if measured.quantization is None else f"{measured.quantization} ({measured.dtype})"
    rows = [
        HEADINGS,
        *(
            (
                str(speed.batch_size),
                f"{speed.first_token_seconds * 1000:.0f} ms",
                f"{speed.tokens_per_second:.1f}",
                f"{speed.copy_fraction:.0%}",
                f"{speed.reads_per_token:.2f}",
                f"{speed.launches_per_token:.0f}",
                f"{speed.peak_bytes / 1e6:.0f}",
            )
            for speed in measured.speeds
        ),
    ]
    return "\n".join(
        [
            f"{model} on {measured.device}, {held}",
            f"this machine copies at {measured.copy_bytes / 1e9:.1f} GB/s; "
            f"a step reads {measured.read_bytes / 1e6:.1f} MB of weights",
            "",
            *align(rows, right_from=0),
        ]
    )


def to_json(model: str, measured: DecodingSpeed) -> str:
    """Everything measured, on one line."""
    return json.dumps({"model": model, **asdict(measured)}, ensure_ascii=False)
