"""What is fuzzed, and what must hold: an input is taken or refused, in one line, soon."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import resource
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st

from rpo.envs import EnvSpec
from rpo.envs.robot_file import RobotFile, RobotSettings
from rpo.errors import RunError, SettingsError
from rpo.physics.mjcf import load_mjcf, load_urdf
from rpo.physics.model import Model
from rpo.reproduce.estimates import Measurements
from rpo.reproduce.page import write_page
from rpo.reproduce.tables import results_of
from rpo.show.curves import curves_of
from rpo.training import Run
from rpo.training.checkpoint import restore_last, save_checkpoint
from rpo.training.evaluation import Evaluation, store_evaluation
from rpo.training.metrics import Mark, MetricsTable
from rpo.training.policies import _from_checkpoint, env_of, open_moments, open_policies
from rpo.training.policy_file import write_policy_file
from rpo.training.program import Program
from rpo.training.run_files import write_json
from rpo.training.selection import Race
from rpo.training.settings import Resolved, resolve
from tests.fuzz import robots, runs

REPORT = {
    "target": "table1",
    "budget": "smoke",
    "title": "A",
    "command": "b",
    "claim": "c",
    "note": "",
    "figures": ["figure.svg"],
    "orders": ["d"],
    "failed": {"e": "f"},
    "tables": {"g": [["h", "i"], ["j", "k"]]},
    "cells": {"l": "m"},
}
MAX_SECONDS = 10.0
MAX_BYTES = 2 * 2**30
HANG_SECONDS = 120
"""By the clock, after which the process ends and says where it was: what no exception ends."""

counted: Counter[str] = Counter()
"""Inputs by target and outcome."""
slowest: dict[str, float] = {}


class BrokenPromiseError(AssertionError):
    """An input was neither taken nor refused as it should be."""


def judged(target: str, call: Callable[[], Any], refusals: tuple[type[Exception], ...]) -> Any:
    """Calls, and holds the outcome to what was promised.

    Args:
        target: name of what is called.
        call: takes the input.
        refusals: errors that are answers.

    Returns:
        what it gives, or None if the input was refused.

    Raises:
        BrokenPromiseError: if it took too long or too much memory, or the answer is not one line.
        Exception: any other.
    """
    # Time of the processor: on a busy machine everything waits now and then.
    before, begin = _peak(), time.process_time()
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    result, outcome = None, "taken"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call()
    except refusals as error:
        outcome = "refused"
        if not str(error) or "\n" in str(error) or len(str(error)) > 5000:
            raise BrokenPromiseError(f"{target}: not one line: {str(error)[:300]!r}") from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds = time.process_time() - begin
    counted[f"{target} {outcome}"] += 1
    slowest[target] = max(seconds, slowest.get(target, 0.0))
    if seconds > MAX_SECONDS:
        raise BrokenPromiseError(f"{target}: took {seconds:.1f} s")
    if _peak() - before > MAX_BYTES:
        raise BrokenPromiseError(f"{target}: took {(_peak() - before) / 2**30:.1f} GiB")
    return result


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def robot(xml: str) -> None:
    """An MJCF text becomes a model of finite numbers, or a `ValueError`."""
    model = judged("mjcf", lambda: load_mjcf(xml), (ValueError, FileNotFoundError))
    _require_sound(model)
    if model is not None:
        _trained(xml, "xml")


def urdf_robot(xml: str, floating: bool) -> None:
    """The same for URDF."""
    call = lambda: load_urdf(xml, floating_base=floating)  # noqa: E731
    model = judged("urdf", call, (ValueError, FileNotFoundError))
    _require_sound(model)
    if model is not None:
        _trained(xml, "urdf")


def _trained(xml: str, suffix: str) -> None:
    """What can be simulated can be trained (with servos where it has no actuators), or it is told
    in one line why it cannot."""
    with tempfile.NamedTemporaryFile("w", suffix=f".{suffix}") as file:
        file.write(xml)
        file.flush()
        call = lambda: RobotFile(file.name, RobotSettings(strength=1.0))  # noqa: E731
        env = judged(f"{suffix} trained", call, (ValueError,))
    if env is not None:
        _require_sound(env.model)
        if not np.isfinite(env.description.action_scale).all():
            raise BrokenPromiseError("an action has no finite scale")


def _require_sound(model: Model | None) -> None:
    if model is None:
        return
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            bound = field.name in ("limit_lower", "limit_upper")
            if np.isnan(value).any() or (not bound and not np.isfinite(value.astype("f4")).all()):
                raise BrokenPromiseError(f"{field.name} holds {value[~np.isfinite(value)]}")
    if (
        not (model.mass >= 0).all()
        or not (np.linalg.norm(model.joint_quaternion, axis=1) > 0.5).all()
    ):
        raise BrokenPromiseError("a mass is negative or an orientation none")


def settle(given: tuple[str, str, dict[str, Any]]) -> None:
    """Settings become a run's, or a `SettingsError`; then they can be written and read again."""
    task, method, values = given
    resolved: Resolved | None = judged(
        "settings", lambda: resolve(task, method, settings=values), (SettingsError,)
    )
    if resolved is None:
        return
    text = json.dumps([vars(resolved.config), vars(resolved.run_settings)], allow_nan=False)
    again = dict(json.loads(text)[0])
    if vars(resolve(task, method, settings=again).config) != vars(resolved.config):
        raise BrokenPromiseError("settings change when they are stored")


def tiny_env() -> Any:
    """A task that compiles in a moment."""
    from tests.training.fakes import Echo

    env = Echo()
    assert isinstance(env.spec, EnvSpec)
    return env


