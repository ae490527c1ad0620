"""A machine with two cards: a driver that lists them, and a torch that is built for them or not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

DRIVER = "#!/bin/sh\necho '0, GPU-aaaa, NVIDIA L4, 22000'\necho '1, GPU-bbbb, NVIDIA A100, 80000'\necho '[N/A]'\n"


def install_cards(folder: Path, monkeypatch: pytest.MonkeyPatch, *, cuda: str | None = "12.8") -> None:
    """Put both first where programs and packages are looked for; this torch is not imported, only looked at."""
    (folder / "nvidia-smi").write_text(DRIVER)
    (folder / "nvidia-smi").chmod(0o755)
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").touch()
    (folder / "torch" / "version.py").write_text(f"cuda: Optional[str] = {cuda!r}\nhip: Optional[str] = None\n")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
