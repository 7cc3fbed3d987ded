"""Domain randomisation: what is drawn, when, what it does, and that it costs nothing when off."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import rpo.envs
from rpo.envs import EnvState, Transition
from rpo.envs.base import clip_action, select
from rpo.envs.gradient_check import check_gradients, compare_step
from rpo.envs.randomization import FIELDS, OFF
from rpo.training.settings import resolve
from tests.envs.carts import LENGTH, Cart, cart, history, leaves_equal, random_actions, run
from tests.marks import nightly, rest_nightly

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = {
    "mass_range": (0.8, 1.2),
    "inertia_range": (0.9, 1.1),
    "friction_range": (0.5, 1.5),
    "strength_range": (0.7, 1.3),
    "gravity_range": (0.95, 1.05),
    "latency_range": (0.0, 2.0),
    "observation_noise": (0.02,),
}


def begun(seed, **settings):
    """Eight carts at the start of an episode: of equal settings they share their programs."""
    return cart(**settings).reset(jax.random.key(seed), 8)


# Off


class Plain(Cart):
    """What a step and a start are without randomisation, written out."""

    def _step(self, state, action):
        action = clip_action(action)
        physics = self.dynamics(state.physics, action)
        observation = self.observe(physics)
        reward = self.reward(state.physics, action, physics)
        bad = self.diverged(physics)
        bad = bad | ~jnp.isfinite(observation).reshape(len(observation), -1).all(axis=1)
        bad = bad | ~jnp.isfinite(reward).reshape(len(reward), -1).all(axis=1)
        step_count = state.step_count + 1
        terminated = self.is_terminal(physics) | bad
        truncated = (step_count >= self.spec.episode_length) & ~terminated
        ended = terminated | truncated
        stepped = EnvState(physics, observation, step_count, state.key)
        following = select(ended, self._restart(stepped, ended), stepped)
        return following, Transition(
            observation=following.observation,
            reward=jnp.where(bad, 0, reward),
            terminated=terminated,
            truncated=truncated,
            final_observation=select(bad, jnp.zeros_like(observation), observation),
            info={"non_finite": bad},
        )

    def _start(self, key):
        typed = jax.random.wrap_key_data(key, impl="threefry2x32")
        both = jax.vmap(jax.random.split)(typed)
        physics = jax.vmap(self.initial_state)(both[:, 0])
        observation = self.observe(physics)
        count = jnp.zeros(len(key), jnp.int32)
        return EnvState(physics, observation, count, jax.random.key_data(both[:, 1]))


def test_off_is_the_program_without_it():
    """Nothing is drawn, stored or computed: the same operations in the same order."""
    state = jax.eval_shape(lambda key: Plain().reset(key, 3), jax.random.key(0))
    action = jax.ShapeDtypeStruct((3, 2), jnp.float32)
    key = jax.ShapeDtypeStruct((3, 2), jnp.uint32)
    for name, arguments in {"_step": (state, action), "_start": (key,)}.items():
        texts = [
            re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(getattr(env, name))(*arguments)))
            for env in (Cart(), cart(mass_range=(1, 1), latency_range=(0, 0)), Plain())
        ]
        assert texts[0] == texts[1] == texts[2]
    randomised = cart(gravity_range=(0.9, 1.1))
    state = jax.eval_shape(lambda key: randomised.reset(key, 3), jax.random.key(0))
    assert texts[0] != str(jax.make_jaxpr(randomised._step)(state, action))


def test_off_there_is_nothing_in_a_state():
    env = rpo.envs.make("hopper")
    state = jax.eval_shape(lambda key: env.reset(key, 2), jax.random.key(0))
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    own = {".observation", ".step_count", ".key"}
    assert names == own | {".physics.q", ".physics.qd", ".physics.last_action"}
    assert OFF.active == {} and str(OFF) == "off"


# Draws


def test_every_figure_is_uniform_in_its_range():
    state = cart(**EVERYTHING).reset(jax.random.key(3), 4096)
    draws = state.variation.factors._asdict() | {"latency": state.variation.latency}
    assert draws["mass"].shape == draws["inertia"].shape == draws["strength"].shape == (4096, 2)
    for name, values in draws.items():
        low, high = EVERYTHING[f"{name}_range"]
        quantiles = np.quantile((np.asarray(values) - low) / (high - low), [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(quantiles, [0, 0.25, 0.5, 0.75, 1], atol=0.03)
        assert values.min() >= low and values.max() <= high
    columns = np.concatenate([np.asarray(x).reshape(4096, -1) for x in draws.values()], axis=1)
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 0.06  # all of them are independent


def test_a_figure_does_not_depend_on_what_else_is_drawn():
    every, one, none = (
        begun(1, **settings) for settings in (EVERYTHING, {"gravity_range": (0.95, 1.05)}, {})
    )
    assert leaves_equal(every.variation.factors.gravity, one.variation.factors.gravity)
    assert leaves_equal(every.physics, none.physics)  # starts are what they are without it
    assert leaves_equal(every.key, none.key)


def test_figures_are_drawn_together_each_from_its_stream():
    """As many operations for all of them as for one, and the numbers that each has by itself."""
    key = jax.random.key(4)
    drawn = {
        which: jax.make_jaxpr(cart(**settings).randomization.draw, static_argnums=(1, 2))(key, 2, 3)
        for which, settings in {"every": EVERYTHING, "one": {"mass_range": (0.8, 1.2)}}.items()
    }
    every, one = (str(program).count("random_bits[") for program in drawn.values())
    assert every == one == 1
    variation = cart(**EVERYTHING).randomization.draw(key, 2, 3)
    figures = [*variation.factors, variation.latency]
    streams = jax.random.split(jax.random.fold_in(key, 2**31 - 1), len(figures))
    for stream, values, (low, high) in zip(streams, figures, EVERYTHING.values(), strict=False):
        expected = jax.random.uniform(stream, values.shape, minval=low, maxval=high)
        np.testing.assert_array_equal(values, expected)


def test_an_episode_keeps_its_figures_and_the_next_has_new_ones():
    start = begun(0, **EVERYTHING)
    stagger = dataclasses.replace(start, step_count=np.arange(8, dtype=np.int32) % 2)
    actions = random_actions(3 * LENGTH, 8)
    states, transitions = history(cart(**EVERYTHING), stagger, actions)
    states, truncated = jax.device_get((states, transitions.truncated))
    assert truncated.sum() == 3 * 8
    variation = states.variation
    for values in jax.tree.leaves((variation.factors, variation.latency)):
        same = (values[1:] == values[:-1]).reshape(len(actions) - 1, 8, -1)
        assert (same.all(axis=2) == ~truncated[1:]).all()
        assert not same[truncated[1:]].any()
    assert (variation.past_actions[truncated] == 0).all()
    assert (variation.past_actions[~truncated] != 0).any()


def test_the_same_key_gives_the_same_bits_however_the_batch_is_split():
    env, actions, start = cart(**EVERYTHING), random_actions(3 * LENGTH, 8), begun(5, **EVERYTHING)
    whole = run(env, start, actions)
    assert leaves_equal(whole, run(env, begun(5, **EVERYTHING), actions))
    half = env.reset(jax.random.key(5), 4)
    assert leaves_equal(jax.tree.map(lambda x: np.asarray(x)[:4], start), half)
    assert not leaves_equal(begun(6, **EVERYTHING).variation, start.variation)

    mesh = jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,))
    batch, later = PartitionSpec("device"), PartitionSpec(None, "device")
    halves = jax.shard_map(  # on each device a program of four environments
        lambda *given: run(env, *given),
        mesh=mesh,
        in_specs=(batch, later),
        out_specs=(batch, later),
    )
    assert leaves_equal(jax.jit(halves)(start, actions), whole)


# What it does


def test_factors_reach_the_dynamics():
    """v' = dt (k 3 a / m - g) with each environment's own k, m and g."""
    env = cart(mass_range=(0.5, 2), strength_range=(0, 1), gravity_range=(0, 2))
    start = env.reset(jax.random.key(0), 16)
    action = random_actions(1, 16)[0]
    after, _ = env.step(start, action)
    factors = jax.device_get(start.variation.factors)
    expected = 0.1 * (3 * factors.strength * action / factors.mass - factors.gravity[:, None])
    np.testing.assert_allclose(after.physics["v"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("latency", rest_nightly([1.25, 1.0, 2.0]))
def test_actions_act_late_by_as_many_steps(latency):
    """Whole latencies shift the response; in between, it is their mean. Before the first action
    zero acts."""
    env, late = Cart(), cart(latency_range=(latency, latency))
    actions = random_actions(LENGTH - 1, 4)
    padded = np.concatenate([np.zeros((3, 4, 2), np.float32), actions])
    older, share = int(latency), latency % 1
    shifted = [padded[3 - k : 3 - k + len(actions)] for k in (older, older + 1)]
    expected = (1 - share) * shifted[0] + share * shifted[1]
    key = jax.random.key(2)
    _, found = run(late, late.reset(key, 4), actions)
    _, wanted = run(env, env.reset(key, 4), expected)
    np.testing.assert_allclose(found.observation, wanted.observation, atol=1e-6)
    effort = lambda a: 0.1 * (a**2).sum(axis=-1)  # noqa: E731
    cost = effort(actions) - effort(expected)  # the policy pays for what it asks for
    np.testing.assert_allclose(found.reward, wanted.reward - cost, atol=1e-5)


@pytest.mark.parametrize("latency", rest_nightly([2.5, 0.0, 1.0]))
def test_gradients_are_shifted_by_the_latency(latency):
    """The last velocity's derivative by every action: zero for those that have not acted yet."""
    env = cart(latency_range=(latency, max(latency, 1.0)))
    state = env.reset(jax.random.key(0), 3)
    fixed = dataclasses.replace(state.variation, latency=np.full(3, latency, np.float32))
    state = dataclasses.replace(state, variation=fixed)
    actions = random_actions(LENGTH - 1, 3)
    last = jax.jit(jax.grad(lambda a: run(env, state, a)[0].physics["v"][:, 0].sum()))
    gradient = last(actions)
    age = np.arange(LENGTH - 1)[::-1]  # of each action in the last step
    expected = 0.3 * np.clip(age - latency + 1, 0, 1)
    np.testing.assert_allclose(gradient[..., 0], np.tile(expected[:, None], 3), atol=1e-6)
    assert (gradient[..., 1] == 0).all()


