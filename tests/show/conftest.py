"""Policies that nobody has trained: enough to show and to export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from rpo.errors import RunError
from rpo.nets import Actor, TanhGaussianPolicy, new_normalizer
from rpo.training.policy_file import Network, PolicyFacts, PolicyFile, write_policy_file
from rpo.training.settings import make_env
from tests.training.fakes import PENDULUM


def untrained(task: str, seeds: tuple[int, ...] = (0, 1), **settings: object) -> PolicyFile:
    """Random actors of two seeds, whose observation statistics are not the identity."""
    env = make_env(task, settings)
    spec = env.spec

    def make(key: jax.Array) -> Actor:
        network = TanhGaussianPolicy(spec.observation_size, spec.action_size, (16, 16), key)
        normalizer = new_normalizer(spec.observation_size)
        samples = 0.5 + 2.0 * jax.random.normal(key, (64, spec.observation_size))
        return Actor(network, normalizer.update(samples))

    last = jax.jit(jax.vmap(make))(jax.random.split(jax.random.key(0), len(seeds)))
    facts = PolicyFacts(
        task=task,
        task_settings=dataclasses.asdict(env.settings) if hasattr(env, "settings") else {},
        algorithm="rpo",
        preset="fast",
        seeds=seeds,
        iteration=3,
        total_iterations=3,
        env_steps=96,
        episode_returns=(None,) * len(seeds),
        network=Network.of(last.policy),
        observation_names=spec.observation_names,
        observation_units=spec.observation_units,
        action_names=spec.action_names,
        action_units=spec.action_units,
        control_dt=spec.control_dt,
    )
    return PolicyFile(facts, last, last)


@pytest.fixture(scope="session")
def ant_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy file of the ant, with episodes of 30 steps."""
    path = tmp_path_factory.mktemp("policies") / "ant.npz"
    write_policy_file(path, untrained("ant", episode_length=30))
    return path


@pytest.fixture(scope="session")
def pendulum_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of an environment of one's own, which has no robot."""
    path = tmp_path_factory.mktemp("policies") / "pendulum.npz"
    write_policy_file(path, untrained(PENDULUM))
    return path


@pytest.fixture(scope="session")
def opengl() -> None:
    """Skips where nothing can be drawn."""
    from rpo.show.scene import choose_opengl

    try:
        choose_opengl()
    except RunError as error:
        pytest.skip(str(error))


def write_config(path: Path, facts: PolicyFacts) -> None:
    """The config of a run directory."""
    config = {"format": 1, "task": facts.task, "algorithm": "rpo", "preset": "fast"}
    config |= {"run_settings": {"seed": 0, "seeds": 2}, "algorithm_settings": {}}
    config |= {"task_settings": facts.task_settings, "sessions": []}
    (path / "config.json").write_text(json.dumps(config))


def write_run(path: Path, task: str) -> Path:
    """A run directory as far as policies go, with three moments of its training."""
    path.mkdir()
    newest = untrained(task, episode_length=30)
    write_config(path, newest.facts)
    write_policy_file(path / "policy.npz", newest)
    for iteration in (0, 1, 3):
        facts = dataclasses.replace(newest.facts, iteration=iteration, env_steps=32 * iteration)
        moment = PolicyFile(facts, newest.last)
        write_policy_file(path / "policies" / f"iteration_{iteration:08d}.npz", moment)
    return path


@pytest.fixture(scope="session")
def hopper_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the hopper that nobody may change."""
    return write_run(tmp_path_factory.mktemp("runs") / "hopper", "hopper")


@pytest.fixture(scope="session")
def hopper_file(hopper_run: Path) -> Path:
    """A policy file of the hopper, with episodes of 30 steps."""
    return hopper_run / "policy.npz"
