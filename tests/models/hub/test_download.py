"""Downloads from a real hub on this machine: what is fetched, gone on with, refused, and then never asked for again."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.config import hub_cache
from idefics_cli.models.hub.cache import is_downloaded, repo_folder
from idefics_cli.models.quantization.entries import list_entries
from tests.hub import COMMIT, Hub, Repo, open_hub, run_lines
from tests.models.tiny import checkpoint

REPO = "someone/tiny-idefics2"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = Path(shutil.copytree(checkpoint("idefics2"), tmp_path / "tiny"))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / "README.md").write_text("words")
    with open_hub() as hub:
        hub.repos[REPO] = Repo(folder)
        yield hub


def fetched(hub: Hub) -> list[str]:
    return [path.rsplit("/", 1)[1] for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]


def test_a_checkpoint_is_fetched_once_and_then_used_without_the_network(hub: Hub, red_circle: Path) -> None:
    (pull,) = run_lines(hub.url, ["models", "pull", REPO], HF_TOKEN="hf_secret")
    assert pull.code == 0
    assert len(pull.stderr.splitlines()) == 2
    assert COMMIT[:12] in pull.stderr
    names = fetched(hub)
    assert len(names) == len(set(names)), "every file once"
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= set(names)
    assert not any(name.endswith((".bin", ".md")) for name in names)
    assert all(headers["authorization"] == "Bearer hf_secret" for _, path, headers in hub.asked if REPO in path)
    assert is_downloaded(REPO)

    hub.asked.clear()
    ask = ["vqa", str(red_circle), "-q", "What is it?", "--max-new-tokens", "3", "--format", "jsonl"]
    answer, pinned, shown, removed = run_lines(
        hub.url,
        [*ask, "--model", REPO],
        [*ask, "--revision", COMMIT, "--model", REPO],
        ["models", "list", "--format", "jsonl"],
        ["models", "remove", REPO, "--yes"],
    )
    assert hub.asked == []
    assert (answer.code, pinned.code) == (0, 0)
    rows = [json.loads(one.stdout) for one in (answer, pinned)]
    assert {row["revision"] for row in rows} == {COMMIT}
    assert len({row["text"] for row in rows}) == 1
    listed = {row["name"]: row for row in map(json.loads, shown.stdout.splitlines())}[REPO]
    assert listed["downloaded"]
    assert listed["disk_bytes"] > listed["weight_bytes"]["bf16"]
    assert removed.code == 0
    assert f"{listed['disk_bytes']:,} bytes freed" in removed.stderr
    assert not repo_folder(REPO).exists()
    (gone,) = run_lines(hub.url, [*ask, "--model", REPO, "--offline"])
    assert gone.code == 3
    assert "idefics models pull" in gone.stderr
    assert hub.asked == []


def test_quantized_weights_are_kept_of_a_download_and_go_with_it(hub: Hub, red_circle: Path) -> None:
    ask = ["vqa", str(red_circle), "-q", "What is it?", "--max-new-tokens", "3", "--model", REPO, "--4bit"]
    first, second, removed = run_lines(hub.url, ask, ask, ["models", "remove", REPO, "--yes"])
    assert (first.code, second.code, removed.code) == (0, 0, 0)
    assert first.stdout == second.stdout
    assert "quantized weights kept in" in first.stderr
    assert "quantized weights kept in" not in second.stderr
    assert list(list_entries()) == []


def test_a_broken_download_is_gone_on_with(hub: Hub) -> None:
    weights = random.Random(7).randbytes(25_000_000)
    (hub.repos[REPO].folder / "model.safetensors").write_bytes(weights)
    hub.break_after = 12_000_000
    (broken,) = run_lines(hub.url, ["models", "pull", REPO])
    assert broken.code == 3
    assert len(broken.stderr.splitlines()) == 2, broken.stderr
    assert not is_downloaded(REPO)
    hub.break_after = None
    hub.asked.clear()
    (pull,) = run_lines(hub.url, ["models", "pull", REPO])
    assert pull.code == 0, pull.stderr
    assert fetched(hub) == ["model.safetensors"]
    ranges = [headers["range"] for method, path, headers in hub.asked if method == "GET" and "/resolve/" in path]
    assert ranges == ["bytes=12000000-"], "what came is kept"
    assert (repo_folder(REPO) / "snapshots" / COMMIT / "model.safetensors").read_bytes() == weights
    assert not list(repo_folder(REPO).rglob("*.incomplete"))


def _alter_config(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def test_what_cannot_be_had_is_told_in_one_line(hub: Hub, tmp_path: Path) -> None:
    def copy(name: str, **settings: Any) -> Path:
        folder = Path(shutil.copytree(checkpoint("idefics2"), tmp_path / name))
        hub.repos[f"someone/{name}"] = Repo(folder, **settings)
        return folder

    copy("gated", is_gated=True)
    copy("damaged", damaged="model.safetensors")
    (pickled := copy("pickled") / "model.safetensors").rename(pickled.with_name("pytorch_model.bin"))
    (copy("bare") / "model.safetensors").unlink()
    (copy("unsettled") / "config.json").unlink()
    for name, file in (("listed-pickle", "pytorch_model.bin"), ("listed-path", "../x.safetensors")):
        (copy(name) / "pytorch_model.bin").write_bytes(b"pickle")
        index = {"weight_map": {"x": "model.safetensors", "y": file}}
        (tmp_path / name / "model.safetensors.index.json").write_text(json.dumps(index))
    _alter_config(copy("foreign"), model_type="gpt2")
    (copy("foreign-words") / "chat_template.jinja").unlink(missing_ok=True)
    _alter_config(tmp_path / "foreign-words", model_type="gpt2")
    cases = {
        ("someone/gated",): "is gated; ask for access",
        ("someone/damaged",): "arrived damaged; run the same command again",
        ("someone/pickled",): "only as pickles",
        ("someone/bare",): "lacks weights",
        ("someone/listed-pickle",): "lacks weights",
        ("someone/listed-path",): "lacks weights",
        ("someone/unsettled",): "no config.json",
        ("someone/foreign-words",): r"gpt2); known: idefics, idefics2, idefics3, smolvlm",
        ("someone/nothing",): "no checkpoint someone/nothing on the hub",
        (REPO, "--revision", "v9"): "has no revision v9",
        ("smolvm",): "did you mean smolvlm",
        ("shapes",): "a folder of this machine",
    }
    results = run_lines(hub.url, *(["models", "pull", *words] for words in cases))
    for (words, reason), result in zip(cases.items(), results, strict=True):
        assert result.code in (2, 3), words
        lines = [line for line in result.stderr.splitlines() if "downloading" not in line]
        assert len(lines) == 1, result.stderr
        assert reason in lines[0]
    assert not is_downloaded("someone/damaged")
    assert not is_downloaded("someone/listed-path")


HOSTILE_NAMES = (
    ("ETag", '"../../../../outside/authorized_keys"'),
    ("ETag", "{outside}/authorized_keys"),
    ("ETag", 'W/"..%2f..%2fauthorized_keys"'),
    ("X-Linked-ETag", "../../../../outside/authorized_keys"),
    ("X-Repo-Commit", "../../../../outside"),
    ("X-Repo-Commit", "{outside}"),
)


def test_what_a_hub_names_never_becomes_a_path_out_of_the_cache(hub: Hub, tmp_path: Path) -> None:
    """A revision's settings are enough to be asked for; also where transformers asks by itself."""
    outside = tmp_path / "outside"
    outside.mkdir()
    image = tmp_path / "x.png"
    before = sorted(tmp_path.rglob("*"))
    for number, (header, value) in enumerate(HOSTILE_NAMES):
        lie = {header: value.format(outside=outside)}
        hub.repos[f"someone/lie-{number}"] = Repo(hub.repos[REPO].folder, headers=lie)
    names = [f"someone/lie-{number}" for number in range(len(HOSTILE_NAMES))]
    pulls = [["models", "pull", name] for name in names]
    infos = [["models", "info", name] for name in names]
    asks = [["caption", str(image), "--dry-run", "--model", name] for name in names]
    results = run_lines(hub.url, *pulls, *infos, *asks)
    for result in results:
        assert (result.code, len(result.stderr.splitlines())) == (3, 1), result.stderr
        assert "names" in result.stderr
        assert "nothing was written" in result.stderr
    new = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert all(path.is_relative_to(hub_cache().parent) for path in new if path != hub_cache().parent), new
    assert not any(path.is_symlink() for path in new)