def test_what_is_remembered_is_the_action_that_was_asked_for():
    env = rpo.envs.make("ant", observe_last_action=True, latency_range=(2, 2))
    q, qd = jnp.zeros((2, env.model.nq)), jnp.zeros((2, env.model.nv))
    asked = random_actions(1, 2, env.spec.action_size)[0]
    after = env.commanded(env.state(q, qd), asked)
    assert leaves_equal(after.last_action, asked)


def test_noise_is_normal_with_its_deviation():
    sigma = (0.5, 0.1, 0.0, 2.0)
    env = cart(observation_noise=sigma)
    start = env.reset(jax.random.key(0), 2048)
    actions = random_actions(2 * LENGTH, 2048)
    states, record = history(env, start, actions)
    quiet, _ = history(Cart(), Cart().reset(jax.random.key(0), 2048), actions)
    assert leaves_equal(states.physics, quiet.physics)  # it is seen, not lived

    def noise_of(state):  # in a cart's observation is nothing but its state
        return np.asarray(state.observation) - np.concatenate(
            [np.asarray(state.physics[name]) for name in "xv"], axis=-1
        )

    noise = [noise_of(start), *noise_of(states)[:3]]
    pooled = np.stack(noise)  # (steps, envs, entries)
    np.testing.assert_allclose(pooled.std(axis=(0, 1)), sigma, rtol=0.03, atol=1e-7)
    assert (np.abs(pooled.mean(axis=(0, 1))) <= 4 * np.array(sigma) / np.sqrt(4 * 2048)).all()
    flat = pooled[..., [0, 1, 3]].transpose(1, 0, 2).reshape(2048, -1)
    assert np.abs(np.corrcoef(flat.T) - np.eye(12)).max() < 0.1  # over steps and entries, too
    fourth = ((pooled[..., 0] / 0.5) ** 4).mean()
    assert fourth == pytest.approx(3, rel=0.15)
    goes_on = ~np.asarray(record.truncated)  # one sample per step, whoever looks at it
    np.testing.assert_array_equal(
        np.asarray(record.observation)[goes_on], np.asarray(record.final_observation)[goes_on]
    )


