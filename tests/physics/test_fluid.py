"""Drag of a fluid against MuJoCo's, through the step itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from rpo.physics.mjcf import load_mjcf
from tests.physics.engine import (
    Floats,
    compile_mjcf,
    mujoco_acceleration,
    our_acceleration,
    random_states,
    relative_error,
)

# A free body with a welded one that is merged into it, two like limbs, and a slide.
SWIMMER = """<mujoco><option density="{density}" viscosity="{viscosity}" wind="{wind}"/>
  <default><geom contype="0" conaffinity="0"/></default><worldbody>
  <body><freejoint/><geom type="box" size="0.1 0.05 0.08" euler="10 20 30" density="300"/>
    <body name="fin" pos="0.2 0 0.1" euler="0 40 10"><geom type="box" size="0.02 0.1 0.03"/></body>
    <body name="left" pos="0 0.2 0"><joint axis="1 2 0"/>
      <geom type="capsule" size="0.02 0.1" pos="0.05 0 0" euler="0 90 0"/></body>
    <body name="right" pos="0 -0.2 0"><joint axis="1 0 0"/>
      <geom type="capsule" size="0.03 0.1" pos="0.05 0 0" euler="90 0 0"/></body>
  </body>
  <body pos="0 0 1"><joint type="slide" axis="1 0 1"/><geom type="ellipsoid" size="0.1 0.2 0.3"/>
  </body></worldbody></mujoco>"""


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@functools.cache
def dry_acceleration() -> Floats:
    """In empty space, in the same states."""
    model = load_mjcf(SWIMMER.format(density=0, viscosity=0, wind="0 0 0"))
    return our_acceleration(model, *random_states(model, 4, seed=0))


@pytest.mark.parametrize(
    ("density", "viscosity", "wind"),
    [(1000.0, 0.0, "0 0 0"), (0.0, 0.5, "0 0 0"), (1.2, 2e-5, "3 -2 1")],
)
def test_drag_is_mujocos(density: float, viscosity: float, wind: str) -> None:
    xml = SWIMMER.format(density=density, viscosity=viscosity, wind=wind)
    model = load_mjcf(xml)
    assert len(model.fluid.link) == 5
    q, qd = random_states(model, 4, seed=0)
    expected = mujoco_acceleration(compile_mjcf(xml), q, qd)
    assert relative_error(our_acceleration(model, q, qd), expected) < 1e-6
    assert relative_error(dry_acceleration(), expected) > 1e-5


def test_a_body_sinks_at_its_terminal_velocity() -> None:
    """A cube's drag is density / 2 edge^2 v^2."""
    xml = """<mujoco><option density="1000"/><worldbody><body>
      <joint type="slide" axis="0 0 1"/><geom type="box" size="0.1 0.1 0.1" mass="20"/></body>
      </worldbody></mujoco>"""
    model = load_mjcf(xml)
    speed = (20 * 9.81 / (0.5 * 1000 * 0.2**2)) ** 0.5
    still = our_acceleration(model, np.zeros((1, 1)), np.array([[-speed]]))
    assert np.abs(still).max() < 1e-6


def test_the_empty_space_and_a_wind_without_a_medium_have_no_drag() -> None:
    assert not len(load_mjcf(SWIMMER.format(density=0, viscosity=0, wind="1 2 3")).fluid.link)


def test_ellipsoid_drag_is_refused_where_there_is_a_fluid() -> None:
    xml = SWIMMER.replace('<geom type="ell', '<geom name="egg" fluidshape="ellipsoid" type="ell')
    with pytest.raises(
        ValueError, match="geom 'egg' of body 'body_5': fluidshape is not supported"
    ):
        load_mjcf(xml.format(density=1, viscosity=0, wind="0 0 0"))
    assert load_mjcf(xml.format(density=0, viscosity=0, wind="0 0 0")).nv == 9
