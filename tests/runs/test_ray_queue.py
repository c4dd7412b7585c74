"""The queue on a cluster. Tests that need Ray are skipped if it is not installed."""

import os
import signal
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from socket import SOCK_DGRAM
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import torch
from fsspec.core import url_to_fs

import lthcore.runs.ray_queue
from lthcore.data.datasets import load
from lthcore.errors import LabError, TimeLimit
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.runs.archives import mirror, mirror_of
from lthcore.runs.executor import Checkpointer, LocalExecutor
from lthcore.runs.experiments import Experiment
from lthcore.runs.files import read_record
from lthcore.runs.provenance import hardware, hardware_of_nodes
from lthcore.runs.ray_cluster import (
    DATA_SETS,
    Cluster,
    Reporting,
    _check_reachable,
    _fits,
    _parts,
    _train_there,
)
from lthcore.runs.ray_progress import ProgressActor
from lthcore.runs.ray_queue import QueueStatus, run_queue
from lthcore.runs.runner import run
from lthcore.settings import Settings
from lthcore.training.loop import train, train_in_step
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Replicate

ROOT = Path(__file__).parents[2]
SMALL = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=40, eval_every=10, arms=["ticket", "reinit"],
    trials=2, rounds=1, reinit_draws=1,
)  # fmt: skip


def experiment(name: str, **values) -> Experiment:
    return Experiment("iterative_pruning", name, "smoke", SMALL.changed(**values))


def test_the_board_counts_steps_and_forgets_what_has_ended():
    actor = ProgressActor()
    for at in (0, 10, 30):
        actor.report("a", "one", at)
    actor.report("b", "two", 500)  # resumed at 500: no step was taken here
    assert actor.poll() == ({("a", "one"): 30, ("b", "two"): 500}, {"a": 30, "b": 0})
    actor.end("a", ["one"])
    assert actor.poll()[0] == {("b", "two"): 500}


def test_the_view_has_a_row_for_each_experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path))

    class Told:
        def progress(self):
            return {("smoke/iterative_pruning/x", "ticket-trial0-draw0-round01"): 20}, {"smoke/iterative_pruning/x": 20}

    monkeypatch.setattr(lthcore.runs.ray_queue, "EVERY", float("inf"))
    view = QueueStatus([experiment("x"), experiment("y")], Told())
    x, y = [f"smoke/iterative_pruning/{name}" for name in "xy"]
    assert [row["its/s"] for row in view.rows({x: "running", y: "waiting"})] == [0, 0]  # too early for a rate
    monkeypatch.setattr(lthcore.runs.ray_queue, "EVERY", 0.0)
    x, y = view.rows({x: "running", y: "failed"})
    assert (x["state"], x["of"], x["now"]) == ("running", 6, "ticket-trial0-draw0-round01") and x["eta"] > 0
    assert (y["state"], y["eta"]) == ("failed", 0)


def test_the_hardware_of_a_cluster_is_what_any_of_its_nodes_has():
    here = {"cpu": "a", "instruction_sets": ["avx2", "avx512_bf16"], "cores": 2, "gpu": None}
    there = {"cpu": "b", "instruction_sets": ["avx2", "fma"], "cores": 8, "gpu": "g"}
    assert hardware_of_nodes({"x": here}) == here | {"nodes": 1}
    assert hardware_of_nodes({"x": here, "y": there, "z": there}) == {
        "cpu": "a, b", "instruction_sets": ["avx2", "fma", "avx512_bf16"], "cores": 18, "gpu": "g", "nodes": 3,
    }  # fmt: skip
    assert hardware_of_nodes({"x": hardware(torch.device("cpu"))}) == hardware(torch.device("cpu")) | {"nodes": 1}


def test_an_address_where_nothing_listens_is_one_line_at_once():
    with socket.socket() as free:  # bound, but not listening
        free.bind(("127.0.0.1", 0))
        for address in (f"127.0.0.1:{free.getsockname()[1]}", f"ray://127.0.0.1:{free.getsockname()[1]}"):
            with pytest.raises(LabError, match=f"there is no Ray cluster at {address}"):
                _check_reachable(address)
    with pytest.raises(LabError, match="there is no Ray cluster at"):
        _check_reachable(f"{'x' * 70}:1")  # no name of a host is that long
    with pytest.raises(LabError, match="there is no Ray cluster at"):
        _check_reachable("127.0.0.1:99999999999999999999")
    _check_reachable(None)
    _check_reachable("auto")


