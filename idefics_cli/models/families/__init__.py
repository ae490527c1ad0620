"""The architectures by name. A family is imported when it is first needed.

Any other architecture works if its processor has a chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...values import Prompt
from .any_sizes import measure_any

if TYPE_CHECKING:
    from ..dimensions import Dimensions
    from .family import Family

FAMILIES = {
    "idefics": "idefics:IdeficsFamily",
    "idefics2": "idefics2:Idefics2Family",
    "idefics3": "idefics3:Idefics3Family",
    "smolvlm": "idefics3:SmolVLMFamily",
}
_TEMPLATED, _MROPE = "templated:TemplatedFamily", "mrope:MropeFamily"
TEMPLATED = {
    "llava": _TEMPLATED,
    "llava_next": _TEMPLATED,
    "llava_onevision": _TEMPLATED,
    "internvl": _TEMPLATED,
    "mistral3": _TEMPLATED,
    "aya_vision": _TEMPLATED,
    "gemma3": "gemma3:Gemma3Family",
    "qwen2_vl": _MROPE,
    "qwen2_5_vl": _MROPE,
    "qwen3_vl": _MROPE,
    "glm4v": _MROPE,
}
"""Those that show an image as a run of one token, worded by their chat template."""
FALLBACK = "chat_template:ChatTemplateFamily"


def find_family(architecture: str, *, has_template: bool = False) -> type[Family]:
    """The family of an architecture; for an unknown one, that of chat templates."""
    name = FAMILIES.get(architecture)
    if name is None and has_template:
        name = TEMPLATED.get(architecture, FALLBACK)
    if name is None:
        raise ModelError(
            f"there is no adapter for the architecture {architecture!r} and its processor has no chat template",
            hint=f"known architectures: {', '.join(sorted(FAMILIES))}",
        )
    module, _, attribute = name.partition(":")
    family: type[Family] = getattr(import_module(f".{module}", __name__), attribute)
    return family


def find_way(architecture: str) -> str:
    """How requests run: own family, templated with everything that these have, or plain batches."""
    if architecture in FAMILIES:
        return "own adapter"
    return "templated" if architecture in TEMPLATED else "plain batches"


def measure(config: Mapping[str, Any], name: str, parameters: int | None = None) -> Dimensions:
    """The dimensions that a config.json describes, without torch. Raises ModelError.

    An architecture without a formula is estimated from its number of weights, if that is known.
    """
    architecture = config.get("model_type")
    if architecture not in FAMILIES and parameters is not None:
        return measure_any(config, parameters)
    if architecture not in FAMILIES:
        raise ModelError(
            f"the memory that {name} needs cannot be computed: its architecture is {architecture!r}",
            hint=f"known: {', '.join(FAMILIES)}",
        )
    return find_family(str(architecture)).measure(config, name)


def render_prompt(architecture: str, prompt: Prompt) -> str:
    """The prompt text of an architecture, with nothing downloaded and no tokenizer at hand."""
    from .placeholder_family import PlaceholderFamily

    family = find_family(architecture)
    assert issubclass(family, PlaceholderFamily), f"{architecture} is listed but does not lay out its own prompts"
    return family.render_plainly(prompt)
