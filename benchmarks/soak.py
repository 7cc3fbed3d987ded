"""Kills trainings at random moments and resumes them, or watches one for hours.

    python benchmarks/soak.py kill --kills 100 --json results/soak/kill.json
    python benchmarks/soak.py watch --hours 6 --json results/soak/watch.json
    python benchmarks/soak.py saves --count 1500 --json results/soak/saves.json

`kill` trains every method on every task without interruption first. Then it starts the same
trainings again, kills each process (SIGKILL) at a random moment (while it starts, compiles, trains,
saves or evaluates), resumes it, and so on; each run that has been killed a few times is let finish
and compared with the uninterrupted one: metrics, every array of the checkpoint, and returns must be
equal bit for bit. Ends with status 1 if one is not, or cannot be resumed.

`watch` trains for as long as it is told, and samples the memory and the open files of the process.

`saves` writes checkpoints one after the other, and samples the same: what grows with each of them
shows far sooner than in a training.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from record import write_record

from rpo import algorithms
from rpo.envs import Env
from rpo.training import Run
from rpo.training.array_file import digest, named_arrays
from rpo.training.checkpoint import save_checkpoint
from rpo.training.metrics import WALL_CLOCK_COLUMNS
from rpo.training.origin import restore
from rpo.training.program import Program
from rpo.training.settings import resolve

PENDULUM = "examples/pendulum.py:Pendulum"
SETTINGS: dict[str, Any] = {
    "num_envs": 8,
    "horizon": 8,
    "total_steps": 64 * 40,
    "actor_hidden_sizes": (8,),
    "critic_hidden_sizes": (8,),
    "evaluation_episodes": 2,
    "checkpoint_interval": 0,
    "devices": 1,
}
"""A checkpoint is written after each of 40 short iterations, so that many kills hit one."""
OF_METHOD: dict[str, dict[str, Any]] = {
    "ppo": {"minibatches": 2},
    "sac": {"batch_size": 64, "gradient_steps": 1, "n_step": 2, "replay_capacity": 4096},
}
OWN_FACTS = ("digest", "seconds", "run", "metrics")
"""Facts of a checkpoint in which two equal trainings differ: times, names, and digests of these."""
KILLS_PER_RUN = 5
SAMPLE_SECONDS = 15


@dataclasses.dataclass
class Case:
    """A task and a method, and the run that nobody interrupts.

    Args:
        task: its name.
        method: its name.
        reference: that run.
        seconds: it took, start and compilation included.
    """

    task: str
    method: str
    reference: Path
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """For directories."""
        return f"{self.task.rsplit(':', 1)[-1].lower()}-{self.method}"

    def arguments(self, path: Path) -> list[str]:
        """Of `rpo train`: to start the run, or to go on with it."""
        if (path / "config.json").exists():
            own = [self.task] if ":" in self.task else []
            return [*own, "--resume", str(path)]
        shutil.rmtree(path, ignore_errors=True)  # killed before there was anything
        words = [self.task, "--algorithm", self.method, "--run-dir", str(path)]
        for name, value in (SETTINGS | OF_METHOD.get(self.method, {})).items():
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
        return words


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts `rpo train`."""
    with log.open("ab") as file:
        command = [sys.executable, "-m", "rpo.cli", "train", *arguments]
        return subprocess.Popen(command, stdout=file, stderr=file)


def rows(path: Path) -> int:
    """Rows of metrics so far."""
    table = path / "metrics.csv"
    return max(len(table.read_bytes().splitlines()) - 1, 0) if table.exists() else 0


