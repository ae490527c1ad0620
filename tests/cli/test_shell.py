"""What only a real process shows: signals, pipes, locales, start-up."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idefics_cli.cli.app import COMMANDS

ROOT = Path(__file__).parents[2]
INNER = (
    *(f"models {one}" for one in ("list", "info", "pull", "remove")),
    *(f"templates {one}" for one in ("list", "show", "check")),
)
SCRIPTED = """
import sys
sys.path.insert(0, {root!r})
import time
from idefics_cli.cli.app import main
from idefics_cli.cli.ask import open_with
from tests.scripted import ScriptedBackend
def reply(request):
    if {wait!r}:
        print("waiting", file=sys.stderr, flush=True)
        time.sleep({wait!r})
    return " A red circle."
open_with.set(ScriptedBackend(reply).open)
main()
"""


def scripted(wait: float = 0) -> list[str]:
    return [sys.executable, "-c", SCRIPTED.format(root=str(ROOT), wait=wait)]


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    program = """
import sys
from idefics_cli.cli.app import COMMANDS, execute
for command in ("", *COMMANDS, *sys.argv[1:]):
    assert execute([*command.split(), "--help"]) == 0
heavy = {"torch", "transformers", "huggingface_hub", "PIL", "yaml", "numpy", "httpx2", "tokenizers", "prompt_toolkit"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", program, *INNER], capture_output=True, text=True, check=True)
    assert result.stderr == "[]\n"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-m", "idefics_cli", "--help"], capture_output=True, check=True, cwd=ROOT)
    # Processor time, which a busy machine hardly changes; 0.25 s where this was written.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.0


@pytest.mark.slow
def test_every_help_takes_at_most_three_tenths_of_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its bytecode on disk, as after the first run of an installed program; the quickest of seven runs."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    seconds: dict[str, list[float]] = {}
    for _ in range(8):
        for command in ("", *COMMANDS, *INNER):
            before = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "idefics_cli", *command.split(), "--help"],
                stdout=subprocess.DEVNULL,
                check=True,
                cwd=ROOT,
            )
            seconds.setdefault(command, []).append(time.perf_counter() - before)
    best = {command: min(runs[1:]) for command, runs in seconds.items()}
    sys.stdout.write("".join(f"\n{f'idefics {command} --help':<32}{took:.3f} s" for command, took in best.items()))
    assert max(best.values()) <= 0.3


def test_a_closed_pipe_ends_quietly(red_circle: Path) -> None:
    command = [*scripted(), "caption", *[str(red_circle)] * 200, "--model", "idefics-9b", "--batch-size", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(20) == 0
    process.stderr.close()


def test_an_interrupt_exits_130_without_a_traceback(red_circle: Path) -> None:
    command = [*scripted(wait=30), "caption", str(red_circle), "--model", "idefics-9b"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are a thing of Linux")
def test_any_locale_and_any_file_name(red_circle: Path) -> None:
    odd = os.fsencode(red_circle.parent) + b"/\xff\xc3\xa9.png"
    Path(os.fsdecode(odd)).write_bytes(red_circle.read_bytes())
    command: list[str | bytes] = [*scripted(), "vqa", odd, "-q", "où?", "-q", "b?", "--model", "idefics-9b"]
    environment = {**os.environ, "LC_ALL": "C"}
    result = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert result.stdout.startswith(odd + "\toù?\tA red circle.\n".encode())
    row = subprocess.run([*command, "--format=jsonl"], capture_output=True, env=environment, check=True).stdout
    assert b"path_b64" in row
    row.decode("utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(red_circle: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*scripted(), "caption", str(red_circle), "--model", "idefics-9b"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("idefics: error: cannot write to standard output")