@nightly  # a policy that sees noise is differentiated every time
def test_gradients_pass_the_noise_unchanged():
    noisy, quiet = cart(observation_noise=0.3), Cart()
    actions = random_actions(3, 4)

    @jax.jit
    def gradients(*starts):
        def seen(actions, env, start):
            return (run(env, start, actions)[1].observation @ np.arange(1.0, 5.0)).sum()

        return [
            jax.grad(seen)(actions, *given) for given in zip((noisy, quiet), starts, strict=True)
        ]

    assert leaves_equal(*gradients(*(env.reset(jax.random.key(0), 4) for env in (noisy, quiet))))


def assert_step_is_differentiated_right(env, start):
    """By state and action, with other actions still on their way."""
    draws = np.random.default_rng(0)
    earlier = draws.uniform(-0.9, 0.9, start.variation.past_actions.shape)
    variation = dataclasses.replace(start.variation, past_actions=earlier)
    state = dataclasses.replace(start, variation=variation)
    action = draws.uniform(-0.9, 0.9, (len(earlier), env.spec.action_size))
    for comparison in compare_step(env, state, action):
        assert comparison.passed, comparison
        assert comparison.smooth.mean() > 0.6, comparison


@nightly  # those of a robot are checked every time
def test_gradients_of_a_randomised_step_are_right():
    with jax.enable_x64(True):
        assert_step_is_differentiated_right(cart(**EVERYTHING), begun(1, **EVERYTHING))


