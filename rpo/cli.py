"""The command `rpo`: parses, calls, prints."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

import rpo

T = TypeVar("T")

USAGE = """usage: rpo COMMAND ...

commands:
  rpo train TASK           train a policy; `rpo train TASK --help` lists every setting
  rpo train --resume RUN   continue a run that was interrupted
  rpo evaluate RUN         returns of full episodes with a trained policy
  rpo plot RUN...          learning curves over steps and over seconds
  rpo reproduce TARGET     a table or figure of the paper, such as table1 or figure3
  rpo tasks                what can be learned
  rpo algorithms           how it can be learned
  rpo check-gradients TASK compare a task's gradients with finite differences

`rpo COMMAND --help` says more."""


class UsageError(Exception):
    """The command line cannot be understood; the message is one line."""


@dataclasses.dataclass(frozen=True)
class ResumeArguments:
    """Continues an interrupted run, with the settings it has.

    Args:
        resume: run directory.
    """

    resume: Path


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Runs full episodes with a trained policy and prints their mean return.

    Args:
        run: run directory.
        episodes: per seed, each on a fresh environment.
        deterministic: act without noise.
        checkpoint: the newest one, or the one with the best training return.
        seed: of the evaluation's own starts and noise.
    """

    run: tyro.conf.Positional[Path]
    episodes: int = 128
    deterministic: bool = False
    checkpoint: Literal["last", "best"] = "last"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class PlotArguments:
    """Draws learning curves: mean over seeds, shaded by their standard deviation.

    Args:
        runs: run directories; runs that differ only in their seeds become one line.
        output: image file, .png, .svg or .pdf.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...")]
    output: Path = Path("curves.png")


@dataclasses.dataclass(frozen=True)
class CheckGradientsArguments:
    """Compares a task's gradients with finite differences; exit status 1 if they disagree.

    Args:
        task: name of a task, or FILE.py:CLASS.
        samples: random states to compare at.
        horizon: steps of the return whose gradient is compared.
        seed: of the random states.
    """

    task: tyro.conf.Positional[str]
    samples: int = 64
    horizon: int = 8
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: as on the command line, without the name of the program.

    Returns:
        the exit status: 0 all well, 1 failed, 2 not understood, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):  # at once: what follows loads JAX's world
        print(USAGE)
        return 0 if words else 2
    from rpo.training.errors import RunError, SettingsError, TrainingError, TrainingInterrupted

    warnings.showwarning = _show_warning
    try:
        return _dispatch(words)
    except (UsageError, SettingsError) as error:
        return _fail(error, 2)
    except (RunError, TrainingError) as error:
        return _fail(error, 1)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads on; say nothing more
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except MemoryError:
        return _fail("out of memory; lower --num-envs or --block-size", 1)
    except TrainingInterrupted as interrupt:
        print(interrupt, file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "evaluate": _evaluate,
        "plot": _plot,
        "reproduce": _reproduce,
        "tasks": _tasks,
        "algorithms": _algorithms,
        "check-gradients": _check_gradients,
    }
    if arguments[0] == "--version":
        print(rpo.__version__)
        return 0
    command = commands.get(arguments[0])
    if command is None:
        raise UsageError(f"unknown command {arguments[0]!r}; known: {', '.join(commands)}")
    return command(arguments[1:])


def _train(arguments: list[str]) -> int:
    from rpo import api

    task = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    resume, _ = _value_of("resume", arguments)
    if resume is not None:
        _require_known_flags(arguments, ["resume"], "a resumed run keeps its settings")
        api.train(task, resume=_parse(ResumeArguments, arguments, "rpo train").resume)
        return 0
    if task is None:
        if {"-h", "--help"} & set(arguments):
            print("usage: rpo train TASK [settings]; `rpo train TASK --help` lists them\n")
            return _tasks([])
        raise UsageError(f"name a task: rpo train TASK, with TASK one of {_known_tasks()}")
    algorithm, arguments = _value_of("algorithm", arguments)
    preset, arguments = _value_of("preset", arguments)
    algorithm, preset = algorithm or "rpo", preset or "fast"
    form, default = _train_form(task, algorithm, preset)
    known = [name for owner in dataclasses.fields(form) for name in _flags_of(owner, default)]
    _require_known_flags(arguments, known, f"rpo train {task} --help explains them")
    parsed: Any = _parse(form, arguments, f"rpo train {task}", default)
    settings = {
        name: value
        for group in ("run", "method", "task_settings")
        if hasattr(parsed, group)
        for name, value in vars(getattr(parsed, group)).items()
    }
    api.train(task, algorithm, preset=preset, run_dir=parsed.run_dir, **settings)
    return 0


def _train_form(task: str, algorithm: str, preset: str) -> tuple[type[Any], Any]:
    """A dataclass of everything `rpo train` can set for this task, and the preset's values."""
    from rpo import algorithms
    from rpo.training import SettingsError
    from rpo.training.presets import preset_settings
    from rpo.training.settings import RunSettings, task_settings_class

    try:
        config = algorithms.config_class(algorithm)(**preset_settings(algorithm, task, preset))
        task_class = task_settings_class(task)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    shown = tyro.conf.arg(help="Method: " + ", ".join(algorithms.names()))
    groups: list[tuple[str, Any, Any]] = [
        ("algorithm", Annotated[str, shown], algorithm),
        ("preset", Annotated[str, tyro.conf.arg(help="Settings to start from.")], preset),
        (
            "run_dir",
            Annotated[Path | None, tyro.conf.arg(help="New directory for the run.")],
            None,
        ),
        ("run", RunSettings, RunSettings()),
        ("method", type(config), config),
    ]
    if task_class is not None:
        groups.append(("task_settings", task_class, task_class()))
    form = dataclasses.make_dataclass("Train", [(name, kind) for name, kind, _ in groups])
    form.__doc__ = (
        f"Trains a policy for {task}. Defaults are those of {algorithm}, preset {preset}."
    )
    return form, form(**{name: value for name, _, value in groups})


