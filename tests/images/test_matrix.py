"""Every format, depth and layout that other programs write is read right, or refused by its name."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np

from idefics_cli.errors import SourceError
from idefics_cli.images import Limits, decode
from tests.images.matrix import list_cases

REFUSED = {"HDR", "PFM RGB <", "PFM RGB >"}
"""What has no fixed brightness, or has never been met."""


def test_pixels_are_right_within_one_of_255_or_refused_by_name() -> None:
    seen: list[str] = []
    wrong: list[str] = []
    for case in list_cases():
        seen.append(case.name)
        try:
            image = decode(bytes(case.data), case.name, Limits())
        except SourceError as error:
            if case.name not in REFUSED or "damaged" in str(error):
                wrong.append(str(error))
            continue
        difference = np.abs(np.asarray(image.pixels, float) - case.shown).mean()
        if not difference <= 1 or case.name in REFUSED:
            wrong.append(f"{case.name}: {difference:.2f} {image.warnings}")
    assert wrong == []
    assert len(seen) >= 250


def test_without_the_extra_nothing_is_wrong_in_silence() -> None:
    probe = "import sys; sys.modules['imagecodecs'] = sys.modules['tifffile'] = None\n" + (
        "import pickle, numpy\n"
        "from idefics_cli.errors import SourceError\n"
        "from idefics_cli.images import Limits, decode\n"
        "for name, data, shown in pickle.load(sys.stdin.buffer):\n"
        "    try: image = decode(data, name, Limits())\n"
        "    except SourceError as error: sys.stdout.write(f'{error}\\n'); continue\n"
        "    difference = numpy.abs(numpy.asarray(image.pixels, float) - shown).mean()\n"
        "    if difference > 1: sys.stdout.write(f'wrong: {name}\\n')\n"
    )
    cases = pickle.dumps([(case.name, bytes(case.data), case.shown) for case in list_cases()])
    done = subprocess.run([sys.executable, "-c", probe], input=cases, capture_output=True, check=True)
    lines = done.stdout.decode().splitlines()
    extra = "which needs an extra; pip install 'idefics-cli[formats]'"
    assert [line for line in lines if extra not in line and line.split(" is ")[0] not in REFUSED] == []
    assert 40 <= len(lines) <= 90
