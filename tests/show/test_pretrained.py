"""The policies that come with the package know how to move."""

from __future__ import annotations

from pathlib import Path

import pytest

import rpo
from rpo.show.episode import record_episodes
from rpo.training import RunError, load_policy
from rpo.training.policies import open_policies

SHIPPED = sorted(path.stem for path in (Path(rpo.__file__).parent / "pretrained").glob("*.npz"))


def test_they_are_there() -> None:
    assert {"ant", "hopper", "humanoid"} <= set(SHIPPED)
    with pytest.raises(RunError, match=r"no policy of anymal comes with rpo yet; train one: rpo"):
        load_policy("anymal")


@pytest.mark.parametrize("task", SHIPPED)
def test_they_run(task: str) -> None:
    assert open_policies(task).facts.task == task
    episodes = record_episodes(load_policy(task), steps=150)
    assert episodes.length[0] == 150
    speed = episodes.speed(149, 0)
    assert speed is not None
    assert speed > 3.0
