"""The free memory of this machine, without torch: cards from nvidia-smi or sysfs, then RAM.

For lists, and for choosing before anything is loaded. Once torch is loaded, `devices` asks the device itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ...figures import format_bytes

SECONDS = 5
"""How long nvidia-smi may take: it hangs when a driver does."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A memory that could hold a model, and the source of the figure."""

    kind: Literal["gpu", "ram"]
    name: str
    device: str
    """As --device takes it."""
    free_bytes: int
    source: str


def find_pools(device: str = "auto") -> list[Pool]:
    """The memories of a device, the fastest first; all of them for `auto`."""
    if device == "cpu":
        return _find_ram()
    cards = _find_nvidia() or _find_amd()
    if device == "auto":
        return [*cards, *_find_ram()]
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return _find_ram() if kind == "mps" else []  # one memory for both; of others nothing is known
    return [card for card in cards if card.device == f"cuda:{index or 0}"]


def describe_pools(pools: list[Pool]) -> str:
    """One line: how much is free where, and by which source."""
    if not pools:
        return "nothing is known of this machine's memory"
    return "; ".join(f"{pool.name}: {format_bytes(pool.free_bytes)} free ({pool.source})" for pool in pools)


def _find_nvidia() -> list[Pool]:
    """The cards that CUDA would show, with its numbers. None if torch is not built for them."""
    program = shutil.which("nvidia-smi")
    if program is None or not _is_built_for("cuda"):
        return []
    query = "--query-gpu=index,uuid,name,memory.free"
    try:
        answer = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
            env=os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [tuple(cell.strip() for cell in line.split(",")) for line in answer.stdout.splitlines()]
    cards = [row for row in rows if len(row) == 4 and row[3].isdigit()]
    return [
        Pool("gpu", name, f"cuda:{number}", int(free) * 2**20, "nvidia-smi")
        for number, (_, _, name, free) in enumerate(_visible(cards))
    ]


def _visible(cards: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
    """The cards that CUDA_VISIBLE_DEVICES leaves, in its order; it has their numbers or the beginnings of their ids."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return cards
    visible = []
    for name in (part.strip() for part in chosen.split(",")):
        card = next((one for one in cards if one[0] == name or (name and one[1].startswith(name))), None)
        if card is None:
            break  # as CUDA does: what follows an unknown name is not seen
        visible.append(card)
    return visible


def _find_amd() -> list[Pool]:
    if not _is_built_for("hip"):
        return []
    pools: list[Pool] = []
    for total in sorted(Path("/sys/class/drm").glob("card*/device/mem_info_vram_total")):
        try:
            used = int((total.parent / "mem_info_vram_used").read_text())
            free = int(total.read_text()) - used
        except (OSError, ValueError):
            continue
        pools.append(Pool("gpu", "AMD card", f"cuda:{len(pools)}", free, "sysfs"))
    return pools


def _is_built_for(kind: str) -> bool:
    """Whether the installed torch can use such cards. Read from its version file, which is quick."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return False
    try:
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(rf"^{kind}\b[^=\n]*= *['\"]", text, re.MULTILINE) is not None


def _find_ram() -> list[Pool]:
    return [Pool("ram", "RAM", "cpu", *count_free_ram())]


def count_free_ram() -> tuple[int, str]:
    """Free bytes of RAM, and the source of the figure. A container may have less than its machine."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):
        return free, "the system"
    return min((free, "the system"), (max(0, limit - used), "/sys/fs/cgroup"))
