"""Every training program can be compiled for a GPU: it lowers for CUDA, here without one."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest

from rpo import algorithms, envs
from rpo.training.settings import resolve
from tests.marks import nightly
from tests.training.fakes import PENDULUM

TASKS = (PENDULUM, *envs.names())
PAIRS = [(task, method) for task in TASKS for method in algorithms.names()]


def lowered(function, *shapes) -> str:
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("task", "method"),
    [
        pytest.param(
            task,
            method,
            marks=() if task == PENDULUM else nightly,
            id=f"{task.rpartition(':')[2]}-{method}",
        )
        for task, method in PAIRS
    ],
)
def test_every_program_lowers_for_cuda(task: str, method: str) -> None:
    resolved = resolve(task, method, "fast", {})
    algorithm = algorithms.make(method, resolved.config)
    state = jax.eval_shape(lambda key: algorithm.init(resolved.env, key), jax.random.PRNGKey(0))
    assert_fit(lowered(lambda state: algorithm.update(resolved.env, state), state))


@pytest.mark.parametrize("task", envs.names())
def test_every_robots_step_and_its_derivative_lower_for_cuda(task: str) -> None:
    """What a method adds to it lowers on a light task above; the night has all pairs."""
    env = resolve(task, "rpo", "fast", {}).env
    state = jax.eval_shape(lambda key: env.reset(key, 2), jax.random.key(0))
    action = jax.ShapeDtypeStruct((2, env.spec.action_size), jnp.float32)

    def both(state, action):
        def step(action):
            following, transition = env.step(state, action)
            return (transition.final_observation, transition.reward), (following, transition)

        value, transpose, everything = jax.vjp(step, action, has_aux=True)
        return everything, transpose(jax.tree.map(jnp.ones_like, value))

    assert_fit(lowered(both, state, action))


def assert_fit(text: str) -> None:
    assert "f64" not in text  # a GPU is slow at it
    assert not re.findall(r"custom_call[^@\n]*@(\w+)", text)  # no host callback, no CPU library


def test_what_is_looked_for_would_be_found() -> None:
    with jax.enable_x64(True):
        assert "f64" in lowered(jnp.sin, jax.ShapeDtypeStruct((2,), jnp.float64))
    decomposed = lowered(jnp.linalg.cholesky, jax.ShapeDtypeStruct((2, 2), jnp.float32))
    assert re.findall(r"custom_call[^@\n]*@(\w+)", decomposed)
