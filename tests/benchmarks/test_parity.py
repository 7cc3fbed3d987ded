"""Our tasks do what the reference recordings say, within the tolerances of the benchmark."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from benchmarks.recordings import walkers as parity
from tests.marks import nightly
from tests.reference import RECORDINGS, reference_path

CHEAP = ("constants", "observations", "rewards")
DYNAMICS = {
    "hopper": ("step", "open-loop", "one-step-gradients", "8-step-gradients"),
    "hopper_mm4": ("step", "one-step-gradients"),
    "ant": ("step", "one-step-gradients"),
    "ant_mm1": ("step",),
    "anymal": ("step", "one-step-gradients"),
    "humanoid_mm48": ("step",),
}
"""What is affordable in a test; the benchmark compares everything."""
EVERY_TIME = {
    *(("hopper", "step"), ("hopper", "one-step-gradients"), ("anymal", "step")),
    *(("ant", "step"), ("hopper", "open-loop")),
}


def assert_within(recording: parity.Recording, *comparisons: str) -> None:
    measured = list(parity.compare(recording, comparisons))
    assert measured
    assert not [m for m in measured if not m.within]


@functools.cache
def recorded(name: str) -> parity.Recording:
    """A recording that nobody may change."""
    return parity.Recording(reference_path(name))


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("comparison", CHEAP)
def test_constants_observations_and_rewards(name, comparison):
    assert_within(recorded(name), comparison)


@pytest.mark.parametrize(
    ("name", "comparison"),
    [
        pytest.param(name, c, marks=() if (name, c) in EVERY_TIME else nightly)
        for name, cs in DYNAMICS.items()
        for c in cs
    ],
)
def test_dynamics(name, comparison):
    assert_within(recorded(name), comparison)


@pytest.mark.parametrize("name", RECORDINGS)
def test_terminations(name):
    """The height test on every state after a step."""
    recording = recorded(name)
    q, qd = recording.states
    low = jax.jit(jax.vmap(lambda *s: recording.env.is_terminal(recording.env.state(*s))))(q, qd)
    np.testing.assert_array_equal(low[1:], recording.data["would_terminate_early"])


def test_a_wrong_mass_is_noticed():
    recording = parity.Recording(reference_path("hopper"))
    model = recording.env.model
    heavier = dataclasses.replace(model, mass=model.mass * 1.001)
    object.__setattr__(recording.env, "model", heavier)
    beyond = {m.quantity for m in parity.compare(recording, ["constants"]) if not m.within}
    assert beyond == {"masses", "mass moments"}
    assert not all(m.within for m in parity.compare(recording, ["step"]))


def test_an_unknown_comparison_is_refused():
    with pytest.raises(ValueError, match="unknown comparison 'speed'; known: constants"):
        list(parity.compare(recorded("hopper"), ["speed"]))
