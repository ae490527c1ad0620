"""The README is true: its commands run as pasted, its make targets exist, its tree is the tree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.program import Run

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


def read_recipe() -> dict[str, list[str]]:
    """The container's recipe: what is given to each of its instructions."""
    found = re.search(r"^    FROM .*\n(?:    .*\n)+", README, re.MULTILINE)
    assert found, "the README has a recipe for a container"
    recipe: dict[str, list[str]] = {}
    for line in found[0].splitlines():
        word, _, given = line.strip().partition(" ")
        recipe.setdefault(word, []).append(given)
    return recipe


def test_the_container_is_made_of_what_is_here(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = read_recipe()
    assert set(recipe) == {"FROM", "COPY", "RUN", "ENV", "VOLUME", "ENTRYPOINT"}
    image = re.fullmatch(r"python:(3\.\d+)-slim", recipe["FROM"][0])
    assert image
    assert SpecifierSet(project["requires-python"]).contains(image[1])
    source, place = recipe["COPY"][0].split()
    assert (ROOT / source / "pyproject.toml").is_file()
    (volume,) = recipe["VOLUME"]
    pip, *others = recipe["RUN"][0].split(" && ")
    wanted = re.fullmatch(rf"pip install --no-cache-dir {place}(?:\[([a-z,]+)\])?", pip)
    assert wanted
    assert set((wanted[1] or "").split(",")) - {""} <= set(project["optional-dependencies"])
    assert others == [f"install -d -m 1777 {volume}"]
    (entry,) = json.loads(recipe["ENTRYPOINT"][0])
    assert entry in project["scripts"]

    mine = tmp_path / "data"
    subprocess.run(["sh", "-c", others[0].replace(volume, str(mine))], check=True)
    assert mine.stat().st_mode & 0o7777 == 0o1777
    given = [one.split("=", 1) for one in recipe["ENV"][0].split()]
    assert all(path.startswith((f"{volume}/", "/tmp/")) for _, path in given)
    environment = {name: str(mine / Path(path).name) for name, path in given}
    (mine / "config").mkdir()
    (mine / "config" / "config.yaml").write_text("model: shapes\n")
    result = subprocess.run(
        [str(Path(sys.executable).parent / entry), "caption", str(SAMPLES / "red-circle.png")],
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "A red circle on a white background.\n"


def test_the_service_starts_what_is_here(run: Callable[..., Run], tmp_path: Path) -> None:
    start = re.search(r"^    ExecStart=\S+/(\w+) (.*)$", README, re.MULTILINE)
    assert start
    program, words = start[1], start[2].split()
    assert program == "idefics"
    told = run(words[0], "--help").stdout
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", told))
    assert run("models", "info", words[words.index("--model") + 1]).code == 0
    if shutil.which("systemd-analyze"):
        unit = README[README.index("    [Service]") :].partition("\n\n")[0]
        unit = re.sub(r"(?m)^    ", "", unit).replace(start[0].strip().split()[0], "ExecStart=/bin/true")
        (tmp_path / "idefics.service").write_text(unit + "\n")
        verified = subprocess.run(
            ["systemd-analyze", "verify", str(tmp_path / "idefics.service")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "idefics.service" not in verified.stderr
