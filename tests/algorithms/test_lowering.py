"""Every training program can be compiled for a GPU: it lowers for CUDA, here without one."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from rpo import algorithms, envs
from rpo.training.settings import resolve
from tests.marks import nightly
from tests.training.fakes import PENDULUM

TASKS = (PENDULUM, *envs.names())
PAIRS = [(task, method) for task in TASKS for method in algorithms.names()]


def every_time(task: str, method: str) -> bool:
    """All methods on a light task, and RPO through the physics of a robot in a plane, a free one
    and one whose links touch; the night has all pairs."""
    return task == PENDULUM or (method == "rpo" and task in ("hopper", "ant", "hand"))


def lowered(function, *shapes) -> str:
    return export.export(jax.jit(function), platforms=["cuda"])(*shapes).mlir_module()


@pytest.mark.parametrize(
    ("task", "method"),
    [
        pytest.param(
            task,
            method,
            marks=() if every_time(task, method) else nightly,
            id=f"{task.rpartition(':')[2]}-{method}",
        )
        for task, method in PAIRS
    ],
)
def test_every_program_lowers_for_cuda(task: str, method: str) -> None:
    resolved = resolve(task, method, "fast", {})
    algorithm = algorithms.make(method, resolved.config)
    state = jax.eval_shape(lambda key: algorithm.init(resolved.env, key), jax.random.PRNGKey(0))
    text = lowered(lambda state: algorithm.update(resolved.env, state), state)
    assert "f64" not in text  # a GPU is slow at it
    assert not re.findall(r"custom_call[^@\n]*@(\w+)", text)  # no host callback, no CPU library


def test_what_is_looked_for_would_be_found() -> None:
    with jax.enable_x64(True):
        assert "f64" in lowered(jnp.sin, jax.ShapeDtypeStruct((2,), jnp.float64))
    decomposed = lowered(jnp.linalg.cholesky, jax.ShapeDtypeStruct((2, 2), jnp.float32))
    assert re.findall(r"custom_call[^@\n]*@(\w+)", decomposed)