def test_a_policy_that_sees_noise_is_differentiated_right():
    """a = tanh(W o) on noisy, late observations: by W against central differences."""
    with jax.enable_x64(True):
        env, start = cart(**EVERYTHING), begun(1, **EVERYTHING)

        @jax.jit
        @jax.value_and_grad
        def result(weights):
            def one(state, _):
                state, transition = env.step(state, jnp.tanh(state.observation @ weights))
                return state, transition.reward

            return lax.scan(one, start, length=LENGTH - 1)[1].sum()

        weights = np.random.default_rng(2).normal(size=(4, 2))
        exact = result(weights)[1]
        for k in range(weights.size):
            move = 1e-6 * np.eye(weights.size)[k].reshape(4, 2)
            slope = (result(weights + move)[0] - result(weights - move)[0]) / 2e-6
            assert exact.ravel()[k] == pytest.approx(float(slope), rel=1e-6, abs=1e-9)


# Tasks


PLANAR = """<mujoco><worldbody><geom type="plane" size="1 1 1"/>
  <body name="torso" pos="0 0 0.6"><joint name="x" type="slide" axis="1 0 0"/>
    <joint name="z" type="slide" axis="0 0 1"/>
    <geom type="sphere" size="0.1" mass="3"/>
    <body name="leg"><joint name="hip" axis="0 1 0"/>
      <geom type="capsule" size="0.04" fromto="0 0 0 0 0 -0.5" mass="1" contype="1"/></body>
  </body></worldbody>
  <actuator><position name="hip" joint="hip" kp="20" ctrlrange="-1 1"/></actuator></mujoco>"""


def test_a_robot_of_a_description_can_be_randomised(tmp_path):
    path = tmp_path / "leg.xml"
    path.write_text(PLANAR)
    env = rpo.envs.make(str(path), substeps=4, termination_height=0.0, **EVERYTHING)
    with jax.enable_x64(True):
        start = env.reset(jax.random.key(0), 6)
        draws = np.random.default_rng(1)
        q = start.physics.q + draws.uniform(-0.15, 0.0, (6, 3)) * [0, 1, 0]  # some touch the ground
        physics = dataclasses.replace(start.physics, q=q, qd=draws.normal(size=(6, 3)))
        assert_step_is_differentiated_right(env, dataclasses.replace(start, physics=physics))


@nightly
@pytest.mark.parametrize("task", ["cart", "hopper", "ant", "anymal", "hand"])
def test_gradients_of_randomised_tasks(task):
    """Those of returns, too."""
    settings = {} if task == "hand" else {"termination_height": -100.0}
    env = cart if task == "cart" else functools.partial(rpo.envs.make, task, **settings)
    check = check_gradients(env(**EVERYTHING), samples=8, horizon=4, warm_up=8)
    assert check.passed, check.table()


@pytest.mark.parametrize("task", rpo.envs.names())
def test_every_shipped_task_takes_everything(task):
    env = rpo.envs.make(task, **EVERYTHING)
    state = jax.eval_shape(lambda key: env.reset(key, 3), jax.random.key(0))
    links, actions = env.model.num_links, env.spec.action_size
    shapes = [x.shape for x in jax.tree.leaves(state.variation)]
    assert shapes == [(3, links), (3, links), (3,), (3, actions), (3,), (3,), (3, 2, actions)]
    assert set(EVERYTHING) == set(FIELDS) <= set(rpo.envs.describe(task))
    with_string = resolve(task, settings=EVERYTHING | {"observation_noise": 0.02})
    assert with_string.task_settings["observation_noise"] == (0.02,)


EXAMPLE = ROOT / "examples" / "randomised_pendulum.py"


@pytest.fixture
def pendulum():
    specification = importlib.util.spec_from_file_location("randomised_pendulum", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.RandomisedPendulum()


@nightly
def test_the_example_of_the_documentation_is_differentiated_right(pendulum):
    with jax.enable_x64(True):
        assert_step_is_differentiated_right(pendulum, pendulum.reset(jax.random.key(0), 8))


def test_the_example_of_the_documentation(pendulum):
    text = (ROOT / "docs" / "domain-randomisation.md").read_text()
    assert EXAMPLE.read_text() in text
    state = jax.eval_shape(lambda key: pendulum.reset(key, 2), jax.random.key(0))
    assert jax.tree.leaves(state.variation)
    # without randomisation it is the pendulum that it was made from
    nominal = pendulum.with_randomization(OFF)
    state = jax.eval_shape(lambda key: nominal.reset(key, 2), jax.random.key(0))
    assert not jax.tree.leaves(state.variation)
    assert jax.eval_shape(nominal.step, state, jax.ShapeDtypeStruct((2, 1), jnp.float32))
