"""Fault injection: kill runs, fill disks and damage files, and check that no result is lost (`make faults`).

After each fault the same command is run again, and its tables must equal those of an undisturbed run. A run is a child
process that searches tickets of 8x8 digits. Each function injects one fault, with random choices that follow from
`seed`, and returns how many times it killed or broke something. It raises AssertionError if a result was lost.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
PARAMS = """
dataset: digits
architecture: mlp
validation: 200
learning_rate: 5.0e-3
iterations: 200
eval_every: 10
rounds: 3
arms: [ticket, reinit]
reinit_draws: 1
trials: 2
profiles:
  smoke: {}
  cpu: {}
  paper: {}
"""
FOLDER = Path("smoke/iterative_pruning/faulty")
LIMIT = 300  # seconds after which a command counts as hung


def project(place: Path) -> Path:
    """Create a project with one experiment in a folder, and return the folder."""
    (place / "params" / "iterative_pruning").mkdir(parents=True)
    (place / "params" / "iterative_pruning" / "faulty.yaml").write_text(PARAMS)
    shutil.copytree(ROOT / "notebooks", place / "notebooks")
    return place


def command(place: Path, *more: str, workers: int = 1, notebook: bool = False, **options) -> subprocess.Popen:
    """Start `lth run` on the project's experiment, in a new process group, with a checkpoint at every evaluation."""
    code = (
        "from functools import partial; import lthcore.runs.runner as r; from lthcore.cli import main; "
        "r.Checkpointer = partial(r.Checkpointer, every=0.0); main()"
    )
    environment = os.environ | {
        "LTH_RESULTS": str(place / "results"), "LTH_WORKERS": str(workers), "LTH_PLAIN": "1", "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    arguments = [] if notebook else ["--no-notebook"]
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", "params/iterative_pruning/faulty.yaml", "--profile", "smoke",
         *arguments, *more],
        cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, **options,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for a command to end; return its exit status and its standard error."""
    _, said = process.communicate(timeout=LIMIT)
    return process.returncode, said


def tables(place: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rounds.csv and curves.csv of the run, without the column `seconds`, which differs between runs."""
    folder = place / "results" / FOLDER
    return pd.read_csv(folder / "rounds.csv").drop(columns="seconds"), pd.read_csv(folder / "curves.csv")


@cache
def undisturbed() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of an undisturbed run, which is done once per process."""
    with tempfile.TemporaryDirectory() as name:
        place = project(Path(name) / "lab")
        status, said = finish(command(place))
        assert status == 0, said
        return tables(place)


def goes_on(place: Path, **options) -> None:
    """Run the same command again: it must succeed, and its tables must equal those of an undisturbed run."""
    status, said = finish(command(place, **options))
    assert status == 0, said
    for mine, theirs in zip(tables(place), undisturbed(), strict=True):
        pd.testing.assert_frame_equal(mine, theirs)


def training_has_begun(place: Path, process: subprocess.Popen, saves: int = 1) -> bool:
    """Wait until the run has written `saves` checkpoints and tickets; return whether it is still running."""
    wait_for_saves(place, saves, lambda: process.poll() is None)
    return process.poll() is None


def wait_for_saves(place: Path, saves: int, runs: Callable[[], bool]) -> None:
    """Wait until `saves` new or rewritten checkpoints and tickets were seen, or until `runs` returns False.

    Raises AssertionError after LIMIT seconds.
    """
    folder, end = place / "results" / FOLDER, time.monotonic() + LIMIT
    before, seen = files_and_times(folder), set()
    while len(seen) < saves and runs():
        assert time.monotonic() < end, f"{len(seen)} of {saves} checkpoints and tickets were saved in {LIMIT} s"
        time.sleep(0.005)
        seen |= files_and_times(folder) - before


def files_and_times(folder: Path) -> set[tuple[Path, int]]:
    """Return the checkpoints and tickets of a run, each with its time of modification (ns)."""
    found = set()
    for path in folder.glob("*/[!.]*.safetensors"):
        try:
            found.add((path, path.stat().st_mtime_ns))
        except FileNotFoundError:  # a checkpoint that was removed since, because its training run ended
            continue
    return found


def children(pid: int) -> list[int]:
    """Return the process ids of all descendants of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


