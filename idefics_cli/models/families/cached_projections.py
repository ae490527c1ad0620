"""Modules that remember their last input, so that projections of an image are computed once, not at every token.

IDEFICS projects image features to keys and values again for every token, which costs several times the token itself.
The features stay the same tensor, so comparing addresses is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def remembering(modules: Iterable[Any]) -> Iterator[None]:
    """Within the context, each module computes only for a new input. Inputs must not be written to."""
    changed = [(module, module.__dict__.get("forward")) for module in modules]
    try:
        for module, _ in changed:
            module.forward = _Remembered(module.forward)
        yield
    finally:
        for module, former in changed:
            if former is None:
                del module.forward
            else:
                module.forward = former


class _Remembered:
    """The last input and its result. It keeps the input alive, so that no other tensor gets its address."""

    def __init__(self, compute: Any) -> None:
        self._compute = compute
        self._given: Tensor | None = None
        self._result: Tensor | None = None

    def __call__(self, given: Tensor) -> Tensor:
        if self._result is None or self._given is None or not _is_same(given, self._given):
            self._given = given
            if given.shape[0] > 1 and given.stride(0) == 0:  # One row, shown several times.
                one: Tensor = self._compute(given[:1])
                self._result = one.expand(given.shape[0], *one.shape[1:])
            else:
                self._result = self._compute(given)
        return self._result


def _is_same(one: Tensor, other: Tensor) -> bool:
    return (one.data_ptr(), one.shape, one.stride(), one.dtype) == (
        other.data_ptr(),
        other.shape,
        other.stride(),
        other.dtype,
    )
