"""Folders that nobody honest made: one line, soon, before anything is built of them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.config import PACKAGE
from idefics_cli.models.folder_check import check_checkpoint
from idefics_cli.models.loading import open_family
from idefics_cli.models.settings_check import backtracks
from tests.models.folder_loads import Opener, opening
from tests.models.test_chat_template import llava
from tests.models.tiny import KINDS, checkpoint, user
from tests.rivals import count_rivals

SECONDS, MORE_BYTES = 10.0, 500_000_000
"""What a folder that is refused may take, on a machine that has nothing else to do, beyond an honest one."""
CONFIG, IMAGES, TOKENIZER = "config.json", "processor_config.json", "tokenizer.json"
Damage = Callable[[Path], None]


def put(name: str, *place: str | int, to: Any) -> Damage:
    """Set a value of a file of settings."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        inner = content
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = to
        (folder / name).write_text(json.dumps(content))

    return damage


def write(name: str, text: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text)

    return damage


def link(name: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return damage


def swell(folder: Path) -> None:
    words = ",".join(f'"w{number}":{number}' for number in range(1_500_000))
    (folder / TOKENIZER).write_text(f'{{"model":{{"type":"BPE","vocab":{{{words}}},"merges":[]}}}}')


DAMAGES: dict[str, tuple[Damage, str]] = {
    "a million layers": (put(CONFIG, "text_config", "num_hidden_layers", to=1_000_000), "num_hidden_layers"),
    "more layers than tensors": (put(CONFIG, "text_config", "num_hidden_layers", to=900), "tensors"),
    "more words than weights": (put(CONFIG, "text_config", "vocab_size", to=1_000_000), "weights"),
    "a wide model": (put(CONFIG, "text_config", "hidden_size", to=10**9), "hidden_size"),
    "an absurd image": (put(CONFIG, "vision_config", "image_size", to=10**9), "image_size"),
    "no heads": (put(CONFIG, "text_config", "num_attention_heads", to=0), "num_attention_heads"),
    "no patch": (put(CONFIG, "vision_config", "patch_size", to=0), "patch_size"),
    "no scale": (put(CONFIG, "scale_factor", to=0), "scale_factor"),
    "a text for a number": (put(CONFIG, "vision_config", "num_hidden_layers", to="two"), "not a number"),
    "a list for an object": (put(CONFIG, "vision_config", to=[1]), "not an object"),
    "a list": (write(CONFIG, "[]"), "not an object"),
    "labels without end": (put(CONFIG, "num_labels", to=10**9), "num_labels"),
    "a foreign kernel": (put(CONFIG, "_attn_implementation", to="org/kernel"), "no code is downloaded"),
    "a foreign kernel within": (
        put(CONFIG, "text_config", "attn_implementation", to={"": "org/kernel"}),
        "no code is downloaded",
    ),
    "levels": (write(CONFIG, '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "nested"),
    "forty levels": (write(IMAGES, '{"a":' + "[" * 40 + "]" * 40 + "}"), "nested"),
    "many objects": (write(IMAGES, '{"a":[' + "[]," * 2_000_000 + "[]]}"), "too many values"),
    "a large file": (write(IMAGES, '{"a":"' + "a" * 11_000_000 + '"}'), "more than"),
    "a negative size": (put(IMAGES, "image_processor", "size", "longest_edge", to=-5), "longest_edge"),
    "a size of tiles": (put(IMAGES, "image_processor", "max_image_size", to={"longest_edge": 1}), "tiles"),
    "a deviation of 0": (put(IMAGES, "image_processor", "image_std", to=[0, 1, 1]), "image_std"),
    "tokens without end": (put(IMAGES, "image_seq_len", to=10**9), "image_seq_len"),
    "special tokens in a list": (write("special_tokens_map.json", "[]"), "not an object"),
    "an adapter": (write("adapter_config.json", "{}"), "adapter"),
    "a vocabulary": (swell, "more than 1,200,000 words"),
    "a slow pattern": (
        put(
            TOKENIZER,
            "pre_tokenizer",
            to={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"},
        ),
        "may never finish",
    ),
    "a tokenizer that swells": (
        put(
            TOKENIZER,
            "normalizer",
            to={
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40,
            },
        ),
        "long texts",
    ),
    "padding without end": (
        put(TOKENIZER, "padding", to={"strategy": {"Fixed": 10**12}}),
        "Fixed",
    ),
    "a tokenizer from elsewhere": (
        put("tokenizer_config.json", "tokenizer_file", to="/etc/passwd"),
        "/etc/passwd",
    ),
    "an index of elsewhere": (
        write("model.safetensors.index.json", '{"weight_map": {"a": "/etc/passwd"}}'),
        "/etc/passwd",
    ),
    "an index upwards": (
        write("model.safetensors.index.json", '{"weight_map": {"a": "../a.safetensors"}}'),
        r"\.\./a",
    ),
    "an index of lists": (write("model.safetensors.index.json", '{"weight_map": []}'), "not an index"),
    "a link out of it": (link("generation_config.json", "/etc/hostname"), "out of the folder"),
    "a pipe": (lambda folder: os.mkfifo(folder / "added_tokens.json"), "named pipe"),
}


@pytest.fixture(scope="module")
def opener() -> Iterator[tuple[Opener, int]]:
    """A process that opens folders, and the most that honest ones made it hold."""
    with opening() as one:
        one.open(checkpoint("idefics3"), loads=True)
        yield one, one.open(llava_folder(), loads=True).peak_bytes


def llava_folder() -> Path:
    return Path(llava().checkpoint)


def see_refused(opener: tuple[Opener, int], folder: Path, reason: str | None) -> None:
    """One line, soon, without much memory. Without a reason it may be taken all the same."""
    one, honest_bytes = opener
    outcome = one.open(folder, loads=reason is None)
    assert outcome.seconds < SECONDS * count_rivals()
    assert outcome.peak_bytes - honest_bytes < MORE_BYTES
    if reason is not None or outcome.error is not None:
        assert outcome.error is not None
        assert re.search(reason or "", outcome.error)
        assert "\n" not in outcome.error
        assert len(outcome.error) < 600


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_in_a_line(name: str, tmp_path: Path, opener: tuple[Opener, int]) -> None:
    damage, reason = DAMAGES[name]
    folder = Path(shutil.copytree(checkpoint("idefics3"), tmp_path / "copy"))
    damage(folder)
    see_refused(opener, folder, reason)


OTHERS: dict[str, Damage] = {
    "tokens as objects": write(
        "special_tokens_map.json", '{"bos_token": {"a": {}}, "additional_special_tokens": [{"b": 1}]}'
    ),
    "no tokenizer": write(TOKENIZER, "{}"),
    "no image processor": write(IMAGES, '{"image_processor": []}'),
    "a colour": put(IMAGES, "image_processor", "image_mean", to="red"),
    "no rope": put(CONFIG, "text_config", "rope_parameters", to=[]),
    "no activation": put(CONFIG, "text_config", "hidden_act", to="nothing"),
    "no architecture": put(CONFIG, "architectures", to={"a": 1}),
    "no tokens": put("tokenizer_config.json", "added_tokens_decoder", to=[1]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_damage_is_an_error_of_ours_or_does_not_matter(
    name: str, tmp_path: Path, opener: tuple[Opener, int]
) -> None:
    folder = Path(shutil.copytree(checkpoint("idefics3"), tmp_path / "copy"))
    OTHERS[name](folder)
    see_refused(opener, folder, None)


@pytest.mark.parametrize("kind", KINDS)
def test_honest_folders_pass(kind: str) -> None:
    check_checkpoint(checkpoint(kind))
    check_checkpoint(PACKAGE / "shapes" / "checkpoint")


def test_links_of_the_hubs_cache_and_within_a_folder_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / ("0" * 40)
    shutil.copytree(checkpoint("idefics3"), blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    check_checkpoint(snapshot)
    (snapshot / "again.json").symlink_to("config.json")
    check_checkpoint(snapshot)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{% for a in range(10 ** 9) %}{% endfor %}",
        "{{ 'a' * 10 ** 11 }}",
        "{% set n = namespace(t='a') %}{% for a in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'a' | center(10 ** 11) }}",
        "{% if %}",
        "{{ 'a' * 20000000 }}",
    ],
)
def test_a_template_that_does_not_end_is_ended(template: str, tmp_path: Path, opener: tuple[Opener, int]) -> None:
    folder = Path(shutil.copytree(llava_folder(), tmp_path / "copy"))
    (folder / "chat_template.jinja").write_text(template)
    see_refused(opener, folder, "the chat template of the checkpoint fails")


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "{{ 10 ** (10 ** 10) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_works_for_ever_is_ended(template: str, tmp_path: Path, opener: tuple[Opener, int]) -> None:
    test_a_template_that_does_not_end_is_ended(template, tmp_path, opener)


def test_an_honest_template_is_rendered_after_a_hostile_one(tmp_path: Path) -> None:
    family = open_family(llava())
    assert family.render((user("Well?"),)) == "<|bos|>[user]Well?[assistant]"


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
END = r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+" + END,
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{Lm}\p{M}]+" + CONTRACTIONS + "?" + END,
    "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|\s*[\r\n]+",
    "atomic": "(?>a+)+",
    "possessive": "(a++)+",
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_of_real_tokenizers_are_taken(name: str) -> None:
    assert not backtracks(PATTERNS[name])


@pytest.mark.parametrize("pattern", ["(a+)+$", "(?:a|aa)*b", r"((?:x\w*)){2,}", "(a{1,}b?)*", "((a*)b)+"])
def test_patterns_with_too_many_ways_are_not(pattern: str) -> None:
    assert backtracks(pattern)