def _evaluate(arguments: list[str]) -> int:
    from rpo.training import evaluate
    from rpo.training.cache import enable_compilation_cache

    given = _parse(EvaluateArguments, arguments, "rpo evaluate")
    enable_compilation_cache()
    evaluation = evaluate(
        given.run,
        episodes=given.episodes,
        deterministic=given.deterministic,
        checkpoint=given.checkpoint,
        seed=given.seed,
    )
    print(evaluation)
    return 0


def _plot(arguments: list[str]) -> int:
    from rpo.report.curves import plot_runs
    from rpo.training import Run

    given = _parse(PlotArguments, arguments, "rpo plot")
    if not given.runs:
        raise UsageError("name at least one run directory: rpo plot RUN...")
    print(plot_runs([Run.load(path) for path in given.runs], given.output))
    return 0


def _reproduce(arguments: list[str]) -> int:
    from rpo.report.command import ReproduceArguments, run

    return run(_parse(ReproduceArguments, arguments, "rpo reproduce"))


def _tasks(arguments: list[str]) -> int:
    from rpo import envs

    _parse(_nothing, arguments, "rpo tasks")
    for task in envs.names():
        figures = envs.describe(task)
        print(f"{figures.pop('task')}: {figures.pop('about')}")
        for name, value in figures.items():
            print(f"    {name}: {value}")
    return 0


def _algorithms(arguments: list[str]) -> int:
    from rpo import algorithms
    from rpo.training.presets import PRESETS

    _parse(_nothing, arguments, "rpo algorithms")
    for name in algorithms.names():
        about = (sys.modules[algorithms.config_class(name).__module__].__doc__ or "").strip()
        presets = {preset for task in PRESETS.get(name, {}).values() for preset in task}
        print(f"{name}: {' '.join(about.split(chr(10) + chr(10))[0].split())}")
        print(f"    presets: {', '.join(sorted(presets))}")
    return 0


def _check_gradients(arguments: list[str]) -> int:
    from rpo.report.gradients import check_gradients
    from rpo.training import SettingsError
    from rpo.training.cache import enable_compilation_cache
    from rpo.training.settings import make_env

    given = _parse(CheckGradientsArguments, arguments, "rpo check-gradients")
    enable_compilation_cache()
    try:
        found = check_gradients(
            make_env(given.task, {}),
            samples=given.samples,
            horizon=given.horizon,
            seed=given.seed,
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    print(found.table())
    return 0 if found.passed else 1


def _nothing() -> None:
    """Takes no arguments."""


def _parse(form: Callable[..., T], arguments: list[str], program: str, default: Any = None) -> T:
    """Reads arguments; what is wrong with them becomes one line."""
    complaint = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: T = tyro.cli(
                form,
                args=arguments,
                prog=program,
                config=(tyro.conf.OmitArgPrefixes,),
                **options,
            )
            return parsed
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(
            f"{_first_paragraph(complaint.getvalue())}; see {program} --help"
        ) from None


def _first_paragraph(box: str) -> str:
    """The text above the first rule of tyro's boxed message, as one line."""
    words: list[str] = []
    for line in box.splitlines():
        text = line.strip("│╭╮╰╯ ")
        if line.startswith("╭"):
            continue
        if not text.strip("─"):
            break
        words.append(text)
    return " ".join(" ".join(words).split())


def _value_of(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of `--flag value` or `--flag=value`, and the arguments without it."""
    for k, argument in enumerate(arguments):
        if argument == f"--{flag}":
            if k + 1 == len(arguments):
                raise UsageError(f"--{flag} needs a value")
            return arguments[k + 1], arguments[:k] + arguments[k + 2 :]
        if argument.startswith(f"--{flag}="):
            return argument.split("=", 1)[1], arguments[:k] + arguments[k + 1 :]
    return None, arguments


def _flags_of(owner: dataclasses.Field[Any], default: Any) -> list[str]:
    value = getattr(default, owner.name)
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return [owner.name]


def _require_known_flags(arguments: list[str], known: list[str], hint: str) -> None:
    import difflib

    for argument in arguments:
        name = argument[2:].split("=", 1)[0].replace("-", "_")
        if not argument.startswith("--") or name == "help" or name in known:
            continue
        if name.removeprefix("no_") in known:
            continue
        close = difflib.get_close_matches(name, known, n=1)
        maybe = f" (did you mean --{close[0].replace('_', '-')}?)" if close else ""
        every = ", ".join("--" + flag.replace("_", "-") for flag in known)
        raise UsageError(
            f"unknown setting --{name.replace('_', '-')}{maybe}; known: {every}; {hint}"
        )


def _known_tasks() -> str:
    from rpo import envs

    return ", ".join(envs.names())


def _fail(error: object, status: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
