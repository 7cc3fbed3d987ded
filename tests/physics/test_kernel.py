"""The kernel's program, run without a GPU, is XLA's; and the kernel lowers for CUDA."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import rpo.envs
from rpo.errors import SettingsError
from rpo.physics.factors import Factors
from rpo.physics.kernel import kernel_step
from rpo.physics.model import Model
from rpo.physics.step import StepSettings, control_step
from rpo.physics.topology import groups_of
from tests.marks import nightly, rest_nightly
from tests.physics.robots import planar, quadruped, random_state

SETTINGS = StepSettings(substeps=4, mass_matrix_interval=2)
TASKS = ("hopper", "ant", "anymal", "humanoid")
TRITON = "__gpu$xla.gpu.triton"


def start(task: str, batch: int) -> tuple[Model, StepSettings, np.ndarray, np.ndarray]:
    """A task's robot with few substeps, in states that its episodes start in, low."""
    env = rpo.envs.make(task)
    physics = env.reset(jax.random.key(0), batch).physics
    return env.model, SETTINGS, np.asarray(physics.q.T), np.asarray(physics.qd.T)


def step_and_transpose(step, q, qd, seed: int = 1):
    """The state after a step, and the cotangents of all that goes in, for random ones outside."""
    draws = np.random.default_rng(seed)

    def normal(like):  # numbers that both precisions have
        return jnp.asarray(draws.normal(size=like.shape).astype(np.float32), like.dtype)

    force, weights = normal(qd), (normal(q), normal(qd))

    @jax.jit
    def run(q, qd, force):
        after, transpose = jax.vjp(step, q, qd, force)
        return after, transpose(weights)

    return jax.tree.map(np.asarray, run(q, qd, force))


def assert_same(model, settings, q, qd, *, tolerance: float, **options) -> None:
    """Both programs, states and cotangents, against the largest number of each array."""
    expected = step_and_transpose(functools.partial(control_step, model, settings), q, qd)
    kernel = functools.partial(kernel_step, model, settings, **options)
    for ours, theirs in zip(
        jax.tree.leaves(step_and_transpose(kernel, q, qd)), jax.tree.leaves(expected), strict=True
    ):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def limited() -> Model:
    """The planar robot with everything a joint can have, which its small states reach."""
    return planar(
        limit_lower=-0.2,
        limit_upper=0.2,
        limit_stiffness=50.0,
        limit_damping=2.0,
        limit_damping_beyond=3.0,
        damping=0.5,
        stiffness=4.0,
        spring_target=0.1,
        frictionloss=0.3,
        frictionloss_speed=0.1,
    )


@pytest.mark.parametrize("make", rest_nightly([limited, quadruped, planar]))
@pytest.mark.parametrize("interval", rest_nightly([2, 1, 4]))
def test_in_double_precision_it_is_the_same_step_and_derivative(make, interval: int) -> None:
    model = make()
    settings = dataclasses.replace(SETTINGS, mass_matrix_interval=interval)
    with jax.enable_x64(True):
        q, qd = (jnp.asarray(x) for x in random_state(model, 3))
        assert_same(model, settings, q, qd, block=2, interpret=True, tolerance=1e-12)


@pytest.mark.parametrize("task", rest_nightly(["limited", *TASKS]))
def test_every_robot_in_several_blocks(task: str) -> None:
    """In single precision it is as close to double precision as the plain program is.

    That is 3e-5 of the largest number for the humanoid, whose hands are light, and 1e-6 for others.
    Every time on the small robot, whose program in double precision the test above has compiled.
    """
    if task == "limited":
        model, settings = limited(), SETTINGS
        q, qd = (x.astype(np.float32) for x in random_state(model, 3))
    else:
        model, settings, q, qd = start(task, 3)
    plain = functools.partial(control_step, model, settings)
    kernel = functools.partial(kernel_step, model, settings, block=2, interpret=True)
    single = [step_and_transpose(step, jnp.asarray(q), jnp.asarray(qd)) for step in (kernel, plain)]
    with jax.enable_x64(True):
        true = step_and_transpose(plain, *(jnp.asarray(x, jnp.float64) for x in (q, qd)))
    for ours, theirs, truth in zip(*map(jax.tree.leaves, (*single, true)), strict=True):
        assert ours.dtype == theirs.dtype == np.float32 and ours.shape == theirs.shape
        error, usual = (np.abs(x - truth).max() / np.abs(truth).max() for x in (ours, theirs))
        assert error <= 2 * usual + 1e-6


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("task", TASKS)
def test_on_a_gpu_every_robot_in_several_blocks(task: str) -> None:
    model, _, q, qd = start(task, 100)
    settings = rpo.envs.make(task).settings.step_settings
    assert_same(model, settings, jnp.asarray(q), jnp.asarray(qd), tolerance=1e-4)


