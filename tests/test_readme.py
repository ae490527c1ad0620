"""The README is true: its commands run as pasted, its make targets exist, its tree is the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SAMPLES = ROOT / "idefics_cli" / "shapes" / "samples"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the files the README speaks of."""
    shutil.copy(SAMPLES / "two-shapes.jpg", tmp_path / "photo.jpg")
    shutil.copy(SAMPLES / "two-shapes.jpg", tmp_path / "other.jpg")
    shutil.copy(SAMPLES / "red-circle.png", tmp_path / "one.png")
    shutil.copy(SAMPLES / "three-shapes.png", tmp_path / "two.png")
    (tmp_path / "labels.txt").write_text("circle\nsquare\ntriangle\nstar\n")
    (tmp_path / "holiday" / "day two").mkdir(parents=True)
    shutil.copy(SAMPLES / "blue-star.png", tmp_path / "holiday" / "star.png")
    shutil.copy(SAMPLES / "green-triangle.png", tmp_path / "holiday" / "day two" / "a triangle.png")
    (tmp_path / "list.txt").write_text("# two of them\nphoto.jpg\nholiday/star.png\n")
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0][:40])
def test_commands_run_as_pasted(block: str, desk: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=desk,
        env={**os.environ, "PATH": path, "IDEFICS_MODEL": "shapes"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_tree_is_the_tree() -> None:
    tree = README.split("## The tree")[1].split("\n## ")[0]
    told = set(re.findall(r"^      (\w+(?:\.py|/))", tree, re.MULTILINE))
    package = ROOT / "idefics_cli"
    here = {f"{path.name}/" for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    here |= {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert told == here
