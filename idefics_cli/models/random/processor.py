"""The files of a processor that is worded by a chat template: its image processor, tokenizer, settings and template."""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .tokenizer import EOS

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}"
    "{% for part in message['content'] %}{{ 'IMAGE' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ 'END\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class ProcessorFiles:
    """What `from_pretrained` reads; several processors cannot be made before, for they want videos looked after."""

    shape: Mapping[str, Any]
    tokenizer: Any

    def save_pretrained(self, folder: Path) -> None:
        import transformers

        self.tokenizer.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")) | self.shape.get("tokenizer", {})
        path.write_text(json.dumps(settings), encoding="utf-8")
        name, options = self.shape["images"]
        getattr(transformers, name)(**options).save_pretrained(folder)
        own = {"processor_class": self.shape["class"], **self.shape.get("settings", {})}
        (folder / "processor_config.json").write_text(json.dumps(own), encoding="utf-8")
        template = TEMPLATE.replace("IMAGE", self.shape.get("image", "<image>\\n")).replace("END", EOS)
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def build_processor(sizes: Mapping[str, Any], build_tokenizer: Callable[..., Any]) -> tuple[Any, ProcessorFiles]:
    """The config of a shape, its tokens by their ids, and the files of its processor."""
    import transformers

    known = dict(sizes)
    shape = known.pop("processor")
    text = known["text_config"]
    # Some models have no output for the token of an image.
    extra = shape.get("headless", 0)
    added = (*ROLES, *(token for token in dict.fromkeys(shape["tokens"])))
    tokenizer = build_tokenizer(text["vocab_size"], bos="<s>", added=added)
    find = tokenizer.get_added_vocab()
    config = {key: find.get(value, value) if isinstance(value, str) else value for key, value in known.items()}
    config["text_config"] = {**text, "vocab_size": text["vocab_size"] - extra, "tie_word_embeddings": False}
    config["vision_config"] = dict(known["vision_config"])
    return (
        transformers.AutoConfig.for_model(**config, tie_word_embeddings=False),
        ProcessorFiles(shape, tokenizer),
    )