class Runs:
    """A run directory that is damaged again and again."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")  # where there is one: no disk is worn out
        self.work = Path(
            tempfile.mkdtemp(prefix="rpo_fuzz_", dir=memory if memory.is_dir() else None)
        )
        self.env = tiny_env()
        self.mark = self.work / "executed"
        evil = f"import pathlib\npathlib.Path({str(self.mark)!r}).touch()"
        (self.work / runs.EVIL).write_text(evil)
        self.run = self._make(self.work / "run")
        self.shapes: dict[str, Any] = {}

    def _make(self, path: Path) -> Path:
        """What a training of two iterations leaves; nothing is trained, to be quick."""
        from tests.training.fakes import TINY

        settings = TINY | {"total_steps": 64 * 2, "seeds": 2, "devices": 1}
        resolved = resolve(self.env, settings=settings)
        run, program = Run.create(path, resolved), Program(resolved)
        table = MetricsTable(run.metrics_path, 0)
        for iteration in (1, 2):
            returns = {"episode_return": np.array([1.0, 2.0]), "value_loss": np.array([0.5, 0.25])}
            times = {"seconds": iteration, "steps_per_second": 3.0}
            table.write(iteration, 64 * iteration, times, run.seeds, returns)
        table.close()
        facts = {"iteration": 2, "seconds": 2.0, "candidates": [[0], [0]]}
        facts |= {"run": run.config["id"], "metrics": dataclasses.asdict(table.mark)}
        shapes = program.shapes(2)  # to fill them takes no compiling
        state = jax.tree.map(lambda shape: np.ones(shape.shape, shape.dtype), shapes)
        save_checkpoint(run.checkpoints, state, facts)
        file = _from_checkpoint(run, self.env)
        write_policy_file(run.policy_path, file)
        write_policy_file(
            run.moments / "iteration_00000002.npz", dataclasses.replace(file, best=None)
        )
        (path / "report").mkdir()
        (path / "report" / "figure.svg").write_text("<svg/>")
        write_json(path / "report" / "report.json", REPORT)
        ones = np.ones((2, 3))
        store_evaluation(run, Evaluation(ones, ones.astype(int), True), 1)
        return path

    def open(self, done: list[runs.Damage]) -> None:
        """Everything that a command reads of a run, after damage."""
        copy = runs.copied(self.run, self.work / "copy")
        for damage in done:
            runs.apply(copy, damage)
        with contextlib.chdir(self.work):  # where its names lead to the file that must not run
            judged("runs", lambda: self.read(copy), (RunError, SettingsError))
        if self.mark.exists():
            self.mark.unlink()
            raise BrokenPromiseError("a run's code was executed")

    def read(self, path: Path) -> None:
        """What the commands do with a run before they compile anything."""
        run = Run.load(path)
        trouble = []
        for part in (
            run.evaluation,
            lambda: curves_of(run),
            lambda: self.restore(run),
            lambda: self.act(run),
            lambda: self.act(run.policy_path),
            lambda: results_of(run, "deterministic"),
            lambda: Measurements([path]),
            lambda: write_page(path),
        ):
            try:
                part()
            except (RunError, SettingsError) as error:
                trouble.append(error)
            except FileNotFoundError:  # a missing table
                continue
        metrics = MetricsTable(run.metrics_path, 1, Mark(1, "0"))
        metrics.close()
        if trouble:
            raise trouble[0]

    def restore(self, run: Run) -> None:
        own = run.config["task"] == "echo"
        resolved = run.resolved(self.env if own else None)
        if not own:  # would only compile another task's networks
            return
        settings = dataclasses.replace(resolved.run_settings, devices=None)
        program = Program(dataclasses.replace(resolved, run_settings=settings))
        found = restore_last(run.checkpoints, lambda k: self._shapes(program, resolved, k))
        if found is not None:
            path, state, facts = found
            Race.resume(program.selection, len(program.seeds), facts, path)
            for leaf in jax.tree.leaves(state):
                assert isinstance(leaf, np.ndarray)

    def act(self, source: Run | Path) -> None:
        """What whoever needs but the policies does: they are float arrays, and finite."""
        of_run = isinstance(source, Run)
        task = source.config["task"] if of_run else open_policies(source).facts.task
        own = self.env if task == "echo" else None
        files = [open_policies(source, own)]
        files += open_moments(source) if of_run else []
        for file in files:
            for leaf in jax.tree.leaves((file.last, file.best)):
                if leaf.dtype.kind != "f" or not np.isfinite(leaf).all():
                    raise BrokenPromiseError("a policy is not made of finite numbers")
        env = env_of(source, files[0], own)
        assert env.spec.observation_size == files[0].facts.network.observation_size

    def _shapes(self, program: Program, resolved: Resolved, iteration: int) -> Any:
        key = repr((resolved.algorithm, resolved.config, resolved.run_settings, iteration > 0))
        if key not in self.shapes:
            if len(self.shapes) > 200:
                self.shapes.clear()
            self.shapes[key] = program.shapes(iteration)
        return self.shapes[key]

    def close(self) -> None:
        """Deletes everything."""
        shutil.rmtree(self.work, ignore_errors=True)


STRATEGIES: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "mjcf": (robots.mjcf(),),
    "urdf": (robots.urdf(), st.booleans()),
    "settings": (runs.settings(),),
    "runs": (runs.damages(),),
}
"""Of each target, its arguments."""


def target(name: str) -> Callable[..., None]:
    """What is called with an input."""
    simple: dict[str, Callable[..., None]] = {"mjcf": robot, "urdf": urdf_robot, "settings": settle}
    return simple[name] if name in simple else Runs().open
