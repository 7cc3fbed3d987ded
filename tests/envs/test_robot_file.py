"""Tasks made from a robot's description alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rpo.envs
from rpo.envs.gradient_check import check_gradients
from rpo.envs.robot_file import RobotFile, RobotSettings
from rpo.errors import RunError
from rpo.physics.mjcf_numbers import ContactMaterial
from rpo.training import Run, SettingsError, load_policy
from rpo.training.origin import settings_from
from rpo.training.policy_file import write_policy_file
from rpo.training.settings import resolve
from tests.marks import nightly
from tests.show.conftest import untrained

# A torso on two slides and a hinge, with one leg whose rest pose is outside its range.
PLANAR = """<mujoco><worldbody>{floor}
  <body name="torso" pos="0 0 2"><joint name="x" type="slide" axis="1 0 0"/>
    <joint name="z" type="slide" axis="0 0 1" ref="2"/><joint name="pitch" axis="0 1 0"/>
    <geom type="capsule" size="0.05 0.2" euler="90 0 0" mass="3"/>
    <body name="leg"><joint name="hip" axis="0 1 0" range="10 60"/>
      <geom type="capsule" size="0.04" fromto="0 0 0 0 0 -0.5" mass="1" contype="0"/></body>
  </body></worldbody>{rest}</mujoco>"""
FLOOR = '<geom type="plane" size="1 1 1"/>'
MOTOR = '<actuator><motor name="hip" joint="hip" gear="20" ctrlrange="-3 1"/></actuator>'
ORIGIN = """<mujoco><worldbody><geom type="plane" size="1 1 1"/><body name="ball" pos="0 0 1">
  {joint}<geom size="0.1"/></body>{other}</worldbody></mujoco>"""
URDF = """<robot name="cart"><link name="base"><inertial><mass value="2"/>
    <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>
    <collision><geometry><sphere radius="0.3"/></geometry></collision></link>
  <link name="arm"><inertial><mass value="1"/>
    <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <joint name="elbow" type="revolute"><parent link="base"/><child link="arm"/>
    <axis xyz="0 1 0"/><limit lower="-1" upper="2" effort="{effort}" velocity="3"/></joint>
  </robot>"""


def robot(folder: Path, rest: str = MOTOR, floor: str = FLOOR, **settings: float) -> RobotFile:
    path = folder / "leg.xml"
    path.write_text(PLANAR.format(floor=floor, rest=rest))
    env = rpo.envs.make(str(path), **settings)
    assert isinstance(env, RobotFile)
    return env


def test_everything_follows_from_the_description(tmp_path: Path) -> None:
    env = robot(tmp_path)
    assert env.spec.name == "leg" and env.spec.action_names == ("hip",)
    assert env.spec.observation_size == 1 + 4 * 3 + 2
    start = env.description.start
    assert start[3] == pytest.approx(np.deg2rad(10))  # the rest pose within the range
    assert start[1] == pytest.approx(0.04 + 0.5 * np.cos(start[3]))  # the foot is on the ground
    assert env.description.height == pytest.approx(start[1])
    # One point that carries the robot sinks in by a fiftieth of its height.
    expected = 4 * 9.81 / (0.02 * start[1])
    np.testing.assert_allclose(env.model.contact_stiffness, expected)
    step = env.step_settings
    assert step.control_dt / step.substeps <= env.description.rates.longest_step
    assert "1 action, " in env.summary() and f"{step.substeps} substeps" in env.summary()


def test_corners_of_a_face_share_the_friction_of_one_point(tmp_path: Path) -> None:
    """Where the description has no numbers for it: a limb of boxes wants no shorter steps."""
    boxes = (
        '<body pos="0 0 -0.5"><joint axis="0 1 0"/><geom type="box" size="0.1 0.1 0.1"/>'
        '<geom type="cylinder" size="0.1 0.1" contype="0"/></body>'
    )
    path = tmp_path / "mixed.xml"
    path.write_text(ORIGIN.format(joint=f"<freejoint/>{boxes}", other=""))
    model = rpo.envs.make(str(path), strength=1.0).model
    assert len(model.contact_link) == 1 + 8 + 8 and len(model.planes.link) == 2
    ball = model.friction_stiffness[model.contact_radius > 0].item()
    np.testing.assert_allclose(model.friction_stiffness[model.contact_radius == 0], ball / 4)
    np.testing.assert_allclose(model.planes.friction_stiffness, ball)  # the rims of the cylinder
    assert len(set(model.contact_stiffness)) == 1


def test_what_the_description_or_the_user_says_is_kept(tmp_path: Path) -> None:
    numbers = '<custom><numeric name="contact_stiffness" data="777"/></custom>'
    key = '<keyframe><key qpos="1 1.5 0 0.5"/></keyframe>'
    env = robot(tmp_path, MOTOR + numbers + key, control_frequency=50, substeps=40)
    assert set(env.model.contact_stiffness) == {777.0}
    np.testing.assert_array_equal(env.description.start, [1, 1.5, 0, 0.5])
    assert env.spec.control_dt == 0.02 and env.step_settings.substeps == 40


def test_actions_are_controls_over_their_range(tmp_path: Path) -> None:
    env = robot(tmp_path)
    force = env.description.forces(jnp.array([[-1.0, 0.0, 1.0]]))
    np.testing.assert_allclose(force, [[0, 0, 0]] * 3 + [[-60, -20, 20]])


def test_reward_is_largest_upright_at_the_target_speed(tmp_path: Path) -> None:
    env = robot(tmp_path, target_speed=-2.0)
    start = env.reset(jax.random.key(0), 3).physics
    qd = jnp.zeros((3, 4)).at[:, 0].set(jnp.array([-2.0, 0.0, 3.0]))
    q = jnp.tile(jnp.asarray(env.description.start, jnp.float32), (3, 1))
    state = type(start)(q, qd)
    terms = env.reward_terms(state, jnp.ones((3, 1)), state)
    np.testing.assert_allclose(terms["speed"], [4, 0, -6])
    np.testing.assert_allclose(terms["height"], 0.5)
    np.testing.assert_allclose(terms["upright"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(terms["effort"], -0.05)
    tilted = type(start)(q.at[:, 2].set(0.5), qd)
    upright = env.reward_terms(state, jnp.ones((3, 1)), tilted)["upright"]
    np.testing.assert_allclose(upright, 0.5 * np.cos(0.5), rtol=1e-5)
    observation = env.observe(state)
    names = env.spec.observation_names
    np.testing.assert_allclose(observation[:, names.index("velocity_x")], [-2, 0, 3])
    assert not env.is_terminal(state).any()
    assert env.is_terminal(type(start)(q.at[:, 1].multiply(0.4), qd)).all()
    tilted = type(start)(q.at[:, 2].set(jnp.array([0.0, 1.0, 1.1])), qd)
    assert env.is_terminal(tilted).tolist() == [False, False, True]
    never = robot(tmp_path, termination_upright=-1.0)
    assert not never.is_terminal(type(start)(q.at[:, 2].set(3.0), qd)).any()


def test_without_a_ground_nothing_falls(tmp_path: Path) -> None:
    env = robot(tmp_path, floor="")
    state = env.reset(jax.random.key(0), 2).physics
    assert set(env.reward_terms(state, jnp.zeros((2, 1)), state)) == {"speed", "effort"}
    assert not env.is_terminal(type(state)(0 * state.q, state.qd)).any()


@nightly
def test_episodes_of_the_chosen_step_stay_finite_and_slope_is_right(tmp_path: Path) -> None:
    env = robot(tmp_path)
    state = env.reset(jax.random.key(1), 16)

    def one(state, key):
        action = jax.random.uniform(key, (16, 1), minval=-1, maxval=1)
        state, transition = env.step(state, action)
        return state, (transition.info["non_finite"], jnp.abs(state.physics.qd).max())

    keys = jax.random.split(jax.random.key(2), 100)
    _, (diverged, speed) = jax.jit(lambda s: jax.lax.scan(one, s, keys))(state)
    assert not diverged.any() and speed.max() < 200
    found = check_gradients(env, samples=4, horizon=0, warm_up=4)
    assert found.passed, found.table()


def test_a_urdf_moves_by_its_efforts(tmp_path: Path) -> None:
    path = tmp_path / "cart.urdf"
    path.write_text(URDF.format(effort=5))
    env = rpo.envs.make(str(path), joint_stiffness=0.0)
    assert isinstance(env, RobotFile)
    assert env.spec.action_names == ("elbow",) and env.model.nv == 7
    np.testing.assert_array_equal(env.description.forces(jnp.ones((1, 1)))[:, 0], [0] * 6 + [5])
    assert env.description.height == pytest.approx(0.3)
    assert env.mjcf.lstrip().startswith("<mujoco") and 'type="plane"' in env.mjcf
    path.write_text(URDF.format(effort=0))
    weak = tmp_path / "weak.urdf"
    weak.write_text(URDF.format(effort=0))
    with pytest.raises(ValueError, match="has no actuators, and no effort limits"):
        rpo.envs.make(str(weak))
    strong = rpo.envs.make(str(weak), strength=7.0, joint_stiffness=0.0)
    assert isinstance(strong, RobotFile) and strong.description.action_scale.item() == 7


def test_without_actuators_an_action_moves_the_target_of_a_servo(tmp_path: Path) -> None:
    """As stiff as the effort, critically damped, and saturated at the effort."""
    path = tmp_path / "cart.urdf"
    path.write_text(URDF.format(effort=5))
    env = rpo.envs.make(str(path))
    assert isinstance(env, RobotFile) and env.spec.action_names == ("elbow",)
    assert "1 action (servo target), " in env.summary()
    tendons, actuators = env.model.tendons, env.model.actuators
    assert tendons.stiffness == 5 and actuators.force_upper == 5 == -actuators.force_lower
    # The base is a sphere of the same inertia: each half of the pair turns about the other.
    inertia = 1 / (1 / 1 + 1 / 1)
    np.testing.assert_allclose(tendons.damping, 2 * np.sqrt(5 * inertia))
    np.testing.assert_allclose(env.description.forces(jnp.array([[0.5]]))[:, 0], [0] * 6 + [2.5])
    fast = rpo.envs.make(str(path), joint_stiffness=1e6, control_frequency=100.0)
    np.testing.assert_allclose(fast.model.tendons.stiffness, inertia * 100**2)
    weak = tmp_path / "weak.urdf"
    weak.write_text(URDF.format(effort=0))
    assert rpo.envs.make(str(weak), strength=7.0).model.actuators.force_upper == 7


def test_servos_hold_a_robot_where_it_starts(tmp_path: Path) -> None:
    """Named or not, along slides too, where a span is half the range."""
    path = tmp_path / "leg.xml"
    slide = '<joint type="slide" range="-0.1 0.1" axis="0 0 1"/>'
    other = f'<body>{slide}<geom size="0.05" mass="0.1" contype="0" conaffinity="0"/></body>'
    path.write_text(ORIGIN.format(joint=f"<freejoint/>{other}", other=""))
    env = rpo.envs.make(str(path), strength=50.0)
    assert isinstance(env, RobotFile)
    np.testing.assert_allclose(env.description.action_scale, 0.1)
    held, limp = (rpo.envs.make(str(path), strength=50.0, joint_stiffness=k) for k in (1.0, 0.0))
    places = []
    for one in (held, limp):
        state = one.reset(jax.random.key(0), 2)
        for _ in range(20):
            state, _ = one.step(state, jnp.zeros((2, 1)))
        places.append(np.abs(np.asarray(state.physics.q[:, 7]) - env.description.start[7]).max())
    assert places[0] < 0.01 < places[1]


def test_links_of_a_urdf_may_touch_the_ground_only(tmp_path: Path) -> None:
    """As URDFs are often meant; an MJCF has masks for it."""
    link = """<link name="{name}"><inertial><mass value="1"/>
        <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>
        <collision><geometry><cylinder length="0.4" radius="0.1"/></geometry></collision></link>"""
    joint = """<joint name="{child}" type="revolute"><parent link="{parent}"/>
        <child link="{child}"/><axis xyz="0 1 0"/>
        <limit lower="-1" upper="1" effort="5" velocity="3"/></joint>"""
    links = "".join(link.format(name=name) for name in "abc")
    joints = joint.format(parent="a", child="b") + joint.format(parent="b", child="c")
    path = tmp_path / "legs.urdf"
    path.write_text(f'<robot name="legs">{links}{joints}</robot>')
    with pytest.raises(ValueError, match=r"touch the ground only \(link_contact=False\), or use"):
        rpo.envs.make(str(path))
    env = rpo.envs.make(str(path), link_contact=False)
    assert isinstance(env, RobotFile) and len(env.model.geoms.pairs) == 0
    assert set(env.model.contact_link) == {0, 1, 2}
    with pytest.raises(ValueError, match=r"leg\.xml: link_contact is for URDFs"):
        robot(tmp_path, link_contact=False)


@pytest.mark.parametrize(
    ("joint", "other", "message"),
    [
        ('<joint axis="0 1 0"/>', "", "needs a free joint at its root, or slides"),
        ('<joint axis="0 1 0"/><joint type="slide"/>', "", "needs a free joint at its root"),
        (
            "<freejoint/>",
            '<body name="box" pos="9 0 1"><freejoint/><geom size="1"/></body>',
            "has one root, this has 'ball', 'box'",
        ),
        ("<freejoint/>", "", "no joint besides the root's"),
        ('<joint type="ball"/>', "", "ball joints are not supported"),
    ],
)
def test_what_cannot_walk_is_refused_in_one_line(tmp_path, joint, other, message) -> None:
    path = tmp_path / "robot.xml"
    path.write_text(ORIGIN.format(joint=joint, other=other))
    with pytest.raises(SettingsError, match=message) as caught:
        resolve(str(path))
    assert "\n" not in str(caught.value)


def test_a_description_is_a_task_by_its_path(tmp_path: Path) -> None:
    path = robot(tmp_path).description.path
    resolved = resolve(path, settings={"target_speed": 3.0, "total_steps": 1000})
    assert resolved.task == path and resolved.task_settings["target_speed"] == 3.0
    assert isinstance(resolved.env, RobotFile) and rpo.envs.is_known(path)
    with pytest.raises(SettingsError, match=r"nowhere\.xml.*no such robot description"):
        resolve("nowhere.xml")
    with pytest.raises(SettingsError, match="unknown setting 'targetspeed'"):
        resolve(path, settings={"targetspeed": 3.0})
    with pytest.raises(ValueError, match="termination_height is -1"):
        RobotSettings(termination_height=-1.0)


def test_figures_that_leave_nothing_to_train_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And MuJoCo's own log of them is not left in the user's directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cart.urdf"
    link, arm = URDF.split('<link name="arm">')
    path.write_text(link + "</robot>")
    with pytest.raises(ValueError, match="there is no joint besides the root's"):
        rpo.envs.make(str(path), strength=1.0)
    far = arm.replace("<inertial>", '<inertial><origin xyz="1e6 0 0"/>', 1)
    light = link.replace('value="2"', 'value="1e-6"').replace('"1"', '"1e-6"')
    path.write_text(f'{light}<link name="arm">{far}'.format(effort=1))
    told = pytest.raises(ValueError, match=r"cart\.urdf: its mass matrix has no inverse")
    with told, pytest.warns(UserWarning, match="singular"):
        rpo.envs.make(str(path))
    path.write_text(URDF.replace('radius="0.3"', 'radius="1e-300"').format(effort=1))
    env = rpo.envs.make(str(path))  # a robot without a height has contact as others have it
    assert isinstance(env, RobotFile) and not env.description.stands
    np.testing.assert_array_equal(env.model.contact_stiffness, ContactMaterial().contact_stiffness)
    assert [file.name for file in tmp_path.iterdir()] == ["cart.urdf"]


def test_a_run_finds_its_description_again_and_knows_another(tmp_path: Path, monkeypatch) -> None:
    robot(tmp_path)
    monkeypatch.chdir(tmp_path)
    Run.create(Path("run"), resolve("leg.xml", settings={"total_steps": 1000}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = Run.load(tmp_path / "run")
    assert run.resolved().env.spec.name == "leg"

    robot(tmp_path, rest=MOTOR.replace("20", "21"))
    with pytest.raises(RunError, match=r"leg\.xml is not the description that") as caught:
        run.resolved()
    assert "\n" not in str(caught.value)

    (tmp_path / "leg.xml").rename("leg.xml")  # another robot, but of the same name
    with pytest.raises(RunError, match="is not the description"):
        run.resolved()
    robot(tmp_path / "elsewhere")  # moved together with the run
    assert run.resolved().env.spec.name == "leg"


def test_a_run_that_starts_from_one_takes_its_description_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot(tmp_path)
    monkeypatch.chdir(tmp_path)
    Run.create(Path("run"), resolve("leg.xml", settings={"total_steps": 1000}))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    robot(elsewhere, rest=MOTOR.replace("20", "21"))  # another robot, but of the same name
    run = Run.load(tmp_path / "run")
    assert settings_from(run, None, "rpo", {})[0] == str(tmp_path / "leg.xml")
    assert settings_from(run, "leg.xml", "rpo", {})[0] == "leg.xml"  # if that is what is asked for


def test_a_policy_file_knows_its_description_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot(tmp_path)
    monkeypatch.chdir(tmp_path)
    file = untrained("leg.xml")
    digest = Run.create(Path("run"), resolve("leg.xml")).config["task_file"]["sha256"]
    file = dataclasses.replace(file, facts=dataclasses.replace(file.facts, task_sha256=digest))
    write_policy_file(Path("policy.npz"), file)
    assert load_policy("policy.npz").env.spec.name == "leg"
    robot(tmp_path, rest=MOTOR.replace("20", "21"))
    with pytest.raises(RunError, match=r"leg\.xml is not the description that policy\.npz was"):
        load_policy("policy.npz")
