"""The training loop."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rpo import runtime
from rpo.adapters import foreign
from rpo.envs.base import Env
from rpo.errors import SettingsError, TrainingError, TrainingInterrupted
from rpo.training import processes
from rpo.training.cache import enable_compilation_cache
from rpo.training.logging import make_reporter
from rpo.training.memory import require_fitting
from rpo.training.origin import (
    origin_of,
    restore_origin,
    resume_settings,
    settings_from,
    started_from,
)
from rpo.training.program import Program
from rpo.training.progress import Callback
from rpo.training.run import Run
from rpo.training.session import Lanes, Session
from rpo.training.settings import Resolved, resolve
from rpo.training.signals import noted_signals


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
    asked = {"seed": seed, "seeds": seeds, "total_steps": total_steps}
    given = settings | {name: value for name, value in asked.items() if value is not None}
    with processes.partners_needed(), contextlib.ExitStack() as held:
        if resume is not None:
            run = _shared(lambda: Run.load(resume))
            resolved = resume_settings(run, task, total_steps, settings)
            program = Program(resolved)
        else:
            origin = Run.load(from_run) if from_run is not None else None
            run, resolved, program = _open_new(task, algorithm, preset, given, run_dir, origin)
        run.env = resolved.env  # to be evaluated here without asking for it again
        reporter = make_reporter(verbose and processes.is_first())
        held.callback(reporter.close)
        processes.share(lambda: held.enter_context(run.locked()))
        session = Session(run, resolved, program, reporter, tuple(callbacks))
        try:
            run_to_end(session)
        except OSError as error:
            raise TrainingError(session.disk_trouble(error)) from error
    return run


def run_to_end(session: Session) -> None:
    """Everything from the first iteration, or the last checkpoint, to the evaluation."""
    session.reporter.message(f"run directory: {session.run.path}")
    lanes = session.start()
    with noted_signals() as interrupted:
        lanes = iterate(session, lanes, interrupted)
        session.save(lanes)
        if processes.agree(interrupted(), False)[0]:
            session.tell(ended=True)
            raise TrainingInterrupted(session.run)
    session.evaluate()
    session.tell(ended=True)


def iterate(session: Session, lanes: Lanes, interrupted: Callable[[], bool]) -> Lanes:
    """Updates until the last iteration, or until all processes agree that one was interrupted."""
    began = time.monotonic() - session.seconds
    if session.finished:
        return lanes
    session.reporter.phase("compiling the training step")
    session.program.compile(lanes)
    session.keep(lanes)
    session.reporter.phase("training")
    with session.records() as records:
        stop, _ = processes.agree(interrupted(), False)
        while not (session.finished or stop):
            started = time.monotonic()
            lanes, metrics = session.program.update(lanes)
            now = time.monotonic()
            session.seconds = now - began
            session.enter(metrics, records, took=now - started)
            lanes = session.select(lanes, metrics)
            session.keep(lanes)
            stop, save = processes.agree(interrupted(), session.save_is_due)
            if save:
                session.save(lanes)
    return lanes


def _open_new(
    task: str | Env | None,
    algorithm: str,
    preset: str,
    settings: dict[str, Any],
    run_dir: str | os.PathLike[str] | None,
    origin: Run | None,
) -> tuple[Run, Resolved, Program]:
    """A new run, from scratch or from another. What cannot be is refused before it is made."""
    if origin is not None:
        task, algorithm, preset, settings = settings_from(origin, task, algorithm, settings)
    if task is None:
        raise SettingsError("name a task to train, or a run to resume or to start from")
    resolved = resolve(task, algorithm, preset, settings)
    processes.require_alike(resolved)
    program = Program(resolved)
    require_fitting(program)
    facts = None
    if origin is not None:
        restored = restore_origin(origin, resolved.env)
        facts = origin_of(origin, restored)
        started_from(program, program.shapes(), restored)
    path = Path(run_dir) if run_dir is not None else None
    return _shared(lambda: Run.create(path, resolved, facts)), resolved, program


def _shared(make: Callable[[], Run]) -> Run:
    """The first process's run, which the others need not see on their disk."""

    def describe() -> dict[str, Any]:
        run = make()
        return {"path": str(run.path), "config": run.config}

    told = processes.share(describe)
    return Run(Path(told["path"]), told["config"])
