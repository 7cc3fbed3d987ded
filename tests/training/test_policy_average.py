"""The average of a training's policies, which is what it keeps if asked to."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from rpo.nets import GaussianPolicy
from rpo.training.origin import Restored, started_from
from rpo.training.program import Program
from rpo.training.selection import Race
from rpo.training.settings import resolve
from tests.training.fakes import TINY, Countdown

DECAY = 0.6


@pytest.fixture(scope="module")
def program() -> Program:
    settings = TINY | {"policy_average": DECAY, "seeds": 1, "devices": 1}
    del settings["actor_epochs"]  # SHAC: half of what RPO compiles
    return Program(resolve(Countdown(), "shac", settings=settings))


def leaves(policy: GaussianPolicy) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(policy)]


def test_a_training_comes_to_the_average_of_its_policies(program: Program) -> None:
    lanes = program.init()
    program.compile(lanes)
    expected: list[np.ndarray] = []
    for k in range(5):
        lanes, _ = program.update(lanes)
        state = program.to_host(lanes)
        newest = leaves(state.train.policy)
        weight = min(DECAY, k / (k + 1))
        old = expected or newest
        expected = [weight * a + (1 - weight) * b for a, b in zip(old, newest, strict=True)]
        standing = program.standing(lanes)
        for found, wanted in zip(leaves(standing.last.policy), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert any((a != b).any() for a, b in zip(newest, leaves(state.average), strict=True))
    for own, kept in zip(leaves(state.actor), leaves(standing.last), strict=True):
        np.testing.assert_array_equal(own, kept)

    race = Race.start(program.selection, seeds=1)
    restored = Restored(state, program, race, [0], {}, Path("there/checkpoints/it"))
    following = started_from(program, program.to_host(program.init()), restored)
    for policy in (following.train.policy, following.best.policy, following.average):
        for own, kept in zip(leaves(policy), leaves(state.average), strict=True):
            np.testing.assert_array_equal(own, kept)


def test_without_it_the_newest_policy_counts() -> None:
    state = Program(resolve(Countdown(), settings=TINY)).shapes()
    assert state.average is None
    assert state.actor.policy is state.train.policy


def test_an_average_that_never_changes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"policy_average is 1\.0, must be"):
        resolve(Countdown(), settings=TINY | {"policy_average": 1})
