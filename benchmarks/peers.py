"""Speed of other simulators on this machine, beside ours: steps per second, and derivatives.

Every simulator gets the same number of environments, the same random actions and the same control
period of 1/60 s, and as many physics steps as it needs for that (docs/peers.md says which, and
what else differs). A figure is the fastest of several rollouts of 32 control steps, without policy,
observation, reward and reset. All are the same rollout; it begins where 32 steps from the standing
pose ended. Each simulator has a process of its own, pinned to its cores. What is not installed is
left out, in a line that says so.

    pip install 'rpo-jax[peers]'
    python benchmarks/peers.py [--robots ant humanoid] [--output results/peers]

The output directory gets `peers.json`, with machine and versions, and the table `peers.md`, both
anew after every measurement. What they hold of other configurations, from earlier commands on the
same machine, stays.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from engines import PEERS
from record import best_of, markdown, write_record

ROBOTS = ("ant", "humanoid")
FINITE = 0.95
"""Share of environments that must be finite at the end, lest nothing is said of the simulator."""
INSTALL = "pip install 'rpo-jax[peers]'"
ENVIRONMENT = dict(os.environ)
"""Before `write_record` imports rpo, which sets XLA's options for this process."""


def measure(name: str, robot_name: str, num_envs: int, cores: int, repeat: int, seconds: float):
    """Check and time one simulator in this process.

    Args:
        name: which.
        robot_name: which robot.
        num_envs: how many environments.
        cores: that it may use.
        repeat: rollouts of which the fastest counts.
        seconds: no further rollout begins after so long.

    Yields:
        what is known after the forward rollouts, and again with the derivatives if it has any.

    Raises:
        SystemExit: if its robots are not where robots can be.
    """
    import numpy as np
    from engines.robots import STEPS, Robot

    robot, began = Robot(robot_name), time.perf_counter()
    on_gpu = os.environ.get("JAX_PLATFORMS") == "cuda"
    few = min(num_envs, (not on_gpu and PEERS[name].gradient_envs) or num_envs)
    module = importlib.import_module(f"engines.{PEERS[name].module}")
    simulation = module.build(name, robot, num_envs, few, cores)
    height = np.asarray(simulation.forward()[0])
    row: dict[str, Any] = {"ready_s": round(time.perf_counter() - began, 1)}
    finite = np.isfinite(height)
    if finite.mean() < FINITE:
        sys.exit(f"after {2 * STEPS} steps {finite.mean():.0%} of the states are finite")
    height = height[finite]
    if not -1 < height.mean() < 1 + robot.env.settings.start_height:
        sys.exit(f"after {2 * STEPS} steps the torsos' mean height is {height.mean():.3g} m")
    row |= {
        "finite": float(finite.mean()),
        "cores": simulation.cores,
        "timestep_ms": round(1e3 * simulation.timestep, 3),
        "substeps": simulation.substeps,
        "bits": simulation.bits,
        "height_m": round(float(height.mean()), 3),
    }

    def timed(kind: str, run: Any, envs: int) -> dict[str, Any]:
        duration = best_of(run, repeat, seconds)
        rate = envs * STEPS / duration
        return {
            f"{kind}_ms": round(1e3 * duration, 2),
            f"{kind}_steps_per_s": round(rate),
            f"{kind}_seconds_per_s": round(rate * robot.control_dt, 1),
        }

    row |= timed("forward", simulation.forward, num_envs)
    yield row
    if simulation.gradient:
        began = time.perf_counter()
        found = np.asarray(simulation.gradient())
        row["gradient_ready_s"] = round(time.perf_counter() - began, 1)
        envs = simulation.gradient_envs
        if found.shape[:2] != (envs, STEPS):
            raise ValueError(f"the derivative has shape {found.shape}")
        if not found.any():
            sys.exit("the derivative is zero everywhere")
        row["gradient_finite"] = float(np.isfinite(found).all(axis=(1, 2)).mean())
        row["gradient_size_m"] = float(f"{np.abs(found[np.isfinite(found)]).mean():.3g}")
        row |= {"gradient_envs": envs, "derivative": simulation.derivative}
        row |= timed("gradient", simulation.gradient, envs)
        yield row


