"""A run on a real Ray cluster of three nodes: a worker killed, a node gone, one drained, one new."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from idefics_cli.shapes.training.scenes import paint, sample_scene
from tests.backends.pool.test_processes import untimed
from tests.program import Run

SCENARIO = Path(__file__).with_name("scenario.py")
NETWORK = ("unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""A network of its own: outside one, Ray takes another address than loopback's."""


def has_network_of_its_own() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*NETWORK, "true"], capture_output=True, check=False).returncode == 0


def draw(folder: Path, count: int) -> Path:
    folder.mkdir()
    random = Random(5)
    for number in range(count):
        paint(sample_scene(random, 1 + number % 3), random).save(folder / f"{number:03}.png")
    (folder / "200.png").write_bytes(b"no picture")
    return folder


@pytest.mark.cluster
@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: make test-cluster")
@pytest.mark.skipif(not has_network_of_its_own(), reason="needs a network of its own (unshare -n)")
def test_every_item_is_answered_once_whatever_befalls_the_cluster(run: Callable[..., Run], tmp_path: Path) -> None:
    folder, rows = draw(tmp_path / "in", 400), tmp_path / "rows.jsonl"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_TMPDIR": os.environ["IDEFICS_RUNTIME_DIR"]}
    seen = subprocess.run(
        [*NETWORK, sys.executable, str(SCENARIO), str(folder), str(rows)],
        env=environment,
        cwd=SCENARIO.parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.returncode == 0, seen.stderr[-3000:]
    said = json.loads(seen.stdout.splitlines()[-1])
    assert said["workers"] == 2
    assert "went away; others get its requests" in said["first"]
    assert "is shutting down; it gets no more work" in said["first"]
    assert 160 <= said["rows"] < 400
    assert said["code"] == 1, said["second"]
    assert (said["stopped"], "interrupted" in said["third"]) == (130, True), said["third"]
    assert 8 <= said["other"] < 400
    alone = run("caption", folder, "--model", "shapes", "--format", "jsonl")
    assert untimed(rows.read_text()) == untimed(alone.stdout)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cluster", "ray://head:10001"), "takes no ray:// address"),
        (("--cluster", "somewhere"), "is no address; write auto, or HOST:PORT"),
        (("--cluster", "auto", "--per-worker", "2"), "write gpu=1, gpu=0.5 or cpu=4"),
        (("--cluster", "auto", "--devices", "cpu:2"), "--cluster and --devices cannot be combined"),
        (("--shared-paths",), "--shared-paths needs --cluster"),
        (("--cluster", "auto", "--stream"), "does not stream"),
    ],
)
def test_what_cannot_be_meant_is_told(
    run: Callable[..., Run], red_circle: Path, words: tuple[str, ...], said: str
) -> None:
    result = run("caption", red_circle, "--model", "shapes", *words)
    assert (result.code, said in result.stderr) == (2, True), result.stderr
