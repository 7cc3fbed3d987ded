"""Cut the reference recordings down to the samples beside this file.

    python tests/data/cut.py ../shared/dflex-reference
    python tests/data/cut.py ../shared/rewarped-reference

A sample holds the first ten control steps of all four environments: every array over time is cut,
the one-step gradients that start later are dropped, and so are the internals of single substeps
(`sub_*`) and constants of features that the robots do not use. Nothing else is changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

STEPS = 10
HAND_STEPS = 24  # until the cube has met all fingers
OVER_TIME = ("actions", "reward", "done", "would_terminate_early")  # one entry per step
OVER_STATES = ("joint_q", "joint_qd", "obs", "obs_no_grad_mode")  # and one more at the end
UNUSED = ("sub_", "model_muscle_", "model_articulation_", "model_contact_count", "model_enable_")
CLOTH = ("model_tri_", "model_tet_", "model_edge_", "model_spring_", "model_particle_")


def cut(source: Path, target: Path) -> None:
    """Write the sample of one recording."""
    with np.load(source) as data:
        kept = {key: data[key] for key in data.files if not key.startswith(UNUSED + CLOTH)}
    early = kept["grad1_times"] < STEPS
    for key, value in kept.items():
        if key in OVER_TIME:
            kept[key] = value[:STEPS]
        elif key in OVER_STATES:
            kept[key] = value[: STEPS + 1]
        elif key.startswith("grad1_"):
            kept[key] = value[early]
    np.savez_compressed(target, **kept)


def cut_hand(source: Path, target: Path) -> None:
    """Write the sample of the hand's recording: the first steps, all checks in float64."""
    with np.load(source) as data:
        kept = {key: data[key] for key in data.files if not key.startswith("grad_")}
    for key, value in kept.items():
        if key == "actions" or key.startswith("step_"):
            kept[key] = value[:HAND_STEPS]
    np.savez_compressed(target, **kept)


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).glob("*.npz")):
        cut_one = cut_hand if path.stem == "allegro_hand" else cut
        cut_one(path, Path(__file__).parent / path.name)