def test_a_task_is_a_training_or_on_a_gpu_a_trial():
    cohort = {Replicate(arm, trial, 0, 1): None for arm in ("ticket", "reinit") for trial in range(3)}
    assert [len(part) for part in _parts(cohort, 0)] == [1] * 6
    parts = list(_parts(cohort, 0.25))
    assert [{key.trial for key in part} for part in parts] == [{0}, {1}, {2}]
    assert sum(map(len, parts)) == 6
    assert [_fits({"CPU": 8.0, "GPU": 1.0}, *need) for need in ((1, 0), (1, 0.25), (4, 0.25), (9, 0))] == [8, 4, 2, 0]


def test_a_task_goes_on_from_the_checkpoint_of_the_worker_that_died(tmp_path):
    data = load(SMALL)
    theta = initial_weights(build(SMALL, data.shape, 10), SMALL, 0)
    key = Replicate("ticket", 0, 0, 0)

    class Telling:
        def __init__(self, checkpointer):
            self.checkpointer, self.seen, self.until, self.experiment = checkpointer, [], float("inf"), "x"
            self.actor = SimpleNamespace(trains=lambda *told: self.seen.append(told[0]))

        def __call__(self, key, state):
            self.seen.append(state.iteration)
            return self.checkpointer(key, state)

    keep = Checkpointer(tmp_path / "checkpoints", SMALL, every=0.0)
    died = begin(SMALL, 0, 0, theta)
    for state in train(SMALL, data, died):
        keep(key, state)
        if state.iteration == 20:
            break
    telling = Telling(keep)
    found = _train_there(
        b"", SMALL, data.to("cpu").to_arrays(), {key: begin(SMALL, 0, 0, theta)}, telling, train_in_step
    )
    assert telling.seen == ["x", 20, 30, 40]
    whole = begin(SMALL, 0, 0, theta)
    for _ in train(SMALL, data, whole):
        pass
    assert all(torch.equal(found[key].weights[name], w) for name, w in whole.weights.items())


@pytest.mark.parametrize("url", ["{}", "file://{}", "memory://there"])
def test_tables_are_mirrored_to_any_path(url, tmp_path):
    folder = tmp_path / "results" / "smoke" / "iterative_pruning" / "x"
    run(SMALL, folder, quiet=True)
    url = url.format(tmp_path / "there")
    mirror(folder, tmp_path / "results", url)
    files, place = url_to_fs(url)
    with files.open(f"{place}/smoke/iterative_pruning/x/rounds.csv") as there:
        assert there.read() == (folder / "rounds.csv").read_bytes()
    assert not any("tickets" in name for name in files.find(place))


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LabError, match=r"pip install -r requirements-cluster\.txt"):
        Cluster()


def test_the_slurm_script_is_bash_and_calls_options_that_there_are():
    script = ROOT / "cluster" / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    said = subprocess.run([sys.executable, "-m", "lthcore", "queue", "--help"], capture_output=True, text=True).stdout
    text = script.read_text()
    used = text[text.index("lth queue --engine") :]
    for option in (part for part in used.split() if part.startswith("--")):
        assert option in said
    assert "ray symmetric-run" in text
    started = text[text.index("exec srun") :].partition("ray symmetric-run")[0]
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in started  # srun does not take it over from sbatch


@pytest.fixture
def ray_cluster(tmp_path, monkeypatch):
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install -r requirements-cluster.txt")
    monkeypatch.setenv("LTH_WORKERS", "2")
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "ray"))
    cluster = Cluster()
    yield cluster
    cluster.close()


