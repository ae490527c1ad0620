"""How busy the machine is: a limit of time holds for a test that has a core of its own."""

from __future__ import annotations

import os


def count_rivals() -> float:
    """How many want each core of this machine."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
