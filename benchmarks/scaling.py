"""How the cost of an iteration grows with environments, seeds and devices.

All configurations are compiled first; then their iterations take turns, and the shortest of several
counts, so that a disturbance hits all alike.

    python benchmarks/scaling.py [--task ant] [--algorithm rpo] [--json results/scaling.json]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from record import markdown, write_record

from rpo.algorithms import names
from rpo.training.cache import enable_compilation_cache
from rpo.training.program import Program
from rpo.training.settings import resolve

ROUNDS = 12
COLUMNS = {
    "num_envs": "environments",
    "seeds": "seeds",
    "devices": "devices",
    "iteration_ms": "iteration, ms",
    "steps_per_s": "steps/s",
    "relative": "steps/s, against the first row",
    "compile_s": "compile, s",
}


def configurations(
    num_envs: Sequence[int], seeds: Sequence[int], devices: Sequence[int]
) -> Iterator[dict[str, int]]:
    """Every number of environments on every number of devices; more seeds on all devices."""
    for count in devices:
        for size in num_envs:
            if size % count == 0:
                yield {"num_envs": size, "seeds": 1, "devices": count}
    middle = num_envs[len(num_envs) // 2]
    for many in seeds:
        if many > 1:
            yield {"num_envs": middle, "seeds": many, "devices": max(devices)}


def build(task: str, algorithm: str, preset: str, configuration: dict[str, int]) -> dict[str, Any]:
    """A compiled program and its state."""
    resolved = resolve(task, algorithm, preset, configuration)
    program = Program(resolved)
    lanes = program.init()
    start = time.perf_counter()
    program.compile(lanes)
    row = configuration | {"compile_s": time.perf_counter() - start}
    return {"row": row, "program": program, "lanes": lanes, "horizon": resolved.config.horizon}


def measure(
    task: str, algorithm: str, preset: str, chosen: Sequence[dict[str, int]]
) -> list[dict[str, Any]]:
    """One row per configuration."""
    built = []
    for configuration in chosen:
        built.append(build(task, algorithm, preset, configuration))
        print(f"compiled {built[-1]['row']}", file=sys.stderr, flush=True)
    best = np.full(len(built), np.inf)
    for _ in range(ROUNDS):
        for k, one in enumerate(built):
            start = time.perf_counter()
            one["lanes"], _ = one["program"].update(one["lanes"])
            jax.block_until_ready(one["lanes"])
            best[k] = min(best[k], time.perf_counter() - start)
    for one, seconds in zip(built, best, strict=True):
        row = one["row"]
        row["iteration_ms"] = 1e3 * seconds
        row["steps_per_s"] = row["num_envs"] * row["seeds"] * one["horizon"] / seconds
        row["relative"] = row["steps_per_s"] / built[0]["row"]["steps_per_s"]
    return [one["row"] for one in built]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    formats = {"iteration_ms": ".1f", "relative": ".2f", "compile_s": ".0f"}
    cells = ([format(row[name], formats.get(name, ",.0f")) for name in COLUMNS] for row in rows)
    return markdown(list(COLUMNS.values()), cells)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="How the cost of an iteration grows.")
    parser.add_argument("--task", default="ant")
    parser.add_argument("--algorithm", choices=names(), default="rpo")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--num-envs", nargs="+", type=int, default=[32, 64, 128, 256, 512])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--devices", nargs="+", type=int, default=sorted({1, len(jax.devices())}))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    enable_compilation_cache()
    chosen = list(configurations(args.num_envs, args.seeds, args.devices))
    rows = measure(args.task, args.algorithm, args.preset, chosen)
    print(table(rows))
    if args.json:
        facts = {"task": args.task, "algorithm": args.algorithm, "preset": args.preset}
        write_record(args.json, rows, **facts)


if __name__ == "__main__":
    main()