def line_of(pid: int) -> str:
    """Return the command line of a process, or "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def kill_the_run(place: Path, seed: int) -> int:
    """Kill the whole run (SIGKILL) three times, each time after a random number of saves."""
    chance, kills = random.Random(seed), 0
    for _ in range(3):
        process = command(place, workers=1 + seed % 2)
        if training_has_begun(place, process, saves=chance.randint(1, 60)):
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    goes_on(place)
    return kills


def in_shared_memory(pid: int) -> list[str]:
    """Return the files that joblib made in shared memory for a process: their names contain the process id."""
    return [path.name for path in Path("/dev/shm").glob("*") if re.search(rf"[_-]{pid}[_-]", path.name)]


def wait_until(done: Callable[[], object], otherwise: str) -> None:
    """Wait until `done` returns a true value. Raises AssertionError with message `otherwise` after LIMIT seconds."""
    end = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)


def kill_alone(process: subprocess.Popen) -> None:
    """Kill one process (SIGKILL): its descendants must end by themselves, and its shared memory must be freed."""
    family = {pid: line_of(pid) for pid in children(process.pid)}
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(line and line_of(pid) == line for pid, line in family.items()), "processes are left")
    process.communicate(timeout=LIMIT)  # ends only when no descendant has its output pipes open
    wait_until(lambda: not in_shared_memory(process.pid), "shared memory is left")


def kill_the_main_process(place: Path, seed: int) -> int:
    """Kill the main process alone, as the system does when memory runs out; the workers must end by themselves.

    It is killed when workers have started (even seeds) or have saved something (odd seeds).
    """
    process = command(place, workers=2)
    if seed % 2:
        training_has_begun(place, process)
    else:
        wait_until(lambda: process.poll() is not None or in_shared_memory(process.pid), "no worker has begun")
    assert process.poll() is None, finish(process)[1]
    kill_alone(process)
    goes_on(place)
    return 1


def kill_all_processes(place: Path, seed: int) -> int:
    """Kill a run with all of its processes: the next run must remove what they left in shared memory."""
    process = command(place, workers=2)
    wait_until(lambda: process.poll() is not None or in_shared_memory(process.pid), "no worker has begun")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    goes_on(place)
    assert not in_shared_memory(process.pid), "shared memory is left"
    return 1


def kernel_of(process: subprocess.Popen) -> int | None:
    """Return the process id of the kernel that executes a run's notebook, or None if there is none."""
    return next((pid for pid in children(process.pid) if "ipykernel" in line_of(pid)), None)


def kill_papermill(place: Path, seed: int) -> int:
    """Kill the run while its notebook's kernel starts or after it has printed something: the kernel must end, too."""
    process, notebook = command(place, notebook=True), place / "results" / FOLDER / "faulty.ipynb"
    executes = (lambda: notebook.exists() and '"stream"' in notebook.read_text()) if seed % 2 else (lambda: True)
    wait_until(lambda: process.poll() is not None or (kernel_of(process) and executes()), "no kernel has begun")
    if process.poll() is not None:
        return 0
    kill_alone(process)
    goes_on(place, notebook=True)
    return 1


def stop_papermill(place: Path, seed: int) -> int:
    """Send SIGTERM or SIGINT while the notebook is executed: exit status 75 or 130, one message, no kernel left.

    The exit status is 0 if the command ended before the signal came.
    """
    process, number, code = command(place, notebook=True), *((signal.SIGINT, 130), (signal.SIGTERM, 75))[seed % 2]
    wait_until(lambda: process.poll() is not None or kernel_of(process), "no kernel has begun")
    family = children(process.pid)
    process.send_signal(number)
    status, said = finish(process)
    assert status in (code, 0) and "Traceback" not in said and said.count("lth: ") == (status != 0), said
    wait_until(lambda: not any(map(line_of, family)), "processes are left")
    goes_on(place, notebook=True)
    return 1


