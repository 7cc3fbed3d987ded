"""Kinematics and dynamics agree with MuJoCo's C engine, in float64, to 1e-9 relative.

Both start from the same MJCF. Coordinates are the same; MuJoCo's angular velocity of a free joint
is in the body's frame, ours in the world's: v_mujoco = P v with P = diag(1, R^T, 1) orthogonal, and
accelerations go the same way because dR^T/dt w = -R^T (w x w) = 0. So H = P^T M P, and forces
transform with P^T.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import rpo.envs
from rpo.physics import diagnostics
from rpo.physics.mjcf import load_mjcf
from rpo.physics.model import JointType, Model
from tests.marks import rest_nightly

ASSETS = Path(rpo.envs.__path__[0]) / "assets"
TOLERANCE = 1e-9
BATCH = 3
Floats = NDArray[np.float64]


@dataclasses.dataclass
class Quantities:
    """What is compared; the batch is the first axis."""

    link_position: Floats
    joint_axis: Floats
    link_rotation: Floats  # of the last link of each body
    mass_matrix: Floats
    bias_forces: Floats
    acceleration: Floats


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("robot", rest_nightly(["hopper", "humanoid", "ant", "anymal"], first=2))
def test_shipped_robots_agree_with_mujoco(robot: str) -> None:
    assert_agreement((ASSETS / f"{robot}.xml").read_text(), seed=1)


def random_states(model: Model, seed: int) -> tuple[Floats, Floats, Floats]:
    """Coordinates, velocities and forces (BATCH, ...) with unit quaternions."""
    random = np.random.default_rng(seed)
    q = random.uniform(-1.5, 1.5, (BATCH, model.nq))
    for kind, start in zip(model.joint_type, model.coordinate_start, strict=True):
        if kind is JointType.FREE:
            quaternion = random.normal(size=(BATCH, 4))
            quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
            q[:, start + 3 : start + 7] = quaternion
    qd = random.uniform(-3.0, 3.0, (BATCH, model.nv))
    return q, qd, random.uniform(-20.0, 20.0, (BATCH, model.nv))


def ours(model: Model, q: Floats, qd: Floats, force: Floats) -> Quantities:
    last = [i for i in range(model.num_links) if model.mass[i] > 0]
    batch_last = [jnp.asarray(value.T) for value in (q, qd, force)]
    position, rotation = (
        np.moveaxis(np.asarray(value), -1, 0)
        for value in diagnostics.link_poses(model, batch_last[0])
    )
    matrix = diagnostics.mass_matrix(model, batch_last[0])
    return Quantities(
        link_position=position,
        joint_axis=np.einsum("blij,lj->bli", rotation, model.joint_axis),
        link_rotation=rotation[:, last],
        mass_matrix=np.moveaxis(np.asarray(matrix), -1, 0),
        bias_forces=np.asarray(diagnostics.bias_forces(model, *batch_last[:2])).T,
        acceleration=np.asarray(diagnostics.forward_dynamics(model, *batch_last)).T,
    )


def mujocos(compiled: mujoco.MjModel, q: Floats, qd: Floats, force: Floats) -> Quantities:
    disabled = mujoco.mjtDisableBit
    compiled.opt.disableflags |= int(disabled.mjDSBL_CONSTRAINT) | int(disabled.mjDSBL_SPRING)
    compiled.opt.disableflags |= int(disabled.mjDSBL_DAMPER)
    states = [_mujoco_state(compiled, *state) for state in zip(q, qd, force, strict=True)]
    fields = [field.name for field in dataclasses.fields(Quantities)]
    return Quantities(**{name: np.stack([getattr(s, name) for s in states]) for name in fields})


def _mujoco_state(compiled: mujoco.MjModel, q: Floats, qd: Floats, force: Floats) -> Quantities:
    data = mujoco.MjData(compiled)
    data.qpos = q
    mujoco.mj_kinematics(compiled, data)
    turn = np.eye(compiled.nv)  # P
    for joint in np.flatnonzero(compiled.jnt_type == mujoco.mjtJoint.mjJNT_FREE):
        angular = slice(compiled.jnt_dofadr[joint] + 3, compiled.jnt_dofadr[joint] + 6)
        turn[angular, angular] = data.xmat[compiled.jnt_bodyid[joint]].reshape(3, 3).T
    data.qvel = turn @ qd
    data.qfrc_applied = turn @ force
    mujoco.mj_forward(compiled, data)
    matrix = np.zeros((compiled.nv, compiled.nv))
    for row, unit in zip(matrix, np.eye(compiled.nv), strict=True):
        mujoco.mj_mulM(compiled, data, row, unit)

    position = data.xanchor.copy()
    for joint in np.flatnonzero(compiled.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE):
        # MuJoCo records a slide's anchor before the joint moves it.
        coordinate = compiled.jnt_qposadr[joint]
        position[joint] += data.xaxis[joint] * (q[coordinate] - compiled.qpos0[coordinate])
    moving = [body for body in range(compiled.nbody) if compiled.body_jntnum[body] > 0]
    free = compiled.jnt_type == mujoco.mjtJoint.mjJNT_FREE
    axis = np.where(free[:, None], data.xmat[compiled.jnt_bodyid][:, [2, 5, 8]], data.xaxis)
    return Quantities(
        link_position=position,
        joint_axis=axis,
        link_rotation=data.xmat[moving].reshape(-1, 3, 3).copy(),
        mass_matrix=turn.T @ matrix @ turn,
        bias_forces=turn.T @ data.qfrc_bias,
        acceleration=turn.T @ data.qacc,
    )


def assert_agreement(
    xml: str | Path, seed: int, *, without: str = "", tolerance: float = TOLERANCE
) -> None:
    """A description (as text or file) gives the same quantities, apart from one of them."""
    model = load_mjcf(xml)
    text = isinstance(xml, str)
    read = mujoco.MjModel.from_xml_string if text else mujoco.MjModel.from_xml_path
    state = random_states(model, seed)
    mine, theirs = ours(model, *state), mujocos(read(str(xml)), *state)
    for field in dataclasses.fields(Quantities):
        expected = getattr(theirs, field.name)
        error = np.abs(getattr(mine, field.name) - expected).max()
        within = error <= tolerance * max(np.abs(expected).max(), 1e-6)
        assert within or field.name == without, (field.name, error)


# Random trees. Many figures are zeros, ones and quarter turns, which fold while tracing.


def random_tree(bodies: int, seed: int) -> str:
    """MJCF of a random tree: every kind of joint, chains of joints, fixed bodies, similar limbs."""
    random = np.random.default_rng(seed)
    parents = [-1] + [int(random.integers(-1, i)) for i in range(1, bodies)]
    joints = [_random_joints(random, parent) for parent in parents]
    joints[0] = joints[0] or ["hinge"]  # something has to move
    for i in range(1, bodies):
        similar = [j for j in range(1, i) if parents[j] == parents[i]]
        if similar and random.random() < 0.5:
            joints[i] = joints[similar[0]]

    def subtree(root: int) -> str:
        children = [i for i in range(bodies) if parents[i] == root]
        return (
            f'<body name="body_{root}" {_random_place(random)}>'
            + "".join(_joint(random, kind, len(joints[root])) for kind in joints[root])
            + _random_mass(random)
            + "".join(subtree(child) for child in children)
            + "</body>"
        )

    # Static bodies may not collide, so nothing does: contact is no part of this comparison.
    return (
        '<mujoco><compiler angle="radian"/><option gravity="1 2 -9.81"/>'
        '<default><geom contype="0" conaffinity="0"/></default><worldbody>'
        + "".join(subtree(i) for i in range(bodies) if parents[i] < 0)
        + "</worldbody></mujoco>"
    )


def _random_joints(random: np.random.Generator, parent: int) -> list[str]:
    if parent < 0 and random.random() < 0.5:
        return ["free"]
    return [str(random.choice(["hinge", "slide"])) for _ in range(random.integers(0, 4))]


def _joint(random: np.random.Generator, kind: str, joints: int) -> str:
    if kind == "free":
        return "<freejoint/>"
    axis = random.normal(size=3) if random.random() < 0.5 else random.permutation([0, 0, 1])
    reference = random.choice([0.0, random.normal()])
    # Joints of one body may coincide; armature keeps the mass matrix regular then.
    armature = random.choice([0.0 if joints == 1 else 0.1, 0.3])
    return (
        f'<joint type="{kind}" axis="{_text(axis)}" pos="{_text(_offset(random))}" '
        f'ref="{reference:.3f}" armature="{armature:g}"/>'
    )


def _random_place(random: np.random.Generator) -> str:
    quarter_turn = random.permutation([1, 1, 0, 0])
    quaternions = [np.array([1, 0, 0, 0]), quarter_turn, random.normal(size=4)]
    return f'pos="{_text(_offset(random))}" quat="{_text(quaternions[random.integers(3)])}"'


def _random_mass(random: np.random.Generator) -> str:
    """A body's mass: a shape, or figures that belong to none."""
    shape = random.choice(["sphere", "capsule", "box", "figures"])
    if shape != "figures":
        size = random.uniform(0.1, 0.5, {"sphere": 1, "capsule": 2, "box": 3}[shape])
        return f'<geom type="{shape}" size="{_text(size)}" {_random_place(random)}/>'
    mass = random.uniform(0.1, 5.0)
    moments = mass * random.uniform(1.0, 1.9, 3)
    return f'<inertial {_random_place(random)} mass="{mass:.3f}" diaginertia="{_text(moments)}"/>'


def _offset(random: np.random.Generator) -> Floats:
    return random.uniform(-1.0, 1.0, 3) * random.integers(0, 2, 3)


def _text(values: Floats) -> str:
    return " ".join(f"{value:.3f}" for value in values)


@pytest.mark.parametrize("examples", rest_nightly([4, 32]))
def test_random_trees_agree_with_mujoco(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(bodies=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
    def agree(bodies: int, seed: int) -> None:
        assert_agreement(random_tree(bodies, seed), seed)

    agree()


def test_random_trees_cover_what_they_should() -> None:
    """The generator makes free, fixed and several bases, chains, and bodies to be merged."""
    models = [load_mjcf(random_tree(bodies, seed)) for seed in range(10) for bodies in (3, 6)]
    kinds = [set(model.joint_type) for model in models]
    assert {JointType.FREE, JointType.HINGE, JointType.SLIDE} in kinds
    assert any(JointType.FREE not in kind for kind in kinds)
    assert any((model.parent == -1).sum() > 1 for model in models)
    assert any((model.mass == 0).any() for model in models)
    assert any((model.mass > 0).sum() < 3 for model in models)
    assert max(model.num_links for model in models) > 8
