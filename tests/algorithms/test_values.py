"""Values of frozen critics against plain differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms.chunks import CHUNK_ROWS
from rpo.algorithms.values import frozen_values
from rpo.nets import CriticEnsemble


@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, CHUNK_ROWS)])
def test_values_and_gradients_are_those_of_the_critics(shape):
    with jax.enable_x64(True):
        critics = CriticEnsemble(3, (6, 4), 2, jax.random.key(0))
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
        np.testing.assert_allclose(frozen_values(critics, observation), expected_values, rtol=1e-10)


def test_critics_are_constants():
    critics = CriticEnsemble(3, (6,), 2, jax.random.key(0))
    gradient = jax.grad(lambda c: frozen_values(c, jnp.ones((4, 3))).sum())(critics)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
