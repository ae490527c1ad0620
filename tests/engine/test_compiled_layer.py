"""`--compile`: answers stay those of the full prompt alone, two programs serve any rows, and they are kept on disk."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch._dynamo.utils import counters
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from idefics_cli.backends import close_backends
from idefics_cli.bench.launches import count_launches
from idefics_cli.engine import compiled_layer
from idefics_cli.engine.engine import Engine
from idefics_cli.engine.oom_retry import Done
from tests.engine.oracle import opened, run_all
from tests.engine.test_flow import expected, work_of
from tests.models.test_others import opened as opened_other
from tests.program import run_program
from tests.test_way import CIRCLE


def has_compiler() -> bool:
    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")


@needs_compiler
@pytest.mark.parametrize("kind", ["idefics", "idefics2"])  # heads with keys of their own, and with shared ones
def test_answers_are_those_of_full_prompts_by_two_programs(kind: str) -> None:
    family, model = opened(kind)
    counters.clear()
    engine = Engine(model, family, compiles=True)
    cases = [(index % 16, 0, 1 + 5 * index % 40) for index in range(24)]
    for rows in (1, 7):
        works = [work_of(kind, case) for case in cases]
        done = run_all(engine, works, rows=rows)
        made = [one.outcome.generation for one in done if isinstance(one, Done)]
        assert made == [expected(kind, case) for case in cases]
    assert counters["stats"]["unique_graphs"] == len(compiled_layer.SAMPLE_ROWS)
    with count_launches("cpu") as counts:
        (one,) = run_all(engine, [work_of(kind, cases[7])], rows=1)
    assert isinstance(one, Done)
    assert one.outcome.generation == expected(kind, cases[7])
    assert counts.operators > counts.reads > 0
    assert compiled_layer._matrices
    del engine
    gc.collect()
    assert not compiled_layer._matrices


@needs_compiler
def test_what_was_compiled_is_kept_in_the_cache_of_the_user() -> None:
    question = ("caption", CIRCLE, "--model", "shapes", "--no-server")
    plain, compiled = run_program(*question), run_program(*question, "--compile")
    assert (compiled.code, compiled.stdout, compiled.stderr) == (0, plain.stdout, plain.stderr)
    assert list(Path(os.environ["IDEFICS_CACHE_DIR"], "compiled").rglob("*.so"))


def test_where_nothing_can_be_kept_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    close_backends()
    monkeypatch.setenv("IDEFICS_CACHE_DIR", "/dev/null/cache")
    run = run_program("caption", CIRCLE, "--model", "shapes", "--no-server", "--compile")
    assert (run.code, run.stdout) == (3, "")
    assert run.stderr == (
        "idefics: error: cannot write /dev/null/cache/compiled: Not a directory; "
        "set IDEFICS_CACHE_DIR, or leave out --compile\n"
    )


def test_without_a_compiler_it_says_what_is_missing(tmp_path: Path) -> None:
    asked = ("caption", str(CIRCLE), "--model", "shapes", "--no-server", "--compile")
    run = subprocess.run(
        [sys.executable, "-m", "idefics_cli", *asked],
        env=os.environ | {"CXX": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 3
    assert "cannot be compiled" in run.stderr
    assert "--compile needs a C++ compiler" in run.stderr
    assert run.stderr.count("\n") == 1


def test_an_architecture_that_its_own_forward_runs_says_that_nothing_is_compiled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    family, model = opened_other("gemma3")
    Engine(model, family, compiles=True)
    assert "--compile changes nothing: gemma3 is run by its own forward" in caplog.text
