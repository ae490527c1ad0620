"""What is downloaded, told from the layout of the hub's cache alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from idefics_cli.config import hub_cache, resolve_model
from idefics_cli.errors import ModelError
from idefics_cli.files import count_folder_bytes
from idefics_cli.models.hub.cache import (
    INDEX,
    find_commit,
    find_folder,
    find_revision,
    is_downloaded,
    list_repos,
    remove_repo,
    repo_folder,
)
from idefics_cli.models.hub.catalog import describe, list_catalog

REPO = "HuggingFaceM4/idefics2-8b"
SETTINGS = ("config.json", "tokenizer.json", "preprocessor_config.json")


def store(repo: str, *files: str, index: object = None, config: object = None) -> Path:
    """A snapshot as huggingface_hub leaves it, with files of two bytes."""
    root = repo_folder(repo)
    snapshot = root / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("c0ffee")
    for file in files:
        (snapshot / file).write_text("{}")
    if index is not None:
        (snapshot / INDEX).write_text(json.dumps(index))
    if config is not None:
        (snapshot / "config.json").write_text(json.dumps(config))
    return snapshot


def test_a_download_is_whole_when_every_file_of_its_weights_is_there() -> None:
    assert not is_downloaded(REPO)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    snapshot = store(REPO, *SETTINGS, "a.safetensors", index=index)
    assert not is_downloaded(REPO)
    (snapshot / "b.safetensors").write_text("")
    assert is_downloaded(REPO)
    assert is_downloaded(REPO, "c0ffee")
    assert find_commit(REPO) == find_commit(REPO, "c0ffee") == "c0ffee"
    assert not is_downloaded(REPO, "other")
    (snapshot / "tokenizer.json").unlink()
    assert not is_downloaded(REPO)


def test_a_pinned_commit_is_meant_unless_only_main_is_here() -> None:
    model = resolve_model("idefics2")
    assert model.entry is not None
    pinned = model.entry.revision
    assert pinned is not None
    assert find_revision(model) == pinned
    store(model.checkpoint, *SETTINGS, "model.safetensors", config={"model_type": "idefics2"})
    assert find_revision(model) is None
    assert describe(model).is_downloaded
    snapshot = repo_folder(model.checkpoint) / "snapshots" / pinned
    snapshot.mkdir()
    (snapshot / "config.json").write_text(json.dumps({"model_type": "idefics2"}))
    assert find_revision(model) == pinned
    assert not describe(model).is_downloaded


@pytest.mark.parametrize("index", [[], {"weight_map": 3}, {"weight_map": {"x": 3}}, {}, {"weight_map": {}}], ids=str)
def test_an_index_that_is_none_is_no_download(index: object) -> None:
    store(REPO, *SETTINGS, "model.safetensors", index=index)
    assert not is_downloaded(REPO)


def test_a_folder_is_its_own_snapshot(tmp_path: Path) -> None:
    assert find_folder(str(tmp_path)) is None
    (tmp_path / "config.json").write_text("{}")
    assert find_folder(str(tmp_path)) == tmp_path
    assert find_commit(str(tmp_path)) is None
    assert not is_downloaded(str(tmp_path)), "nothing was downloaded"


def test_the_catalog_knows_what_is_in_the_cache() -> None:
    assert not any(listing.is_downloaded for listing in list_catalog() if listing.model.name != "shapes")
    store(REPO, *SETTINGS, "model.safetensors", config={"model_type": "idefics2"})
    store("other/copy", *SETTINGS, "model.safetensors", config={"model_type": "idefics"})
    store("other/words", *SETTINGS, "model.safetensors", config={"model_type": "bert"})
    assert list_repos() == [REPO, "other/copy", "other/words"]
    listings = {listing.model.name: listing for listing in list_catalog()}
    assert listings["idefics2"].is_downloaded
    assert listings["idefics2"].disk_bytes == count_folder_bytes(hub_cache() / "models--HuggingFaceM4--idefics2-8b")
    assert listings["other/copy"].is_downloaded
    assert listings["other/copy"].dimensions is not None
    assert "other/words" not in listings
    assert not listings["smolvlm"].is_downloaded
    assert listings["smolvlm"].dimensions is not None


def test_a_removed_repository_is_gone_with_its_locks() -> None:
    store(REPO, *SETTINGS)
    (hub_cache() / ".locks" / repo_folder(REPO).name).mkdir(parents=True)
    size = count_folder_bytes(repo_folder(REPO))
    assert remove_repo(REPO) == size > 0
    assert list_repos() == []
    assert not any((hub_cache() / ".locks").iterdir())
    with pytest.raises(ModelError, match="cannot remove"):
        remove_repo(REPO)


def test_a_broken_config_is_one_line() -> None:
    snapshot = store(REPO, *SETTINGS)
    for text in ("{", "[]", "[" * 100_000):
        (snapshot / "config.json").write_text(text)
        with pytest.raises(ModelError, match="download it again") as caught:
            describe(resolve_model("idefics2"))
        assert "\n" not in str(caught.value)
