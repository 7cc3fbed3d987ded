"""The comparison with other simulators: what each is given, and what is told of those that fail."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from tests.benchmarks.test_scripts import DIRECTORY, load
from tests.marks import nightly

sys.path.insert(0, str(DIRECTORY))
try:
    peers = load("peers")
    from engines import in_c, in_jax, robots
finally:
    sys.path.remove(str(DIRECTORY))

MEASURED = {
    "ready_s": 3.0,
    "cores": 2,
    "timestep_ms": 1.042,
    "substeps": 16,
    "bits": 32,
    "height_m": 0.5,
    "finite": 1.0,
    "forward_ms": 1.0,
    "forward_steps_per_s": 4096,
    "forward_seconds_per_s": 68.3,
}
DERIVED = {
    "gradient_ready_s": 9.0,
    "gradient_finite": 1.0,
    "gradient_envs": 128,
    "gradient_ms": 4.0,
    "gradient_steps_per_s": 1024,
    "gradient_seconds_per_s": 17.1,
}


def row(simulator: str = "mjx", **figures: Any) -> dict[str, Any]:
    return {"simulator": simulator, "robot": "ant", "device": "cpu", "num_envs": 128} | figures


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["peers.py", *words])
    peers.main()


def workers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    """Replaces the processes by a function of their command; returns what was called."""
    calls: list[Any] = []

    def run(command: list[str], **options: Any) -> Any:
        calls.append((command, options["env"]))
        return answer(command, options)

    monkeypatch.setattr(peers.subprocess, "run", run)
    monkeypatch.setattr(peers, "has_gpu", lambda: False)
    monkeypatch.setattr(peers.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    return calls


def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(peers.PEERS["mjx"]), "missing", lambda self: [])


def test_a_peer_that_is_not_installed_is_named_and_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"mujoco-warp"}
    monkeypatch.setattr(
        type(peers.PEERS["mjx"]), "missing", lambda self: sorted(missing & {*self.packages})
    )
    stdout = json.dumps(MEASURED)
    answer = SimpleNamespace(stdout=stdout, stderr="", returncode=0)
    calls = workers(monkeypatch, lambda command, options: answer)
    words = ("--robots", "ant", "--simulators", "mujoco-warp", "mujoco")
    command(monkeypatch, *words, "--output", str(tmp_path / "new"))
    line = "MuJoCo Warp, ant, 128 environments: mujoco-warp not installed: " + peers.INSTALL
    assert line in capsys.readouterr().out.splitlines()
    assert len(calls) == 1
    measured, left_out = json.loads((tmp_path / "new" / "peers.json").read_text())["rows"]
    assert "forward_ms" not in left_out and measured["forward_ms"] == 1.0
    assert line in (tmp_path / "new" / "peers.md").read_text()


def test_a_failure_is_told_and_the_others_are_measured_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch)
    forward = json.dumps(MEASURED)

    def answer(command: list[str], options: Any) -> Any:
        if "mujoco" in command:
            return SimpleNamespace(stdout="", stderr="a warning\nno solution", returncode=1)
        if "newton" in command:
            raise subprocess.TimeoutExpired(command, 7, output=f"noise\n{forward}\n".encode())
        return SimpleNamespace(stdout=forward, stderr="", returncode=0)

    workers(monkeypatch, answer)
    words = ["--robots", "ant", "--simulators", "mujoco", "newton", "mujoco-warp"]
    with pytest.raises(SystemExit, match="1"):
        command(monkeypatch, *words, "--limit", "7", "--output", str(tmp_path))
    shown = capsys.readouterr().out
    assert "MuJoCo, C engine, ant, 128 environments: no solution\n" in shown
    assert "128 environments: forward + backward: not done after 7 s\n" in shown
    assert shown.count("4,096") == 2
    assert len(json.loads((tmp_path / "peers.json").read_text())["rows"]) == 3


def test_jax_simulators_are_compiled_both_ways_and_the_faster_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch)
    monkeypatch.setenv("XLA_FLAGS", "--set-by-rpo-in-this-process")

    def answer(command: list[str], options: Any) -> Any:
        fusion = options["env"]["RPO_FUSION"] == "1"
        assert "--set-by-rpo-in-this-process" not in options["env"].get("XLA_FLAGS", "")
        assert options["env"]["JAX_PLATFORMS"] == "cpu"
        figures = MEASURED | DERIVED | {"forward_steps_per_s": 5000 if fusion else 4000}
        figures |= {"gradient_steps_per_s": 600 if fusion else 700}
        return SimpleNamespace(stdout=json.dumps(figures), stderr="", returncode=0)

    calls = workers(monkeypatch, answer)
    words = ["--robots", "ant", "--simulators", "rpo", "mjx", "--cores", "1"]
    command(monkeypatch, *words, "--fusion", "both")
    assert [call[0][3] for call in calls] == ["rpo", "mjx", "mjx"]
    ours, mjx = capsys.readouterr().out.splitlines()[2:]
    assert "| 5,000 |" in ours and "| 600 |" in ours
    assert "| 5,000 |" in mjx and "| 700 |" in mjx
    command(monkeypatch, *words)
    assert [call[1]["RPO_FUSION"] for call in calls[3:]] == ["1", "0"]


def test_derivatives_that_are_not_numbers_are_told() -> None:
    lines = peers.table(
        [row(**MEASURED, **DERIVED | {"gradient_finite": 0.25}), row("newton", **MEASURED)]
    )
    _, _, partly, none = lines.splitlines()
    assert "| 1,024 (25% finite) |" in partly and "| none |" in none
    assert len({line.count("|") for line in lines.splitlines()}) == 1


def test_figures_of_other_configurations_stay_unless_from_another_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch)
    rates = iter([100, 200, 300])

    def answer(command: list[str], options: Any) -> Any:
        stdout = json.dumps(MEASURED | {"forward_steps_per_s": next(rates)})
        return SimpleNamespace(stdout=stdout, stderr="", returncode=0)

    calls = workers(monkeypatch, answer)
    rest = ("--simulators", "mujoco", "--output", str(tmp_path), "--robots")
    with monkeypatch.context() as before:
        before.setattr(peers.PEERS["mujoco"].__class__, "missing", lambda _: ("mujoco",))
        command(monkeypatch, *rest, "ant")
    for robot in ("humanoid", "ant", "ant"):
        command(monkeypatch, *rest, robot)
    record = json.loads((tmp_path / "peers.json").read_text())
    found = [(row["robot"], row["forward_steps_per_s"]) for row in record["rows"]]
    assert found == [("ant", 300), ("humanoid", 100)]
    assert len((tmp_path / "peers.md").read_text().splitlines()) == 2 + 2

    monkeypatch.setattr(peers, "machine", lambda: {"processor": "another", "gpu": "none"})
    with pytest.raises(SystemExit, match="has figures of another machine"):
        command(monkeypatch, *rest, "ant")
    assert len(calls) == 3
    assert json.loads((tmp_path / "peers.json").read_text()) == record


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-envs", "0"], "'0' must be a positive whole number"),
        (["--cores", "1.5"], "'1.5' must be a positive whole number"),
        (["--simulators", "bullet"], "invalid choice: 'bullet'"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (
            ["--num-envs", "4", "7", "--cores", "2"],
            "--num-envs 7 must be a multiple of the 2 cores",
        ),
    ],
)
def test_mistakes_are_refused(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workers(monkeypatch, lambda *_: None)
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, *words)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_gpu_is_used_by_all_but_the_c_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    calls = workers(monkeypatch, lambda *_: SimpleNamespace(stdout="", stderr="", returncode=0))
    options = argparse.Namespace(
        device="gpu", cores=1, repeat=1, seconds=1.0, limit=9, fusion="both",
        robots=["ant"], num_envs=[8], simulators=["mujoco", "mjx"],
    )  # fmt: skip
    rows = [peers.in_own_process(*what, options) for what in peers.plan(options)]
    assert [(found["simulator"], found["device"]) for found in rows] == [
        ("mujoco", "cpu"),
        ("mjx", "gpu"),
    ]
    assert [call[1]["JAX_PLATFORMS"] for call in calls] == ["cpu", "cuda"]


@pytest.fixture(scope="module")
def ant() -> Any:
    return robots.Robot("ant")


def test_mujoco_gets_the_robot_of_our_task(ant: Any) -> None:
    model, env = ant.model, ant.env
    np.testing.assert_allclose(model.body_mass.sum(), np.sum(env.model.mass), rtol=1e-5)
    np.testing.assert_array_equal(model.actuator_gear[:, 0], env.settings.strengths)
    np.testing.assert_array_equal(model.actuator_trnid[:, 0], np.arange(1, 9))
    np.testing.assert_array_equal(model.dof_damping[6:], 1 + env.settings.limit_damping)
    assert model.opt.timestep * ant.substeps == pytest.approx(env.spec.control_dt)


def test_an_environments_actions_do_not_depend_on_how_many_there_are() -> None:
    few, many = robots.random_actions(2, 3), robots.random_actions(5, 3)
    np.testing.assert_array_equal(few, many[:, :2])
    assert few.shape == (robots.STEPS, 2, 3) and abs(many).max() <= 1


def test_the_c_engines_derivative_is_that_of_its_rollout(ant: Any) -> None:
    """Chained finite differences of steps against those of whole rollouts, feet on the ground."""
    model, data = ant.model, mujoco.MjData(ant.model)
    controls = np.repeat(robots.random_actions(1, model.nu)[:24, 0], ant.substeps, axis=0)

    def run(steps: Any) -> float:
        mujoco.mj_setState(model, data, start, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        for control in steps:
            data.ctrl[:] = control
            mujoco.mj_step(model, data)
        return float(data.qpos[0])

    q, qd = ant.starts(1)
    start = np.concatenate([[0.0], q[0], qd[0]])
    run(controls)
    assert data.ncon > 0
    found = in_c._differentiate(model, data, start[None], controls[None].astype(float))[0]
    for step, motor in ((0, 1), (10, 4), (40, 7)):
        change = np.zeros(controls.shape)
        change[step, motor] = 1e-5
        expected = (run(controls + change) - run(controls - change)) / 2e-5
        assert found[step, motor] == pytest.approx(expected, rel=0.02, abs=1e-6)


def test_the_c_engine_is_built_for_a_batch(ant: Any) -> None:
    simulation = in_c.build("mujoco", ant, 3, 2, 2)
    height, distance = simulation.forward()
    assert height.shape == distance.shape == (3,)
    np.testing.assert_array_equal(simulation.forward()[0], height)
    assert (height > 0.2).all() and (height < 0.8).all()
    found = simulation.gradient()
    assert found.shape == (2, robots.STEPS, ant.model.nu)
    assert np.isfinite(found).all() and abs(found).max() > 1e-4


def test_a_measurement_says_what_it_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, both = (dict(row) for row in peers.measure("mujoco", "ant", 4, 2, 1, 1.0))
    assert "gradient_ms" not in forward
    assert both["gradient_envs"] == 4
    assert both["finite"] == both["gradient_finite"] == 1
    assert both["forward_ms"] > 0
    rate = 4 * robots.STEPS / both["forward_ms"] * 1e3
    assert both["forward_steps_per_s"] == pytest.approx(rate, rel=0.01)
    assert both["forward_seconds_per_s"] == pytest.approx(rate / 60, rel=0.02)
    assert both["gradient_steps_per_s"] < both["forward_steps_per_s"]

    real = in_c.build
    for wrong, message in (
        (np.zeros((1, robots.STEPS, 8)), "derivative is zero"),
        (np.ones((robots.STEPS, 1, 8)), "derivative has shape"),
    ):

        def build(*given: Any, wrong: Any = wrong) -> Any:
            return dataclasses.replace(real(*given), gradient=lambda: wrong)

        monkeypatch.setattr(in_c, "build", build)
        with pytest.raises((SystemExit, ValueError), match=message):
            list(peers.measure("mujoco", "ant", 1, 1, 1, 1.0))

    diverged = SimpleNamespace(forward=lambda: (np.array([0.4, np.nan]), None))
    monkeypatch.setattr(in_c, "build", lambda *_: diverged)
    with pytest.raises(SystemExit, match="after 64 steps 50% of the states are finite"):
        list(peers.measure("mujoco", "ant", 2, 1, 1, 1.0))


def test_ours_starts_where_the_others_do_and_steps(ant: Any) -> None:
    timestep, substeps, state, step, position = in_jax._ours(ant, 2)
    assert timestep * substeps == pytest.approx(ant.control_dt)
    np.testing.assert_allclose(state.q, ant.starts(2)[0], rtol=1e-6)
    np.testing.assert_allclose(position(state)[0], ant.env.settings.start_height, rtol=1e-6)
    after = jax.eval_shape(step, state, jnp.zeros((2, 8)))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_devices_and_blocks_do_not_change_what_is_computed(block: int) -> None:
    """x' = (x + a)^2 / 2, whose derivative is known."""
    devices = jax.devices()[:2]
    state, actions = jnp.arange(8.0), jnp.linspace(-1, 1, 3 * 8).reshape(3, 8, 1)

    def step(x: Any, a: Any) -> Any:
        return 0.5 * (x + a[:, 0]) ** 2

    forward, gradient = in_jax._programs(step, lambda x: (x, 2 * x), devices, block)
    last, (height, distance) = forward(state, actions)
    x, slopes = np.arange(8.0), []
    for a in np.asarray(actions)[..., 0]:
        slopes.append(x + a)
        x = 0.5 * (x + a) ** 2
    np.testing.assert_allclose(height, x, rtol=1e-5)
    np.testing.assert_allclose(last, x, rtol=1e-5)
    np.testing.assert_allclose(distance, 2 * x, rtol=1e-5)
    expected = 2 * np.cumprod(np.array(slopes)[::-1], axis=0)[::-1]
    np.testing.assert_allclose(gradient(state, actions)[:, :, 0].T, expected, rtol=1e-4)


@nightly
@pytest.mark.parametrize("robot", peers.ROBOTS)
def test_ours_and_mujocos_robots_do_alike(robot: str) -> None:
    described = robots.Robot(robot)
    ours = in_jax.build("rpo", described, 64, 64, 1).forward()[0]
    theirs = in_c.build("mujoco", described, 64, 64, 1).forward()[0]
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.15)
