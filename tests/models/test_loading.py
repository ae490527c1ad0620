"""Checkpoints from folders: what is loaded, how, and the one line that says why it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers

from idefics_cli.errors import ModelError
from idefics_cli.models.devices import choose_dtype
from idefics_cli.models.families import find_family
from idefics_cli.models.loading import load_config, load_model, load_processor, open_family
from idefics_cli.values import ModelSpec
from tests.models.tiny import EOU, FAKE, IMAGE, KINDS, checkpoint, llama_tokenizer


def spec_of(kind: str, **options: Any) -> ModelSpec:
    return ModelSpec(str(checkpoint(kind)), **options)


def copy_of(kind: str, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint(kind), folder / "copy"))


@pytest.mark.parametrize("kind", KINDS)
def test_processors_pad_left_and_use_pillow(kind: str) -> None:
    """The tokenizer of the tiny Idefics3 ships with right padding, as some on the hub do."""
    processor = load_processor(spec_of(kind))
    assert processor.tokenizer.padding_side == "left"
    assert type(processor.image_processor).__name__.endswith("Pil")


@pytest.mark.parametrize("kind", KINDS)
def test_models_come_in_full_precision_on_a_cpu(kind: str) -> None:
    spec = spec_of(kind, device="cpu")
    model = load_model(spec, open_family(spec))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.training
    assert model.config._attn_implementation == "sdpa"


def test_words_and_added_tokens_are_looked_up_as_the_library_does() -> None:
    spec = spec_of("idefics", device="cpu")
    table = load_model(spec, open_family(spec)).get_input_embeddings()
    last = table.num_embeddings + table.num_additional_embeddings - 1
    ids = torch.tensor([[0, 5, table.num_embeddings - 1, table.num_embeddings, last]])
    assert torch.equal(table(ids), type(table).forward(table, ids))


def test_dtype_is_bfloat16_on_a_gpu_and_as_said_elsewhere() -> None:
    family = open_family(spec_of("idefics2"))
    assert choose_dtype("auto", torch.device("cuda"), family) is torch.bfloat16
    assert choose_dtype("bf16", torch.device("cpu"), family) is torch.bfloat16
    assert choose_dtype("float16", torch.device("cuda"), family) is torch.float16
    with pytest.raises(ModelError, match="float8"):
        choose_dtype("float8", torch.device("cpu"), family)


def test_idefics_overflows_in_float16_unless_insisted_on() -> None:
    family = open_family(spec_of("idefics"))
    with pytest.raises(ModelError, match="--dtype bfloat16"):
        choose_dtype("float16", torch.device("cuda"), family)
    assert choose_dtype("float16!", torch.device("cuda"), family) is torch.float16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "flash"}, "no flash attention"),
        ({"attention": "fast"}, "sdpa, eager, flash"),
        ({"device": "cuda:99"}, "no (CUDA GPU|device 'cuda:99') here; use --device auto or cpu"),
        ({"device": "toaster"}, "no device"),
        ({"dtype": "float16"}, "bfloat16"),
        ({"quantization": "2bit"}, "4bit, 8bit, int8"),
    ],
)
def test_what_idefics_cannot_bear_is_refused(options: dict[str, Any], message: str) -> None:
    spec = spec_of("idefics", **options)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(spec, open_family(spec))
    assert "\n" not in str(caught.value)


def test_flash_attention_says_what_to_install() -> None:
    spec = spec_of("idefics2", attention="flash")
    with pytest.raises(ModelError, match=r"idefics-cli\[flash\].*sdpa"):
        load_model(spec, open_family(spec))


def test_a_chat_template_may_be_in_the_settings_of_the_tokenizer(tmp_path: Path) -> None:
    folder = copy_of("idefics3", tmp_path)
    template = folder / "chat_template.jinja"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = template.read_text()
    template.unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    family = open_family(ModelSpec(str(folder)))
    assert family.processor.chat_template == settings["chat_template"]


def test_only_instruct_checkpoints_of_idefics_converse_by_default() -> None:
    assert open_family(spec_of("idefics")).default_style == "chat"


@pytest.mark.parametrize("kind", ["idefics", "idefics2"])
@pytest.mark.parametrize("legacy", [None, False, True])
def test_a_tokenizer_that_was_saved_wrong_keeps_word_boundaries(kind: str, legacy: bool | None, tmp_path: Path) -> None:
    """The file of a tokenizer that was rebuilt and saved is as wrong as the rebuilt one."""
    folder = copy_of(kind, tmp_path)
    llama_tokenizer(legacy=False, added=(FAKE, IMAGE, EOU)).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("legacy", None)
    settings |= {} if legacy is None else {"legacy": legacy}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_processor(ModelSpec(str(folder))).tokenizer
    assert tokenizer.tokenize(f"{FAKE}Describe")[1].startswith("▁")
    assert tokenizer.tokenize(f"{EOU}\nAssistant:")[1] == "▁"


@pytest.mark.parametrize("legacy", [None, False, True])
def test_a_word_after_an_image_keeps_its_boundary(legacy: bool | None, tmp_path: Path) -> None:
    """The new LLaMA tokenizer glues the word to the marker unless told `legacy`, as IDEFICS was trained."""
    folder = copy_of("idefics", tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"legacy": legacy} if legacy is not None else settings)
    )
    as_it_is = transformers.AutoTokenizer.from_pretrained(folder).tokenize(f"{FAKE}Describe")
    assert as_it_is[1].startswith("▁") == bool(legacy)
    mended = load_processor(ModelSpec(str(folder))).tokenizer
    assert mended.tokenize(f"{FAKE}Describe")[1].startswith("▁")
    assert mended.padding_side == "left"


def test_a_checkpoint_without_end_of_utterance_does_not_converse(tmp_path: Path) -> None:
    folder = copy_of("idefics", tmp_path)
    llama_tokenizer(legacy=True, added=(FAKE, IMAGE)).save_pretrained(folder)
    with pytest.raises(ModelError, match="--style completion"):
        open_family(ModelSpec(str(folder), style="chat"))
    assert open_family(ModelSpec(str(folder))).default_style == "completion"


def test_folders_that_are_no_checkpoints_are_told_apart(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(ModelError) as caught:
            open_family(ModelSpec(str(path)))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no folder" in message(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in message(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    assert "is a file" in message(tmp_path / "file")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    assert "not JSON" in message(broken)
    (broken / "config.json").write_text('{"model_type": "no-such-thing"}')
    assert "no-such-thing" in message(broken)


@pytest.mark.parametrize("tokens", [{"pad_token": {"content": {"a": 1}}}, {"unk_token": [{}]}], ids=str)
def test_special_tokens_that_are_none_are_told(tokens: dict[str, Any], tmp_path: Path) -> None:
    folder = copy_of("idefics2", tmp_path)
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_family(ModelSpec(str(folder)))


def test_pickles_are_never_read(tmp_path: Path) -> None:
    folder = copy_of("idefics", tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickles"):
        open_family(ModelSpec(str(folder)))


def test_code_of_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    folder = copy_of("idefics", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "custom",
        "auto_map": {"AutoConfig": "custom.Custom", "AutoProcessor": "custom.Custom"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "custom.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="never run"):
        open_family(ModelSpec(str(folder)))


@pytest.mark.parametrize("damage", ["truncated", "absent", "half"])
def test_damaged_weights_are_refused(damage: str, tmp_path: Path) -> None:
    folder = copy_of("idefics", tmp_path)
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "absent":
        weights.unlink()
    else:
        from safetensors.torch import load_file, save_file

        kept = {name: tensor for name, tensor in load_file(weights).items() if ".layers.1." not in name}
        save_file(kept, weights, metadata={"format": "pt"})
    spec = ModelSpec(str(folder))
    family = open_family(spec)
    with pytest.raises(ModelError) as caught:
        load_model(spec, family)
    assert {"truncated": "damaged", "absent": "no weights", "half": "lacks"}[damage] in str(caught.value)


def test_what_is_not_downloaded_cannot_be_had_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"not downloaded.*--offline"):
        open_family(ModelSpec("nobody/nothing-of-the-kind"))


def test_an_unknown_architecture_needs_a_chat_template() -> None:
    with pytest.raises(ModelError, match="idefics, idefics2, idefics3, smolvlm"):
        find_family("made-up")


def test_smolvlm_needs_neither_num2words_nor_torchvision(tmp_path: Path) -> None:
    folder = copy_of("idefics3", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "smolvlm"
    config["vision_config"]["model_type"] = "smolvlm_vision"
    config["architectures"] = ["SmolVLMForConditionalGeneration"]
    (folder / "config.json").write_text(json.dumps(config))
    spec = ModelSpec(str(folder))
    family = open_family(spec)
    assert family.processor.image_seq_len == 4
    assert family.default_style == "chat"
    assert type(load_model(spec, family)).__name__ == "SmolVLMForConditionalGeneration"


def test_an_adapter_is_refused_and_not_left_out(tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("idefics2"), tmp_path / "adapted")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is an adapter .* merge it into its base model"):
        load_config(ModelSpec(str(folder)))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="is an adapter"):
        load_config(ModelSpec(str(folder)))
