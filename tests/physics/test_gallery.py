"""The robots of gymnasium and dm_control: all load or are refused in one line, and those that load
move as in MuJoCo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from rpo.physics.model import Model
from rpo.physics.step import StepSettings, control_step
from tests.physics.engine import (
    mujoco_acceleration,
    our_acceleration,
    random_states,
    relative_error,
    without_constraints,
)
from tests.physics.gallery import COUNT, descriptions, load, table
from tests.physics.test_against_mujoco import assert_agreement

DOCS = Path(__file__).parents[2] / "docs" / "robots.md"
FOUND = descriptions()
LOADED = {name: path for name, path in FOUND.items() if isinstance(load(path), Model)}
BATCH = 3

pytestmark = [
    pytest.mark.skipif(len(FOUND) < COUNT, reason="the extra 'robots' is not installed"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def test_what_loads_is_what_the_documentation_says() -> None:
    assert len(FOUND) == COUNT
    assert table() in DOCS.read_text()
    assert len(LOADED) >= 26


def test_refusals_are_one_line_that_names_an_element() -> None:
    for name in FOUND.keys() - LOADED.keys():
        reason = load(FOUND[name])
        assert isinstance(reason, str) and "\n" not in reason
        assert "'" in reason or "no joint" in reason


@pytest.mark.nightly
@pytest.mark.parametrize("name", LOADED)
def test_kinematics_mass_matrix_and_bias_are_mujocos(name: str, double_precision: None) -> None:
    # Its acceleration includes the drag of a fluid: that is the next test's.
    assert_agreement(LOADED[name], seed=1, without="acceleration", tolerance=1e-6)


@pytest.mark.nightly
@pytest.mark.parametrize("name", LOADED)
def test_accelerations_are_mujocos(name: str, double_precision: None) -> None:
    """With springs, dampers, tendons, fluid and actuators, through the step; no constraints."""
    model = load(LOADED[name])
    assert isinstance(model, Model)
    compiled = mujoco.MjModel.from_xml_path(str(LOADED[name]))
    q, qd = random_states(model, BATCH, seed=1)
    control = np.random.default_rng(0).uniform(-1.5, 1.5, (BATCH, compiled.nu))
    expected = mujoco_acceleration(compiled, q, qd, control)
    ours = our_acceleration(without_constraints(model, compiled), q, qd, control)
    assert relative_error(ours, expected) < 1e-6


@pytest.mark.nightly
@pytest.mark.parametrize("name", LOADED)
def test_derivatives_of_a_step_are_its_differences(name: str, double_precision: None) -> None:
    """By state and controls, with all contacts and limits, wherever the step is smooth."""
    model = load(LOADED[name])
    assert isinstance(model, Model)
    settings = StepSettings(control_dt=1e-3, substeps=2, mass_matrix_interval=1)
    draw = np.random.default_rng(0)
    batch, actuators = 16, max(len(model.actuators.names), 1)
    q, qd = (jnp.asarray(x.T) for x in random_states(model, batch, seed=2))
    state = (0.3 * q, qd, jnp.asarray(draw.uniform(-0.9, 0.9, (actuators, batch))))
    if len(q) > model.nv:  # keep quaternions
        state = (q, *state[1:])
    weights = [draw.normal(size=(n, 1)) for n in (model.nq, model.nv)]
    moves = [draw.normal(size=x.shape) for x in state]

    def value(q, qd, control):
        force = 0 * qd + control[:1]
        if model.actuators.names:
            force = model.actuators.forces(control)
        after = control_step(model, settings, q, qd, force)
        return sum((w * x).sum(axis=0) for w, x in zip(weights, after, strict=True))

    step = jax.jit(value)
    slopes = jax.jit(jax.grad(lambda *s: value(*s).sum(), argnums=(0, 1, 2)))(*state)
    predicted = sum((s * m).sum(axis=0) for s, m in zip(slopes, moves, strict=True))
    assert np.isfinite(predicted).all()

    def difference(h: float) -> np.ndarray:
        ahead, back = (
            step(*(x + k * m for x, m in zip(state, moves, strict=True))) for k in (h, -h)
        )
        return np.asarray(ahead - back) / (2 * h)

    wide, narrow = difference(2e-7), difference(1e-7)
    # What they disagree on is a kink, or curvature that a difference cannot see through.
    smooth = np.abs(wide - narrow) < 3e-6 * (1 + np.abs(narrow))
    assert smooth.sum() >= 4, (wide, narrow)
    np.testing.assert_allclose(predicted[smooth], narrow[smooth], rtol=1e-5, atol=1e-5)
