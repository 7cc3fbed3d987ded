"""An exported policy acts as the policy does, and says what its numbers are."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import mujoco
import numpy as np
import onnxruntime
import pytest

from rpo import cli, envs
from rpo.show import export as exporting
from rpo.show.export import export_policy
from rpo.training import RunError, load_policy

EXAMPLES = Path(__file__).parents[2] / "examples"
ROBOTS = Path(envs.__file__).parent / "assets"


@pytest.fixture(scope="module")
def onnx_file(ant_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "ant.onnx"
    assert export_policy(ant_file, path, seed=1) <= 1e-5
    return path


def test_acts_as_the_policy_does(onnx_file: Path, ant_file: Path) -> None:
    session = onnxruntime.InferenceSession(onnx_file)
    observation = np.random.default_rng(3).normal(2.0, 3.0, (7, 37)).astype(np.float32)
    (found,) = session.run(["action"], {"observation": observation})
    expected = load_policy(ant_file, seed=1)(observation)
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, load_policy(ant_file, seed=0)(observation), atol=1e-2)


def test_says_what_its_numbers_are(onnx_file: Path) -> None:
    facts = onnxruntime.InferenceSession(onnx_file).get_modelmeta().custom_metadata_map
    spec = envs.make("ant").spec
    for name in ("observation_names", "observation_units", "action_names", "action_units"):
        assert tuple(json.loads(facts[name])) == getattr(spec, name)
    assert float(facts["control_period_seconds"]) == spec.control_dt
    assert (facts["task"], facts["seed"]) == ("ant", "1")
    assert json.loads(facts["task_settings"])["episode_length"] == 30


def test_a_policy_of_ones_own_environment_needs_no_environment(
    pendulum_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(pendulum_file), "--output", str(tmp_path / "p.onnx")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'p.onnx'} (actions differ by at most")
    (entry,) = onnxruntime.InferenceSession(tmp_path / "p.onnx").get_inputs()
    assert (entry.name, entry.shape) == ("observation", ["batch", 3])


def test_a_file_that_acts_otherwise_is_not_written(
    ant_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = exporting._convert

    def wrong(actor, facts):
        head = actor.policy.mean_head
        bias = head.bias.at[3].add(1e-3)
        return convert(eqx.tree_at(lambda a: a.policy.mean_head.bias, actor, bias), facts)

    monkeypatch.setattr(exporting, "_convert", wrong)
    with pytest.raises(RunError, match="nothing was written"):
        export_policy(ant_file, tmp_path / "ant.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(
    ant_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert cli.main(["export", str(ant_file), "--output", str(tmp_path / "x.onnx")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'rpo-jax[export]'" in line


def test_the_example_feeds_it_the_observations_of_the_task(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example's observations, made from MuJoCo's state, are those of the environment."""
    seen, states = [], []
    run, step = onnxruntime.InferenceSession.run, mujoco.mj_step

    def record_observation(self, names, inputs):
        seen.append(inputs["observation"][0])
        return run(self, names, inputs)

    def record_state(model, data, count):
        states.append((data.qpos.copy(), data.qvel.copy()))
        step(model, data, count)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", record_observation)
    monkeypatch.setattr(mujoco, "mj_step", record_state)
    monkeypatch.setattr(sys, "argv", ["mujoco_engine.py", str(onnx_file), str(ROBOTS / "ant.xml")])
    runpy.run_path(str(EXAMPLES / "mujoco_engine.py"))
    assert "30 of 30 steps, " in capsys.readouterr().out
    env = envs.make("ant")
    q, qd = (np.stack(rows) for rows in zip(*states, strict=True))
    for k in range(len(q)):  # MuJoCo gives a free joint's angular velocity along its own axes
        mujoco.mju_rotVecQuat(qd[k, 3:6], qd[k, 3:6].copy(), q[k, 3:7])
    expected = env.observe(env.state(jnp.asarray(q), jnp.asarray(qd)))
    assert np.abs(np.diff(q, axis=0)).max() > 0.01
    np.testing.assert_allclose(seen, expected, rtol=1e-3, atol=1e-3)
