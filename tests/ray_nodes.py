"""A Ray cluster of several nodes on this machine, in a process of its own, so that its threads disturb no test.

As a program it obeys lines on stdin ("add CPUS", "kill NUMBER") and answers each with a line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ENV = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


@dataclass
class Nodes:
    """The cluster as a test sees it."""

    process: subprocess.Popen[str]
    folder: Path
    """Where Ray keeps its logs and state."""
    address: str = ""

    def say(self, line: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        if line:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        for said in self.process.stdout:
            if said.startswith("nodes: "):
                return said.removeprefix("nodes: ").strip()
        raise AssertionError("the cluster has ended")

    def add(self, cpus: int) -> int:
        """A node more; its number."""
        return int(self.say(f"add {cpus}"))

    def kill(self, number: int) -> None:
        self.say(f"kill {number}")


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A cluster with a head that runs nothing, until the block ends."""
    # Short, because there are sockets in it.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    command = [sys.executable, __file__, str(folder)]
    process = subprocess.Popen(
        command,
        env={**os.environ, **ENV},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    made = Nodes(process, folder)
    try:
        made.address = made.say("")
        yield made
    finally:
        process.communicate("end\n", timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    from ray._common.utils import get_default_ray_temp_dir
    from ray.cluster_utils import Cluster

    # Ray notes the address there, and makes the folder only where it is the one that it keeps its logs in.
    Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "temp_dir": sys.argv[1],
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print(f"nodes: {cluster.address}", flush=True)
    added = []
    for line in sys.stdin:
        word, *number = line.split()
        if word == "add":
            added.append(cluster.add_node(num_cpus=int(number[0])))
            print(f"nodes: {len(added) - 1}", flush=True)
        elif word == "kill":
            cluster.remove_node(added[int(number[0])], allow_graceful=False)
            print("nodes: killed", flush=True)
        else:
            break
    cluster.shutdown()


if __name__ == "__main__":
    main()
