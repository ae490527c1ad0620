"""The architectures by name. An adapter is imported when it is first asked for.

Any other architecture is taken if its processor has a chat template.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...values import Prompt

if TYPE_CHECKING:
    from .family import Family

FAMILIES = {
    "idefics": "idefics:IdeficsFamily",
    "idefics2": "idefics2:Idefics2Family",
    "idefics3": "idefics3:Idefics3Family",
    "smolvlm": "idefics3:SmolVLMFamily",
}
FALLBACK = "chat_template:ChatTemplateFamily"


def find_family(architecture: str, processor: Any = None) -> type[Family]:
    """The adapter of an architecture; with a processor at hand its chat template will do for an unknown one."""
    name = FAMILIES.get(architecture)
    if name is None and getattr(processor, "chat_template", None):
        name = FALLBACK
    if name is None:
        raise ModelError(
            f"there is no adapter for the architecture {architecture!r} and its processor has no chat template",
            hint=f"known architectures: {', '.join(sorted(FAMILIES))}",
        )
    module, _, attribute = name.partition(":")
    family: type[Family] = getattr(import_module(f".{module}", __name__), attribute)
    return family


def render_prompt(architecture: str, prompt: Prompt) -> str:
    """The prompt text of an architecture, with nothing downloaded and no tokenizer at hand."""
    from .placeholder_family import PlaceholderFamily

    family = find_family(architecture)
    assert issubclass(family, PlaceholderFamily), (
        f"{architecture} is listed but does not lay out its own prompts"
    )
    return family.render_plainly(prompt)
