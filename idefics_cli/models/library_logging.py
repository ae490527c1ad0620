"""Messages of other libraries: noise is dropped, a real warning is passed on, once and in one line.

It goes to the log of this package, which the command line prints on standard error. With TRANSFORMERS_VERBOSITY set,
messages of transformers are printed unchanged.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers

log = logging.getLogger(__name__)

LIBRARIES = ("transformers", "accelerate", "bitsandbytes", "optimum")
CHATTER = re.compile(
    "|".join(
        (
            r"MatMul8bitLt: inputs will be cast",  # once a layer and token, with every 8-bit model
            r"from kernels-community",  # code from a hub is never run
            r"LOAD REPORT",  # missing weights are an error of ours; those of no use harm nobody
            r"parameters are on the meta device",  # said by us, where weights wait on the CPU or on disk
            r"generation flags are not valid|Setting `pad_token_id`",  # the decoding is ours altogether
            r"model of type .* to instantiate a model of type",  # families share their configs
            r"[Tt]he tokenizer class you load|Special tokens have been added|legacy|incorrect regex pattern",
            r"longer than the specified maximum sequence length",  # lengths are checked by us
            r"image processor of type|use_fast|slow image processor",  # always the PIL ones, on purpose
        )
    )
)

FASTER_ON_CARDS = re.compile(r"is falling back to its reference PyTorch implementation")
"""What to install for kernels that need CUDA: no help on another machine."""


def hush_libraries() -> None:
    """From now on, let messages of the libraries pass through this module only."""
    if not os.environ.get("TRANSFORMERS_VERBOSITY"):
        transformers.logging.set_verbosity_warning()
        transformers.logging.disable_default_handler()
        transformers.logging.disable_progress_bar()
        # What a later release will drop is for us to read, not for who asks about a photo.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    for name in LIBRARIES:
        library = logging.getLogger(name)
        if os.environ.get("TRANSFORMERS_VERBOSITY") and name == "transformers":
            continue
        library.propagate = False
        if not any(isinstance(handler, _Relay) for handler in library.handlers):
            library.addHandler(_Relay())


@contextmanager
def without_prints() -> Iterator[None]:
    """Discard the standard output of the process meanwhile: a library's own prints are no results."""
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)


class _Relay(logging.Handler):
    """Passes on warnings that are not noise, each text once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if CHATTER.search(text) or (FASTER_ON_CARDS.search(text) and not torch.cuda.is_available()):
            return
        line = " ".join(text.split())
        if line not in self._said:
            self._said.add(line)
            log.warning("%s: %s", record.name.partition(".")[0], line)