def cut_the_cache_short(place: Path, seed: int) -> int:
    """Cut the files of numba's cache short, as a full disk does: a run must still succeed, with the same tables."""
    before, cache = os.environ.get("NUMBA_CACHE_DIR"), place / "cache"
    os.environ["NUMBA_CACHE_DIR"] = str(cache)
    try:
        goes_on(place)
        files = list(cache.rglob("*.nb[ic]"))
        for file in files:
            os.truncate(file, random.Random(seed).randrange(file.stat().st_size))
        goes_afresh(place)
    finally:
        del os.environ["NUMBA_CACHE_DIR"]
        if before is not None:
            os.environ["NUMBA_CACHE_DIR"] = before
    return len(files)


def kill_a_worker(place: Path, seed: int) -> int:
    """Kill one of two workers: the run must end with a message that says so, and the same command must resume it."""
    process = command(place, workers=2)
    training_has_begun(place, process, saves=random.Random(seed).randint(1, 40))
    workers = [pid for pid in children(process.pid) if "loky" in line_of(pid) and "tracker" not in line_of(pid)]
    for pid in workers[:1]:
        os.kill(pid, signal.SIGKILL)
    status, said = finish(process)
    if workers and status:
        assert status == 2 and "Traceback" not in said and "a worker process was killed" in said, said
    goes_on(place, workers=2)
    return len(workers[:1])


def kill_the_kernel(place: Path, seed: int) -> int:
    """Kill the notebook's kernel after some cells: an error without traceback; the same command must then succeed."""
    process, killed, cells = command(place, notebook=True), 0, random.Random(seed).randint(0, 5)
    executed, end = place / "results" / FOLDER / "faulty.ipynb", time.monotonic() + LIMIT
    while process.poll() is None and not killed:
        assert time.monotonic() < end, f"the kernel has not executed {cells} cells in {LIMIT} s"
        done = executed.read_text().count('"status": "completed"') if executed.exists() else 0
        for pid in [pid for pid in children(process.pid) if "ipykernel" in line_of(pid) and done >= cells][:1]:
            os.kill(pid, signal.SIGKILL)
            killed = 1
        time.sleep(0.005)
    status, said = finish(process)
    if killed and status:
        assert status == 2 and "Traceback" not in said, said
    goes_on(place, notebook=True)
    assert executed.exists()
    return killed


def ask_to_stop(place: Path, seed: int) -> int:
    """Send SIGTERM, as clusters do: the run must exit with status 75 (0 if it was complete) and be resumable."""
    process = command(place, workers=1 + seed % 2)
    if training_has_begun(place, process):
        os.kill(process.pid, signal.SIGTERM)
        status, said = finish(process)
        assert status in (75, 0) and "Traceback" not in said, said
    goes_on(place)
    return 1


def interrupt(place: Path, seed: int) -> int:
    """Send SIGINT (Ctrl-C): exit status 130 (0 if it was complete), and a message that says how to resume."""
    process = command(place)
    if training_has_begun(place, process):
        os.kill(process.pid, signal.SIGINT)
        status, said = finish(process)
        assert status in (130, 0) and "Traceback" not in said, said
        assert status == 0 or "run the same command again" in said
    goes_on(place)
    return 1


def fill_the_disk(place: Path, seed: int) -> int:
    """Limit the size of files, as a full disk does: an error without traceback; without the limit, the run succeeds."""
    most = random.Random(seed).choice((1_000, 20_000, 60_000))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    status, said = finish(command(place, preexec_fn=limited))
    assert status == 2 and "Traceback" not in said and "mend that" in said, said
    goes_on(place)
    return 1


