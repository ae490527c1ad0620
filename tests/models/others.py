"""Small random checkpoints of other architectures, in the files of the hub: no saved processor, settings only."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.models.mrope_kinds import MROPE_KINDS
from tests.models.other_kinds import KINDS, Kind
from tests.models.plain_kinds import PLAIN_KINDS
from tests.models.tiny import byte_level_tokenizer, llama_tokenizer

TEMPLATED: Mapping[str, Kind] = {**KINDS, **MROPE_KINDS}
ALL: Mapping[str, Kind] = {**TEMPLATED, **PLAIN_KINDS}


@functools.cache
def other(name: str) -> Path:
    """The folder of a checkpoint, made once in a run of the tests."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(7)
    kind = ALL[name]
    tokenizer = (
        llama_tokenizer(legacy=False, added=kind.tokens)
        if kind.is_sentencepiece
        else byte_level_tokenizer("<s>", kind.tokens)
    )
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | kind.tokenizer | {"eos_token": kind.end}))
    kind.images().save_pretrained(folder)
    settings = {"processor_class": kind.processor_class, **kind.processor}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(kind.template)
    find = tokenizer.convert_tokens_to_ids
    config = transformers.AutoConfig.for_model(**kind.config(find, len(tokenizer)))
    model: Any = transformers.AutoModelForImageTextToText.from_config(config)
    ends = {key: [find(one) for one in value] for key, value in kind.generation.items()}
    model.generation_config = transformers.GenerationConfig(**ends)
    model.save_pretrained(folder)
    return folder
