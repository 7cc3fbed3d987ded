"""The scripts that measure: operation counts, and the phases of an iteration."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas
from jax.sharding import Mesh, PartitionSpec

from rpo.algorithms import make
from rpo.training.settings import resolve
from tests.marks import nightly, rest_nightly
from tests.training.fakes import PENDULUM

DIRECTORY = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, DIRECTORY / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


record = load("record")
count_flops = load("flops").count_flops
left, right = jnp.ones((3, 5)), jnp.ones((5, 7))
product = 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: a @ b, product),
        (lambda a, b: jnp.exp(a @ b), product + 21),
        (lambda a, b: (a @ b).sum(), product + 21),
        (lambda a, b: jnp.where(a > 0, a, -a), 15),  # neither comparison nor choice
        (lambda a, b: jnp.arange(4) + 1, 0),  # whole numbers
        (lambda a, b: lax.scan(lambda c, _: (c * 2, None), a, length=11)[0], 11 * 15),
        (lambda a, b: lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: jnp.zeros((3, 7))), product),
        (lambda a, b: jax.jit(lambda x: x + 1)(a), 15),
        (lambda a, b: jnp.einsum("ij,jk->ik", a, b), product),
    ],
)
def test_counts_by_hand(function: Any, expected: float) -> None:
    assert count_flops(function, left, right) == expected


def test_a_kernels_operations_are_counted_once_and_only_its_own() -> None:
    module = load("kernel_size")

    def kernel(x: Any, y: Any) -> None:
        y[...] = lax.fori_loop(0, 9, lambda _, value: value * 2.0 + x[...], x[...])

    def program(x: Any) -> Any:
        out_shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pallas.pallas_call(kernel, out_shape=out_shape, interpret=True)(jnp.exp(x))

    (found,) = module.kernels(jax.make_jaxpr(jax.jit(program))(left).jaxpr)
    names = [e.primitive.name for e in module.equations(found) if module.is_arithmetic(e)]
    assert sorted(names) == ["add", "mul"]  # exp is outside, the loop's counter is whole


def test_the_gradient_of_a_product_costs_two_more() -> None:
    def gradient(a: Any, b: Any) -> Any:
        return jax.grad(lambda pair: jnp.vdot(pair[0] @ pair[1], jnp.ones((3, 7))))((a, b))

    assert product * 2 <= count_flops(gradient, left, right) <= product * 3 + 21 * 4


def test_a_custom_gradient_is_counted_once() -> None:
    @jax.custom_vjp
    def double(x: Any) -> Any:
        return x * 2

    double.defvjp(lambda x: (double(x), None), lambda _, g: (g * 2,))
    assert count_flops(lambda a, b: double(a), left, right) == 15
    assert count_flops(jax.grad(lambda a, b: jnp.sum(double(a))), left, right) == 15 + 15 + 15


def test_all_devices_count() -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    spec = PartitionSpec("d")
    mapped = jax.shard_map(jnp.exp, mesh=mesh, in_specs=spec, out_specs=spec)
    assert count_flops(mapped, jnp.ones(mesh.size * 4)) == mesh.size * 4


def test_phases_are_what_each_stage_adds() -> None:
    learner = load("learner")
    cumulative = {"forward": 2.0, "actor": 5.0, "rest": 5.5}
    assert learner.differences(cumulative) == {"forward": 2.0, "actor": 3.0, "rest": 0.5}


@nightly
def test_an_iteration_is_measured_in_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = load("learner")
    monkeypatch.setattr(learner, "ROUNDS", 1)
    rows = learner.measure(PENDULUM, "fast", ["rpo", "ppo", "sac"], 1)
    assert [row["algorithm"] for row in rows] == ["rpo", "ppo", "sac"]
    for row in rows:
        phases = [row[f"{phase}_ms"] for phase in learner.PHASES if f"{phase}_ms" in row]
        assert sum(phases) == pytest.approx(row["total_ms"])
        assert row["gflop"] > 0
    first_order = {f"{phase}_ms" for phase in learner.PHASES}
    assert first_order <= rows[0].keys()
    assert "critics_ms" not in rows[1]
    lines = learner.table(rows, peak_gflops=100.0).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1


@nightly
def test_growth_is_measured_over_environments_seeds_and_devices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling = load("scaling")
    monkeypatch.setattr(scaling, "ROUNDS", 2)
    monkeypatch.setattr(scaling, "enable_compilation_cache", lambda: None)
    path = tmp_path / "scaling.json"
    words = ["--task", PENDULUM, "--num-envs", "8", "64", "--seeds", "1", "2", "--devices", "1"]
    monkeypatch.setattr(sys, "argv", ["scaling.py", *words, "--json", str(path)])
    scaling.main()
    written = json.loads(path.read_text())
    assert written["task"] == PENDULUM
    small, large, twice = written["rows"]
    assert (small["num_envs"], large["num_envs"]) == (8, 64)
    assert (twice["num_envs"], twice["seeds"]) == (64, 2)
    assert small["relative"] == 1
    assert large["steps_per_s"] > small["steps_per_s"]
    horizon = small["steps_per_s"] * small["iteration_ms"] / 1e3 / 8
    assert twice["steps_per_s"] * twice["iteration_ms"] / 1e3 == pytest.approx(horizon * 64 * 2)
    assert len(capsys.readouterr().out.splitlines()) == 2 + 3


def test_environments_that_devices_do_not_divide_are_left_out() -> None:
    found = load("scaling").configurations((3, 4, 6), (1, 2), (1, 2))
    pairs = [(one["num_envs"], one["devices"], one["seeds"]) for one in found]
    assert pairs == [(3, 1, 1), (4, 1, 1), (6, 1, 1), (4, 2, 1), (6, 2, 1), (4, 2, 2)]


@pytest.mark.parametrize("name", rest_nightly(["ppo", "sac"]))
def test_model_free_methods_collect_at_the_cost_of_the_forward_simulation(name: str) -> None:
    """As many operations as simulating and acting take, and none for gradients."""
    learner, steps = load("learner"), 32
    resolved = resolve("ant", name)
    env, algorithm = resolved.env, make(name, resolved.config)
    state = jax.eval_shape(lambda key: algorithm.init(env, key), jax.random.key(0))
    collection = count_flops(lambda s: algorithm.collect(env, s, s.key), state)
    alone = count_flops(lambda s: learner.forward(algorithm, env, s), state)
    assert collection == pytest.approx(alone, rel=1e-3)

    action = jax.ShapeDtypeStruct((resolved.config.num_envs, env.spec.action_size), float)
    physics = steps * count_flops(lambda s, a: env.step(s.environments.state, a), state, action)
    weights = sum(x.size for x in jax.tree.leaves(state.policy) if x.ndim == 2)
    products = 2 * weights * resolved.config.num_envs * steps
    assert collection < 1.1 * (physics + products)


@nightly
def test_slopes_are_compared_with_those_of_references(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    critics = load("critics")
    monkeypatch.setattr(critics, "enable_compilation_cache", lambda: None)
    path = tmp_path / "critics.json"
    words = ["--task", PENDULUM, "--critics", "plain", "--seeds", "1", "--marks", "2000", "20000"]
    words += ["--reference-iterations", "20", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["critics.py", *words])
    critics.main()
    early, late = json.loads(path.read_text())["rows"]
    assert early["env_steps"] < late["env_steps"]
    # two references agree better than the run's critics with them after one iteration
    assert early["cosine"] < early["cosine_between_references"] <= 1
    assert late["cosine"] > early["cosine"]
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2 + 2
