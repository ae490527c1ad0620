"""A decoder's layer made into one program by `torch.compile`: what is between its four products is fused.

The products stay what they are, as their libraries are faster than what a compiler makes of them: to it they are an
operator that it cannot look into. Programs are kept on disk, so each is made once on a machine
(https://docs.pytorch.org/docs/stable/torch.compiler.html).
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"
from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from ..config import user_cache
from ..errors import ModelError
from ..models.devices import is_out_of_memory
from .attend import Attend
from .decoder_layer import Layer, LayerShape, Place, run_layer
from .matrices import Matrix

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
SAMPLE_ROWS = (1, 5)
"""One row has a program of its own; that of several serves any number."""
SAMPLE_COLUMNS, SAMPLE_ROOM = 192, 256

_matrices: dict[int, Matrix] = {}
_handles = count()
_library = torch.library.Library("idefics", "DEF")
_library.define("multiply(Tensor hidden, Tensor handle, int size) -> Tensor")


@torch.library.impl(_library, "multiply", "CompositeExplicitAutograd")
def _multiply(hidden: Tensor, handle: Tensor, size: int) -> Tensor:
    return _matrices[int(handle)](hidden)


@torch.library.register_fake("idefics::multiply", lib=_library)
def _shape_product(hidden: Tensor, handle: Tensor, size: int) -> Tensor:
    return hidden.new_empty((hidden.shape[0], size))


class CompiledLayer:
    """`run_layer` for the layers of one decoder, all by the same programs."""

    def __init__(self, layers: Sequence[Layer], shape: LayerShape, attend: Attend, like: Tensor) -> None:
        """Compile it for hidden states like a tensor. Raises ModelError if this machine cannot."""
        os.environ[CACHE_VARIABLE] = str(_make_folder())  # else in the folder for temporary files
        self._handles = {layer: _name_matrices(layer) for layer in layers}
        names = [int(handle) for own in self._handles.values() for handle in own]
        weakref.finalize(self, _forget, names)
        try:
            self._run = _compile(shape, attend)
            column = torch.zeros(1, dtype=torch.long, device=like.device)
            for rows in SAMPLE_ROWS:
                self._run_sample(rows, layers[0], shape, like, column)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            cause = getattr(error, "inner_exception", error)
            said = f"{type(cause).__name__}: {cause}".splitlines()[0][:200]
            raise ModelError(
                f"the decoding step cannot be compiled ({said})",
                hint="--compile needs a C++ compiler such as g++, on a GPU Triton; leave it out without one",
            ) from error

    def __call__(self, hidden: Tensor, layer: Layer, place: Place, keys: Tensor, values: Tensor) -> Tensor:
        step = (place.cos, place.sin, place.column, place.mask, keys, values)
        made: Tensor = self._run(hidden, *step, layer.first_norm, layer.second_norm, *self._handles[layer])
        return made

    @torch.inference_mode()
    def _run_sample(self, rows: int, layer: Layer, shape: LayerShape, like: Tensor, column: Tensor) -> None:
        hidden = like.new_zeros(rows, shape.hidden)
        cos, sin = (like.new_zeros(rows, 1, 1, shape.head) for _ in range(2))
        mask = like.new_zeros(rows, 1, 1, SAMPLE_COLUMNS)
        room = (rows + 1, shape.keys, SAMPLE_ROOM, shape.head)
        keys, values = (like.new_zeros(room)[:rows, :, :SAMPLE_COLUMNS] for _ in range(2))
        place = Place(cos, sin, column, mask)
        growing = {3: [mask], 2: [keys, values]}
        if rows > 1:
            growing[0] = [hidden, cos, sin, mask, keys, values]
        for dimension, tensors in growing.items():
            for tensor in tensors:
                torch._dynamo.mark_dynamic(tensor, dimension)
        self(hidden, layer, place, keys, values)


def _make_folder() -> Path:
    """The folder of compiled programs. Raises ModelError."""
    folder = user_cache() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"cannot write {folder}: {error.strerror}", hint="set IDEFICS_CACHE_DIR, or leave out --compile"
        ) from error
    return folder


def _compile(shape: LayerShape, attend: Attend) -> Any:
    """A compiled function of the tensors of a step and those of a layer, its products by their handles."""
    inward = (shape.queries + 2 * shape.keys) * shape.head
    sizes = (inward, shape.hidden, shape.gate_up, shape.hidden)

    def run(
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        column: Tensor,
        mask: Tensor,
        keys: Tensor,
        values: Tensor,
        first_norm: Tensor,
        second_norm: Tensor,
        *handles: Tensor,
    ) -> Tensor:
        products = [
            partial(torch.ops.idefics.multiply, handle=handle, size=size)
            for handle, size in zip(handles, sizes, strict=True)
        ]
        layer = Layer(first_norm, second_norm, *products)
        place = Place(cos, sin, column, mask)
        return run_layer(hidden, layer, place, keys, values, shape=shape, attend=attend)

    return torch.compile(run)


def _name_matrices(layer: Layer) -> tuple[Tensor, ...]:
    """Handles of the products of a layer. They are tensors, as a program is made anew for each number."""
    handles = []
    for matrix in (layer.inward, layer.outward, layer.gate_up, layer.down):
        name = next(_handles)
        _matrices[name] = matrix
        handles.append(torch.tensor(name))
    return tuple(handles)


def _forget(names: Sequence[int]) -> None:
    for name in names:
        del _matrices[name]