def test_tables_of_a_cluster_are_those_of_one_machine_and_a_bad_experiment_stops_no_other(ray_cluster, tmp_path):
    bad = experiment("bad", dataset="fashion_mnist", iterations=30)
    shown = []
    failures = run_queue([experiment("x"), bad, experiment("y", seed=1)], ray_cluster, show=shown.append)
    assert list(failures) == [bad.name] and "fashion_mnist" in str(failures[bad.name])
    for e in (experiment("x"), experiment("y", seed=1)):
        for mine, theirs in zip(
            run(e.settings, tmp_path / "ray" / e.name), run(e.settings, tmp_path / e.name), strict=True
        ):
            drop = [c for c in mine if c == "seconds"]
            pd.testing.assert_frame_equal(mine.drop(columns=drop), theirs.drop(columns=drop))
    assert [row["state"] for row in shown[-1]] == ["done", "failed", "done"]
    before = read_record(tmp_path / "ray" / experiment("x").name)
    assert not run_queue([experiment("x")], ray_cluster)
    assert read_record(tmp_path / "ray" / experiment("x").name) == before  # it was complete already
    record = read_record(tmp_path / "ray" / experiment("x").name)["hardware"]  # of the workers, not of `lth`
    assert record == hardware(torch.device("cpu")) | {"nodes": 1, "slots": 2}
    data = ray_cluster.load(SMALL)
    assert ray_cluster.load(SMALL.changed(iterations=80)) is data  # not loaded again
    assert ray_cluster.store(data) is ray_cluster.store(data)
    for seed in range(10):
        ray_cluster.load(SMALL.changed(seed=seed))
    assert len(ray_cluster.data) == DATA_SETS and ray_cluster.load(SMALL) is not data


class One:
    """Stand-in for a cluster: a single slot, which is this process."""

    slots = 1

    def __init__(self):
        self.stopped = threading.Event()

    def progress(self):
        return {}, {}

    def stop(self):
        self.stopped.set()


def test_one_experiment_more_than_there_is_room_for_is_in_flight(tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path))
    both = threading.Barrier(2, timeout=60)  # one experiment alone cannot pass it

    class Where(LocalExecutor):
        def __init__(self, cluster, name):
            pass

        def load(self, settings):
            both.wait()
            return load(settings)

    monkeypatch.setattr(lthcore.runs.ray_queue, "RayExecutor", Where)
    monkeypatch.setenv("LTH_WORKERS", "1")
    assert run_queue([experiment("x"), experiment("y", seed=1)], One()) == {}


def test_a_damaged_experiment_fails_alone_and_one_that_ended_in_a_diverged_ticket_is_done(tmp_path, monkeypatch):
    """As in the local queue: no training run can follow a diverged ticket, so its experiment is complete."""
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path))
    monkeypatch.setattr(lthcore.runs.ray_queue, "RayExecutor", lambda cluster, name: LocalExecutor())
    monkeypatch.setenv("LTH_WORKERS", "1")
    diverged = experiment("diverged", optimizer="sgd", learning_rate=1e12, arms=["ticket"], trials=1, rounds=2)
    run(diverged.settings, tmp_path / diverged.name, quiet=True)
    assert len(pd.read_csv(tmp_path / diverged.name / "rounds.csv")) < 3
    bad, good = experiment("bad"), experiment("good", trials=1)
    (tmp_path / bad.name).mkdir(parents=True)
    (tmp_path / bad.name / "run.json").write_text("{")
    executed = []
    failures = run_queue([diverged, bad, good], One(), afterwards=lambda folder, seconds: executed.append(folder))
    assert list(failures) == [bad.name] and "damaged" in str(failures[bad.name])
    assert executed == [tmp_path / good.name]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_queue_that_is_asked_to_stop_saves_starts_no_more_and_goes_on(how, tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path))
    asked = threading.Event()

    class Where(LocalExecutor):
        def __init__(self, cluster, name):
            self.cluster, self.name = cluster, name

        def load(self, settings):
            if not asked.is_set():  # no training run has started yet
                if self.name.endswith("x"):
                    os.kill(os.getpid(), how)
                assert self.cluster.stopped.wait(timeout=120)  # both threads wait here, so no third begins
            return load(settings)

        def train(self, settings, data, cohort, go_on, trainer):
            go_on.deadline = float("-inf") if self.cluster.stopped.is_set() else go_on.deadline
            yield from train_cohort(settings, data, cohort, go_on, workers=1, trainer=trainer)

    monkeypatch.setattr(lthcore.runs.ray_queue, "RayExecutor", Where)
    these = [experiment("x"), experiment("y", seed=1), experiment("z", seed=2)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore SIGINT in background jobs
    try:
        with pytest.raises(TimeLimit if how == signal.SIGTERM else KeyboardInterrupt):
            run_queue(these, One())
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / these[2].name / "rounds.csv").exists()  # the third experiment was not started
    asked.set()
    assert run_queue(these, One()) == {}
    assert all(len(pd.read_csv(tmp_path / e.name / "rounds.csv")) == 6 for e in these)