def in_own_process(
    name: str, robot: str, num_envs: int, fusion: bool, options: argparse.Namespace
) -> dict[str, Any]:
    """A row: what a fresh process, pinned to its cores, measured, or why it did not."""
    peer = PEERS[name]
    device = options.device if peer.on_gpu else "cpu"
    row = {"simulator": name, "robot": robot, "device": device, "num_envs": num_envs}
    if missing := peer.missing():
        return row | {"skipped": f"{', '.join(missing)} not installed: {INSTALL}"}
    row |= {"date": str(date.today()), "versions": peer.versions()} | (
        {"fusion": fusion} if peer.module == "in_jax" else {}
    )
    numbers = [str(x) for x in (num_envs, options.cores, options.repeat, options.seconds)]
    try:
        result = subprocess.run(
            [sys.executable, __file__, "--worker", name, robot, *numbers],
            env=ENVIRONMENT | environment(device, options.cores, fusion),
            capture_output=True,
            text=True,
            timeout=options.limit,
            preexec_fn=functools.partial(pin, options.cores) if can_pin() else None,
        )
        output, status = result.stdout, result.returncode
        reason = (result.stderr.strip().splitlines() or [f"exit status {status}"])[-1]
    except subprocess.TimeoutExpired as late:
        output, status = (late.stdout or b"").decode(), 1
        reason = f"not done after {options.limit:g} s"
    rows = [line for line in output.splitlines() if line.startswith('{"ready_s"')]
    if rows:
        row |= json.loads(rows[-1])
    return row | ({"failed": reason} if status else {})


def environment(device: str, cores: int, fusion: bool) -> dict[str, str]:
    """Variables of a process. On a CPU all JAX simulators get a device per core, as ours does."""
    common = {"RPO_FUSION": str(int(fusion)), "RPO_CPU_DEVICES": str(cores)}
    if device == "gpu":
        return common | {"JAX_PLATFORMS": "cuda"}
    return common | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def can_pin() -> bool:
    """Whether the operating system lets a process choose its cores."""
    return hasattr(os, "sched_setaffinity")


def pin(cores: int) -> None:
    """Keep this process on the first so many of its cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def has_gpu() -> bool:
    """Whether NVIDIA's driver names a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return found.returncode == 0 and "GPU" in found.stdout


