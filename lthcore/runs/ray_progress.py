"""Progress on Ray: where every training of a queue is. Of the standard library alone: its process starts at once."""

from dataclasses import dataclass


class ProgressActor:
    """Where every training is, and how fast all of them go. An actor: tasks report to it, the queue polls it."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.machines: dict[str, dict[str, dict]] = {}
        self.stopping = False
        self.at: dict[tuple[str, str], int] = {}
        self.steps: dict[str, int] = {}

    def report(self, experiment: str, stem: str, iteration: int) -> bool:
        """A training is at an iteration. Answers whether it is to stop there."""
        before = self.at.get((experiment, stem), iteration)
        self.steps[experiment] = self.steps.get(experiment, 0) + max(0, iteration - before)
        self.at[experiment, stem] = iteration
        return self.stopping

    def stop(self) -> None:
        """From now on every training is told to save and stop."""
        self.stopping = True

    def end(self, experiment: str, stems: list[str]) -> None:
        """Trainings have ended."""
        for stem in stems:
            self.at.pop((experiment, stem), None)

    def trains(self, experiment: str, node: str, hardware: dict) -> None:
        """A node of this hardware trains for an experiment."""
        self.machines.setdefault(experiment, {})[node] = hardware

    def hardware(self, experiment: str) -> dict[str, dict]:
        """Node -> hardware, of those that have trained for an experiment."""
        return self.machines.get(experiment, {})

    def poll(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """Trainings in progress and their iterations; steps taken so far, by experiment."""
        return self.at, self.steps


@dataclass
class ProgressClient:
    """What a task reports by, without waiting for an answer."""

    actor: object

    def report(self, *told: object) -> object:
        """Report to the actor; whether to stop is asked of what comes back, later."""
        return self.actor.report.remote(*told)

    def trains(self, *told: object) -> None:
        """Report which hardware trains."""
        self.actor.trains.remote(*told)

    def is_to_stop(self, answer: object, patience: float) -> bool:
        """Whether an answer is there, within so many seconds, and is to stop."""
        import ray

        return bool(ray.wait([answer], timeout=patience)[0]) and ray.get(answer)
