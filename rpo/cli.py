"""The command `rpo`: parses, calls, prints."""

from __future__ import annotations

import dataclasses
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from rpo import runtime
from rpo.arguments import UsageError, parse
from rpo.errors import unknown

USAGE = """usage: rpo COMMAND ...

Six things to do, one example each:
  rpo train ant                    train a policy (rpo train TASK --help lists every setting);
                                   rpo train robot.xml: one for your robot, MJCF or URDF
  rpo evaluate runs/NAME           what it is worth: returns of full episodes
  rpo plot runs/* --metric std     compare trainings by any metric
  rpo view ant                     see a policy move: 3-D in the browser, or one HTML file (--save)
  rpo render runs/NAME             film it: MP4, GIF, pictures
  rpo export runs/NAME             take it away: ONNX, for programs without JAX

and further:
  rpo train --resume RUN           continue a run that was interrupted
  rpo train --from RUN             start a new run from a finished one
  rpo reproduce table1 --dry-run   a table or figure of the paper
  rpo check-gradients TASK         compare a task's gradients with finite differences
  rpo tasks, rpo algorithms        what can be learned, and how

RUN is a run directory; evaluate, view, render and export take a policy file, or the name of a task
whose policy comes with rpo, as well. `rpo COMMAND --help` says more."""

TRAIN_USAGE = """usage: rpo train TASK [--SETTING VALUE ...]

TASK is one of
{tasks}
  robot.xml a robot's description (MJCF, URDF) that is to walk
  FILE.py:CLASS, brax:NAME, playground:NAME
            a task of your own, or one of another package

  rpo train ant                             the preset `fast` of RPO; a run directory under runs
  rpo train ant --algorithm ppo --seeds 3   another method, three seeds at once
  rpo train ant --total-steps 1e6 --friction-coefficient 0.3
                                            every figure of method and task is a setting
  rpo train --resume runs/NAME              continue a run that was interrupted
  rpo train --from runs/NAME                a new run from a finished one

`rpo train TASK --help` lists all settings and their values, `rpo tasks` every task's figures."""


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Runs full episodes with a trained policy and prints their mean return.

    Args:
        run: run directory, policy file, or the name of a task whose policy comes with rpo.
        episodes: per seed, each on a fresh environment.
        deterministic: act without noise.
        checkpoint: the newest one, or the one with the best training return.
        seed: of the evaluation's own starts and noise.
        task: FILE.py:CLASS, for a run that was trained on a task of one's own; is executed.
        trust: execute the file that the run itself names.
        randomization: randomise the task as in training; with --no-randomization it is nominal.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    episodes: int = 128
    deterministic: bool = False
    checkpoint: Literal["last", "best"] = "last"
    seed: int = 0
    task: str | None = None
    trust: bool = False
    randomization: bool = True


@dataclasses.dataclass(frozen=True)
class PlotArguments:
    """Draws learning curves: mean over seeds, shaded by their standard deviation.

    Args:
        runs: run directories; runs that differ only in their seeds become one line.
        output: image file, .png, .svg or .pdf.
        metric: a column of metrics.csv, such as value_loss or steps_per_second.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...")]
    output: Path = Path("curves.png")
    metric: str = "episode_return"


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
    from rpo.errors import RunError, SettingsError, TaskError, TrainingError, TrainingInterrupted
    from rpo.training.processes import leave
    from rpo.training.provenance import running

    warnings.showwarning = _show_warning
    try:
        runtime.collect_garbage_rarely()
        runtime.keep_memory()
        runtime.configure()
        with running(["rpo", *words]):
            return _dispatch(words)
    except TaskError as error:
        return _fail(error, 1, lines=3)
    except (UsageError, SettingsError) as error:
        return _fail(error, 2)
    except (RunError, TrainingError) as error:
        return _fail(error, 1)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads on; say nothing more
        return leave(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except MemoryError:
        return _fail("out of memory; lower --num-envs or --block-size", 1)
    except TrainingInterrupted as interrupt:  # of several processes, all are
        print(interrupt, file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return leave(130)
    except Exception as error:
        from rpo.training.task_files import blamed_on_task

        told = blamed_on_task(error)
        if told is not None:
            return _fail(told, 1, lines=3)
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        return leave(1)


def _dispatch(arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "evaluate": _evaluate,
        "view": _view,
        "render": _render,
        "export": _export,
        "plot": _plot,
        "reproduce": _reproduce,
        "tasks": _tasks,
        "algorithms": _algorithms,
        "check-gradients": _check_gradients,
    }
    if arguments[0] == "--version":
        print(runtime.VERSION)
        return 0
    command = commands.get(arguments[0])
    if command is None:
        raise UsageError(unknown("command", arguments[0], commands))
    return command(arguments[1:])


def _train(arguments: list[str]) -> int:
    from rpo.train_command import train

    if arguments and arguments[0] in ("-h", "--help"):
        print(TRAIN_USAGE.format(tasks=_task_lines()))
        return 0
    return train(arguments)


def _task_lines() -> str:
    from rpo import envs

    return "\n".join(f"  {task:<10}{envs.describe(task)['about']}" for task in envs.names())


def _parse_for_run(form: type[Any], arguments: list[str], program: str) -> Any:
    """Arguments of a command that lets a run's policy act, with the task that the user means."""
    from rpo.train_command import task_of
    from rpo.training.cache import enable_compilation_cache

    given: Any = parse(form, arguments, program)
    enable_compilation_cache()
    return dataclasses.replace(given, task=task_of(given.run, given.task, given.trust))


