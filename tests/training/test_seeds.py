"""Several seeds, and several devices, in one program."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rpo.training import Run, SettingsError
from rpo.training.metrics import WALL_CLOCK_COLUMNS
from rpo.training.program import Program
from rpo.training.settings import resolve
from tests.training.fakes import PENDULUM, TINY


def test_a_seed_alone_equals_the_seed_among_others(finished_run: Run, train_tiny) -> None:
    alone = train_tiny(seed=1, devices=1).metrics()
    among = finished_run.metrics()
    rows = among["seed"] == 1
    for name, values in alone.items():
        if name not in WALL_CLOCK_COLUMNS:
            np.testing.assert_array_equal(values, among[name][rows], err_msg=name)
    assert not np.array_equal(among["reward"][rows], among["reward"][~rows])


def after(iterations: int, *, mapped: bool = False, **settings: object) -> object:
    program = Program(resolve(PENDULUM, settings=TINY | settings))
    program.mapped = mapped
    lanes = program.init()
    program.compile(lanes)
    for _ in range(iterations):
        lanes, metrics = program.update(lanes)
    assert metrics["reward"].shape == (len(program.seeds),)
    return program.to_host(lanes)


def assert_close(state: object, expected: object) -> None:
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), state, expected
    )


def test_mapping_over_seeds_gives_the_same(finished_run: Run) -> None:
    assert_close(after(3, mapped=True, seeds=2), after(3, seeds=2))


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_splitting_environments_over_devices_gives_the_same() -> None:
    assert_close(after(3, devices=2), after(3, devices=1))


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_each_of_several_seeds_has_a_device_of_its_own() -> None:
    program = Program(resolve(PENDULUM, settings=TINY | {"seeds": 3, "devices": 2}))
    lanes = program.init()
    assert len(lanes) == 2  # the second one filled up
    parts = lanes[0].train.environments.episode_return.addressable_shards
    assert [part.data.shape for part in parts] == [(1, TINY["num_envs"])] * 2
    assert len({part.device for part in parts}) == 2
    program.compile(lanes)
    _, metrics = program.update(lanes)
    assert metrics["reward"].shape == (3,)
    alone = Program(resolve(PENDULUM, settings=TINY | {"seed": 2, "devices": 1}))
    lanes = alone.init()
    alone.compile(lanes)
    assert alone.update(lanes)[1]["reward"][0] == metrics["reward"][2]


def test_more_devices_than_there_are() -> None:
    count = len(jax.devices()) + 1
    with pytest.raises(SettingsError, match=f"devices is {count}, but JAX sees only {count - 1}"):
        Program(resolve(PENDULUM, settings=TINY | {"devices": count, "num_envs": 8 * count}))
