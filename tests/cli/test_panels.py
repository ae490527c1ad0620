"""What follows from the declaration of an option, shown with one that the program does not have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

from idefics_cli.backends.daemon.runtime_dir import identify
from idefics_cli.serve.daemon_routes import describe_difference
from idefics_cli.values import ModelSpec
from tests.scripted_program import ROOT

MADE_UP = """
import json, os, sys
from dataclasses import dataclass
from typing import Annotated

import idefics_cli.cli.options as options
from idefics_cli.cli.declare import WEIGHTS, Fact, option


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(options.ModelOptions):
    zoom: Annotated[int | None, option("--zoom", panel="Model", min=1, help="Made up."), WEIGHTS | Fact.RUN] = None


options.PANELS = (ModelOptions, *options.PANELS[1:])
options.ModelOptions = ModelOptions

from idefics_cli.cli.app import execute
from idefics_cli.cli.ask import open_with
from tests.scripted import ScriptedBackend

backend = ScriptedBackend()
if "--real" not in sys.argv:
    open_with.set(backend.open)
lines = [[]]
for word in sys.argv[1:]:
    lines.append([]) if word == ";" else word != "--real" and lines[-1].append(word)
code = max(execute(line) for line in lines if line)
print(json.dumps(dict(backend.spec.others)))
sys.exit(code)
"""


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MADE_UP, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def zoom(done: subprocess.CompletedProcess[str]) -> int | None:
    assert done.returncode == 0, done.stderr
    found: int | None = json.loads(done.stdout.splitlines()[-1]).get("zoom")
    return found


def test_a_new_option_of_a_panel_is_in_every_command_that_takes_the_panel() -> None:
    every = ("caption", "vqa", "batch", "chat", "serve", "bench")
    helped = run(*chain.from_iterable((name, "--help", ";") for name in every))
    assert helped.stdout.count("--zoom") == len(every)


def test_a_new_option_has_a_flag_a_variable_and_a_key_and_reaches_the_spec(red_circle: Path) -> None:
    words = ("caption", red_circle, "--model", "idefics-9b")
    assert zoom(run(*words)) is None
    folder = Path(os.environ["IDEFICS_CONFIG_DIR"])
    folder.mkdir()
    (folder / "config.yaml").write_text("zoom: 2\n")
    assert zoom(run(*words)) == 2
    assert zoom(run(*words, IDEFICS_ZOOM="3")) == 3
    assert zoom(run(*words, "--zoom", "4", IDEFICS_ZOOM="3")) == 4
    assert "IDEFICS_ZOOM: " in run(*words, IDEFICS_ZOOM="0").stderr


def test_rows_made_with_another_value_are_of_another_run(red_circle: Path, tmp_path: Path) -> None:
    words = ("caption", red_circle, "--model", "idefics-9b", "-o", tmp_path / "rows.jsonl", "--zoom")
    assert run(*words, "2").returncode == 0
    assert run(*words, "2").returncode == 0
    other = run(*words, "3")
    assert (other.returncode, "options of the model" in other.stderr) == (2, True)


def test_a_server_of_somebody_else_cannot_be_told(red_circle: Path) -> None:
    done = run("caption", red_circle, "--server", "http://127.0.0.1:9", "--zoom", "2")
    assert (done.returncode, "--zoom cannot be set on a server" in done.stderr) == (2, True)


def test_a_server_of_ours_is_started_with_it(red_circle: Path, tmp_path: Path) -> None:
    done = run("--real", "caption", red_circle, "--model", tmp_path, "--keep-alive", "60s", "--zoom", "2")
    # The server is the program as it is, which has no such option: that it was told is all there is to see.
    assert "the server did not start" in done.stderr
    assert "No such option: --zoom" in done.stderr


def test_a_server_of_ours_must_agree(tmp_path: Path) -> None:
    specs = [ModelSpec(str(tmp_path), others=(("zoom", zoom),)) for zoom in (2, 2, 3)]
    own, same, other = map(identify, specs)
    assert (own, describe_difference(own, same)) == (same, "")
    assert describe_difference(own, other) == "loaded with another zoom"