def _evaluate(arguments: list[str]) -> int:
    from rpo.training import evaluate

    how = dict(vars(_parse_for_run(EvaluateArguments, arguments, "rpo evaluate")))
    source, env, _ = how.pop("run"), how.pop("task"), how.pop("trust")
    print(evaluate(source, env=env, **how))
    return 0


def _view(arguments: list[str]) -> int:
    from rpo.show import commands

    return commands.view(_parse_for_run(commands.ViewArguments, arguments, "rpo view"))


def _render(arguments: list[str]) -> int:
    from rpo.show import commands

    return commands.render(_parse_for_run(commands.RenderArguments, arguments, "rpo render"))


def _export(arguments: list[str]) -> int:
    from rpo.show import commands

    return commands.export(parse(commands.ExportArguments, arguments, "rpo export"))


def _plot(arguments: list[str]) -> int:
    from rpo.show.curves import plot_runs
    from rpo.training import Run

    given = parse(PlotArguments, arguments, "rpo plot")
    if not given.runs:
        raise UsageError("name at least one run directory: rpo plot RUN...")
    print(plot_runs([Run.load(path) for path in given.runs], given.output, given.metric))
    return 0


def _reproduce(arguments: list[str]) -> int:
    from rpo.reproduce.command import ReproduceArguments, run

    return run(parse(ReproduceArguments, arguments, "rpo reproduce"))


def _tasks(arguments: list[str]) -> int:
    from rpo import envs

    parse(_nothing, arguments, "rpo tasks")
    for task in envs.names():
        figures = envs.describe(task)
        print(f"{figures.pop('task')}: {figures.pop('about')}")
        for name, value in figures.items():
            print(f"    {name}: {value}")
    print("ROBOT.xml, ROBOT.urdf: any robot with a root that moves, MJCF or URDF, is to walk")
    print("FILE.py:CLASS: a task of your own")
    print("brax:NAME, playground:NAME: an environment of Brax or MuJoCo Playground, if installed")
    return 0


def _algorithms(arguments: list[str]) -> int:
    from rpo import algorithms
    from rpo.training.presets import PRESETS

    parse(_nothing, arguments, "rpo algorithms")
    for name in algorithms.names():
        about = (sys.modules[algorithms.config_class(name).__module__].__doc__ or "").strip()
        presets = {preset for task in PRESETS.get(name, {}).values() for preset in task}
        print(f"{name}: {' '.join(about.split(chr(10) + chr(10))[0].split())}")
        print(f"    presets: {', '.join(sorted(presets))}")
    return 0


def _check_gradients(arguments: list[str]) -> int:
    from rpo.check_command import check
    from rpo.training.cache import enable_compilation_cache

    enable_compilation_cache()
    return check(arguments)


def _nothing() -> None:
    """Takes no arguments."""


def _fail(error: object, status: int, lines: int = 1) -> int:
    """Says what is wrong, in one line or a few; nothing in it can steer a terminal."""
    from rpo.training.processes import leave

    told = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    told = [" ".join(told)] if lines == 1 else [told[0], *(f"  {line}" for line in told[1:lines])]
    text = "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in told)
    print(f"error: {text}", file=sys.stderr)
    return leave(status)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
