"""Faults on a Ray cluster: workers and nodes that die during a queue. tests/faults.py adds them if Ray is installed."""

import os
import random
import signal
import threading
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from faults import children, line_of, tables, undisturbed, wait_for_saves

from lthcore.runs import runner
from lthcore.runs.experiments import load_experiments
from lthcore.runs.ray_cluster import Cluster
from lthcore.runs.ray_queue import run_queue

if find_spec("ray") is None:  # not imported here: Cluster first sets on which address Ray listens
    raise ImportError("Ray is not installed")
SYSTEM = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


def queue_on(place: Path, cluster: Cluster) -> None:
    """Run the experiment of a project on a cluster, as `lth queue --engine ray` does; it must not fail."""
    os.environ["LTH_RESULTS"] = str(place / "results")
    experiments = load_experiments(place / "params" / "iterative_pruning" / "faulty.yaml", "smoke")
    usual = runner.Checkpointer
    runner.Checkpointer = partial(usual, every=0.0)  # so that workers save at every evaluation
    try:
        failures = run_queue(experiments, cluster)
    finally:
        runner.Checkpointer = usual
    assert not failures, failures


def is_undisturbed(place: Path) -> None:
    """Check that the tables equal those of an undisturbed run without Ray."""
    for mine, theirs in zip(tables(place), undisturbed(), strict=True):
        pd.testing.assert_frame_equal(mine, theirs)


def when_training(place: Path, work, seed: int) -> threading.Thread:
    """Start a thread that calls `work` after a random number of saves, and return the thread."""

    def wait() -> None:
        wait_for_saves(place, random.Random(seed).randint(1, 40), lambda: True)
        work()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def kill_a_ray_worker(place: Path, seed: int) -> int:
    """Kill all worker processes that are training at one moment: other workers must do their tasks."""
    killed = []

    def kill() -> None:
        for pid in children(os.getpid()):
            if "ray::_train_there" in line_of(pid) or ("ray::" in line_of(pid) and "faulty" in line_of(pid)):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    os.environ["LTH_WORKERS"] = "2"
    cluster = Cluster()
    try:
        thread = when_training(place, kill, seed)
        queue_on(place, cluster)
        thread.join()
    finally:
        cluster.close()
    is_undisturbed(place)
    return len(killed)


def remove_a_node(place: Path, seed: int) -> int:
    """Remove one of two nodes while it trains: the other node must do its work."""
    import ray
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": SYSTEM})
    second = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    cluster = Cluster(nodes.address)
    try:
        assert cluster.slots == 2
        thread = when_training(place, lambda: nodes.remove_node(second, allow_graceful=False), seed)
        queue_on(place, cluster)
        thread.join()
        alive = [node for node in ray.nodes() if node["Alive"]]
        assert len(alive) == 1, "the node is still there"
    finally:
        cluster.close()
        nodes.shutdown()
    is_undisturbed(place)
    return 1


RAY_FAULTS = {"a Ray worker killed": (kill_a_ray_worker, 2), "a Ray node removed": (remove_a_node, 2)}