def test_an_answer_that_is_no_good_has_words_of_its_own(hub: Hub, tmp_path: Path) -> None:
    """Lists, lies, redirects and refusals: one line each, nothing outside the cache, nothing that is no good in it."""
    folder = hub.repos[REPO].folder
    git = {"ETag": f'"{"0" * 40}"'}
    cases: dict[str, tuple[Repo, str]] = {
        "list": (Repo(folder, described=[1]), "does not say what someone/list has"),
        "names-list": (Repo(folder, described={"sha": COMMIT, "siblings": [["a"]]}), "siblings.0"),
        "no-commit": (Repo(folder, described={"sha": "../x", "siblings": []}), "sha: String should match"),
        "negative": (Repo(folder, sizes={"config.json": -1}), "must be greater than or equal to 0"),
        "no-size": (Repo(folder, described={"sha": COMMIT, "siblings": [{"rfilename": "a"}]}), "is missing"),
        "smaller": (Repo(folder, sizes={"config.json": 20}), "more of config.json than 20 bytes"),
        "larger": (Repo(folder, sizes={"config.json": 10**6}), "less of config.json than the 1,000,000 bytes"),
        "huge": (Repo(folder, sizes={"config.json": 10**12}), "more than settings have"),
        "digest": (Repo(folder, damaged="config.json"), "config.json of someone/digest arrived damaged"),
        "git-digest": (Repo(folder, headers=git), "config.json of someone/git-digest arrived damaged"),
        "file": (Repo(folder, status=302, headers={"Location": "file:///etc/passwd"}), "not http"),
        "round": (Repo(folder, status=302, headers={"Location": "config.json"}), "redirects someone/round too often"),
        "forbidden": (Repo(folder, status=403), "the hub denies you access to someone/forbidden; run `hf auth login`"),
        "broken": (Repo(folder, status=400), "refused someone/broken with status 400"),
        "many-words": (Repo(folder, endless="list"), "more of the list of files of someone/many-words than 50,000,000"),
        "much": (Repo(folder, endless="config.json"), "more of config.json than"),
    }  # fmt: skip
    hub.repos |= {f"someone/{name}": repo for name, (repo, _) in cases.items()}
    results = run_lines(hub.url, *(["models", "info", f"someone/{name}"] for name in cases))
    for (name, (_, reason)), result in zip(cases.items(), results, strict=True):
        assert (result.code, len(result.stderr.splitlines())) == (3, 1), (name, result.stderr)
        assert reason in result.stderr, name
        assert not list(repo_folder(f"someone/{name}").glob("blobs/*[!e]")), name
        assert not list(repo_folder(f"someone/{name}").glob("snapshots/*/*")), name


