"""Progress of a queue's training runs on Ray. Imports the standard library alone, so the actor starts quickly."""

from dataclasses import dataclass


class ProgressActor:
    """Ray actor that tracks the iteration of every training run. Tasks report to it, and the queue polls it."""

    def __init__(self) -> None:
        """Start with no training runs."""
        self.machines: dict[str, dict[str, dict]] = {}
        self.stopping = False
        self.at: dict[tuple[str, str], int] = {}
        self.steps: dict[str, int] = {}

    def report(self, experiment: str, stem: str, iteration: int) -> bool:
        """Record the iteration of a training run. Return whether the run should stop there."""
        before = self.at.get((experiment, stem), iteration)
        self.steps[experiment] = self.steps.get(experiment, 0) + max(0, iteration - before)
        self.at[experiment, stem] = iteration
        return self.stopping

    def stop(self) -> None:
        """Tell every training run to save and stop, from its next report on."""
        self.stopping = True

    def end(self, experiment: str, stems: list[str]) -> None:
        """Remove training runs that have ended."""
        for stem in stems:
            self.at.pop((experiment, stem), None)

    def trains(self, experiment: str, node: str, hardware: dict) -> None:
        """Record that a node with this hardware trains an experiment."""
        self.machines.setdefault(experiment, {})[node] = hardware

    def hardware(self, experiment: str) -> dict[str, dict]:
        """Return the hardware of each node that has trained an experiment, by node name."""
        return self.machines.get(experiment, {})

    def poll(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """Return the iteration of each training run in progress, and the steps taken so far by experiment."""
        return self.at, self.steps


@dataclass
class ProgressClient:
    """Client by which a task reports to the actor without waiting for an answer."""

    actor: object

    def report(self, *told: object) -> object:
        """Report to the actor. Returns a reference to its answer, which `is_to_stop` takes later."""
        return self.actor.report.remote(*told)

    def trains(self, *told: object) -> None:
        """Report the hardware that trains an experiment."""
        self.actor.trains.remote(*told)

    def is_to_stop(self, answer: object, patience: float) -> bool:
        """Return whether an answer arrives within `patience` seconds and says to stop."""
        import ray

        return bool(ray.wait([answer], timeout=patience)[0]) and ray.get(answer)
