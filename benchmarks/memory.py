"""Memory that a training takes, by task and method, from XLA's own account of the compiled step.

    python benchmarks/memory.py [--tasks hopper ant] [--methods rpo ppo] [--json FILE]

One training of the preset `fast` on one device. What grows with `num_envs` is divided by it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from record import markdown, write_record

from rpo import algorithms, envs
from rpo.training.cache import enable_compilation_cache
from rpo.training.memory import needs
from rpo.training.program import Program
from rpo.training.settings import resolve

MIB = 2**20
COLUMNS = {
    "task": "task",
    "method": "method",
    "num_envs": "environments",
    "horizon": "steps",
    "networks_mib": "networks, MiB",
    "environments_mib": "environments, replay and record, MiB",
    "step_mib": "compiled step, MiB",
    "kib_per_environment": "step, KiB per environment",
}


def measure(task: str, method: str) -> dict[str, Any]:
    """Compiles one training step, and says what it needs."""
    settings = {"devices": 1, "candidates": 1}
    resolved = resolve(task, method, settings=settings)
    program, config = Program(resolved), resolved.config
    needed = needs(program)
    program.compile(program.init())
    (compiled,) = program._compiled.values()
    step = compiled.memory_analysis().temp_size_in_bytes
    return {
        "task": task,
        "method": method,
        "num_envs": config.num_envs,
        "horizon": config.horizon,
        "networks_mib": round(needed.networks / MIB, 1),
        "environments_mib": round(needed.environments / MIB, 1),
        "step_mib": round(step / MIB, 1),
        "kib_per_environment": round(step / 1024 / config.num_envs, 1),
    }


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(envs.names()))
    parser.add_argument("--methods", nargs="+", default=list(algorithms.names()))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    enable_compilation_cache()
    rows = []
    for task in asked.tasks:
        for method in asked.methods:
            rows.append(measure(task, method))
            print(rows[-1], file=sys.stderr, flush=True)
            if asked.json:
                write_record(asked.json, rows)
    print(markdown(list(COLUMNS.values()), [[str(row[c]) for c in COLUMNS] for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