def run_on_a_small_disk(place: Path, seed: int) -> int:
    """Run on a file system of 200 kB: an error without traceback; once it is enlarged, the run succeeds.

    Returns 0 if the file system cannot be mounted, which only root can do.
    """
    disk = place / "results"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        return 0
    try:
        status, said = finish(command(place))
        assert status == 2 and "Traceback" not in said and "mend that" in said, said
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        goes_on(place)
    finally:
        subprocess.run(["umount", disk], check=True)
    return 1


def write_where_none_may(place: Path, seed: int) -> int:
    """Put a file in place of the results folder: an error without traceback."""
    (place / "results").write_text("a file where the folder should be")
    status, said = finish(command(place))
    assert status == 2 and "Traceback" not in said, said
    (place / "results").unlink()
    goes_on(place)
    return 1


def start_twice(place: Path, seed: int) -> int:
    """Start two runs of the same experiment at once: one that finds the other at work must name its process."""
    first, second = command(place), command(place)
    endings = [finish(first), finish(second)]
    for status, said in endings:
        assert status == 0 or (status == 2 and "is in use by process" in said), said
    assert 0 in [status for status, _ in endings]
    goes_on(place)
    return 1


def leave_half_a_file(place: Path, seed: int) -> int:
    """Leave partial files beside the complete ones, as a kill during a write does: the next run must remove them."""
    folder = place / "results" / FOLDER
    process = command(place)
    if training_has_begun(place, process) and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    halves = [folder / ".rounds.csv.1.partial", folder / "tickets" / ".ticket.safetensors.1.partial"]
    for half in halves:
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(b"half of")
    goes_on(place)
    assert not any(half.exists() for half in halves)
    return 1


def damage_a_file(place: Path, seed: int) -> int:
    """Cut a saved file short or overwrite half of it: an error must name it; once deleted, the run must succeed."""
    chance, folder = random.Random(seed), place / "results" / FOLDER
    process = command(place)
    if training_has_begun(place, process, saves=chance.randint(10, 60)):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    saved = sorted(folder.glob("*/*.safetensors"))
    if not saved:
        goes_on(place)
        return 0
    path = chance.choice(saved)
    content = bytearray(path.read_bytes())
    if seed % 2:
        content = content[: chance.randrange(len(content))]
    else:
        content[: len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)
    status, said = finish(command(place))
    if status:  # 0 if the file is not needed, because the rows of its training run are written
        assert status == 2 and path.name in said and "Traceback" not in said, said
        path.unlink()
    goes_on(place)
    return 1


def goes_afresh(place: Path) -> None:
    """Run the command with --force: everything must be made again, with the tables of an undisturbed run."""
    status, said = finish(command(place, "--force"))
    assert status == 0, said
    for mine, theirs in zip(tables(place), undisturbed(), strict=True):
        pd.testing.assert_frame_equal(mine, theirs)


FAULTS: dict[str, tuple[Callable[[Path, int], int], int]] = {  # name -> function, times by `make faults`
    "the run killed": (kill_the_run, 8),
    "the main process killed": (kill_the_main_process, 4),
    "all processes killed": (kill_all_processes, 2),
    "a worker killed": (kill_a_worker, 4),
    "the notebook's kernel killed": (kill_the_kernel, 2),
    "papermill killed": (kill_papermill, 2),
    "papermill asked to stop": (stop_papermill, 2),
    "SIGTERM": (ask_to_stop, 3),
    "Ctrl-C": (interrupt, 2),
    "files that cannot grow": (fill_the_disk, 3),
    "a full disk": (run_on_a_small_disk, 1),
    "results that cannot be written": (write_where_none_may, 1),
    "two runs at once": (start_twice, 2),
    "an interrupted write": (leave_half_a_file, 1),
    "a damaged file": (damage_a_file, 6),
    "a compiler's cache cut short": (cut_the_cache_short, 1),
}


