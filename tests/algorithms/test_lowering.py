"""Every training program can be compiled for a GPU: it lowers for CUDA, here without one."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest

from rpo import algorithms, envs
from rpo.envs import Env, EnvState
from rpo.training.settings import resolve
from tests.marks import nightly
from tests.training.fakes import PENDULUM

TASKS = (PENDULUM, *envs.names())
DERIVED = ("hopper",)
"""Of these the derivative lowers every time: contact with the ground. The night has the others."""
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


def shapes_of(task: str) -> tuple[Env, EnvState, jax.ShapeDtypeStruct]:
    env = resolve(task, "rpo", "fast", {}).env
    state = jax.eval_shape(lambda key: env.reset(key, 2), jax.random.key(0))
    return env, state, jax.ShapeDtypeStruct((2, env.spec.action_size), jnp.float32)


@pytest.mark.parametrize("task", [task for task in envs.names() if task not in DERIVED])
def test_every_robots_step_lowers_for_cuda(task: str) -> None:
    """A quarter of what the derivative takes, which follows the step's own operations."""
    env, state, action = shapes_of(task)
    assert_fit(lowered(env.step, state, action))


@pytest.mark.parametrize(
    "task",
    [task if task in DERIVED else pytest.param(task, marks=nightly) for task in envs.names()],
)
def test_every_robots_step_and_its_derivative_lower_for_cuda(task: str) -> None:
    """What a method adds to it lowers on a light task above; the night has all pairs."""
    env, state, action = shapes_of(task)

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
