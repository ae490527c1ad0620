"""`idefics doctor`: sound here, broken where something is, and never a secret told."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import pytest

from idefics_cli.config import PACKAGE, user_folder
from idefics_cli.doctor import answers, machine
from tests.program import Run
from tests.site import Page, open_site

MODELS = ["model, float32", "model, bfloat16", "model, 4bit", "model, 8bit", "model, int8"]


def checks_of(result: Run) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_this_machine_answers_rightly_in_every_precision(run: Callable[..., Run]) -> None:
    result = run("doctor", "--json", "--offline")
    assert result.code == 0, result.stdout
    assert json.loads(result.stdout)["is_sound"] is True
    checks = checks_of(result)
    assert [name for name in checks if name.startswith("model")] == MODELS
    assert checks["network"]["state"] == "skipped"
    whole = (PACKAGE / "shapes" / "checkpoint" / "model.safetensors").stat().st_size
    for name in MODELS[:4] if find_spec("optimum") is None else MODELS:
        values = checks[name]["values"]
        assert values["right"] == values["asked"] == 3
        assert (values["quantized_modules"] == 56) == ("bit" in name or "int8" in name)
        assert 0.9 < values["weights_bytes"] / whole < 2.1
    assert checks["model, float32"]["values"]["weights_bytes"] == pytest.approx(2 * whole, rel=0.01)


def test_each_check_is_one_line(run: Callable[..., Run]) -> None:
    result = run("doctor", "--quick", "--offline")
    assert (result.code, result.stderr) == (0, "")
    names = [line.split()[1] for line in result.stdout.splitlines()]
    assert names == [
        "versions",
        "devices",
        "memory",
        "caches",
        "disk",
        "settings",
        "token",
        "network",
        "model",
    ]


def test_a_wrong_answer_is_broken_and_exits_1(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = answers.KnownQuestion("caption", "red-circle.png", "A photo of a cat.")
    monkeypatch.setattr(answers, "PROBES", (wrong,))
    monkeypatch.setattr(answers, "PRECISIONS", answers.PRECISIONS[:1])
    result = run("doctor", "--offline")
    assert result.code == 1
    assert (
        "broken   model, float32   red-circle.png is answered 'A red circle on a white background.', not"
        in result.stdout
    )


def test_what_cannot_run_is_broken_and_what_is_missing_is_skipped(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = answers.PrecisionCheck("int8", quantization="int8", needs="no_such.package", hint="pip install it")
    monkeypatch.setattr(answers, "PRECISIONS", (answers.PRECISIONS[0], missing))
    result = run("doctor", "--offline", "--device", "cuda:99")
    assert result.code == 1
    assert "broken   model, float32   no CUDA GPU here; use --device auto or cpu" in result.stdout
    assert "skipped  model, int8      no_such.package is not installed; pip install it" in result.stdout


def test_a_token_is_seen_and_not_shown(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no token" in run("doctor", "--quick", "--offline").stdout
    monkeypatch.setenv("HF_TOKEN", "hf_topsecret")
    for words in (("--json",), ()):
        result = run("doctor", "--quick", "--offline", *words)
        assert "there is a token" in result.stdout
        assert "topsecret" not in result.stdout


def test_the_network_is_asked_once_and_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Page, "do_HEAD", Page.do_GET, raising=False)
    with open_site() as site:
        site.serve("/", (200, {}, b""), (503, {}, b""))
        monkeypatch.setenv("HF_ENDPOINT", site.url(""))
        assert machine.check_network(is_offline=False).state == "ok"
        assert len(site.asked) == 1
        assert machine.check_network(is_offline=False).hint == "try again later"
    check = machine.check_network(is_offline=False)
    assert (check.state, "cannot be reached" in check.text) == ("hint", True)
    monkeypatch.setenv("HF_ENDPOINT", "http://[nonsense")
    assert machine.check_network(is_offline=False).state == "hint"


def test_a_broken_template_and_an_old_library_are_named(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = user_folder() / "templates"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("name: [")
    old = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "4.0" if name == "transformers" else old(name))
    result = run("doctor", "--quick", "--offline")
    assert result.code == 1
    assert "broken   versions         transformers 4.0 is not" in result.stdout
    assert "broken   settings" in result.stdout
    assert "mine.yaml" in result.stdout
