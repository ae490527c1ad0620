"""A Ray cluster of three nodes and what befalls a run on it. A program: in a network of its own, with loopback alone.

Prints what it saw as a line of JSON. Arguments: a folder of images, the file of rows, the port of the cluster.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray._raylet import GcsClient  # type: ignore[attr-defined, unused-ignore]
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

PROGRAM = (sys.executable, "-m", "idefics_cli")
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


def main(folder: str, rows: str) -> dict[str, Any]:
    out = Path(rows)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False},
    )
    first = cluster.add_node(**NODE)
    second = cluster.add_node(**NODE)
    command = [*PROGRAM, "caption", folder, "--model", "shapes", "--batch-size", "4"]
    command += ["--cluster", cluster.address, "--per-worker", "cpu=1", "-o"]
    said: dict[str, Any] = {}
    log = Path(f"{rows}.log")
    try:
        with log.open("w") as output:
            program = subprocess.Popen([*command, rows], stderr=output, text=True)
        wait_for(lambda: count_rows(out) >= 30, program)
        workers = find_workers()
        said["workers"] = len(workers)
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: count_rows(out) >= 90, program)
        cluster.remove_node(first, allow_graceful=False)
        wait_for(lambda: count_rows(out) >= 120, program)
        cluster.add_node(**NODE)
        drain(cluster.address, second.node_id)
        wait_for(lambda: count_rows(out) >= 160 and "is shutting down" in log.read_text(), program)
        program.kill()
        program.wait()
        said["first"] = log.read_text()
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
    return said


def drain(address: str, node: str) -> None:
    """Announce that a node is going, as an autoscaler does."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    is_accepted, why = GcsClient(address=address).drain_node(node, reason, "a test", 0)
    assert is_accepted, why


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
            raise AssertionError(f"it ended with {program.returncode}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
