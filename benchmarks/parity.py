"""Compare the simulator with recordings of the reference simulator.

    python benchmarks/parity.py RECORDING.npz... [--only step observations ...] [--float64] [--json]

Prints the largest errors of every quantity and exits with status 1 if one is beyond its tolerance
(2 if a file is no recording).
With --float64 our side is computed in double precision: what remains is the reference's rounding.
With --kernel pallas our side of the walkers is the GPU kernel (docs/gpu-kernel.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
import zipfile
from pathlib import Path
from typing import get_args

import jax
import numpy as np
from recordings import hand as hand_recordings
from recordings.walkers import COMPARISONS, Measurement, Recording, compare

from rpo.physics.substep import Kernel

CHOICES = tuple(dict.fromkeys((*COMPARISONS, *hand_recordings.COMPARISONS)))


def main(arguments: list[str] | None = None) -> int:
    """Run the comparisons; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path, metavar="RECORDING.npz")
    parser.add_argument("--only", nargs="+", choices=CHOICES, default=())
    parser.add_argument("--float64", action="store_true", help="compute our side in float64")
    parser.add_argument("--kernel", choices=get_args(Kernel), default="xla")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    dtype = np.float64 if options.float64 else np.float32
    results: dict[str, list[Measurement]] = {}
    with jax.enable_x64(options.float64):
        for path in options.recordings:
            start = time.perf_counter()
            try:
                if is_hand(path):
                    hand = hand_recordings.Recording(path)
                    results[hand.name] = list(hand_recordings.compare(hand, options.only))
                else:
                    recording = Recording(path, dtype, options.kernel)
                    results[recording.name] = list(compare(recording, options.only))
            except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
                print(f"{path} cannot be compared: {error}", file=sys.stderr)
                return 2
            if not options.json:
                print_table(path.stem, results[path.stem], time.perf_counter() - start)
    if options.json:
        print(
            json.dumps({name: [as_dict(m) for m in ms] for name, ms in results.items()}, indent=2)
        )
    return 0 if all(m.within for ms in results.values() for m in ms) else 1


def is_hand(path: Path) -> bool:
    """Whether a file records the hand, whose simulator and gradients are others."""
    with path.open("rb") as file, np.load(file) as data:
        return "goal_init_pose" in data.files


def as_dict(measurement: Measurement) -> dict[str, object]:
    """A measurement as JSON, which has no infinity: a figure that is not finite becomes null."""
    figures = dataclasses.asdict(measurement) | {"within": measurement.within}
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in figures.items()
    }


def print_table(name: str, measurements: list[Measurement], seconds: float) -> None:
    """One line per quantity."""
    print(f"\n{name}  ({seconds:.0f} s)", flush=True)
    print(f"{'comparison':20}{'quantity':28}{'absolute':>10}{'relative':>10}{'bound':>10}")
    for m in measurements:
        verdict = "" if m.within else f"  BEYOND ({m.judged:.1e})"
        print(
            f"{m.comparison:20}{m.quantity:28}{m.absolute:10.1e}{m.relative:10.1e}"
            f"{m.tolerance:10.0e}{verdict}"
        )


if __name__ == "__main__":
    sys.exit(main())