def configuration(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is a measurement of, apart from how it was compiled."""
    return row["simulator"], row["robot"], row["device"], row["num_envs"]


def kept(path: Path, new: list[dict[str, Any]], machine: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of a file that no new one replaces, without those that were not installed.

    Raises:
        SystemExit: if they were measured on another machine.
    """
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    if any(record.get(key) != machine[key] for key in machine):
        sys.exit(f"{path} has figures of another machine: choose another --output")

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return *configuration(row), row.get("fusion")

    replaced = {key(row) for row in new}
    measured = [row for row in record["rows"] if "skipped" not in row]
    return [row for row in measured if key(row) not in replaced]


def machine() -> dict[str, str]:
    """Processor and GPU, as the system names them."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found = {"processor": names[0] if names else platform.processor(), "gpu": "none"}
    if has_gpu():
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return found


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each configuration; where a simulator was compiled two ways, the faster figures.

    Rows that have a figure come before those that failed.
    """
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(configuration(row), []).append(row)
    chosen = []
    for same in found.values():
        forward = max(same, key=lambda row: row.get("forward_steps_per_s", 0))
        gradient = max(same, key=lambda row: row.get("gradient_steps_per_s", 0))
        names = [key for key in gradient if key.startswith("gradient_")]
        chosen.append(forward | {key: gradient[key] for key in names})
    return chosen


TITLES = (
    *("robot", "simulator", "on", "environments", "physics steps", "bits"),
    *("forward, steps/s", "forward, simulated s/s", "forward + backward, steps/s"),
    *("first rollout after, s", "first derivative after, s", "height, m"),
)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of what was measured; below it a line for everything that was not."""
    rows = best(rows)
    parts = [markdown(TITLES, [_cells(row) for row in rows if "forward_ms" in row])]
    for row in rows:
        reason = row.get("skipped") or row.get("failed")
        if reason and "gradient_ms" not in row:
            what = "forward + backward: " * ("forward_ms" in row)
            where = f"{row['robot']}, {row['num_envs']} environments"
            parts.append(f"{PEERS[row['simulator']].label}, {where}: {what}{reason}")
    return "\n\n".join(parts)


def _cells(row: dict[str, Any]) -> list[str]:
    derivative = f"{row['gradient_steps_per_s']:,}" if "gradient_ms" in row else "none"
    if row.get("gradient_finite", 1) < 1:
        derivative += f" ({row['gradient_finite']:.0%} finite)"
    height = f"{row['height_m']:.2f}" + f" ({row['finite']:.0%} finite)" * (row["finite"] < 1)
    where = "GPU" if row["device"] == "gpu" else f"{row['cores']} core" + "s" * (row["cores"] > 1)
    return [
        *(row["robot"], PEERS[row["simulator"]].label, where, f"{row['num_envs']:,}"),
        *(f"{row['substeps']} of {row['timestep_ms']:.2f} ms", str(row["bits"])),
        *(f"{row['forward_steps_per_s']:,}", f"{row['forward_seconds_per_s']:,.0f}", derivative),
        *(str(row["ready_s"]), str(row.get("gradient_ready_s", "")), height),
    ]


def parse() -> argparse.Namespace:
    """The command line."""
    cores = len(os.sched_getaffinity(0)) if can_pin() else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description="Speed of other simulators beside ours.")
    parser.add_argument("--simulators", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--robots", nargs="+", choices=ROBOTS, default=list(ROBOTS))
    parser.add_argument("--num-envs", nargs="+", type=_positive, default=[128])
    parser.add_argument("--cores", type=_positive, default=cores, help="each may use so many")
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "gpu"],
        default="auto",
        help="auto: the GPU if there is one; MuJoCo's C engine stays on the CPU",
    )
    parser.add_argument(
        "--fusion",
        choices=["on", "off", "both"],
        default="off",
        help="XLA's fusion of several outputs, which ours needs on a CPU, for MJX and Brax "
        "as well; XLA aborts on some of their programs then; both: the faster counts",
    )
    parser.add_argument("--repeat", type=_positive, default=7, help="rollouts; the fastest counts")
    parser.add_argument("--seconds", type=float, default=5, help="no rollout begins after so long")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one process")
    parser.add_argument("--output", type=Path, help="directory for peers.json and peers.md")
    options = parser.parse_args()
    options.cores = min(options.cores, cores)
    if options.device == "auto":
        options.device = "gpu" if has_gpu() else "cpu"
    if uneven := [n for n in options.num_envs if n % options.cores]:
        parser.error(f"--num-envs {uneven[0]} must be a multiple of the {options.cores} cores")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive whole number")
    return int(text)


def plan(options: argparse.Namespace) -> list[tuple[str, str, int, bool]]:
    """Simulator, robot, number of environments and fusion of every measurement, in their order."""
    ways = {"on": [True], "off": [False], "both": [True, False]}[options.fusion]
    return [
        (name, robot, num_envs, fusion)
        for robot, num_envs, name in itertools.product(
            options.robots, options.num_envs, options.simulators
        )
        for fusion in (
            ways
            if PEERS[name].module == "in_jax" and name != "rpo" and options.device == "cpu"
            else [True]
        )
    ]


def write(directory: Path, rows: list[dict[str, Any]], facts: dict[str, str]) -> None:
    """The record and its table, with what an earlier command measured besides."""
    path = directory / "peers.json"
    every = kept(path, rows, facts) + rows
    every.sort(key=lambda row: (row["robot"], row["num_envs"], list(PEERS).index(row["simulator"])))
    write_record(path, every, **facts)
    (directory / "peers.md").write_text(table(every) + "\n")


def main() -> None:
    """Parse, measure, print, write."""
    if sys.argv[1:2] == ["--worker"]:
        name, robot, *numbers, seconds = sys.argv[2:]
        for row in measure(name, robot, *(int(word) for word in numbers), float(seconds)):
            print(json.dumps(row), flush=True)
        return
    options = parse()
    rows: list[dict[str, Any]] = []
    facts = machine()
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        kept(options.output / "peers.json", rows, facts)
    for what in plan(options):
        rows.append(in_own_process(*what, options))
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
        if options.output:
            write(options.output, rows, facts)
    print(table(rows))
    if any("failed" in row for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