def test_a_hub_that_drips_is_left(hub: Hub) -> None:
    folder = hub.repos[REPO].folder
    kinds = ("list header", "slow config.json")
    hub.repos |= {f"someone/drip-{number}": Repo(folder, endless=kind) for number, kind in enumerate(kinds)}
    began = time.monotonic()
    commands = [["models", "info", f"someone/drip-{number}"] for number in range(len(kinds))]
    for result in run_lines(hub.url, *commands, HF_HUB_DOWNLOAD_TIMEOUT="1"):
        assert (result.code, len(result.stderr.splitlines())) == (3, 1), result.stderr
        assert "too slowly" in result.stderr
    assert time.monotonic() - began < 60


def test_no_network_is_told_in_one_line() -> None:
    with open_hub() as hub:
        url = hub.url
    for result in run_lines(url, ["models", "pull", "smolvlm"], ["models", "info", "someone/else"]):
        assert result.code == 3
        assert "the hub cannot be reached" in result.stderr
        # Nobody is told to run what just failed.
        assert ("HF_ENDPOINT" in result.stderr) or ("--model shapes" in result.stderr)
        assert "`idefics models pull smolvlm`" not in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_full_disk_is_told_in_one_line(hub: Hub) -> None:
    """A quota: the disk has room, but the weights may not be written."""
    (result,) = run_lines(hub.url, ["models", "pull", REPO], limit=60_000)
    assert result.code == 3
    assert "the disk is full" in result.stderr.splitlines()[-1]
    assert "HF_HOME" in result.stderr
    assert not is_downloaded(REPO)


def test_room_is_looked_for_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (result,) = run_lines(hub.url, ["models", "pull", REPO], HF_HOME=str(disk))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert result.code == 3
    assert "kB free; free some space" in result.stderr
    assert "model.safetensors" not in fetched(hub)


def test_a_cache_that_cannot_be_written_is_told_in_one_line(hub: Hub, tmp_path: Path, red_circle: Path) -> None:
    (tmp_path / "file").write_text("")
    os.environ["HF_HOME"] = str(tmp_path / "file")
    results = run_lines(
        hub.url, ["models", "pull", REPO], ["caption", str(red_circle), "--model", REPO], ["models", "list"]
    )
    assert [result.code for result in results] == [3, 3, 0]
    for result in results[:2]:
        assert f"cannot write to the cache {hub_cache()}" in result.stderr.splitlines()[-1]
        assert len(result.stderr.splitlines()) == 1


def test_auto_fetches_what_fits_and_says_so(hub: Hub, tmp_path: Path, red_circle: Path) -> None:
    """An entry of the user's own comes first; it is small enough for any machine."""
    config = json.loads((hub.repos[REPO].folder / "config.json").read_text())
    models = Path(os.environ["IDEFICS_CONFIG_DIR"]) / "models.yaml"
    models.parent.mkdir(parents=True)
    models.write_text(json.dumps({"mine": {"repo": REPO, "architecture": "idefics2", "config": config}}))
    ask = ["vqa", str(red_circle), "-q", "What is it?", "--max-new-tokens", "3"]
    dry, first, again, offline = run_lines(
        hub.url, [*ask, "--dry-run"], ask, [*ask, "--model", "auto"], [*ask, "--offline"]
    )
    assert "using mine" in dry.stderr
    assert (first.code, again.code, offline.code) == (0, 0, 0)
    assert "no downloaded model fits; downloading mine, fp32 in RAM" in first.stderr
    assert "the best that is downloaded and fits" in again.stderr
    assert first.stdout == again.stdout == offline.stdout
    assert fetched(hub).count("model.safetensors") == 1
