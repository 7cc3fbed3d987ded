"""Gymnasium's own checks, its own vector environments and a published PPO as judges."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from rpo import envs
from rpo.errors import RunError, SettingsError
from tests.marks import rest_nightly
from tests.training.fakes import Countdown, Echo

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env  # noqa: E402
from gymnasium.vector import AutoresetMode, SyncVectorEnv  # noqa: E402

from rpo.adapters.gymnasium import TaskEnv, TaskVectorEnv  # noqa: E402

CHEAP = {"substeps": 1, "mass_matrix_interval": 1}


def checked(name: str, **settings: object) -> None:
    """Runs `check_env`; of its warnings only those about unbounded observations may come."""
    env = gymnasium.make(name, **settings).unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    told = [str(one.message) for one in caught]
    assert all("observation space" in one and "infinity" in one for one in told), told
    assert env.observation_space.dtype == env.action_space.dtype == np.float32
    assert env.metadata["render_fps"] == pytest.approx(1 / env.env.spec.control_dt, abs=0.5)


def test_gymnasiums_own_check_passes() -> None:
    checked("rpo/Hopper-v0", **CHEAP)


@pytest.mark.nightly
@pytest.mark.parametrize("name", envs.names())
def test_gymnasiums_own_check_passes_on_every_task(name: str) -> None:
    checked(f"rpo/{name.capitalize()}-v0")


def test_every_task_is_registered() -> None:
    for name in envs.names():
        assert f"rpo/{name.capitalize()}-v0" in gymnasium.registry


def same(found: object, expected: object) -> None:
    """Alike in type, entries and numbers, through dictionaries and arrays of objects."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        found = {name: value for name, value in found.items() if _said(found, name)}
        assert found.keys() == expected.keys()
        for name, value in found.items():
            same(value, expected[name])
    elif isinstance(found, np.ndarray) and found.dtype == object:
        for x, y in zip(found, expected, strict=True):
            same(x, y)
    elif isinstance(found, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def _said(infos: dict[str, object], name: str) -> bool:
    """Whether an entry is about any environment; Gymnasium leaves it out otherwise."""
    return bool(np.any(infos.get(f"_{name.removeprefix('_')}", True)))


@pytest.mark.parametrize("task", rest_nightly([Countdown, Echo]))
def test_a_batch_is_what_gymnasium_makes_of_single_ones(task: Callable[[], envs.Env]) -> None:
    """Through ends of both kinds, restarts, and the entries of `info`."""
    count = 3
    batch = TaskVectorEnv(task(), count)
    singles = SyncVectorEnv(
        [lambda: TaskEnv(task())] * count, autoreset_mode=AutoresetMode.SAME_STEP
    )
    assert batch.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert batch.observation_space == singles.observation_space
    assert batch.action_space == singles.action_space
    ended = np.zeros(2, int)
    same(batch.reset(seed=4)[0], singles.reset(seed=4)[0])
    for _ in range(500):
        actions = singles.action_space.sample()
        found, expected = batch.step(actions), singles.step(actions)
        for x, y in zip(found, expected, strict=True):
            same(x, y)
        ended += [expected[2].sum(), expected[3].sum()]
    assert ended[1] > 0
    assert ended[0] > 0 or task is Echo  # which never ends by itself


def test_seeds_of_single_environments() -> None:
    env = TaskEnv(Countdown())
    starts = [env.reset(seed=seed)[0][1] for seed in (0, 0, 1)]
    assert starts[0] == starts[1] != starts[2]
    assert env.reset()[0][1] != env.reset()[0][1]


def test_seeds_and_masks_of_batches() -> None:
    batch = TaskVectorEnv(Countdown(), 3)
    first = batch.reset(seed=[7, 8, 7])[0]
    assert first[0, 1] == first[2, 1] != first[1, 1]
    batch.step(np.zeros((3, 1)))
    some, _ = batch.reset(seed=9, options={"reset_mask": np.array([True, False, False])})
    np.testing.assert_array_equal(some[:, 0] > 0, [False, True, True])
    with pytest.raises(ValueError, match="2 seeds were given for 3"):
        batch.reset(seed=[1, 2])
    with pytest.raises(ValueError, match=r"must be \(3,\)"):
        batch.reset(options={"reset_mask": np.array([True])})


def test_the_time_limit_truncates_and_the_end_is_final() -> None:
    env = TaskEnv(Echo())
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.ones(1))
    env.reset(seed=0)
    steps = [env.step(np.full(1, 2.0)) for _ in range(3)]
    assert [step[3] for step in steps] == [False, False, True]
    assert not any(step[2] for step in steps)
    assert [step[1] for step in steps] == [1.0, 1.0, 1.0]  # clipped
    with pytest.raises(gymnasium.error.ResetNeeded, match="ended"):
        env.step(np.ones(1))
    env.reset()
    assert not env.step(np.ones(1))[3]


