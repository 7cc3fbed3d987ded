"""Every entry of an observation and of an action has the name of what it is."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rpo import envs
from rpo.envs import EnvSpec


@pytest.mark.parametrize("task", [task for task in envs.names() if task != "hand"])
def test_names_say_what_the_entries_are(task: str) -> None:
    env = envs.make(task)
    spec, model = env.spec, env.model
    draw = np.random.default_rng(0)
    q, qd = draw.normal(size=(1, model.nq)), draw.normal(size=(1, model.nv))
    observation = env.observe(env.state(jnp.asarray(q), jnp.asarray(qd)))[0]
    found = dict(zip(spec.observation_names, np.asarray(observation), strict=True))
    units = dict(zip(spec.observation_names, spec.observation_units, strict=True))
    link = {name: k for k, name in enumerate(model.joint_names)}
    motors = model.joint_names[-spec.action_size :]
    assert spec.action_names == motors
    for joint in motors:
        angle = q[0, model.coordinate_start[link[joint]]]
        rate = qd[0, model.velocity_start[link[joint]]]
        assert found[joint] == pytest.approx(angle, rel=1e-5)
        factor, unit = ("1", units[f"{joint}_velocity"])
        if " " in unit:
            factor, unit = unit.split()
        assert (float(factor) * found[f"{joint}_velocity"], unit) == (
            pytest.approx(rate, rel=1e-5),
            "rad/s",
        )
    assert found["forward_velocity"] == pytest.approx(qd[0, 0], rel=1e-5)
    assert found["height"] == pytest.approx(q[0, 1 if task == "hopper" else 2], rel=1e-5)
    for unit, strength in zip(spec.action_units, env.settings.strengths, strict=True):
        assert unit == f"{strength:g} N m"


def test_names_of_a_free_base_are_in_its_own_order() -> None:
    env = envs.make("ant")
    q = np.concatenate([[1.0, 2.0, 3.0, 0.8, 0.6, 0.0, 0.0], np.zeros(8)])[None]
    qd = np.concatenate([np.arange(1.0, 7.0), np.zeros(8)])[None]
    observation = env.observe(env.state(jnp.asarray(q), jnp.asarray(qd)))[0]
    found = dict(zip(env.spec.observation_names, np.asarray(observation), strict=True))
    half = 0.5**0.5
    expected = {
        "up_velocity": 3.0,
        "right_velocity": -2.0,
        "angular_velocity_forward": 4.0,
        "angular_velocity_up": 6.0,
        "angular_velocity_right": -5.0,
        "quaternion_w": half * (0.8 + 0.6),
        "quaternion_x": half * (0.6 - 0.8),
        "uprightness": 1 - 2 * 0.6**2,
        "last_action_hip_1": 0.0,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


def test_names_must_fit_the_sizes() -> None:
    def spec(**names: tuple[str, ...]) -> EnvSpec:
        return EnvSpec("thing", 2, 1, 10, 0.1, **names)

    assert spec(observation_names=("a", "b")).observation_units == ()
    with pytest.raises(ValueError, match="observation_names must be 2 different names"):
        spec(observation_names=("a",))
    with pytest.raises(ValueError, match="observation_names must be 2 different names"):
        spec(observation_names=("a", "a"))
    with pytest.raises(ValueError, match="action_units must be as many as action_names"):
        spec(action_names=("a",), action_units=("m", "m"))
