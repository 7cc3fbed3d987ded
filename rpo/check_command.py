"""The command `rpo check-gradients`: its own arguments, and the task's settings."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any

import tyro

from rpo import envs
from rpo.adapters import foreign
from rpo.arguments import UsageError, parse
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
        ValueError: if a figure is out of range.
    """

    samples: int = 16
    horizon: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        require_sampling(**vars(self))


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
    try:
        form, default = _form(task)
        given: Any = parse(form, arguments, f"{PROGRAM} {task}", default)
        wanted = vars(given.check)
        settings = vars(given.task_settings) if hasattr(given, "task_settings") else {}
        env = make_env(task, settings)
        if foreign.is_foreign(task):  # whether its derivative is of use, in one line
            verdict = judge(env, task, **(wanted | {"horizon": max(wanted["horizon"], 1)}))
            print(verdict)
            return 0 if verdict.useful else 1
        found = check_gradients(
            env, **wanted, progress=lambda line: print(line, file=sys.stderr, flush=True)
        )
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(one_line(error)) from error
    print(found.table())
    return 0 if found.passed else 1


def _form(task: str) -> tuple[type[Any], Any]:
    """A dataclass of everything that can be set for this task, and one with the defaults."""
    task_class = task_settings_class(task)
    groups: dict[str, Any] = {"check": Check()}
    if task_class is not None:
        groups["task_settings"] = task_class()
    form = dataclasses.make_dataclass("Check", [(name, type(x)) for name, x in groups.items()])
    form.__doc__ = f"Compares the gradients of {task} with finite differences."
    return form, form(**groups)
