"""Tasks that do not change when left and right are exchanged."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.envs import make
from rpo.envs.locomotion import RobotState
from rpo.envs.mirrored import mirrored_joints
from rpo.mirror import Mirror, SignedPermutation
from tests.marks import rest_nightly


def image(state: RobotState, joints: SignedPermutation) -> RobotState:
    """The state seen in a mirror in the plane y = 0."""
    vector, turn = np.array([1, -1, 1]), np.array([-1, 1, -1])
    q, qd = state.q, state.qd
    return RobotState(
        jnp.concatenate([q[:, :3] * vector, q[:, 3:4], q[:, 4:7] * turn, joints(q[:, 7:])], axis=1),
        jnp.concatenate([qd[:, :3] * vector, qd[:, 3:6] * turn, joints(qd[:, 6:])], axis=1),
        joints(state.last_action),
    )


@pytest.mark.parametrize("task", rest_nightly(["ant", "anymal", "humanoid"]))
def test_the_mirrored_robot_does_the_mirror_image(task):
    with jax.enable_x64(True):
        # the published inertias of the ant's legs differ a little from each other
        env = make(task, observe_last_action=True, inertia="physical")
        mirror = env.spec.mirror
        keys = jax.random.split(jax.random.key(0), 6)
        state = jax.tree.map(lambda x: x.astype(float), jax.vmap(env.initial_state)(keys))
        other = image(state, mirror.action)
        step = jax.jit(env.dynamics)
        for key in jax.random.split(jax.random.key(1), 3):
            action = jax.random.uniform(key, (6, env.spec.action_size), float, -1, 1)
            before, other_before = state, other
            state, other = step(state, action), step(other, mirror.action(action))
            np.testing.assert_allclose(
                env.observe(other), mirror.observation(env.observe(state)), atol=1e-9
            )
            np.testing.assert_allclose(
                env.reward(other_before, mirror.action(action), other),
                env.reward(before, action, state),
                atol=1e-9,
            )
        assert (
            np.abs(np.asarray(mirror.observation(env.observe(state)) - env.observe(state))).max()
            > 0.1
        )


@pytest.mark.parametrize("task", ["hopper", "hand"])
def test_robots_without_left_and_right_have_no_mirror(task):
    assert make(task).spec.mirror is None


def test_unequal_halves_have_no_mirror():
    model = make("ant").model
    assert mirrored_joints(model) is not None
    for name, entry in (("mass", 1), ("stiffness", 7), ("limit_upper", 6)):
        values = getattr(model, name).copy()
        values[entry] += 1.0
        assert mirrored_joints(dataclasses.replace(model, **{name: values})) is None
    position = model.joint_position.copy()
    position[2] *= 1.1
    assert mirrored_joints(dataclasses.replace(model, joint_position=position)) is None


def test_unequal_motors_have_no_mirror():
    gears = list(make("humanoid").settings.gears)
    gears[5] *= 2
    assert make("humanoid", gears=tuple(gears)).spec.mirror is None


def test_a_mirror_of_another_size_is_refused():
    spec = make("ant").spec
    small = SignedPermutation((0, 1), (1, 1))
    with pytest.raises(ValueError, match="mirror of actions must have 8 entries"):
        dataclasses.replace(spec, mirror=Mirror(spec.mirror.observation, small))


def test_the_example_of_the_page_says_what_it_prints(capsys):
    page = Path(__file__).parents[2] / "docs" / "algorithms" / "symmetry.md"
    code = page.read_text().split("```python\n")[1].split("```")[0]
    exec(code, {"np": np})
    said = code.split("#")[-1].strip()
    printed = capsys.readouterr().out.strip(" []\n").split()
    assert [float(x) for x in printed] == pytest.approx([float(x) for x in said.split(",")])
