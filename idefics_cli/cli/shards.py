"""Which part of the items this process answers: from --shard, or from the numbering of its launcher."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import UsageError

_RANKS = (("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("SLURM_PROCID", "SLURM_NTASKS"))
_OTHER_RANKS = (("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"), ("RANK", "WORLD_SIZE"))
"""Variables with a number from 0 and how many there are: of a task of a step, of a pod of a job, of a process."""


def read_shard(given: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """The part and the number of parts, from 1. The whole is 1 of 1. Raises UsageError."""
    if given is None:
        return 1, 1
    if given == "auto":
        return _find_shard(environment)
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", given, re.ASCII)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise UsageError(f"--shard {given} is not a part", hint="write 1/4, 2/4, 3/4 and 4/4, or auto within a job")
    return index, count


def name_shard(index: int, count: int) -> str:
    """A part in the name of a file, so that names sort as parts do."""
    return f"{index:0{len(str(count))}}-of-{count}"


def _find_shard(environment: Mapping[str, str]) -> tuple[int, int]:
    task = _find_task(environment)
    array = _find_array(environment)
    if array is not None:  # each element of an array may have several tasks
        number, count = array
        rank, tasks = task or (0, 1)
        return number * tasks + rank + 1, count * tasks
    others = (_read_pair(environment, *names) for names in _OTHER_RANKS)
    found = [pair for pair in (task, *others) if pair is not None]
    if not found:
        if "JOB_COMPLETION_INDEX" in environment:
            raise UsageError(
                "--shard auto knows this pod's index but not the number of pods",
                hint="set JOB_COMPLETIONS to the job's completions, as its env",
            )
        raise UsageError(
            "--shard auto finds no part: no variable numbers this process",
            hint="start it with srun, as a job array, an indexed Job or torchrun, or write --shard 1/4",
        )
    number, count = next((pair for pair in found if pair[1] > 1), found[0])
    return number + 1, count


def _find_task(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """The task of a SLURM step. A batch script is no step: without srun its commands run once."""
    if "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment:
        if environment.get("SLURM_NTASKS", "1") != "1":
            raise UsageError(
                f"--shard auto runs once here, and the job has {environment['SLURM_NTASKS']} tasks",
                hint="start it with srun",
            )
        return None
    pairs = (_read_pair(environment, *names) for names in _RANKS)
    return next((pair for pair in pairs if pair is not None), None)


def _find_array(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """The element of a SLURM job array, whatever its first index and step."""
    index = _read(environment, "SLURM_ARRAY_TASK_ID")
    count = _read(environment, "SLURM_ARRAY_TASK_COUNT")
    if index is None or count is None:
        return None
    first = _read(environment, "SLURM_ARRAY_TASK_MIN") or 0
    last = _read(environment, "SLURM_ARRAY_TASK_MAX")
    step = _read(environment, "SLURM_ARRAY_TASK_STEP") or 1
    if last is not None and (last - first) // step + 1 != count:
        raise UsageError(
            "--shard auto cannot number a job array with gaps",
            hint="submit it as --array=0-7, or with a step",
        )
    return _check((index - first) // step, count, "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")


def _read_pair(environment: Mapping[str, str], number: str, count: str) -> tuple[int, int] | None:
    index, of = _read(environment, number), _read(environment, count)
    return None if index is None or of is None else _check(index, of, number, count)


def _check(index: int, count: int, number: str, of: str) -> tuple[int, int]:
    if not 0 <= index < count:
        raise UsageError(
            f"--shard auto: {number} and {of} say part {index} of {count}, from 0",
            hint="set both, or write --shard 1/4",
        )
    return index, count


def _read(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise UsageError(f"--shard auto: {name} is {text!r}, which is not a number", hint="write --shard 1/4")
    return int(text)
