"""The policies that come with the package know how to move."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import rpo
from rpo import envs
from rpo.show.episode import record_episodes
from rpo.training import RunError, load_policy, policies
from rpo.training.policies import open_policies
from tests.marks import nightly, rest_nightly

SHIPPED = sorted(path.stem for path in (Path(rpo.__file__).parent / "pretrained").glob("*.npz"))


WALKERS = [task for task in SHIPPED if task != "hand"]


def test_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(SHIPPED) == set(envs.names())
    monkeypatch.setattr(policies.resources, "files", lambda package: tmp_path)
    with pytest.raises(RunError, match=r"no policy of anymal comes with rpo yet; train one: rpo"):
        load_policy("anymal")


@pytest.mark.parametrize("task", SHIPPED)
def test_they_act(task: str) -> None:
    policy = load_policy(task)
    assert open_policies(task).facts.task == task == policy.env.spec.name
    states = policy.env.reset(jax.random.key(0), 64)
    action = np.asarray(policy(states.observation))
    assert (np.abs(action) < 1).all() and action.std(axis=0).min() > 1e-3


@pytest.mark.parametrize("task", rest_nightly(sorted(WALKERS, key="hopper".__ne__)))
def test_they_run(task: str) -> None:
    episodes = record_episodes(load_policy(task), steps=150)
    assert episodes.length[0] == 150
    speed = episodes.speed(149, 0)
    assert speed is not None
    assert speed > 3.0


@nightly
def test_the_hand_holds_its_cube() -> None:
    """Not always: for two seconds in at least half of eight episodes."""
    episodes = record_episodes(load_policy("hand"), num_envs=8, steps=240)
    assert np.mean(np.asarray(episodes.length) == 240) >= 0.5
