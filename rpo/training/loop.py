"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rpo import runtime
from rpo.adapters import foreign
from rpo.envs.base import Env
from rpo.errors import CheckpointError, SettingsError, TrainingError, TrainingInterrupted
from rpo.training import processes
from rpo.training.cache import enable_compilation_cache
from rpo.training.checkpoint import (
    iteration_of,
    last_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from rpo.training.evaluation import evaluate_policies, store_evaluation
from rpo.training.logging import Reporter, Speed, Status, make_reporter
from rpo.training.metrics import Mark, Records
from rpo.training.origin import (
    begin,
    origin_of,
    restore_origin,
    resume_settings,
    settings_from,
    started_from,
)
from rpo.training.policies import PolicyKeeper, load_policies
from rpo.training.program import Program, Progressing
from rpo.training.progress import Callback, Progress
from rpo.training.run import Run
from rpo.training.selection import Race
from rpo.training.settings import Resolved, one_line, resolve
from rpo.training.signals import noted_signals
from rpo.training.task_check import broken_states

MAX_SKIPPED_UPDATES = 10
"""So many updates in a row with a gradient that is not finite end the training."""


def train(
    task: str | Env | None = None,
    algorithm: str = "rpo",
    *,
    preset: str = "fast",
    seed: int | None = None,
    seeds: int | None = None,
    total_steps: int | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    from_run: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
    verbose: bool = True,
    **settings: Any,
) -> Run:
    """Trains policies, and evaluates them at the end.

    Where JAX connects several processes (see `rpo.training.processes`), all of them make the same
    call; only the first one writes, reports, evaluates and has its callbacks called.

    Args:
        task: name of a shipped task, of another package's such as `brax:ant`, `file.py:Class`, or
            an environment. Not needed to resume.
        algorithm: name of the method.
        preset: name of the settings to start from.
        seed: of the first training, 0 by default.
        seeds: how many trainings, with seeds `seed`, `seed` + 1, ..., in one program; by default 1.
        total_steps: environment steps of each training; the preset's by default.
        run_dir: new directory for the run, by default one under `runs`.
        resume: run directory to continue, with the settings it has; give no others.
        from_run: run directory to start from, in a new one: with its policies, critics and
            settings, but for those given here (`rpo.training.origin`).
        callbacks: called after every iteration and at the end.
        verbose: report progress on standard output.
        settings: further settings of the method, the task or the run, by name.

    Returns:
        the finished run.

    Raises:
        SettingsError: if a name is unknown or a value is out of range.
        RunError: if the directory cannot serve; CheckpointError if its checkpoint is damaged.
        TrainingError: if updates are not finite any more, or the disk is full; the last
            checkpoint stays intact.
        TrainingInterrupted: after SIGINT or SIGTERM; the run has been saved.
        OSError: if the run directory cannot be made.
    """
    foreign.prepare(task)
    for problem in runtime.configure():
        warnings.warn(problem, stacklevel=2)
    enable_compilation_cache()
    processes.require_equal_devices()
    lost = "the run goes on from its last checkpoint with rpo train --resume"
    with processes.partners_needed(lost), contextlib.ExitStack() as held:
        if resume is not None:
            run = _shared(lambda: Run.load(resume))
            resolved = resume_settings(run, task, total_steps, settings)
            program = Program(resolved)
        else:
            asked = {"seed": seed, "seeds": seeds, "total_steps": total_steps}
            settings |= {name: value for name, value in asked.items() if value is not None}
            origin = None
            if from_run is not None:
                origin = Run.load(from_run)
                env = task
                task, algorithm, preset, settings = settings_from(origin, env, algorithm, settings)
            if task is None:
                raise SettingsError("name a task to train, or a run to resume or to start from")
            resolved = resolve(task, algorithm, preset, settings)
            processes.require_alike(resolved)
            program = Program(resolved)  # refuses impossible settings before anything is written
            program.require_fitting()
            path = Path(run_dir) if run_dir is not None else None
            facts = None
            if origin is not None:
                restored = restore_origin(origin, resolved.env)
                facts = origin_of(origin, restored)
                started_from(program, program.shapes(), restored)  # refuses what does not fit
            run = _shared(lambda: Run.create(path, resolved, facts))
        run.env = resolved.env  # to be evaluated here without asking for it again
        reporter = make_reporter(verbose and processes.is_first())
        held.callback(reporter.close)
        processes.share(lambda: held.enter_context(run.locked()))
        training = _Training(run, resolved, program, reporter, tuple(callbacks))
        try:
            training.run_to_end()
        except OSError as error:
            raise TrainingError(training.disk_trouble(error)) from error
    return run


def _shared(make: Callable[[], Run]) -> Run:
    """The first process's run, which the others need not see on their disk."""

    def describe() -> dict[str, Any]:
        run = make()
        return {"path": str(run.path), "config": run.config}

    told = processes.share(describe)
    return Run(Path(told["path"]), told["config"])


class _Training:
    """One session of training in a run directory."""

    def __init__(
        self,
        run: Run,
        resolved: Resolved,
        program: Program,
        reporter: Reporter,
        callbacks: tuple[Callback, ...],
    ) -> None:
        self.run = run
        self.settings = resolved.run_settings
        self.program = program
        self.reporter = reporter
        self.callbacks = callbacks
        self.keeper = PolicyKeeper(run, resolved, program)
        self.race = Race.start(program.selection, len(program.seeds))
        self.total_iterations = program.selection.iterations
        self.steps_per_iteration = program.algorithm.steps_per_iteration
        self.iteration = 0
        self.seconds = 0.0
        self.saved_iteration: int | None = None
        self.mark: Mark | None = None
        self.warned = False
        self.saved_at = time.monotonic()
        self.metrics: dict[str, np.ndarray] = {}

    def run_to_end(self) -> None:
        """Everything from the first iteration, or the last checkpoint, to the evaluation."""
        self.reporter.message(f"run directory: {self.run.path}")
        lanes = self._start()
        with noted_signals() as interrupted:
            lanes = self._iterate(lanes, interrupted)
            self._save(lanes)
            if processes.agree(interrupted(), False)[0]:
                self._tell(ended=True)
                raise TrainingInterrupted(self.run)
        self._evaluate()
        self._tell(ended=True)

    def disk_trouble(self, error: OSError) -> str:
        """What to tell about a file that could not be written, in one line."""
        saved = f"the checkpoint of iteration {self.saved_iteration} is intact"
        saved = saved if self.saved_iteration is not None else "no checkpoint had been written yet"
        return (
            f"cannot write to {self.run.path} ({error.strerror or one_line(error)}); {saved}: "
            f"make room, then continue with {self.run.resume_command}"
        )

    def _start(self) -> list[Progressing]:
        stacked: list[Progressing] = []

        def read() -> dict[str, Any] | None:
            path = last_checkpoint(self.run.checkpoints)
            if path is None:
                return None
            self.reporter.phase(f"reading checkpoint {path.name}")
            state, facts = restore_checkpoint(path, self.program.shapes(iteration_of(path)))
            if facts.get("run") != self.run.config.get("id"):
                raise CheckpointError(f"checkpoint {path} is of another run")
            race = Race.resume(self.program.selection, facts, path)
            stacked.append(state)
            names = ("iteration", "seconds", "metrics")
            return {name: facts.get(name) for name in names} | {"candidates": race.numbers.tolist()}

        facts = processes.share(read)
        if facts is None:
            self.reporter.phase("preparing networks and environments")
            lanes = begin(self.program, self.run)
            if "origin" in self.run.config:
                self._save(lanes)  # from now on the run does not need the other
        else:
            if not stacked:  # this process did not read; the first one's state will take its place
                shapes = self.program.shapes(facts["iteration"])
                stacked.append(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
            lanes = self.program.from_host(stacked[0])
            self.iteration, self.seconds = facts["iteration"], facts["seconds"]
            self.race.numbers = np.array(facts["candidates"])
            self.saved_iteration = self.iteration
            self.mark = Mark.of(facts["metrics"])
        again = len(self.run.config["sessions"]) > 1 or facts is not None
        if again and processes.is_first():
            self.run.start_session(self.iteration)
        return lanes

    def _iterate(
        self, lanes: list[Progressing], interrupted: Callable[[], bool]
    ) -> list[Progressing]:
        begin = time.monotonic() - self.seconds
        if self.iteration >= self.total_iterations:
            return lanes
        self.reporter.phase("compiling the training step")
        self.program.compile(lanes)
        speed = Speed()
        self._keep(lanes, newest=False)
        self.reporter.phase("training")
        with self._records() as records:
            stop, _ = processes.agree(interrupted(), False)
            while self.iteration < self.total_iterations and not stop:
                started = time.monotonic()
                lanes, metrics = self.program.update(lanes)
                self.iteration += 1
                now = time.monotonic()
                self.seconds = now - begin
                speed.add(self.steps_per_iteration * self.race.numbers.size, now - started)
                self.metrics = self.race.leading(metrics)
                if records is not None:
                    self._record(records, speed)
                _require_finite_updates(self.metrics, self.program.seeds)
                self._watch_states()
                lanes = self._select(lanes, metrics)
                self._keep(lanes, newest=False)
                due = now - self.saved_at >= self.settings.checkpoint_interval
                stop, save = processes.agree(interrupted(), due)
                if save:
                    self._save(lanes)
        return lanes

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

    def _select(
        self, lanes: list[Progressing], metrics: dict[str, np.ndarray]
    ) -> list[Progressing]:
        """Drops candidates if it is time; what each of them had reached goes to a file."""
        before, scores = self.race.numbers, self.race.scores(metrics)
        kept = self.race.drop(self.iteration, metrics)
        if kept is None:
            return lanes
        if processes.is_first():
            self.run.add_selection(self.iteration, self.env_steps, before, scores, self.race)
        self.reporter.phase(f"going on with {self.race.numbers.shape[1]} candidates per seed")
        lanes = self.program.keep(lanes, kept)
        self.program.compile(lanes)
        return lanes

    def _records(self) -> contextlib.AbstractContextManager[Records | None]:
        """Where metrics are written; nowhere in a process that does not own the run directory."""
        if not processes.is_first():
            return contextlib.nullcontext()
        events = self.run.path / "tensorboard"
        return Records(self.run.metrics_path, events, self.iteration, self.env_steps, self.mark)

    def _record(self, records: Records, speed: Speed) -> None:
        wall_clock = {"seconds": self.seconds, "steps_per_second": speed.latest}
        seeds = self.program.seeds
        records.write(self.iteration, self.env_steps, wall_clock, seeds, self.metrics)
        self.mark = records.mark
        returns = self.metrics["episode_return"]
        finished = returns[np.isfinite(returns)]
        total_steps = self._steps_after(self.total_iterations)
        self.reporter.status(
            Status(
                env_steps=self.env_steps,
                total_steps=total_steps,
                steps_per_second=speed.recent,
                seconds_left=(total_steps - self.env_steps) * len(seeds) / speed.recent,
                episode_return=float(finished.mean()) if len(finished) else float("nan"),
            )
        )
        self._tell()

    def _save(self, lanes: list[Progressing]) -> None:
        if self.saved_iteration != self.iteration:
            facts = {
                "iteration": self.iteration,
                "seconds": self.seconds,
                "candidates": self.race.numbers.tolist(),
                "run": self.run.config.get("id"),
                "metrics": dataclasses.asdict(self.mark) if self.mark else None,
            }
            state = self.program.to_host(lanes)  # by all processes together
            if processes.is_first():
                save_checkpoint(self.run.checkpoints, state, facts)
            self.saved_iteration = self.iteration
        self._keep(lanes, newest=True)
        self.saved_at = time.monotonic()

    def _keep(self, lanes: list[Progressing], newest: bool) -> None:
        self.keeper.keep(lanes, self.race, self.iteration, self.env_steps, newest=newest)

    def _evaluate(self) -> None:
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

    def _tell(self, *, ended: bool = False) -> None:
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


def _require_finite_updates(metrics: dict[str, np.ndarray], seeds: list[int]) -> None:
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
