"""The command `rpo check-gradients`: its own arguments, and the task's settings."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any

import tyro

from rpo import envs
from rpo.adapters import foreign
from rpo.arguments import UsageError, flags_of, parse, require_known_flags
from rpo.envs.base import Env
from rpo.envs.gradient_check import check_gradients, require_sampling
from rpo.envs.verdict import judge
from rpo.errors import SettingsError, one_line
from rpo.training.settings import make_env, task_settings_class

PROGRAM = "rpo check-gradients"


@dataclasses.dataclass(frozen=True)
class Check:
    """What is compared.

    Args:
        samples: random states to compare at.
        horizon: steps of the return whose gradient is compared; 0 compares one step only.
        seed: of the random states.

    Raises:
        SettingsError: if a figure is out of range.
    """

    samples: int = 16
    horizon: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            require_sampling(**vars(self))
        except ValueError as error:
            raise SettingsError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class CheckGradientsArguments:
    """Compares a task's gradients with finite differences; exit status 1 if they disagree.

    The settings of the task are flags, too: `rpo check-gradients TASK --help` lists them.

    Args:
        task: name of a task, a robot's description, FILE.py:CLASS, or a task of another package
            (brax:ant), whose derivative is judged as a whole.
        check: what is compared.
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    check: Check = dataclasses.field(default_factory=Check)


def check(arguments: list[str]) -> int:
    """Runs the check.

    Args:
        arguments: after `rpo check-gradients`.

    Returns:
        the exit status: 0 if the gradients are right, 1 if not.

    Raises:
        UsageError: if they cannot be understood.
        SettingsError: if the task or a value of a setting cannot be.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        parse(CheckGradientsArguments, arguments, PROGRAM)
    task, *arguments = arguments
    if task.startswith("-"):
        raise UsageError(
            f"name a task first: {PROGRAM} TASK {task} ..., with TASK one of "
            f"{', '.join(envs.names())}"
        )
    form, default = _form(task)
    known = [name for owner in vars(default) for name in flags_of(owner, default)]
    program = f"{PROGRAM} {task}"
    require_known_flags(arguments, known, f"{program} --help explains them")
    given: Any = parse(form, arguments, program, default)
    try:
        settings = vars(given.task_settings) if hasattr(given, "task_settings") else {}
        env = make_env(task, settings)
        if foreign.is_foreign(task):
            return _judge_derivative(task, env, given.check)
        found = check_gradients(
            env,
            **vars(given.check),
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(one_line(error)) from error
    print(found.table())
    return 0 if found.passed else 1


def _form(task: str) -> tuple[type[Any], Any]:
    """A dataclass of everything that can be set for this task, and one with the defaults."""
    try:
        task_class = task_settings_class(task)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(one_line(error)) from error
    groups: dict[str, Any] = {"check": Check()}
    if task_class is not None:
        groups["task_settings"] = task_class()
    form = dataclasses.make_dataclass("Check", [(name, type(x)) for name, x in groups.items()])
    form.__doc__ = f"Compares the gradients of {task} with finite differences."
    return form, form(**groups)


def _judge_derivative(task: str, env: Env, wanted: Check) -> int:
    """The same for a task of another package: whether its derivative is of use, in one line."""
    verdict = judge(
        env, task, samples=wanted.samples, horizon=max(wanted.horizon, 1), seed=wanted.seed
    )
    print(verdict)
    return 0 if verdict.useful else 1
