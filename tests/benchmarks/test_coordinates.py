"""The mapping between reference recordings and our coordinates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.recordings.coordinates import (
    state_from_reference,
    state_to_reference,
    vector_from_reference,
    vector_to_reference,
)
from tests.reference import load_reference, rotation_from_xyzw

FREE = ("ant", "anymal", "humanoid")
Floats = NDArray[np.float64]


def recorded(robot: str) -> tuple[Floats, Floats]:
    data = load_reference(robot)
    return data["joint_q"].astype(np.float64), data["joint_qd"].astype(np.float64)


def test_vectors() -> None:
    assert vector_to_reference(np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 3.0, -2.0]
    assert vector_from_reference(np.array([1.0, 3.0, -2.0])).tolist() == [1.0, 2.0, 3.0]


def test_reference_upright_is_our_identity() -> None:
    upright = np.array([0.0, 0.75, 0.0, -(0.5**0.5), 0.0, 0.0, 0.5**0.5])
    q, _ = state_from_reference(upright, np.zeros(6), "free")
    np.testing.assert_allclose(q, [0, 0, 0.75, 1, 0, 0, 0], atol=1e-15)


@pytest.mark.parametrize("robot", FREE)
def test_there_and_back(robot: str) -> None:
    q, qd = recorded(robot)
    back = state_to_reference(*state_from_reference(q, qd, "free"), "free")
    np.testing.assert_allclose(back[0], q, atol=1e-14)
    np.testing.assert_allclose(back[1], qd, atol=1e-12)


@pytest.mark.parametrize("robot", FREE)
def test_linear_velocity_is_that_of_the_torsos_origin(robot: str) -> None:
    """The recorded observations hold it at 5:8, in the reference's world."""
    _, qd = state_from_reference(*recorded(robot), "free")
    observed = load_reference(robot)["obs"][..., 5:8]
    np.testing.assert_allclose(vector_to_reference(qd[..., :3]), observed, atol=1e-5)


def test_rotation_is_the_same_seen_from_the_other_world() -> None:
    q, qd = recorded("ant")
    mapped, _ = state_from_reference(q, qd, "free")
    ours = rotation_from_xyzw(mapped[..., [4, 5, 6, 3]])
    theirs = rotation_from_xyzw(q[..., 3:7])
    np.testing.assert_allclose(
        vector_to_reference(np.swapaxes(ours, -1, -2)), np.swapaxes(theirs, -1, -2), atol=1e-12
    )


def test_planar_states_are_unchanged_and_jax_arrays_stay_jax_arrays() -> None:
    q, qd = recorded("hopper")
    for convert in (state_from_reference, state_to_reference):
        same = convert(q, qd, "planar")
        assert np.array_equal(same[0], q) and np.array_equal(same[1], qd)
    q, qd = recorded("ant")
    with jax.enable_x64(True):
        mapping = jax.jit(state_from_reference, static_argnums=2)
        mapped = mapping(jnp.asarray(q), jnp.asarray(qd), "free")
    assert all(isinstance(value, jax.Array) for value in mapped)
    np.testing.assert_allclose(mapped[0], state_from_reference(q, qd, "free")[0], atol=1e-14)


def test_wrong_kind_or_sizes() -> None:
    with pytest.raises(ValueError, match="unknown kind of base 'legged'"):
        state_from_reference(np.zeros(7), np.zeros(6), "legged")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="6 coordinates and 6 velocities do not fit a free base"):
        state_to_reference(np.zeros(6), np.zeros(6), "free")
