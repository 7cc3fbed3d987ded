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
from rpo.envs.robot_file import RobotFile
from rpo.envs.robot_file import RobotState as DescribedState
from rpo.mirror import Mirror, SignedPermutation
from tests.marks import nightly, rest_nightly


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
        step, observe, reward = map(jax.jit, (env.dynamics, env.observe, env.reward))
        for key in jax.random.split(jax.random.key(1), 3):
            action = jax.random.uniform(key, (6, env.spec.action_size), float, -1, 1)
            before, other_before = state, other
            state, other = step(state, action), step(other, mirror.action(action))
            seen = observe(state)
            np.testing.assert_allclose(observe(other), mirror.observation(seen), atol=1e-9)
            np.testing.assert_allclose(
                reward(other_before, mirror.action(action), other),
                reward(before, action, state),
                atol=1e-9,
            )
        assert np.abs(np.asarray(mirror.observation(seen) - seen)).max() > 0.1


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


def quadruped(tmp_path, **changes) -> str:
    """Two legs ahead and two behind, of which one can be made different."""
    legs = ""
    for x, y, name in ((1, 1, "a"), (1, -1, "b"), (-1, 1, "c"), (-1, -1, "d")):
        legs += f"""<body pos="{0.2 * x} {0.1 * y} 0">
          <joint name="{name}" axis="0 1 0" range="-1 1"/>
          <geom type="capsule" fromto="0 0 0 0 0 -0.3" size="{changes.get(name, 0.03)}"/></body>"""
    gears = {name: changes.get(f"gear_{name}", 20) for name in "dcba"}
    motors = "".join(
        f'<motor joint="{name}" gear="{gear}" ctrlrange="-1 1"/>' for name, gear in gears.items()
    )
    path = tmp_path / "robot.xml"
    path.write_text(
        f"""<mujoco><compiler angle="radian"/><worldbody><geom type="plane" size="9 9 1"/>
        <body pos="0 0 0.33"><freejoint/><geom type="box" size="0.25 0.1 0.05"/>{legs}</body>
        </worldbody><actuator>{motors}</actuator></mujoco>"""
    )
    return str(path)


def test_a_described_robot_with_equal_halves_has_a_mirror(tmp_path):
    env = RobotFile(quadruped(tmp_path))
    mirror = env.spec.mirror
    assert mirror.action == SignedPermutation((1, 0, 3, 2), (1, 1, 1, 1))
    assert mirror.observation.index[13:17] == (14, 13, 16, 15)
    assert RobotFile(quadruped(tmp_path, a=0.05)).spec.mirror is None
    assert RobotFile(quadruped(tmp_path, gear_c=10)).spec.mirror is None


@nightly
def test_a_described_robot_moves_like_its_mirror_image(tmp_path):
    with jax.enable_x64(True):
        env = RobotFile(quadruped(tmp_path))
        mirror, joints = env.spec.mirror, SignedPermutation((1, 0, 3, 2), (1, 1, 1, 1))
        state = env.initial_state(jax.random.key(0))
        state = RobotState(state.q[None], state.qd[None], jnp.zeros((1, 4)))
        other = image(state, joints)
        step = jax.jit(env.dynamics)
        state, other = (DescribedState(x.q, x.qd) for x in (state, other))
        for key in jax.random.split(jax.random.key(1), 20):
            action = jax.random.uniform(key, (1, 4), float, -1, 1)
            state, other = step(state, action), step(other, mirror.action(action))
        seen = env.observe(state)
        np.testing.assert_allclose(env.observe(other), mirror.observation(seen), atol=1e-9)
        assert np.abs(np.asarray(mirror.observation(seen) - seen)).max() > 1e-3
