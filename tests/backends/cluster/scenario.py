"""A Ray cluster of three nodes and what befalls a run on it. A program: in a network of its own, with loopback alone.

Prints what it saw as a line of JSON. Arguments: a folder of images, the file of rows, the port of the cluster.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

PROGRAM = (sys.executable, "-m", "idefics_cli")
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


def main(folder: str, rows: str) -> dict[str, Any]:
    out = Path(rows)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False},
    )
    first = cluster.add_node(**NODE)
    cluster.add_node(**NODE)
    command = [*PROGRAM, "caption", folder, "--model", "shapes", "--batch-size", "4"]
    command += ["--cluster", cluster.address, "--per-worker", "cpu=1", "-o"]
    said: dict[str, Any] = {}
    try:
        program = subprocess.Popen([*command, rows], stderr=subprocess.PIPE, text=True)
        wait_for(lambda: count_rows(out) >= 30, program)
        workers = find_workers()
        said["workers"] = len(workers)
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: count_rows(out) >= 90, program)
        cluster.remove_node(first, allow_graceful=False)
        wait_for(lambda: count_rows(out) >= 120, program)
        cluster.add_node(**NODE)
        wait_for(lambda: count_rows(out) >= 160 and len(find_workers()) >= 2, program)
        program.kill()
        said["first"] = program.communicate()[1]
        said["rows"] = count_rows(out)
        wait_for(lambda: not find_workers())
        resumed = subprocess.run([*command, rows], stderr=subprocess.PIPE, text=True, check=False)
        said["code"], said["second"] = resumed.returncode, resumed.stderr
        stopped = subprocess.Popen([*command, f"{rows}.other"], stderr=subprocess.PIPE, text=True)
        wait_for(lambda: count_rows(Path(f"{rows}.other")) >= 8, stopped)
        stopped.send_signal(signal.SIGINT)
        said["third"] = stopped.communicate()[1]
        said["stopped"], said["other"] = stopped.returncode, count_rows(Path(f"{rows}.other"))
    finally:
        cluster.shutdown()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    said["cpu_seconds"] = round(used.ru_utime + used.ru_stime, 1)
    return said


def find_workers() -> list[int]:
    """The processes of actors, by the title that Ray gives them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::ClusterActor"):
            found.append(int(path.parent.name))
    return found


def count_rows(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(look: Callable[[], bool], program: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 300
    while not look():
        assert time.monotonic() < deadline, "nothing came"
        if program is not None and program.poll() is not None:
            raise AssertionError(f"it ended: {program.stderr.read() if program.stderr else ''}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
