"""Several seeds, and several devices, in one program."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from rpo.training import Run, SettingsError
from rpo.training.metrics import WALL_CLOCK_COLUMNS
from rpo.training.program import Program
from rpo.training.settings import resolve
from tests.compilations import compilations
from tests.marks import nightly
from tests.training.fakes import PENDULUM, TINY


@nightly  # of three iterations it is seen every time, below
def test_a_seed_alone_equals_the_seed_among_others(finished_run: Run, train_tiny) -> None:
    alone = train_tiny(seed=1, devices=1).metrics()
    among = finished_run.metrics()
    rows = among["seed"] == 1
    for name, values in alone.items():
        if name not in WALL_CLOCK_COLUMNS:
            np.testing.assert_array_equal(values, among[name][rows], err_msg=name)
    assert not np.array_equal(among["reward"][rows], among["reward"][~rows])


class Begun:
    """A program after three iterations: how it began, the first metrics, and the state."""

    def __init__(self, *, mapped: bool = False, **settings: object) -> None:
        self.program = Program(resolve(PENDULUM, settings=TINY | settings))
        self.program.mapped = mapped
        lanes = self.program.init()
        self.lanes = len(lanes)
        parts = lanes[0].train.environments.episode_return.addressable_shards
        self.parts = [(part.data.shape, part.device) for part in parts]
        self.program.compile(lanes)
        lanes, self.metrics = self.program.update(lanes)
        for _ in range(2):
            lanes, metrics = self.program.update(lanes)
        assert metrics["reward"].shape == (len(self.program.seeds),)
        self.state = self.program.to_host(lanes)


begun = functools.cache(Begun)
TWO = min(2, len(jax.devices()))


def assert_close(state: object, expected: object) -> None:
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), state, expected
    )


def test_states_are_placed_by_one_program() -> None:
    # A number of environments of its own: programs for others' shapes may exist already.
    program = Program(resolve(PENDULUM, settings=TINY | {"num_envs": 14, "seeds": 3}))
    state = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), program.shapes())
    with compilations() as names:
        lanes = program.from_host(state)
    assert len(names) == 1
    jax.tree.map(np.testing.assert_array_equal, program.to_host(lanes), state)


def test_mapping_over_seeds_gives_the_same() -> None:
    mapped, several = begun(mapped=True, seeds=3), begun(seeds=3, devices=TWO)
    assert_close(mapped.state, several.state)


@nightly  # of an update alone it is seen every time, in double precision
@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_splitting_environments_over_devices_gives_the_same() -> None:
    split, whole = begun(seed=2, devices=2), begun(seed=2, devices=1)
    assert [shape for shape, _ in split.parts] == [(1, TINY["num_envs"] // 2)] * 2
    assert len({device for _, device in split.parts}) == 2
    assert_close(split.state, whole.state)


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_each_of_several_seeds_has_a_device_of_its_own() -> None:
    several, alone = begun(seeds=3, devices=TWO), begun(seed=2, devices=1)
    assert several.lanes == 2  # the second one filled up
    assert [shape for shape, _ in several.parts] == [(1, TINY["num_envs"])] * 2
    assert len({device for _, device in several.parts}) == 2
    assert several.metrics["reward"].shape == (3,)
    assert alone.metrics["reward"][0] == several.metrics["reward"][2]
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[0], y[2]), alone.state, several.state)


def test_more_devices_than_there_are() -> None:
    count = len(jax.devices()) + 1
    with pytest.raises(SettingsError, match=f"devices is {count}, but JAX sees only {count - 1}"):
        Program(resolve(PENDULUM, settings=TINY | {"devices": count, "num_envs": 8 * count}))
