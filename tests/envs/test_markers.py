"""Markers say what is wrong with them, and the hand's shows the goal."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo import envs
from rpo.envs import Marker


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shape": "cone"}, "shape is 'cone', must be one of"),
        ({"size": (0.1, 0.1)}, r"a box needs 3 positive sizes, not \(0.1, 0.1\)"),
        ({"shape": "sphere", "size": (0.0,)}, "a sphere needs 1 positive size"),
        ({"color": (1.0, 0.0, 0.0)}, r"must be four numbers in \[0, 1\]"),
        ({"color": (255.0, 0.0, 0.0, 1.0)}, r"must be four numbers in \[0, 1\]"),
        ({"shape": "arrow", "size": (0.1, 1.0), "faces": True}, "only boxes have faces"),
    ],
)
def test_mistakes_are_named(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Marker(jnp.zeros(3), **({"size": (0.1, 0.1, 0.1)} | given))


def test_one_place_serves_all_environments() -> None:
    marker = Marker([1.0, 2.0, 3.0], size=(0.5,), shape="sphere").of_each(2)
    np.testing.assert_array_equal(marker.position, [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(marker.quaternion, [[1, 0, 0, 0]] * 2)
    with pytest.raises(ValueError, match="broadcast"):
        marker.of_each(3)


def test_the_hands_goal_is_a_cube_as_it_is_to_lie() -> None:
    env = envs.make("hand")
    q = jnp.zeros((2, 23)).at[:, 16:].set([0.0, -0.1, 0.6, 1.0, 0.0, 0.0, 0.0])
    turned = jnp.array([[1.0, 0, 0, 0], [0.6, 0.8, 0, 0]])
    state = dataclasses.replace(env.state(q, jnp.zeros((2, 22))), goal=turned)
    marker = env.markers(state)["goal"].of_each(2)
    np.testing.assert_array_equal(marker.quaternion, turned)
    np.testing.assert_allclose(marker.size, 0.0325)
    away = np.linalg.norm(marker.position - state.q[:, 16:19], axis=1)
    assert (away > 3 * 0.0325).all()
    assert jax.eval_shape(envs.make("ant").markers, state) == {}
