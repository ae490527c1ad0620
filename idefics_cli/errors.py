"""The one error tree: every failure a user can meet, with its code, its hint and its exit code.

    IdeficsError                 code                 exit
    ├── UsageError               usage                2     a wrong option, template, label file, examples file
    ├── NothingToDo              no_inputs            4
    ├── ModelError               model                3     cannot be found, loaded or run
    └── ItemError                                     1     one item fails, the run goes on
        ├── SourceError          not_found · not_an_image · too_large · fetch_failed · timeout · refused
        ├── PromptError          special_token · prompt_too_long · no_image
        ├── AnswerError          no_label · out_of_memory · not_finite · of a server: fetch_failed · timeout · refused
        └── BadItem              bad_item

Messages are one line and say what to do; foreign exceptions are translated where the foreign library is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from .values import Failure

SourceCode = Literal["not_found", "not_an_image", "too_large", "fetch_failed", "timeout", "refused"]
PromptCode = Literal["special_token", "prompt_too_long", "no_image"]
AnswerCode = Literal["no_label", "out_of_memory", "not_finite", "fetch_failed", "timeout", "refused"]
"""The last three are a server's."""


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


def describe_problems(error: Problems, most: int = 3) -> str:
    """What is wrong with typed data, the first things, in one line."""
    reasons = []
    for problem in error.errors()[:most]:
        where = ".".join(str(step) for step in problem["loc"]) or "the whole"
        reasons.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(reasons)


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
