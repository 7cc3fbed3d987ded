"""Values of frozen critics against plain differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms.chunks import CHUNK_ROWS
from rpo.algorithms.values import frozen_values
from rpo.nets import new_state_values


def fresh(critic, hidden_sizes):
    critics = new_state_values(3, hidden_sizes, 2, jax.random.key(0), critic=critic, discount=0.9)
    return critics.following(jnp.asarray(5.0), jnp.asarray(60.0))


@pytest.mark.parametrize(
    ("critic", "shape"),
    [("plain", (5,)), ("scaled", (4, 3)), ("popart", (4, 3)), ("categorical", (2, CHUNK_ROWS))],
)
def test_values_and_gradients_are_those_of_the_critics(critic, shape):
    with jax.enable_x64(True):
        critics = fresh(critic, (6, 4))
        observation = jax.random.normal(jax.random.key(1), (*shape, 3))
        weight = jax.random.normal(jax.random.key(2), (2, *shape))

        def through(function):
            def weighted(x):
                values = function(x)
                return jnp.sum(weight * values**2), values

            return jax.jit(jax.grad(weighted, has_aux=True))(observation)

        gradient, values = through(lambda x: frozen_values(critics, x))
        expected_gradient, expected_values = through(critics)
        np.testing.assert_allclose(values, expected_values, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
        values = jax.jit(lambda x: frozen_values(critics, x))(observation)
        np.testing.assert_allclose(values, expected_values, rtol=1e-10)


def test_critics_are_constants():
    critics = fresh("popart", (6,))
    gradient = jax.jit(jax.grad(lambda c: frozen_values(c, jnp.ones((4, 3))).sum()))(critics)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
