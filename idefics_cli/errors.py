"""The one error tree: every failure a user can meet, with its code, its hint and its exit code.

    IdeficsError                 code                 exit
    ├── UsageError               usage                2     a wrong option, template, label file, examples file
    ├── NothingToDo              no_inputs            4
    ├── ModelError               model                3     cannot be found, loaded or run
    │   └── ServerLost                                      who has it does not answer, or no longer
    └── ItemError                                     1     one item fails, the run goes on
        ├── SourceError          not_found · not_an_image · too_large · fetch_failed · timeout · refused
    │   │                    unusable_image
        ├── PromptError          special_token · prompt_too_long · no_image
        ├── AnswerError          no_label · invalid_output · out_of_memory · not_finite
        │                        of a server: fetch_failed · timeout · refused · worker_lost
        ├── BadItem              bad_item
        └── InternalError        internal: whatever nobody foresaw

Messages are one line and say what to do; foreign exceptions are translated where the foreign library is called. What
is not is the item's own all the same: `to_item_error` is the boundary around it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Protocol

from .values import Failure

SourceCode = Literal["not_found", "not_an_image", "too_large", "fetch_failed", "timeout", "refused", "unusable_image"]
PromptCode = Literal["special_token", "prompt_too_long", "no_image"]
AnswerCode = Literal[
    "no_label",
    "invalid_output",
    "out_of_memory",
    "not_finite",
    "fetch_failed",
    "timeout",
    "refused",
    "worker_lost",
]
"""The last four are a server's."""

_log = logging.getLogger(__name__)
_SAID_CHARACTERS = 200


class IdeficsError(Exception):
    """Something the user can act on. `str(error)` is one line, hint included."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        line = f"{message}; {hint}" if hint else message
        super().__init__(" ".join(line.splitlines()))
        self.code = code

    def to_failure(self) -> Failure:
        return Failure(self.code, str(self))


class Problems(Protocol):
    """What pydantic says of data that is not as it should be."""

    def errors(self) -> Sequence[Mapping[str, Any]]: ...


_WANTED = {
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
    "none_required": "null",
}
_KINDS_OF_UNIONS = {"str", "int", "float", "bool", "none"}


def describe_problems(error: Problems, *, subject: str = "it") -> str:
    """The first three problems of invalid data, in one line."""
    said: dict[str, str] = {}
    kinds: dict[str, list[str]] = {}
    for problem in error.errors():
        where = name_place(problem)
        if (kind := _WANTED.get(problem["type"])) is None:
            reason = _say_problem(problem)
            is_sentence = reason.startswith(("must ", "is "))
            said[f"{where} {reason}"] = f"{where or subject}{' ' if is_sentence else ': '}{reason}"
        else:
            wanted = kinds.setdefault(where, [])
            wanted.append(kind)
            said[where] = f"{where or subject} must be {' or '.join(wanted)}{_say_input(problem.get('input'))}"
    return "; ".join(list(said.values())[:3])


def name_place(problem: Mapping[str, Any]) -> str:
    """Where in the data a problem is: `messages.0.content`. The kinds that a union tried are left out."""
    steps = [str(step) for step in problem["loc"]]
    if len(steps) > 1 and (steps[-1] in _KINDS_OF_UNIONS or "[" in steps[-1]):
        steps.pop()
    return ".".join(steps)


def _say_problem(problem: Mapping[str, Any]) -> str:
    said = {"missing": "is missing", "extra_forbidden": "is not known here"}.get(problem["type"])
    return said or str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


def _say_input(value: object) -> str:
    """What was given instead, if it is short enough to show."""
    shown = repr(value)
    return f", not {shown}" if isinstance(value, str | int | float) and len(shown) <= 40 else ""


_COUNTED = {
    "not_an_image": ("not an image", "not images"),
    "fetch_failed": ("failed fetch", "failed fetches"),
    "timeout": ("timeout", "timeouts"),
    "unusable_image": ("unusable image", "unusable images"),
    "special_token": ("prompt with a special token", "prompts with special tokens"),
    "prompt_too_long": ("prompt too long", "prompts too long"),
    "no_image": ("without an image", "without an image"),
    "no_label": ("without a label", "without a label"),
    "invalid_output": ("invalid output", "invalid outputs"),
    "not_finite": ("with numbers that are not finite", "with numbers that are not finite"),
    "worker_lost": ("lost with a worker", "lost with a worker"),
    "bad_item": ("bad item", "bad items"),
    "internal": ("unexpected error", "unexpected errors"),
}
"""What one and several failures of a code are called, where the code's own words do not follow a number."""


def count_failures(code: str, count: int) -> str:
    """How many items failed of a code: "50 prompts too long"."""
    name = code.replace("_", " ")
    one, several = _COUNTED.get(code, (name, name))
    return f"{count:,} {one if count == 1 else several}"


class UsageError(IdeficsError):
    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="usage", hint=hint)


class NothingToDo(IdeficsError):
    exit_code = 4

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="no_inputs", hint=hint)


class ModelError(IdeficsError):
    exit_code = 3

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="model", hint=hint)


class ServerLost(ModelError):
    """The server or worker that has the model does not answer, or no longer."""


class ItemError(IdeficsError):
    """One item fails with a row; the others go on."""


class SourceError(ItemError):
    def __init__(self, message: str, *, code: SourceCode, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)


class PromptError(ItemError):
    def __init__(self, message: str, *, code: PromptCode, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)


class AnswerError(ItemError):
    def __init__(self, message: str, *, code: AnswerCode, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)


class BadItem(ItemError):
    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="bad_item", hint=hint)


class InternalError(ItemError):
    """An unexpected error with its type and place: enough to report it, and nothing about the user's machine."""

    def __init__(self, error: BaseException) -> None:
        said = str(error)[:_SAID_CHARACTERS]
        super().__init__(
            f"unexpected {type(error).__name__} at {_find_place(error)}{said and f': {said}'}",
            code="internal",
        )


def is_of_item(error: BaseException) -> bool:
    """Whether the error fails one item and not the run, as an interrupt, a closed pipe or a broken model does."""
    if isinstance(error, IdeficsError):
        return isinstance(error, ItemError)
    # A panic in a library written in Rust is no Exception.
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def to_item_error(error: BaseException) -> ItemError:
    """The exception as an error in its item's row. Raises it again if it does not belong to one item."""
    if isinstance(error, ItemError):
        return error
    if not is_of_item(error):
        raise error
    if isinstance(error, MemoryError):
        return AnswerError(
            "there is not enough memory for this item",
            code="out_of_memory",
            hint="use fewer or smaller images",
        )
    _log.error("not foreseen", exc_info=error)
    return InternalError(error)


def raise_as_model_error(error: BaseException, what: str) -> NoReturn:
    """Raise an unexpected failure of a model as a ModelError, whose line ends the run."""
    if not is_of_item(error):
        raise error
    _log.error("not foreseen", exc_info=error)
    raise ModelError(
        f"{what} ({InternalError(error)})",
        hint="its files may be damaged: download it again, or choose another",
    ) from error


def _find_place(error: BaseException) -> str:
    """The line that raised it: a file by its last folders, which are a package's and not a user's."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    return f"{'/'.join(Path(frames[-1].filename).parts[-3:])}:{frames[-1].lineno}"
