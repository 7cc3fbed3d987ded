"""The example of the documentation: an environment in one file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.envs.gradient_check import check_gradients

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "pendulum.py"


@pytest.fixture(scope="module")
def pendulum():
    specification = importlib.util.spec_from_file_location("pendulum", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.Pendulum()


def test_its_gradients_are_right(pendulum):
    check = check_gradients(pendulum, samples=16, horizon=8, warm_up=16)
    assert check.passed, check.table()


def test_the_motor_alone_cannot_lift_it(pendulum):
    """Full torque from rest at the bottom stalls: it has to swing."""
    state, step = pendulum.reset(jax.random.key(0), 1), jax.jit(pendulum.step)
    rest = jnp.array([[np.pi, 0.0]])
    state = jax.tree.map(lambda x: x, state)
    object.__setattr__(state, "physics", rest)
    for _ in range(pendulum.spec.episode_length - 1):
        state, transition = step(state, jnp.ones((1, 1)))
        assert transition.observation[0, 0] < 0.5  # cosine of the angle from upright


def test_upright_at_rest_is_best(pendulum):
    angle, velocity, action = jnp.meshgrid(*[jnp.linspace(-3, 3, 13)] * 3)
    states = jnp.stack([angle.ravel(), velocity.ravel()], axis=1)
    reward = pendulum.reward(states, action.reshape(-1, 1), states)
    best = int(jnp.argmax(reward))
    np.testing.assert_allclose(states[best], 0, atol=1e-6)
    assert reward[best] == pytest.approx(1.0)


def test_the_documentation_shows_this_file():
    text = (ROOT / "docs" / "custom-environment.md").read_text()
    assert EXAMPLE.read_text() in text