def killed(case: Case, path: Path, log: Path, luck: random.Random) -> dict[str, Any] | None:
    """Starts or resumes a run and kills it; None if it ended by itself before.

    Half of the kills come at a random time, the others after a random number of rows, because
    starting and compiling take most of the time.

    Raises:
        RuntimeError: if it fails.
    """
    already = rows(path)
    process = start(case.arguments(path), log)
    begin, wait = time.monotonic(), luck.uniform(0, 1.1 * case.seconds)
    by_row = luck.random() < 0.5
    row = already + luck.randint(0, max(rows(case.reference) - already, 1))
    pause = luck.uniform(0, 0.1)
    while process.poll() is None:
        spent = time.monotonic() - begin
        # one that never comes to more rows is killed all the same
        if (
            (spent >= wait and not by_row)
            or (by_row and rows(path) > row)
            or spent > 20 * case.seconds
        ):
            time.sleep(pause if by_row else 0)
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    status = process.wait()
    if status == -signal.SIGKILL:
        return {
            "case": case.name,
            "rows": rows(path),
            "seconds": round(time.monotonic() - begin, 2),
        }
    if status != 0:
        raise RuntimeError(f"{case.name}: exit status {status}: {log.read_text()[-500:]}")
    return None


def difference(path: Path, reference: Path, task: str) -> str:
    """In what two finished runs differ; nothing if in nothing (times and names do not count)."""
    ours, theirs = Run.load(path), Run.load(reference)
    table, expected = ours.metrics(), theirs.metrics()
    if list(table) != list(expected):
        return "columns of metrics"
    for name in expected:
        if name not in WALL_CLOCK_COLUMNS and not np.array_equal(
            table[name], expected[name], equal_nan=True
        ):
            return f"metrics: {name}"
    if ours.evaluation() != theirs.evaluation():
        return "evaluation"
    env = task if ":" in task else None
    return "" if state_of(ours, env) == state_of(theirs, env) else "checkpoint"


def state_of(run: Run, env: Env | str | None) -> str:
    """Digest of a run's newest checkpoint, but for what every training has of its own."""
    found = restore(run, run.resolved(env))
    facts = {name: value for name, value in found.facts.items() if name not in OWN_FACTS}
    return digest(facts, named_arrays(found.state))


def references(tasks: list[str], methods: list[str], work: Path) -> Iterator[Case]:
    """Trains every method on every task; the second time, for compiled programs are kept."""
    for task in tasks:
        for method in methods:
            case = Case(task, method, work / "reference")
            case.reference = work / f"reference-{case.name}"
            for _ in range(2):
                shutil.rmtree(case.reference, ignore_errors=True)
                begin = time.monotonic()
                log = work / f"reference-{case.name}.log"
                if start(case.arguments(case.reference), log).wait() != 0:
                    raise RuntimeError(f"{case.name} cannot be trained: {log.read_text()[-500:]}")
                case.seconds = time.monotonic() - begin
            print(f"{case.name}: {case.seconds:.1f} s without interruption", flush=True)
            yield case


def kill(asked: argparse.Namespace, work: Path) -> int:
    """Kills and resumes; see the module."""
    luck, began = random.Random(asked.seed), time.monotonic()
    cases = list(references(asked.tasks, asked.methods, work))
    kills: list[dict[str, Any]] = []
    compared, lost = [], []
    number = 0
    while len(kills) < asked.kills and (
        asked.hours is None or time.monotonic() - began < asked.hours * 3600
    ):
        case = cases[number % len(cases)]
        path, log = work / f"{number}-{case.name}", work / f"{number}-{case.name}.log"
        number += 1
        mine = []
        try:
            while len(mine) < KILLS_PER_RUN:
                one = killed(case, path, log, luck)
                if one is None:
                    break
                mine.append(one)
            if start(case.arguments(path), log).wait() != 0:
                raise RuntimeError(f"{case.name}: cannot be resumed: {log.read_text()[-500:]}")
            trouble = difference(path, case.reference, case.task)
        except Exception as error:
            trouble = repr(error)
        kills += mine
        compared.append(case.name)
        if trouble:
            lost.append(f"{path.name}: {trouble}")
        else:
            shutil.rmtree(path)
        print(f"{len(kills)} kills, {len(compared)} runs compared, {len(lost)} lost", flush=True)
    record = {
        "kills": len(kills),
        "runs_compared": len(compared),
        "lost": lost,
        "cases": sorted(set(compared)),
        "kills_before_the_first_row": sum(one["rows"] == 0 for one in kills),
        "kills_in_training_or_saving": sum(
            0 < one["rows"] < rows(cases[0].reference) for one in kills
        ),
        "kills_after_the_last_row": sum(one["rows"] >= rows(cases[0].reference) for one in kills),
        "hours": round((time.monotonic() - began) / 3600, 2),
        "seed": asked.seed,
    }
    print(json.dumps(record, indent=2))
    if asked.json:
        write_record(asked.json, kills, **record)
    return 1 if lost else 0


