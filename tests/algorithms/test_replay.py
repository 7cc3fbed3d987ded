"""The replay buffer and its windows, against a list of everything that ever happened."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.algorithms.base import Experience
from rpo.algorithms.devices import environment_keys
from rpo.algorithms.replay import empty_replay, n_step_return

ENVS, ROWS, CAPACITY, DISCOUNT = 3, 4, 12, 0.9


def history(steps, seed=0):
    """Observation (t, env), action (-t), random rewards and ends of both kinds."""
    rng = np.random.default_rng(seed)
    ended = rng.random((steps, ENVS)) < 0.3
    terminated = ended & (rng.random((steps, ENVS)) < 0.5)
    time, env = np.meshgrid(np.arange(steps), np.arange(ENVS), indexing="ij")
    observation = np.stack([time, env], axis=-1).astype(np.float32)
    return {
        "observation": observation,
        "action": -observation[..., :1],
        "reward": rng.normal(size=(steps, ENVS)).astype(np.float32),
        "terminated": terminated,
        "truncated": ended & ~terminated,
        "final_observation": observation + 0.5,
    }


def fill(past):
    """A buffer to which the past was added in pieces, within one compiled loop."""
    steps = len(past["reward"])
    nothing = np.zeros((steps, ENVS))
    experience = Experience(
        **past,
        non_finite=nothing > 0,
        episode_return=nothing,
        episode_length=nothing.astype(int),
        report={},
    )
    pieces = jax.tree.map(lambda x: x.reshape(-1, ROWS, *x.shape[1:]), experience)
    empty = empty_replay(CAPACITY, ENVS, 2, 1)
    return jax.jit(lambda: jax.lax.scan(lambda r, e: (r.add(e), None), empty, pieces)[0])()


@pytest.mark.parametrize("steps", [4, 12, 16, 28])
def test_the_latest_steps_are_kept_and_the_oldest_overwritten(steps):
    past = history(steps)
    replay = fill(past)
    assert int(replay.written) == steps
    assert replay.capacity == CAPACITY
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(replay.steps)} == {(CAPACITY, ENVS)}
    for t in range(max(0, steps - CAPACITY), steps):
        for name, values in past.items():
            np.testing.assert_array_equal(getattr(replay.steps, name)[t % CAPACITY], values[t])


def brute_force(past, start, env, length):
    """Reward, discount and final observation of a window, one step after the other."""
    total, weight = 0.0, 1.0
    for t in range(start, start + length):
        total += weight * past["reward"][t, env]
        weight *= DISCOUNT
        if past["terminated"][t, env]:
            return total, 0.0, past["final_observation"][t, env]
        if past["truncated"][t, env]:
            break
    return total, weight, past["final_observation"][t, env]


@pytest.mark.parametrize(("steps", "length"), [(8, 3), (28, 1), (28, 4)])
def test_windows_against_brute_force(steps, length):
    past = history(steps)
    keys = environment_keys(jax.random.PRNGKey(1), jnp.arange(ENVS))
    sample = functools.partial(fill(past).sample, count=200, length=length, discount=DISCOUNT)
    windows = jax.tree.map(np.asarray, jax.jit(sample)(keys))
    starts = windows.observation[..., 0].astype(int)
    np.testing.assert_array_equal(windows.action[..., 0], -starts)
    for env in range(ENVS):
        np.testing.assert_array_equal(windows.observation[:, env, 1], env)
        # every start whose window is stored whole, and no other
        oldest = max(0, steps - CAPACITY)
        assert set(starts[:, env]) == set(range(oldest, steps - length + 1))
        for i, start in enumerate(starts[:, env]):
            reward, discount, final = brute_force(past, start, env, length)
            np.testing.assert_allclose(windows.reward[i, env], reward, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(windows.discount[i, env], discount, rtol=1e-6)
            np.testing.assert_array_equal(windows.final_observation[i, env], final)


def test_samples_of_an_environment_do_not_depend_on_the_others():
    replay = fill(history(28))
    right = jax.tree.map(lambda x: x[:, 1:], replay.steps)
    keys = environment_keys(jax.random.PRNGKey(1), jnp.arange(ENVS))
    sample = jax.jit(lambda replay, keys: replay.sample(keys, 5, 3, DISCOUNT))
    whole = sample(replay, keys)
    part = sample(type(replay)(right, replay.written), keys[1:])
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(one[:, 1:], other)


def test_buffers_of_several_seeds_are_mapped():
    """Each at its own position of the ring, as the batched form of a slice update must allow."""
    buffers = [fill(history(steps, seed=steps)) for steps in (8, 28)]
    fresh = Experience(
        **history(ROWS, seed=5),
        non_finite=np.zeros((ROWS, ENVS), bool),
        episode_return=np.zeros((ROWS, ENVS)),
        episode_length=np.zeros((ROWS, ENVS), int),
        report={},
    )
    keys = environment_keys(jax.random.PRNGKey(1), jnp.arange(ENVS))

    def add_and_sample(replay):
        replay, _ = jax.lax.scan(lambda r, _: (r.add(fresh), None), replay, length=2)
        return replay, replay.sample(keys, 5, 3, DISCOUNT)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *buffers)
    together = jax.jit(jax.vmap(add_and_sample))(stacked)
    for i, buffer in enumerate(buffers):
        alone = jax.tree.leaves(jax.jit(add_and_sample)(buffer))
        for many, one in zip(jax.tree.leaves(together), alone, strict=True):
            np.testing.assert_allclose(many[i], one, rtol=1e-6)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        ([], [], (1 + 0.5 * 2 + 0.25 * 4, 0.125, 3)),
        ([1], [], (1 + 0.5 * 2, 0.0, 2)),
        ([], [1], (1 + 0.5 * 2, 0.25, 2)),
        ([2], [], (3.0, 0.0, 3)),
        ([], [2], (3.0, 0.125, 3)),
        ([], [0], (1.0, 0.5, 1)),
        ([2], [0], (1.0, 0.5, 1)),  # what happens after the first end is another episode
        ([0], [1], (1.0, 0.0, 1)),
    ],
)
def test_n_step_return_by_hand(terminated, truncated, expected):
    reward = jnp.array([1.0, 2.0, 4.0])
    flags = (jnp.zeros(3, bool).at[jnp.array(at, int)].set(True) for at in (terminated, truncated))
    np.testing.assert_allclose(n_step_return(reward, *flags, 0.5), expected)


def test_pieces_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="4 steps do not divide the capacity of 10"):
        jax.eval_shape(
            empty_replay(10, ENVS, 2, 1).add,
            Experience(
                **history(4),
                non_finite=np.zeros((4, ENVS), bool),
                episode_return=np.zeros((4, ENVS)),
                episode_length=np.zeros((4, ENVS), int),
                report={},
            ),
        )
