"""The settings of a command: everything the user set, validated, in the types of the layers below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .declare import Fact, Panel, list_given, list_values
from .options import (
    DecodingOptions,
    InputOptions,
    ModelOptions,
    OutputOptions,
    PromptOptions,
    TableOptions,
    WorkerOptions,
)

if TYPE_CHECKING:  # commands import this file to declare themselves
    from ..eval.temperature import Calibration
    from ..images import Limits
    from ..results.sidecars import Sidecars
    from .output import Talk


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was set by flags, the environment or config.yaml. Options that the command does not take are unset."""

    model: ModelOptions
    workers: WorkerOptions
    prompt: PromptOptions
    decoding: DecodingOptions
    input: InputOptions
    table: TableOptions
    output: OutputOptions
    quantization: str | None
    changes: Mapping[str, Any]
    """What replaces a template's decoding, by the fields of `Decoding`."""
    max_memory: tuple[tuple[str, int], ...]
    """The bytes of each device; nothing if they were not given."""
    cache_bytes: int | None
    keep_alive_seconds: float | None
    limits: Limits
    shard: tuple[int, int]
    """Which part of how many, from 1."""
    sidecars: Sidecars | None
    calibration: Calibration | None
    talk: Talk

    def list_given(self, fact: Fact | None = None) -> dict[str, Any]:
        """The options that were set, by their flags: all, or those with a fact."""
        return {name: value for panel in self._panels for name, value in list_given(panel, fact).items()}

    def list_values(self, fact: Fact) -> dict[str, Any]:
        """The values of the options with a fact, by their names, after parsing."""
        values = {name: value for panel in self._panels for name, value in list_values(panel, fact).items()}
        understood = {
            "quantization": self.quantization,
            "max_memory": self.max_memory,
            "background": self.limits.background,
        }
        return {name: understood.get(name, value) for name, value in values.items()}

    @property
    def _panels(self) -> tuple[Panel, ...]:
        return self.model, self.workers, self.prompt, self.decoding, self.input, self.table, self.output