def sample(process: int) -> dict[str, float]:
    """Memory and open files of a process (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return {
        "resident_mib": int(resident.split()[1]) / 1024,
        "open_files": len(os.listdir(f"/proc/{process}/fd")),
    }


def watch(asked: argparse.Namespace, work: Path) -> int:
    """Trains and samples; see the module."""
    path = work / "run"
    steps = {"total_steps": 10**11, "checkpoint_interval": 1.0}
    words = [asked.tasks[0], "--run-dir", str(path), "--num-envs", "8", "--horizon", "8"]
    for name, value in steps.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    process, began, samples = start(words, work / "log"), time.monotonic(), []
    while process.poll() is None and (spent := time.monotonic() - began) < asked.hours * 3600:
        samples.append({"seconds": round(spent, 1), **sample(process.pid)})
        time.sleep(SAMPLE_SECONDS)
    process.send_signal(signal.SIGINT)
    status = process.wait()
    settled = samples[len(samples) // 10 :]  # compilation is over
    times = np.array([one["seconds"] for one in settled]) / 3600
    record: dict[str, Any] = {
        "task": asked.tasks[0],
        "hours": round((time.monotonic() - began) / 3600, 2),
        "iterations": rows(path),
        "exit_status": status,
        "samples": len(samples),
    }
    for name in ("resident_mib", "open_files"):
        values = np.array([one[name] for one in settled])
        record |= {
            f"{name}_first": round(float(values[0]), 1),
            f"{name}_last": round(float(values[-1]), 1),
            f"{name}_max": round(float(values.max()), 1),
            f"{name}_slope_per_hour": round(float(np.polyfit(times, values, 1)[0]), 2),
        }
    print(json.dumps(record, indent=2))
    if asked.json:
        write_record(asked.json, samples[::10], **record)
    return 0 if status in (0, 130) else 1


def saves(asked: argparse.Namespace, work: Path) -> int:
    """Writes checkpoints and samples; see the module."""
    settings = SETTINGS | {"actor_hidden_sizes": (128, 64, 64)}
    program = Program(resolve(asked.tasks[0], settings=settings))
    state = program.to_host(program.init())
    samples, every = [], max(asked.count // 20, 1)
    for k in range(1, asked.count + 1):
        save_checkpoint(work / "checkpoints", state, {"iteration": k, "seconds": 1.0})
        if k == 1 or k % every == 0:
            samples.append({"saves": k, **sample(os.getpid())})
    shutil.rmtree(work / "checkpoints")
    first, last = samples[0], samples[-1]
    record = {"task": asked.tasks[0], "saves": asked.count}
    record |= {f"{name}_first": first[name] for name in ("resident_mib", "open_files")}
    record |= {f"{name}_last": last[name] for name in ("resident_mib", "open_files")}
    print(json.dumps(record, indent=2))
    if asked.json:
        write_record(asked.json, samples, **record)
    return 0


def main() -> int:
    """Parses and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("kill", "watch", "saves"))
    parser.add_argument("--tasks", nargs="+", default=[PENDULUM])
    parser.add_argument("--methods", nargs="+", default=list(algorithms.names()))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--count", type=int, default=1500, help="of saves")
    parser.add_argument("--hours", type=float, help="at most; for watch: for so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="directory for the runs, by default a new one")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.what == "watch" and asked.hours is None:
        asked.hours = 6.0
    work = asked.work or Path(tempfile.mkdtemp(prefix="rpo_soak_"))
    work.mkdir(parents=True, exist_ok=True)
    return {"kill": kill, "watch": watch, "saves": saves}[asked.what](asked, work)


if __name__ == "__main__":
    sys.exit(main())
