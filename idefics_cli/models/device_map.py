"""Which device each weight goes to: one device if it has room for all, otherwise all devices, CPU memory last.

Only decides; `from_pretrained` and accelerate move the weights. Bytes are estimated on the meta device.
"""

# transformers is typed in parts only, accelerate not at all.
# mypy: disable-error-code="no-untyped-call, import-untyped"
from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import accelerate
import torch
import transformers

from ..errors import ModelError
from ..values import ModelSpec
from .devices import count_free_bytes
from .families.family import Family
from .quantization.kinds import is_packed
from .quantization.table import QUANTIZATIONS, find_bytes

log = logging.getLogger(__name__)

FILLED = 0.9
"""How much of the free memory of a device weights may take: the rest is for what a batch needs."""
HEADROOM_BYTES = 4 * 2**30
"""What the authors of IDEFICS leave free on each GPU of several."""
GB = 1e9


def place(spec: ModelSpec, family: Family, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The options of `from_pretrained` that say where each weight goes; none for a model that is wholly on the CPU."""
    if spec.max_memory:
        return _spread(spec, family, dtype, _name_budgets(spec.max_memory, device))
    if device.type not in ("cuda", "xpu") or spec.device not in ("auto", device.type):
        return _keep_together(spec, device)
    needed = estimate_bytes(family, dtype, spec.quantization)
    if needed <= FILLED * count_free_bytes(device):
        return _keep_together(spec, device)
    placed = _spread(spec, family, dtype, _list_budgets(device))
    log.info("the weights take about %.1f GB, more than one device has free: they are spread", needed / GB)
    return placed


def estimate_bytes(family: Family, dtype: torch.dtype, quantization: str | None) -> int:
    """About how many bytes the weights need, without loading any."""
    packed = find_bytes(quantization)
    total = 0.0
    for name, weight in _sketch(family, dtype).named_parameters():
        can_pack = packed is not None and weight.dim() == 2 and is_packed(name, family)
        total += weight.numel() * (packed if packed is not None and can_pack else weight.element_size())
    return int(total)


def tell_placement(model: Any) -> None:
    """Log which parts are not on a GPU, as they are slow."""
    places = list(getattr(model, "hf_device_map", {}).values())
    waiting = sum(place in ("cpu", "disk") for place in places)
    if "disk" in places or (waiting and waiting < len(places)):
        log.info(
            "%d of %d parts of the model are kept in CPU memory or on disk, which is slow",
            waiting if waiting < len(places) else places.count("disk"),
            len(places),
        )


def remove_with(model: Any, folder: str | None) -> None:
    """Remove the folder of weights that were put on disk when the model is deleted."""
    if folder is not None:
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)


def _keep_together(spec: ModelSpec, device: torch.device) -> dict[str, Any]:
    if device.type == "cpu" and spec.quantization is None:
        return {}
    return {"device_map": {"": str(device)}}


def _spread(spec: ModelSpec, family: Family, dtype: torch.dtype, budgets: Mapping[int | str, int]) -> dict[str, Any]:
    """Fill each device in turn. What is never quantized, the vision tower and the connector, is not split."""
    model = _sketch(family, dtype)
    parts = [name for name, _ in model.named_modules() if name in family.unquantized]
    whole = {type(model.get_submodule(name)).__name__ for name in parts}
    row = QUANTIZATIONS.get(spec.quantization or "")
    packed = None if row is None else row.plan_dtype()
    names = [name for name, weight in model.named_parameters() if weight.dim() == 2 and is_packed(name, family)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where it is tight is found out below
        places: dict[str, Any] = accelerate.infer_auto_device_map(
            model,
            max_memory=dict(budgets),
            no_split_module_classes=sorted({*model._no_split_modules, *whole}),
            special_dtypes=None if packed is None else dict.fromkeys(names, packed),
        )
    waiting = {place for place in places.values() if place in ("cpu", "disk")}
    if spec.quantization is not None and ("disk" in waiting or waiting not in (set(), {*places.values()})):
        raise ModelError(
            f"the weights do not fit with --quantize {spec.quantization}, and quantized weights cannot be offloaded",
            hint="use a smaller --model, --device cpu, or leave --quantize out",
        )
    if _find_place(model, places) == "disk":
        raise ModelError(
            "not even the embeddings fit into that memory",
            hint="use a smaller --model or a larger --max-memory",
        )
    folder = tempfile.mkdtemp(prefix="idefics-offload-")
    return {"device_map": places, "offload_folder": folder}


def _find_place(model: Any, places: Mapping[str, Any]) -> Any:
    """The device of the embeddings: that of the longest entry that their name begins with."""
    table = model.get_input_embeddings()
    (name,) = [name for name, module in model.named_modules() if module is table]
    return next(place for key, place in places.items() if not key or f"{name}.".startswith(f"{key}."))


def _sketch(family: Family, dtype: torch.dtype) -> Any:
    """The model without its weights."""
    loader: Any = transformers.AutoModelForImageTextToText
    with torch.device("meta"):
        return loader.from_config(family.config, dtype=dtype)


def _list_budgets(device: torch.device) -> dict[int | str, int]:
    """How much of each GPU of this kind, and of the CPU, weights may use."""
    budgets: dict[int | str, int] = {}
    for index in range(getattr(torch, device.type).device_count()):
        free = count_free_bytes(torch.device(device.type, index))
        budgets[index] = max(free - HEADROOM_BYTES, int(free * 0.8))
    return budgets | {"cpu": int(FILLED * count_free_bytes(torch.device("cpu")))}


def _name_budgets(given: tuple[tuple[str, int], ...], device: torch.device) -> dict[int | str, int]:
    """The given budgets, for devices that exist."""
    count = getattr(torch, device.type).device_count() if device.type in ("cuda", "xpu") else 0
    budgets: dict[int | str, int] = {}
    for name, size in given:
        if name != "cpu" and not (name.isdecimal() and int(name) < count):
            there = ", ".join([*map(str, range(count)), "cpu"])
            raise ModelError(f"--max-memory names {name!r}, which is not there", hint=f"there are: {there}")
        budgets[name if name == "cpu" else int(name)] = size
    return budgets
