"""What a device says of its memory while a model runs: how much is allocated, was at most, and is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Gauge(Protocol):
    """A device that counts what is allocated."""

    def read_peak(self) -> int:
        """The most bytes that were allocated at a time since it was last read."""
        ...

    def count_used(self) -> int: ...

    def count_free(self) -> int: ...


class AllocatorGauge:
    """The figures of torch's allocator of a GPU."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._driver: Any = getattr(torch, device.type)

    def read_peak(self) -> int:
        peak = int(self._driver.max_memory_allocated(self._device))
        self._driver.reset_peak_memory_stats(self._device)
        return peak

    def count_used(self) -> int:
        return int(self._driver.memory_allocated(self._device))

    def count_free(self) -> int:
        from ..devices import count_free_bytes

        return count_free_bytes(self._device)


def open_gauge(model: Any) -> Gauge | None:
    """The gauge of a model's device. None where nothing counts, or where its weights are on several devices."""
    devices = {weights.device for weights in model.parameters()}
    device = devices.pop() if len(devices) == 1 else None
    return AllocatorGauge(device) if device is not None and device.type in ("cuda", "xpu") else None
