"""The policy file is enough to act, is whole or refused, and remembers how the gait came about."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rpo
from rpo import envs
from rpo.nets import Actor, TanhGaussianPolicy, new_normalizer
from rpo.training import (
    CheckpointError,
    Policy,
    Run,
    RunError,
    SettingsError,
    load_policies,
    load_policy,
    policies,
)
from rpo.training.array_file import read_arrays, write_arrays
from rpo.training.policies import MOMENTS, open_moments, open_policies
from rpo.training.policy_file import read_policy_file, write_policy_file
from rpo.training.program import Program
from rpo.training.run_files import write_json
from rpo.training.settings import resolve
from tests.compilations import compilations
from tests.marks import nightly
from tests.training.fakes import ITERATIONS, PENDULUM, TINY, Countdown
from tests.training.test_resume import StoppedError, stop_at

OBSERVATION = jnp.array([[1.0, 0.0, 0.3]])


def test_the_policies_of_another_run_are_not_taken_for_its_own(
    finished_run: Run, tmp_path: Path
) -> None:
    mine = Run.load(shutil.copytree(finished_run.path, tmp_path / "mine"))
    file = read_policy_file(mine.policy_path)
    other = dataclasses.replace(file, facts=dataclasses.replace(file.facts, run="another"))
    write_policy_file(mine.policy_path, other)
    with pytest.raises(CheckpointError, match=r"policy\.npz is of another run; give the file"):
        load_policies(mine, env=PENDULUM)
    assert load_policies(mine.policy_path, env=PENDULUM)  # named, it is what was asked for
    earlier = dataclasses.replace(file, facts=dataclasses.replace(file.facts, run=None))
    write_policy_file(mine.policy_path, earlier)
    assert load_policies(mine, env=PENDULUM)


def test_acts_as_the_checkpoint_does_without_a_training_program(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = Run.load(shutil.copytree(finished_run.path, tmp_path / "older"))
    older.policy_path.unlink()  # as runs were before there were policy files
    expected = [policy(OBSERVATION) for policy in load_policies(older, env=PENDULUM)]
    best = load_policy(older, checkpoint="best", seed=1, env=PENDULUM)(OBSERVATION)

    def refuse(*_: object) -> None:
        raise AssertionError("a training program was built")

    monkeypatch.setattr(Program, "__init__", refuse)
    found = [policy(OBSERVATION) for policy in load_policies(finished_run)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        load_policy(finished_run.policy_path, checkpoint="best", seed=1, env=PENDULUM)(OBSERVATION),
        best,
    )
    with pytest.raises(RunError, match="an environment of your own; give it as the task"):
        load_policy(finished_run.policy_path)  # nobody has asked to execute the file
    file = finished_run.policy_path
    returns = rpo.evaluate(file, episodes=4, deterministic=True, env=PENDULUM).returns
    stored = finished_run.evaluation()
    assert stored is not None
    assert stored["deterministic"]["returns"] == returns.tolist()


def test_tells_what_it_is(finished_run: Run) -> None:
    facts = open_policies(finished_run).facts
    assert (facts.task, facts.algorithm, facts.seeds) == (PENDULUM, "rpo", (0, 1))
    assert (facts.iteration, facts.total_iterations) == (ITERATIONS, ITERATIONS)
    assert facts.env_steps == ITERATIONS * 64
    assert facts.network.hidden_sizes == (8,)
    assert all(isinstance(one, float) for one in facts.episode_returns)
    text = zipfile.ZipFile(finished_run.policy_path).read("metadata.json")
    assert json.loads(text)["policies"]["control_dt"] == facts.control_dt


def test_moments_are_evenly_spaced(finished_run: Run) -> None:
    moments = open_moments(finished_run)
    spaced = [round(ITERATIONS * k / MOMENTS) for k in range(MOMENTS + 1)]
    assert [one.facts.iteration for one in moments] == spaced
    assert moments[0].facts.episode_returns == (None, None)
    last = open_policies(finished_run)
    for name, found in {"policy": moments[-1].last.policy, "other": moments[0].last.policy}.items():
        same = [
            np.array_equal(x, y)
            for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(last.last.policy), strict=True)
        ]
        assert all(same) == (name == "policy")
    with pytest.raises(CheckpointError, match="no best"):
        moments[0].actors("best")


@nightly
def test_a_resumed_run_has_the_same_files(train_tiny, tmp_path: Path) -> None:
    whole = train_tiny(candidates=4)
    with pytest.raises(StoppedError):
        train_tiny(
            candidates=4,
            run_dir=tmp_path / "run",
            checkpoint_interval=0,
            callbacks=[stop_at(11)],
        )
    resumed = rpo.train(PENDULUM, resume=tmp_path / "run", verbose=False)
    found = [*whole.path.glob("*.npz"), *whole.moments.glob("*.npz")]  # checkpoints hold seconds
    names = sorted(path.relative_to(whole.path) for path in found)
    assert len(names) > MOMENTS
    for name in names:
        assert (whole.path / name).read_bytes() == (resumed.path / name).read_bytes(), name


@nightly
def test_ppo_has_another_kind_of_policy(tmp_path: Path) -> None:
    names = ("num_envs", "horizon", "actor_hidden_sizes", "critic_hidden_sizes")
    settings = {name: TINY[name] for name in names} | {"total_steps": 64, "minibatches": 2}
    run = rpo.train(
        PENDULUM,
        "ppo",
        run_dir=tmp_path / "run",
        verbose=False,
        evaluation_episodes=0,
        **settings,
    )
    assert open_policies(run).facts.network.kind == "clipped_gaussian"
    older = policies._from_checkpoint(run, None)
    for found, expected in zip(
        jax.tree.leaves(open_policies(run).last), jax.tree.leaves(older.last), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"NUMPY") + 200] ^= 0xFF
    path.write_bytes(data)


def change_metadata(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        metadata = json.loads(entries["metadata.json"])
        for name, value in changes.items():
            (metadata if name in metadata else metadata["policies"])[name] = value
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (entries | {"metadata.json": json.dumps(metadata)}).items():
                archive.writestr(name, data)

    return change


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("trapped",))


def lay_trap(path: Path) -> None:
    """An array of Python objects, which would run code when unpickled."""
    with zipfile.ZipFile(path, "a") as archive, archive.open("last/trap.npy", "w") as entry:
        np.lib.format.write_array(entry, np.array([Trap()], object), allow_pickle=True)


def packed(compression: int) -> Callable[[Path], None]:
    """Metadata whose few bytes would become very many, whatever their header says."""

    def pack(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("metadata.json", b" " * 10**7)

    return pack


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "damaged"),
        (flip, "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(pickle.dumps(Trap())), "damaged"),
        (lay_trap, "damaged"),
        (packed(zipfile.ZIP_BZIP2), "metadata.json is compressed"),
        (packed(zipfile.ZIP_LZMA), "metadata.json is compressed"),
        (change_metadata(format=99), "has format 99, this program reads format 1"),
        (change_metadata(seeds=[7, 8]), "does not match its digest"),
        (lambda path: path.unlink(), "there is no policy file"),
    ],
    ids=[
        *("cut", "flipped", "empty", "pickle", "objects", "bzip2", "lzma", "format", "metadata"),
        "lost",
    ],
)
def test_a_file_that_is_not_whole_is_refused(
    finished_run: Run,
    tmp_path: Path,
    damage: Callable[[Path], None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(shutil.copy(finished_run.policy_path, tmp_path / "policy.npz"))
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_policy_file(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": 5}, "task is 5, must be text"),
        ({"task": "x" * 5000}, "its task cannot be"),
        ({"task_settings": []}, "its task_settings cannot be"),
        ({"seeds": "ab"}, "seeds is 'ab', must be a list"),
        ({"seeds": [0, 0]}, "its seeds cannot be"),
        ({"iteration": 31}, "its iteration cannot be"),
        ({"total_iterations": 0, "iteration": 0}, "its total_iterations cannot be"),
        ({"control_dt": "1"}, "control_dt is '1', must be a number"),
        ({"observation_names": ["a"]}, "its observation_names cannot be"),
        ({"action_units": [3]}, "action_units is 3, must be text"),
        ({"network": None}, "policy file"),
        ({"network": {"kind": "odd"}}, "kind 'odd'"),
        ({"network": {"hidden_sizes": [1] * 10**5}}, "sizes that cannot be"),
        ({"network": {"hidden_sizes": [10**12]}}, "sizes that cannot be"),
        ({"odd": 1}, "unexpected keyword"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_facts_with_a_digest_that_fits_are_checked_all_the_same(
    finished_run: Run, tmp_path: Path, changes: dict, message: str
) -> None:
    path = tmp_path / "policy.npz"
    facts, arrays, _ = read_arrays(finished_run.policy_path, "policies", "policy file")
    if isinstance(changes.get("network"), dict):
        changes = {"network": facts["network"] | changes["network"]}
    write_arrays(path, "policies", facts | changes, arrays)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_policy_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(str), "must hold numbers with a fraction"),
        (lambda x: x.astype(complex), "must hold numbers with a fraction"),
        (lambda x: x * np.float32(np.nan), "holds numbers that are not finite"),
        (lambda x: x[:1], "must be"),
    ],
)
def test_arrays_are_those_of_a_policy(
    finished_run: Run, tmp_path: Path, change: Callable, message: str
) -> None:
    path = tmp_path / "policy.npz"
    facts, arrays, _ = read_arrays(finished_run.policy_path, "policies", "policy file")
    name = "last/policy.trunk.linears.0.weight"
    write_arrays(path, "policies", facts, arrays | {name: change(arrays[name])})
    with pytest.raises(CheckpointError, match=message):
        read_policy_file(path)


def test_a_full_disk_leaves_the_older_file(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(finished_run.policy_path, tmp_path / "policy.npz"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    contents = read_policy_file(path)
    with pytest.raises(OSError, match="No space left"):
        write_policy_file(path, dataclasses.replace(contents, best=None))
    assert path.read_bytes() == finished_run.policy_path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_policy_is_refused(tmp_path: Path, finished_run: Run) -> None:
    with pytest.raises(RunError, match=r"runs/missing is no run directory.*hopper, ant"):
        load_policy("runs/missing")
    with pytest.raises(RunError, match="not a run directory"):
        load_policy(tmp_path)
    shutil.copytree(finished_run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "policies")
    with pytest.raises(CheckpointError, match="keeps no policies of its training"):
        open_moments(tmp_path / "run")


def test_an_environment_of_another_size_is_refused(finished_run: Run, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"observation_size 3, the environment countdown 2"):
        load_policy(finished_run, env=Countdown())
    # what a training on an instance leaves, whose task has no more than a name
    mine = Run.load(shutil.copytree(finished_run.path, tmp_path / "mine"))
    task = resolve(Countdown(), settings=TINY).task
    config = {name: value for name, value in mine.config.items() if name != "task_file"}
    write_json(mine.path / "config.json", config | {"task": task})
    file = read_policy_file(mine.policy_path)
    facts = dataclasses.replace(file.facts, task=task)
    write_policy_file(mine.policy_path, dataclasses.replace(file, facts=facts))
    with pytest.raises(RunError, match="an environment of your own; give it as the task"):
        load_policy(mine.path)


def hopper_policy(seed: int) -> Policy:
    network = TanhGaussianPolicy(11, 3, (8,), jax.random.key(seed))
    return Policy(Actor(network, new_normalizer(11)), envs.make("hopper"))


def test_it_is_compiled_once_for_all_policies_of_its_kind() -> None:
    first, second = hopper_policy(0), hopper_policy(1)
    observation = np.ones((6, 11), np.float32)
    with compilations() as names:
        action = first(observation)
    assert len(names) == 1
    with compilations() as names:
        np.testing.assert_array_equal(first(observation), action)
        assert not np.array_equal(second(observation), action)
    assert not names


def test_a_policy_is_a_pytree_and_a_function() -> None:
    first, second = hopper_policy(0), hopper_policy(1)
    batch = jax.random.normal(jax.random.key(2), (5, 11))
    expected = first(batch)
    assert expected.shape == (5, 3)
    np.testing.assert_allclose(jax.jit(first)(batch), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(first)(batch), expected, rtol=1e-5, atol=1e-6)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
    seeds = jax.jit(jax.vmap(lambda policy, x: policy(x), in_axes=(0, None)))(both, batch)
    np.testing.assert_allclose(seeds[1], second(batch), rtol=1e-5, atol=1e-6)
    donated = jax.jit(lambda policy: jax.tree.map(lambda x: 2 * x, policy), donate_argnums=0)
    assert isinstance(donated(hopper_policy(3)), Policy)
    with pytest.raises(SettingsError, match=r"hopper has 11 numbers .* shape \(5, 12\)") as caught:
        first(jnp.zeros((5, 12)))
    assert "\n" not in str(caught.value)
