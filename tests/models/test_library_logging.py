"""What the libraries say: chatter is dropped, a real warning comes through, once, as a line of ours."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from idefics_cli.cli.log import log_to
from idefics_cli.cli.output import Talk
from idefics_cli.models.library_logging import LIBRARIES, hush_libraries
from tests.program import Run

CAST = "MatMul8bitLt: inputs will be cast from torch.float32 to float16 during quantization"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_real_warning_survives_the_chatter(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    hush_libraries()
    hush_libraries()
    log = logging.getLogger(f"{library}.somewhere")
    with log_to(Talk()):
        for _ in range(300):
            log.warning(CAST)
        for _ in range(2):
            log.warning("the %s card\nis on fire", library)
        log.info("nothing of interest")
    assert capsys.readouterr().err == f"idefics: {library}: the {library} card is on fire\n"


def test_quiet_hears_nothing_and_verbose_hears_details(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("idefics_cli.somewhere")
    for talk in (Talk(quiet=True), Talk(), Talk(verbose=True)):
        with log_to(talk):
            log.info("a note")
            log.debug("a detail")
    assert capsys.readouterr().err == "idefics: a note\nidefics: a note\nidefics: a detail\n"


def test_an_eight_bit_run_says_only_what_it_keeps(run: Callable[..., Run], red_circle: Path) -> None:
    result = run("caption", red_circle, "--quantize", "8bit", "--model", "shapes", "--verbose")
    lines = result.stderr.splitlines()
    assert [line for line in lines if "quantized weights kept in" in line]
    assert [line for line in lines if "an image takes 3 tokens" in line]
    assert not [line for line in lines if "cast" in line]
    again = run("caption", red_circle, "--quantize", "8bit", "--model", "shapes", "--no-quantized-cache")
    assert (again.stdout, again.stderr) == (result.stdout, "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would help")
def test_kernels_of_cards_are_no_advice_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    hush_libraries()
    with log_to(Talk()):
        logging.getLogger("transformers.kernels").warning(
            "`causal_conv1d_fn` is falling back to its reference PyTorch implementation because it is not installed"
        )
    assert capsys.readouterr().err == ""


def test_what_a_later_release_will_drop_is_not_for_the_reader(recwarn: pytest.WarningsRecorder) -> None:
    hush_libraries()
    warnings.warn_explicit("deprecated", FutureWarning, "generic.py", 1, module="transformers.utils.generic")
    assert not recwarn.list