def soak(runs: int = 200) -> dict[str, float]:
    """Do many short runs in one process; return by how much its memory (MB) and number of open files grow.

    Growth counts from the run with index 20, or from half of the runs if there are fewer than 40.
    """
    from lthcore.runs.runner import run
    from lthcore.settings import Settings

    os.environ["LTH_WORKERS"] = "1"
    tiny = Settings(
        dataset="digits", architecture="mlp", validation=200, iterations=20, eval_every=10, arms=["ticket", "reinit"],
        trials=1, rounds=1, reinit_draws=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for i in range(runs):
            run(tiny.changed(seed=i), Path(name) / str(i), quiet=True)
            if i == min(20, runs // 2):
                memory, files = resident(), open_files()
        return {"runs": runs, "memory_growth_mb": resident() - memory, "open_files_growth": open_files() - files}


def soak_of_networks(trainings: int = 20) -> float:
    """Train Conv-2 many times in one run, a few steps each; return the growth of memory (MB) after the fourth time."""
    from lthcore.runs.executor import LocalExecutor
    from lthcore.runs.runner import run
    from lthcore.settings import Settings

    class Watched(LocalExecutor):
        def train(self, *args):
            for pair in super().train(*args):
                yield pair
                memory.append(resident())

    os.environ["LTH_WORKERS"], memory = "1", []
    network = Settings(
        dataset="digits", image_size=32, architecture="conv2", train_examples=300, validation=100, iterations=4,
        eval_every=2, arms=["ticket", "reinit"], trials=1, rounds=1, reinit_draws=trainings - 2,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        run(network, Path(name) / "conv2", quiet=True, executor=Watched())
    return round(max(memory[4:]) - memory[3], 1)


def resident() -> float:
    """Return the resident memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 1e6, 1)


def open_files() -> int:
    """Return the number of files that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def main() -> None:
    """Inject each fault as often as its table says, or --times times, and print the counts.

    Without --times, also write results/faults.json. The exit status is 1 if a result was lost, if files stayed open, or
    if memory grew too much.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, help="how often each fault is done")
    parser.add_argument("--no-ray", action="store_true", help="leave Ray out")
    options = parser.parse_args()
    from content_faults import CONTENT_FAULTS

    faults, kinds = FAULTS | CONTENT_FAULTS, {name: times for name, (_, times) in CONTENT_FAULTS.items()}
    if not options.no_ray:
        try:
            from ray_faults import RAY_FAULTS

            faults |= RAY_FAULTS
        except ImportError:
            print("Ray is not installed: its faults are left out (pip install -r requirements-cluster.txt)")
    rows = []
    for name, (fault, times) in faults.items():
        tried = lost = 0
        for seed in range(min(options.times or times, kinds.get(name, sys.maxsize))):
            with tempfile.TemporaryDirectory() as place:
                try:
                    tried += fault(project(Path(place) / "lab"), seed)
                except AssertionError as error:
                    tried, lost = tried + 1, lost + 1
                    print(f"LOST: {name}, seed {seed}: {str(error)[:500]}", flush=True)
        rows.append({"fault": name, "tried": tried, "survived": tried - lost, "lost": lost})
        print(f"{name:34} tried {tried:3}   survived {tried - lost:3}   results lost {lost}", flush=True)
    soaked = soak() | {"conv2_memory_growth_mb": soak_of_networks()}
    print(f"soak: {soaked}")
    total = {key: sum(row[key] for row in rows) for key in ("tried", "survived", "lost")}
    print(f"faults tried {total['tried']}, survived {total['survived']}, results lost {total['lost']}")
    from lthcore.runs.provenance import COMMIT, versions

    record = {**total, "commit": COMMIT, "versions": versions(), "faults": rows, "soak": soaked}
    if not options.times:
        (ROOT / "results" / "faults.json").write_text(json.dumps(record, indent=2) + "\n")
    grew = soaked["memory_growth_mb"] > 60 or soaked["conv2_memory_growth_mb"] > 150
    sys.exit(1 if total["lost"] or soaked["open_files_growth"] > 0 or grew else 0)


if __name__ == "__main__":
    main()
