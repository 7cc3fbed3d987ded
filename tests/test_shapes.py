"""What the tests check of annotations."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, TypeCheckError

from rpo.algorithms.returns import td_lambda
from rpo.envs.locomotion import RobotState
from rpo.nets import new_normalizer
from tests.shapes import checked


@checked
def scaled(
    x: Float[Array, "envs size"], factor: Float[Array, " envs"] | float, label: str = ""
) -> Float[Array, "envs size"]:
    return jnp.zeros((2, 3)) if label == "wrong" else (x.T * factor).T


def test_what_is_as_annotated_passes():
    for x in (jnp.ones((4, 2)), np.ones((4, 2))):
        assert scaled(x, 2.0).shape == scaled(x, x[:, 0], label=None).shape == (4, 2)


@pytest.mark.parametrize(
    ("shape", "factor", "label"),
    [
        ((4,), 2.0, ""),
        ((4, 2), np.ones(3), ""),
        ((4, 2), np.ones(4, int), ""),
        ((4, 2), 1.0, "wrong"),
    ],
)
def test_other_shapes_and_kinds_of_numbers_do_not(shape, factor, label):
    with pytest.raises(TypeCheckError):
        scaled(jnp.ones(shape), factor, label)


def test_functions_methods_and_records_of_the_package_are_checked():
    with pytest.raises(TypeCheckError, match="reward"):
        td_lambda(jnp.ones(3), *[jnp.ones((3, 1))] * 3, 0.9, 0.9)
    with pytest.raises(TypeCheckError, match="batch"):
        new_normalizer(4).update(jnp.ones(4, int))
    with pytest.raises(TypeCheckError, match="qd"):
        RobotState(jnp.ones((2, 7)), jnp.ones((3, 6)), jnp.ones((2, 1)))