def test_episode_statistics_of_gymnasium_agree() -> None:
    batch = gymnasium.wrappers.vector.RecordEpisodeStatistics(TaskVectorEnv(Echo(), 2))
    batch.reset(seed=0)
    for _ in range(3):
        infos = batch.step(np.ones((2, 1)))[4]
    np.testing.assert_array_equal(infos["episode"]["r"], [3.0, 3.0])
    np.testing.assert_array_equal(infos["episode"]["l"], [3, 3])


def test_made_in_batches_with_settings() -> None:
    batch = gymnasium.make_vec("rpo/Hopper-v0", num_envs=2, episode_length=2, **CHEAP)
    assert isinstance(batch.unwrapped, TaskVectorEnv)
    batch.reset(seed=0)
    batch.step(batch.action_space.sample())
    assert batch.step(batch.action_space.sample())[3].all()


def test_mistakes_take_one_line() -> None:
    with pytest.raises(ValueError, match="unknown task 'antt'"):
        TaskEnv("antt")
    with pytest.raises(ValueError, match="unknown setting of ant 'episode_lengt'"):
        TaskVectorEnv("ant", episode_lengt=3)
    with pytest.raises(SettingsError, match="render_mode is 'human'"):
        TaskEnv(Echo(), render_mode="human")
    with pytest.raises(SettingsError, match="num_envs is 0"):
        TaskVectorEnv(Echo(), 0)
    with pytest.raises(SettingsError, match="leave out episode_length"):
        TaskEnv(Echo(), episode_length=3)


def test_pictures() -> None:
    env = TaskVectorEnv("hopper", 2, render_mode="rgb_array", **CHEAP)
    env.reset(seed=0)
    try:
        pictures = env.render()
    except RunError as error:
        pytest.skip(str(error))
    env.close()
    assert len(pictures) == 2
    assert pictures[0].shape == (480, 640, 3)
    assert pictures[0].std() > 10


@pytest.mark.nightly
def test_after_pictures_pytorch_can_be_used() -> None:
    """Whether Mesa or Triton brings its LLVM first matters: in the other order a process dies."""
    pytest.importorskip("triton")
    code = (
        "from rpo.adapters.gymnasium import TaskEnv\n"
        "env = TaskEnv('hopper', render_mode='rgb_array')\n"
        "env.reset(seed=0); env.render(); import triton; print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    if "RunError" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.stdout.split()[-1:] == ["alive"], (done.returncode, done.stderr)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # those of PyTorch
def test_a_published_ppo_learns_on_it() -> None:
    """Hoppers of random actions fall after a second; a few thousand steps make them last longer."""
    library = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env("rpo/Hopper-v0", n_envs=4, seed=0)
    agent = library.PPO("MlpPolicy", env, n_steps=256, batch_size=256, seed=0, device="cpu")
    agent.learn(1024)
    before = np.mean([episode["r"] for episode in agent.ep_info_buffer])
    agent.learn(8192)
    after = np.mean([episode["r"] for episode in list(agent.ep_info_buffer)[-20:]])
    assert np.isfinite(after)
    assert after > before
