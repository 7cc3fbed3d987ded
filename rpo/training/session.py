"""One session of training in a run directory: all that is kept and told of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np

from rpo.errors import CheckpointError, TrainingError, one_line
from rpo.training import processes
from rpo.training.checkpoint import last_checkpoint, save_checkpoint
from rpo.training.evaluation import evaluate_policies, store_evaluation
from rpo.training.logging import Reporter, Speed, Status
from rpo.training.metrics import Mark, Records
from rpo.training.origin import begin, read_own
from rpo.training.policies import MOMENTS, leading_policies, load_policies
from rpo.training.policy_file import write_policy_file
from rpo.training.program import Program, Progressing
from rpo.training.progress import Callback, Progress
from rpo.training.run import Run
from rpo.training.selection import Race
from rpo.training.settings import Resolved
from rpo.training.task_check import broken_states

MAX_SKIPPED_UPDATES = 10
"""So many updates in a row with a gradient that is not finite end the training."""

Lanes = list[Progressing]
"""States of the trainings, one batch of seeds and candidates per device."""


class Session:
    """Where a training stands, and everything about it that is not computing.

    Args:
        run: its directory.
        resolved: its settings.
        program: the compiled one.
        reporter: what the user sees.
        callbacks: what else is told.
    """

    def __init__(
        self,
        run: Run,
        resolved: Resolved,
        program: Program,
        reporter: Reporter,
        callbacks: tuple[Callback, ...],
    ) -> None:
        self.run = run
        self.resolved = resolved
        self.settings = resolved.run_settings
        self.program = program
        self.reporter = reporter
        self.callbacks = callbacks
        self.race = Race.start(program.selection, len(program.seeds))
        self.total_iterations = program.selection.iterations
        self.moments = {round(self.total_iterations * k / MOMENTS) for k in range(MOMENTS + 1)}
        self.steps_per_iteration = program.algorithm.steps_per_iteration
        self.iteration = 0
        self.seconds = 0.0
        self.saved_iteration: int | None = None
        self.policy_iteration: int | None = None  # of `policy.npz`, if this session has written it
        self.mark: Mark | None = None
        self.warned = False
        self.saved_at = time.monotonic()
        self.speed = Speed()
        self.metrics: dict[str, np.ndarray] = {}
        self.best_return = math.nan  # mean over seeds, in this session

    @property
    def finished(self) -> bool:
        """Whether no iteration is left."""
        return self.iteration >= self.total_iterations

    @property
    def save_is_due(self) -> bool:
        """Whether the last checkpoint is old enough for a new one."""
        return time.monotonic() - self.saved_at >= self.settings.checkpoint_interval

    def start(self) -> Lanes:
        """The states to go on from: fresh ones, an origin's, or those of the last checkpoint."""
        stacked: Lanes = []

        def read() -> dict[str, Any] | None:
            path = last_checkpoint(self.run.checkpoints)
            if path is None:
                require_no_policy(self.run)
                return None
            self.reporter.phase(f"reading checkpoint {path.stem}")
            found = read_own(self.run, self.program)
            assert found is not None
            _, state, facts, race = found
            stacked.append(state)
            names = ("iteration", "seconds", "metrics")
            return {name: facts.get(name) for name in names} | race.facts()

        facts = processes.share(read)
        if facts is None:
            self.reporter.phase("preparing networks and environments")
            lanes = begin(self.program, self.run)
            if "origin" in self.run.config:
                self.save(lanes)  # from now on the run does not need the other
        else:
            if not stacked:  # this process did not read; the first one's state will take its place
                shapes = self.program.shapes(facts["iteration"])
                stacked.append(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
            lanes = self.program.from_host(stacked[0])
            self.iteration, self.seconds = facts["iteration"], facts["seconds"]
            program, where = self.program, self.run.checkpoints
            self.race = Race.resume(program.selection, len(program.seeds), facts, where)
            self.saved_iteration = self.iteration
            self.mark = Mark.of(facts["metrics"])
        again = len(self.run.config["sessions"]) > 1 or facts is not None
        if again and processes.is_first():
            self.run.start_session(self.iteration)
        return lanes

    def enter(self, metrics: dict[str, np.ndarray], records: Records | None, took: float) -> None:
        """Counts an iteration, writes and tells what came of it, and ends a training that is lost.

        Args:
            metrics: of all candidates.
            records: where they are written, if this process writes.
            took: seconds.

        Raises:
            TrainingError: if updates or states are not finite any more.
        """
        self.iteration += 1
        self.speed.add(self.steps_per_iteration * self.race.numbers.size, took)
        self.race.note(metrics)
        self.metrics = self.race.leading(metrics)
        if records is not None:
            self._record(records)
        require_finite_updates(self.metrics, self.program.seeds)
        self._watch_states()

    def select(self, lanes: Lanes, metrics: dict[str, np.ndarray]) -> Lanes:
        """Drops candidates if it is time; what each of them had reached goes to a file."""
        before = Race(self.race.selection, self.race.numbers, self.race.rewards)
        kept = self.race.drop(self.iteration, metrics)
        if kept is None:
            return lanes
        if processes.is_first():
            facts = {"iteration": self.iteration, "env_steps": self.env_steps}
            self.run.add_selection(facts, before, before.scores(metrics), self.race)
        self.reporter.phase(f"going on with {self.race.numbers.shape[1]} candidates per seed")
        lanes = self.program.keep(lanes, kept)
        self.program.compile(lanes)
        return lanes

    def records(self) -> contextlib.AbstractContextManager[Records | None]:
        """Where metrics are written; nowhere in a process that does not own the run directory."""
        if not processes.is_first():
            return contextlib.nullcontext()
        events = self.run.path / "tensorboard"
        return Records(self.run.metrics_path, events, self.iteration, self.env_steps, self.mark)

    def save(self, lanes: Lanes) -> None:
        """Writes a checkpoint and the newest policy."""
        if self.saved_iteration != self.iteration:
            facts = {
                "iteration": self.iteration,
                "seconds": self.seconds,
                **self.race.facts(),
                "run": self.run.config.get("id"),
                "metrics": dataclasses.asdict(self.mark) if self.mark else None,
            }
            state = self.program.to_host(lanes)  # by all processes together
            if processes.is_first():
                save_checkpoint(self.run.checkpoints, state, facts)
            self.saved_iteration = self.iteration
        self.keep(lanes, newest=True)
        self.saved_at = time.monotonic()

    def keep(self, lanes: Lanes, newest: bool = False) -> None:
        """Writes the policy files that are due; all processes of a run call it together.

        Args:
            lanes: states of the trainings; of each seed the one that leads is kept.
            newest: replace `policy.npz`, rather than only keep a moment if this is one.

        Raises:
            OSError: if a file cannot be written.
        """
        due = self.iteration in self.moments
        newest = newest and self.policy_iteration != self.iteration
        if not (due or newest):
            return
        state = self.program.standing(lanes)  # by all processes together
        if newest:
            self.policy_iteration = self.iteration
        if not processes.is_first():
            return
        policies = leading_policies(
            self.run, self.resolved, state, self.race, self.iteration, self.env_steps
        )
        if newest:
            write_policy_file(self.run.policy_path, policies)
        if due:
            moment = dataclasses.replace(policies, best=None)
            write_policy_file(self.run.moments / f"iteration_{self.iteration:08d}.npz", moment)

    def evaluate(self) -> None:
        """Plays full episodes with the last policies."""
        episodes = self.settings.evaluation_episodes
        if not episodes or not processes.is_first():
            return
        self.reporter.phase(f"evaluating {episodes} episodes per seed")
        policies = load_policies(self.run, env=self.program.env)
        for deterministic in (False, True):
            evaluation = evaluate_policies(policies, episodes=episodes, deterministic=deterministic)
            store_evaluation(self.run, evaluation, self.iteration)
            self.reporter.message(str(evaluation))
        self.reporter.phase("finished")

    def disk_trouble(self, error: OSError) -> str:
        """What to tell about a file that could not be written, in one line."""
        saved = f"the checkpoint of iteration {self.saved_iteration} is intact"
        saved = saved if self.saved_iteration is not None else "no checkpoint had been written yet"
        return (
            f"cannot write to {self.run.path} ({error.strerror or one_line(error)}); {saved}: "
            f"make room, then continue with {self.run.resume_command}"
        )

    def tell(self, *, ended: bool = False) -> None:
        """Calls the callbacks."""
        if not processes.is_first():
            return
        progress = Progress(
            self.run,
            self.iteration,
            self.total_iterations,
            self.env_steps,
            self.seconds,
            self.metrics,
            ended,
        )
        for callback in self.callbacks:
            callback(progress)

    @property
    def env_steps(self) -> int:
        """Environment steps of each seed so far, those of all its candidates together."""
        return self._steps_after(self.iteration)

    def _steps_after(self, iteration: int) -> int:
        return self.program.selection.spent(iteration) * self.steps_per_iteration

    def _record(self, records: Records) -> None:
        wall_clock = {"seconds": self.seconds, "steps_per_second": self.speed.latest}
        seeds = self.program.seeds
        records.write(self.iteration, self.env_steps, wall_clock, seeds, self.metrics)
        self.mark = records.mark
        returns = self.metrics["episode_return"]
        finished = returns[np.isfinite(returns)]
        episode_return = float(finished.mean()) if len(finished) else math.nan
        self.best_return = float(np.fmax(self.best_return, episode_return))  # fmax passes over NaN
        total_steps = self._steps_after(self.total_iterations)
        self.reporter.status(
            Status(
                env_steps=self.env_steps,
                total_steps=total_steps,
                steps_per_second=self.speed.recent,
                seconds_left=(total_steps - self.env_steps) * len(seeds) / self.speed.recent,
                episode_return=episode_return,
                best_return=self.best_return,
            )
        )
        self.tell()

    def _watch_states(self) -> None:
        """Ends a training in which no step is finite, and says once if some are not."""
        share, trouble = broken_states(
            self.metrics, self.steps_per_iteration, self.program.seeds, self.program.env
        )
        if trouble:
            raise TrainingError(f"in iteration {self.iteration} {trouble}")
        if share and not self.warned and processes.is_first():
            self.warned = True
            self.reporter.message(
                f"warning: in iteration {self.iteration}, {share:.1%} of the steps gave a state, "
                "observation or reward that is not finite; those episodes end with reward zero "
                "(column non_finite_states)"
            )


def require_no_policy(run: Run) -> None:
    """Refuses to begin anew where there was a checkpoint once: its policy would be overwritten.

    Raises:
        CheckpointError: naming what is lost and what is left.
    """
    if run.policy_path.exists():  # which is written after the first checkpoint
        raise CheckpointError(
            f"{run.path} has lost its checkpoints, so it cannot go on: put "
            f"{run.checkpoints.name}/ back, or start a new run; {run.policy_path} still holds the "
            "trained policies"
        )


def require_finite_updates(metrics: dict[str, np.ndarray], seeds: list[int]) -> None:
    """Ends a training whose updates have been skipped again and again."""
    in_a_row = metrics.get("updates_skipped_in_a_row")
    if in_a_row is None or (in_a_row < MAX_SKIPPED_UPDATES).all():
        return
    k = int(np.argmax(in_a_row))

    def count(name: str) -> int:
        return int(metrics[name][k]) if name in metrics else 0

    culprit = "actor" if count("actor_updates_skipped") else "critic"
    raise TrainingError(
        f"seed {seeds[k]}: the last {int(in_a_row[k])} updates in a row had a gradient that is not "
        f"finite (the {culprit}'s; in the last iteration {count('non_finite_states')} states and "
        f"{count('non_finite_gradients')} action gradients of environments were not finite)"
    )