def test_a_training_ends_when_the_board_says_stop(tmp_path):
    actor = ProgressActor()
    line = SimpleNamespace(report=actor.report, is_to_stop=lambda answer, patience: answer)
    reporting = Reporting(Checkpointer(tmp_path, SMALL), line, "x")
    key, data = Replicate("ticket", 0, 0, 0), load(SMALL)
    state = begin(SMALL, 0, 0, initial_weights(build(SMALL, data.shape, 10), SMALL, 0))
    said = []
    for now in train(SMALL, data, state):
        said.append(reporting(key, now))
        if now.iteration == 10:
            actor.stop()
        if not said[-1]:
            break
    assert said == [True, True, True, False] and now.iteration == 30  # answered at 20, noticed at 30
    assert (tmp_path / "ticket-trial0-draw0-round00.safetensors").exists()
    assert not Reporting(Checkpointer(tmp_path, SMALL), line, "x")(key, state)  # a training run that starts later


def test_what_fails_on_ray_is_one_line_and_stops_no_other(ray_cluster, tmp_path):
    def no_room():
        raise OSError(28, "No space left on device")

    def nothing_to_run(experiment, folder):
        raise LabError(f"notebook: {experiment.name} has a cell that fails")

    task = ray_cluster.ray.remote(no_room)
    with pytest.raises(LabError, match=r"queue: training x: .*No space left on device; mend that") as caught:
        ray_cluster.result(task.remote(), "training x")
    assert "\n" not in str(caught.value)
    failures = run_queue([experiment("x"), experiment("y", seed=1)], ray_cluster, notebook=nothing_to_run)
    assert sorted(failures) == [experiment(name).name for name in "xy"]
    assert all(str(error).startswith("notebook: ") and "\n" not in str(error) for error in failures.values())
    assert all(read_record(tmp_path / "ray" / experiment(name).name)["complete"] for name in "xy")


def test_a_local_ray_listens_on_loopback_alone_and_has_no_dashboard(ray_cluster):
    ray_cluster.ray.get(ray_cluster.actor.poll.remote())  # wait for a worker, which also has sockets
    here = psutil.Process()
    sockets = [
        (process.name(), *socket.laddr)
        for process in (here, *here.children(recursive=True))
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN or socket.type == SOCK_DGRAM
    ]
    assert {"gcs_server", "raylet"} <= {name for name, *_ in sockets}
    assert [s for s in sockets if not ip_address(s[1].removeprefix("::ffff:")).is_loopback] == []
    assert 8265 not in [port for *_, port in sockets]


def test_a_mirror_that_fails_is_one_line_and_loses_nothing(tmp_path):
    with pytest.raises(LabError, match="mirror: nowhere://x cannot be reached from here"):
        mirror_of("nowhere://x")
    folder = tmp_path / "results" / "smoke" / "iterative_pruning" / "x"
    run(SMALL, folder, quiet=True)
    (tmp_path / "there").write_text("a file where the folder should be")
    with pytest.raises(LabError, match="the tables could not be copied"):
        mirror(folder, tmp_path / "results", str(tmp_path / "there"))


def test_what_no_node_has_is_refused_at_once(monkeypatch):
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install -r requirements-cluster.txt")
    monkeypatch.setenv("LTH_WORKERS", "1")
    with pytest.raises(LabError, match=r"no node has 1 CPUs and 0\.25 GPUs .* lower --cpus-per-run or --gpus-per-run"):
        Cluster(gpus=0.25)
