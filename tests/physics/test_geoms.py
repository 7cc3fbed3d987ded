"""Shapes that may touch: their figures are checked where they are made."""

from __future__ import annotations

import numpy as np
import pytest

from rpo.physics.geoms import NO_GEOMS, Geoms
from tests.physics.robots import planar


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": np.array([0.0, 0.1]), "half_extents": np.zeros((2, 3))}, "'a' has no size"),
        ({"radius": np.array([0.1, np.nan])}, "radius holds a non-finite number"),
        ({"stiffness": np.array([1.0, -1.0])}, "stiffness holds a negative number"),
        ({"pairs": np.array([[0, 2]])}, "names a shape that does not exist"),
        ({"link": np.array([0, 0])}, "'a' and 'b' belong to the same link"),
        ({"position": np.zeros((3, 3))}, r"position has shape \(3, 3\), expected \(2, 3\)"),
    ],
)
def test_bad_geoms_are_refused(change, message):
    figures = {
        "names": ("a", "b"),
        "link": np.array([0, 1]),
        "position": np.zeros((2, 3)),
        "quaternion": np.tile([1.0, 0, 0, 0], (2, 1)),
        "half_extents": np.full((2, 3), 0.1),
        "radius": np.zeros(2),
        "pairs": np.array([[0, 1]]),
    } | {name: np.ones(2) for name in ("stiffness", "damping")}
    figures |= {name: np.ones(2) for name in ("friction_stiffness", "friction_coefficient")}
    Geoms(**figures)
    with pytest.raises(ValueError, match=message):
        Geoms(**(figures | change))


def test_a_robot_without_pairs_has_none():
    assert planar().geoms is NO_GEOMS
