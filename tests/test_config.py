"""Names of models, the hub cache, and the user's own folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from idefics_cli import config
from idefics_cli.errors import ModelError, UsageError
from idefics_cli.models.families import FAMILIES, TEMPLATED
from tests.program import Run


def write_models(text: str) -> Path:
    path = config.user_folder() / "models.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_named_checkpoint_is_of_a_known_architecture() -> None:
    models = config.load_models()
    assert {"idefics-9b", "idefics-80b-instruct", "idefics2", "idefics3", "smolvlm-256m", "shapes"} <= set(models)
    assert {entry.architecture for entry in models.values()} <= {*FAMILIES, *TEMPLATED}
    assert all(entry.style for entry in models.values())
    own = [entry for entry in models.values() if entry.parameters is None and entry.repo]
    pins = {entry.repo: entry.revision for entry in own if entry.repo != "HuggingFaceTB/SmolVLM2-2.2B-Instruct"}
    assert all(re.fullmatch("[0-9a-f]{40}", pin or "") for pin in pins.values()), pins
    assert len(set(pins.values())) == len(pins) == 11


def test_a_name_a_hub_id_and_a_folder_are_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.resolve_model("smolvlm").checkpoint == "HuggingFaceTB/SmolVLM-Instruct"
    known = config.resolve_model("HuggingFaceM4/idefics-9b")
    assert known.entry is not None
    assert known.entry.style == "completion"
    assert config.resolve_model("some-mirror/idefics-9b") == config.Model(
        "some-mirror/idefics-9b", "some-mirror/idefics-9b"
    )
    assert config.resolve_model(str(tmp_path)).checkpoint == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.resolve_model("~").checkpoint == str(tmp_path)
    shapes = config.resolve_model("shapes")
    assert shapes.checkpoint == str(config.PACKAGE / "shapes" / "checkpoint")


@pytest.mark.parametrize(("name", "hint"), [("idefic2", "idefics2"), ("qqq", "known"), ("./nowhere", "not a folder")])
def test_an_unknown_model_names_the_near_ones(name: str, hint: str) -> None:
    with pytest.raises(ModelError, match=hint):
        config.resolve_model(name)


def test_nothing_downloaded_says_how_to_name_a_model(run: Callable[..., Run], red_circle: Path) -> None:
    result = run("caption", red_circle)
    assert result.code == 3
    assert "--model shapes" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_users_models_come_first_and_folders_are_relative_to_the_file() -> None:
    write_models("mine: {folder: checkpoints/mine, architecture: idefics, style: chat}\n")
    models = config.load_models()
    assert next(iter(models)) == "mine"
    assert models["mine"].folder == str(config.user_folder() / "checkpoints" / "mine")
    assert "smolvlm" in models


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mine: {repo: a/b, architecture: idefics, colour: red}", "colour"),
        ("mine: {architecture: idefics}", "either repo or folder"),
        ("mine: {repo: a/b, architecture: idefics, style: verse}", "style"),
        ("mine: {repo: a/b, architecture: idefics, languages: en}", "languages"),
        ("mine: {repo: a/b, architecture: idefics, config: 9}", "config"),
        ("- mine", "the file must be an object"),
        ("mine: [", "line"),
    ],
)
def test_a_mistake_in_models_yaml_is_one_line(text: str, reason: str) -> None:
    path = write_models(text + "\n")
    with pytest.raises(UsageError, match=reason) as caught:
        config.load_models()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hub_cache_is_where_huggingface_hub_has_it(tmp_path: Path) -> None:
    assert config.hub_cache() == Path(os.environ["HF_HOME"]) / "hub"
    os.environ["HF_HUB_CACHE"] = str(tmp_path)
    assert config.hub_cache() == tmp_path


def test_a_user_or_a_folder_that_is_not_to_be_had_is_one_line(
    run: Callable[..., Run], red_circle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value, command in (
        ("IDEFICS_CONFIG_DIR", "~nobody-here/x", ("models", "list")),
        ("IDEFICS_CACHE_DIR", "~nobody-here/x", ("doctor",)),
        ("HF_HOME", "~nobody-here/x", ("models", "list")),
        ("IDEFICS_RUNTIME_DIR", "~nobody-here/x", ("serve", "--status")),
        ("IDEFICS_CONFIG_DIR", "/x" * 3000, ("models", "list")),
        ("IDEFICS_CONFIG_DIR", "/x" * 3000, ("caption", str(red_circle), "--model", "shapes", "--dry-run")),
        ("IDEFICS_MODEL", "~nobody-here/x", ("caption", str(red_circle))),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            result = run(*command)
        errors = [line for line in result.stderr.splitlines() if "error" in line]
        assert (result.code, len(errors)) == (2, 1), (name, command, result)
        assert "~nobody-here/x" in errors[0] or "File name too long" in errors[0]


def test_a_key_that_is_there_twice_is_refused(run: Callable[..., Run]) -> None:
    write_models("mine: {architecture: idefics2, repo: a/b}\nmine: {architecture: idefics2, repo: c/d}\n")
    result = run("models", "list")
    assert (result.code, len(result.stderr.splitlines())) == (2, 1)
    assert "models.yaml line 2 is not valid YAML: the key 'mine' is given twice" in result.stderr
