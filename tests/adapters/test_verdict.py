"""Each verdict on an environment made to deserve it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from rpo.envs.verdict import judge
from tests.adapters.fake_package import FakeSettings, Looping, Reach, make


class Cut(Reach):
    def move(self, position, action):
        return super().move(position, lax.stop_gradient(action))


class Idle(Reach):
    def move(self, position, action):
        return position


class Infinite(Reach):
    def move(self, position, action):
        return super().move(position, action + 0 * jnp.sqrt(0 * action))


class Jagged(Reach):
    """Every step earns what its place modulo 0.001 is worth: a derivative without a direction."""

    def step(self, state, action):
        following = super().step(state, action)
        return following.replace(reward=(following.position % 0.001).sum())


class Backwards(Reach):
    def move(self, position, action):
        return super().move(position, 2 * lax.stop_gradient(action) - action)


@pytest.mark.parametrize(
    ("env", "kind", "words"),
    [
        (Reach, "useful", "cosine 1.000"),
        pytest.param(Cut, "zero", "though the return changes", marks=pytest.mark.nightly),
        pytest.param(Idle, "zero", "the return does not change", marks=pytest.mark.nightly),
        pytest.param(Infinite, "not finite", "8 of 8 gradients", marks=pytest.mark.nightly),
        pytest.param(Jagged, "rough", "between those of 0.01 and 0.001", marks=pytest.mark.nightly),
        (Backwards, "wrong", "cosine -1.000"),
        (Looping, "missing", "its solver loops"),
    ],
)
def test_verdicts(env: type[Reach], kind: str, words: str) -> None:
    verdict = judge(make("Reach", FakeSettings(), env()), "fake:Reach", horizon=4, warm_up=2)
    assert verdict.kind == kind, verdict
    assert words in str(verdict)
    assert verdict.useful == (kind == "useful")
    assert ("--algorithm ppo" in str(verdict)) == (kind != "useful")
    assert len(str(verdict).splitlines()) == 1


def test_the_sign_of_backwards_is_what_the_test_believes() -> None:
    position, action = jnp.zeros(2), jnp.ones(2)
    ahead = jax.grad(lambda a: Backwards().move(position, a).sum())(action)
    assert (ahead < 0).all()
    assert (Backwards().move(position, action) > 0).all()
