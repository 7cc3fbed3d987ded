"""The example of links that touch: a ball moves when it is pushed, and the pusher learns of it."""

from __future__ import annotations

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests.marks import nightly

EXAMPLE = Path(__file__).parents[2] / "examples" / "push.py"


@nightly
def test_the_derivative_reaches_the_pusher_through_the_contact():
    """It is that of the discrete step; a wider difference would see the touch come earlier."""
    example = runpy.run_path(str(EXAMPLE))
    assert len(example["MODEL"].geoms.pairs) == 1
    with jax.enable_x64(True):
        env = example["Push"]()
        q = jnp.zeros((2, 9)).at[:, 4].set(0.1).at[:, 5].set(1.0)
        start = example["PushState"](q, jnp.zeros((2, 8)))

        @jax.jit
        def place(push):
            """Of two balls after a second: one pusher drives at its ball, the other rests."""
            action = jnp.stack([jnp.stack([push, 0.0]), jnp.zeros(2)])
            end, _ = jax.lax.scan(lambda s, _: (env.dynamics(s, action), None), start, length=25)
            return end.q[0, 2], end.q[1, 2]

        slope = float(jax.jit(jax.grad(lambda push: place(push)[0]))(0.6))
        h = 1e-6
        difference = float(place(0.6 + h)[0] - place(0.6 - h)[0]) / (2 * h)
        pushed, alone = place(0.6)
    assert slope == pytest.approx(difference, rel=1e-4)
    assert abs(slope) > 0.1
    assert float(pushed) > 0.1
    assert abs(float(alone)) < 1e-6