@nightly
@pytest.mark.parametrize("task", TASKS)
def test_every_robot_in_double_precision(task: str) -> None:
    model, settings, q, qd = start(task, 5)
    with jax.enable_x64(True):
        q, qd = jnp.asarray(q, jnp.float64), jnp.asarray(qd, jnp.float64)
        assert_same(model, settings, q, qd, block=2, interpret=True, tolerance=1e-11)


@nightly
def test_it_can_be_mapped() -> None:
    model = planar()
    q, qd = (jnp.asarray(x, jnp.float32) for x in random_state(model, 6))
    cut = [jnp.stack(jnp.split(x, 2, axis=1)) for x in (q, qd)]
    kernel = functools.partial(kernel_step, model, SETTINGS, block=2, interpret=True)
    mapped = jax.jit(jax.vmap(kernel))(*cut, 0 * cut[1])
    whole = jax.jit(kernel)(q, qd, 0 * qd)
    for parts, all_of_it in zip(mapped, whole, strict=True):
        np.testing.assert_allclose(np.concatenate(list(parts), axis=1), all_of_it, atol=1e-6)


def test_the_setting_chooses_it() -> None:
    model = planar()
    q, qd = (jnp.asarray(x, jnp.float32) for x in random_state(model, 3))

    def program(kernel: str) -> str:
        settings = dataclasses.replace(SETTINGS, kernel=kernel)
        return str(jax.make_jaxpr(functools.partial(control_step, model, settings))(q, qd, qd))

    assert "pallas_call" not in program("xla")
    assert "pallas_call" in program("interpret")
    assert rpo.envs.make("hopper").settings.step_settings.kernel == "xla"
    assert rpo.envs.make("hopper", kernel="pallas").settings.step_settings.kernel == "pallas"
    with pytest.raises(ValueError, match=r"^kernel is 'cuda', must be one of xla, pallas, inter"):
        StepSettings(kernel="cuda")  # type: ignore[arg-type]


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_one_line() -> None:
    env = rpo.envs.make("hopper", kernel="pallas")
    state = jax.eval_shape(lambda: env.initial_state(jax.random.key(0)))
    state = jax.tree.map(lambda x: jnp.zeros((2, *x.shape), x.dtype), state)
    with pytest.raises(SettingsError) as caught:
        env.dynamics(state, jnp.zeros((2, 3)))
    assert str(caught.value) == (
        "kernel is 'pallas', which needs a GPU; JAX runs on cpu: use kernel = 'xla'"
    )


def test_what_it_does_not_know_is_refused_in_one_line() -> None:
    model = rpo.envs.make("hand").model
    q, qd = jnp.zeros((model.nq, 2)), jnp.zeros((model.nv, 2))
    with pytest.raises(SettingsError, match=r"links that touch one another.*use kernel = 'xla'$"):
        kernel_step(model, SETTINGS, q, qd, qd, interpret=True)
    model = planar()
    q, qd = jnp.zeros((model.nq, 2)), jnp.zeros((model.nv, 2))
    settings, factors = dataclasses.replace(SETTINGS, kernel="interpret"), Factors(mass=q[:1])
    with pytest.raises(SettingsError, match=r"not know randomised mass: use kernel = 'xla'$"):
        control_step(model, settings, q, qd, qd, factors)


@pytest.mark.parametrize("task", rest_nightly(TASKS))
def test_it_lowers_for_cuda_as_one_kernel_each_way(task: str) -> None:
    env = rpo.envs.make(task)
    model, step = env.model, env.settings.step_settings
    shapes = [jax.ShapeDtypeStruct((n, 100), jnp.float32) for n in (model.nq, model.nv, model.nv)]

    def both_ways(*arguments):
        after, transpose = jax.vjp(functools.partial(kernel_step, model, step), *arguments)
        return transpose(after)

    text = lowered(both_ways, shapes)
    assert re.findall(r"custom_call[^@\n]*@([\w$.]+)", text) == [TRITON, TRITON]
    assert "f64" not in text


def lowered(function, shapes) -> str:
    allowed = [export.DisabledSafetyCheck.custom_call(TRITON)]
    exported = export.export(jax.jit(function), platforms=["cuda"], disabled_checks=allowed)
    return exported(*shapes).mlir_module()


@pytest.mark.parametrize("make", [planar, quadruped])
def test_links_apart_have_one_row_each(make) -> None:
    model = make()
    groups = groups_of(model, apart=True)
    assert [group.links for group in groups] == [(k,) for k in range(model.num_links)]
    assert sum(len(group.contacts) for group in groups) == len(model.contact_link)
    assert all(isinstance(group.mass, float) for group in groups)
