"""What a walking task needs to know of a robot's description."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from typing import Any

import jax.numpy as jnp
import mujoco
import numpy as np
from jax import Array

from rpo.envs.mirrored import mirrored_actions, mirrored_joints, moves_alike
from rpo.envs.randomization import scaled
from rpo.envs.servos import servos_for
from rpo.mirror import Mirror
from rpo.physics.geoms import Floats
from rpo.physics.mjcf import Change, attempt, load_mjcf, load_urdf, parse_description
from rpo.physics.model import JointType, Model
from rpo.physics.stiffness import Rates, fastest_rates, in_world

SINKING = 0.02
"""How deep one contact point that carries the robot is in the ground, over the root's height."""
LOWEST = 1e-3
"""Height of a root, m, below which it says nothing of the robot's size."""
CORNERS = 4
"""Of a face: a box has so many, and the end of a cylinder so many points on which it stands."""


@dataclasses.dataclass(frozen=True, eq=False)
class Description:
    """A robot with a free or planar root, and how it starts.

    Args:
        path: of the file.
        mjcf: what to draw it from.
        model: the robot.
        base: link that carries the root's mass; the links before it are its joints.
        start: coordinates at the start (nq,).
        start_rotation: of the base there (3, 3).
        height: of the base there, over z = 0, m.
        control_frequency: actions per second.
        stands: whether there is a ground and gravity, so that height means something.
        joint_names: of the joints that are not the root's.
        joint_coordinates, joint_velocities: their rows of q and qd.
        has_servos: whether it has no actuators and servos stand for them.
        action_names: of the actuators, or of the joints that are pushed.
        action_scale, action_offset: control (or joint force) of an action (actions, 1).
        rates: its fastest spring and damper.
        mirror: what exchanging left and right does to joints (in the place of observations) and
            actions, if the robot's halves are alike.
    """

    path: str
    mjcf: str
    model: Model
    base: int
    start: Floats
    start_rotation: Floats
    height: float
    stands: bool
    control_frequency: float
    joint_names: tuple[str, ...]
    joint_coordinates: tuple[int, ...]
    joint_velocities: tuple[int, ...]
    has_servos: bool
    action_names: tuple[str, ...]
    action_scale: Floats
    action_offset: Floats
    rates: Rates
    mirror: Mirror | None = None

    def forces(self, action: Array, strength: Array | None = None) -> Array:
        """Joint forces (nv, batch) of actions (actions, batch) in [-1, 1], of actuators with these
        factors of strength (actions, batch)."""
        scale = jnp.asarray(self.action_scale, action.dtype)
        control = scale * action + jnp.asarray(self.action_offset, action.dtype)
        if self.model.actuators.names:
            return self.model.actuators.forces(control, strength)
        rest = jnp.zeros((self.model.nv, action.shape[1]), action.dtype)
        return rest.at[np.array(self.joint_velocities)].set(scaled(control, strength))


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a user says about a description.

    Args:
        strength: largest joint force, where the description says nothing of actuators and efforts.
        joint_stiffness: of the servos of a robot without actuators, over the largest force, per
            span of an action; 0 for none.
        control_frequency: actions per second; 0 for what suits the robot's height.
        link_contact: of a URDF, whether links may touch one another, or the ground only.
    """

    strength: float = 0.0
    joint_stiffness: float = 0.0
    control_frequency: float = 0.0
    link_contact: bool = True


def read_description(path: str, reading: Reading = Reading()) -> Description:
    """Reads a robot that is to walk. One that has not changed since is the same object.

    Args:
        path: of the MJCF or URDF.
        reading: what the user says about it.

    Raises:
        ValueError: in one line, if there is no such file, or the robot cannot be simulated or
            cannot walk.
    """
    try:
        facts = os.stat(path)
        changed = facts.st_mtime_ns, facts.st_size
        return _read_description(path, reading, *changed)
    except FileNotFoundError:  # say what is missing
        return _read_description.__wrapped__(path, reading, 0, 0)


@functools.lru_cache(maxsize=8)
def _read_description(path: str, reading: Reading, changed: int, size: int) -> Description:
    del changed, size  # they make another file of the same name another robot
    urdf = path.lower().endswith(".urdf")
    if not (urdf or reading.link_contact):
        raise ValueError(f"{path}: link_contact is for URDFs; an MJCF has contype and conaffinity")
    model = _load(path, reading)
    spec = parse_description(path, urdf=urdf)
    if urdf:  # the ground that `load_urdf` gives it, to be seen
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    compiled = spec.compile()
    base = _base(path, model)
    names = model.joint_names[base + 1 :]
    coordinates = model.coordinate_start[base + 1 :]
    velocities = model.velocity_start[base + 1 :]
    start = _start(model, compiled)
    data = mujoco.MjData(compiled)
    data.qpos = start
    mujoco.mj_kinematics(compiled, data)
    body = int(compiled.jnt_bodyid[base])
    height = float(data.xpos[body, 2])
    frequency = reading.control_frequency or natural_frequency(height)
    has_servos = bool(reading.joint_stiffness) and not model.actuators.names
    if has_servos:
        effort = _efforts(path, compiled, velocities, reading.strength)
        of_joints = spec, compiled, start, names, list(velocities), effort
        wishes = reading.joint_stiffness, 1.0 / frequency
        add_servos = attempt(path, servos_for, *of_joints, *wishes)
        add_servos(spec)
        model, compiled = _load(path, reading, add_servos), spec.compile()
    actions = _actions(path, model, compiled, names, velocities, reading.strength)
    grounded = len(model.contact_link) > 0 or len(model.planes.link) > 0
    model = _with_own_contact(model, compiled, height)
    description = Description(
        path=path,
        mjcf=spec.to_xml() if urdf else path,
        model=model,
        base=base,
        start=start,
        start_rotation=data.xmat[body].reshape(3, 3).copy(),
        height=height,
        stands=bool(grounded and model.gravity[2] < 0 and height > LOWEST),
        control_frequency=frequency,
        joint_names=names,
        joint_coordinates=coordinates,
        joint_velocities=velocities,
        has_servos=has_servos,
        **actions,
        rates=attempt(path, fastest_rates, model, compiled, start),
    )
    return dataclasses.replace(description, mirror=attempt(path, _mirror, description, compiled))


def _load(path: str, reading: Reading, change: Change | None = None) -> Model:
    try:
        if not path.lower().endswith(".urdf"):
            return load_mjcf(path, change=change)
        contact = reading.link_contact
        return load_urdf(path, floating_base=True, link_contact=contact, change=change)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None


def natural_frequency(height: float) -> float:
    """Actions per second: about twenty while something falls from the root's height, m."""
    fall = math.sqrt(max(height, 0.1) / 9.81)
    return float(np.clip(round(20 / fall), 30, 200))


def _mirror(description: Description, compiled: mujoco.MjModel) -> Mirror | None:
    """What a mirror does to joints (in the place of observations) and actions, if it does at all.

    Args:
        description: the robot, without its mirror.
        compiled: the same for MuJoCo.
    """
    joints, turned = mirrored_joints(description.model), description.start_rotation
    flip = np.diag([1.0, -1.0, 1.0])
    if joints is None or not np.allclose(flip @ turned @ flip, turned):
        return None

    def control(action: Floats) -> Floats:
        controls: Floats = description.action_scale[:, 0] * action + description.action_offset[:, 0]
        return controls

    forces = np.zeros((compiled.nv, len(description.action_names)))
    data = mujoco.MjData(compiled)
    data.qpos = description.start
    for k, action in enumerate(np.eye(forces.shape[1])):
        if compiled.nu:  # without JAX, which whoever makes the task may still have to set up
            data.ctrl = control(action) - control(0 * action)
            mujoco.mj_forward(compiled, data)
            forces[:, k] = data.qfrc_actuator
        else:
            forces[list(description.joint_velocities), k] = control(action)
    actions = mirrored_actions(forces[6:], joints)
    if actions is None or not moves_alike(compiled, description.start, joints, actions, control):
        return None
    return Mirror(joints, actions)


def _with_own_contact(model: Model, compiled: mujoco.MjModel, height: float) -> Model:
    """Contact that suits the robot's weight, where the description says nothing about it.

    One point that carries the robot sinks in by a fiftieth of its height; the other figures keep
    their usual proportions to the stiffness. The corners of a face share the friction of one point:
    a box rubs no more than a ball, and light limbs with many corners do not want shorter steps.
    """
    names = {compiled.numeric(k).name for k in range(compiled.nnumeric)}
    weight = float(compiled.body_mass.sum() * np.linalg.norm(model.gravity))
    if not weight or not height > LOWEST:
        return model
    stiffness = weight / (SINKING * height)
    changes: dict[str, Any] = {}
    figures: dict[str, Any]
    if not names & {"contact_stiffness", "contact_damping", "friction_stiffness"}:
        shares = {"stiffness": 1.0, "damping": 0.1, "friction_stiffness": 0.05}
        for field, share in shares.items():
            own = field if field == "friction_stiffness" else f"contact_{field}"
            changes[own] = np.full(len(model.contact_link), share * stiffness)
        places = len(model.planes.link)
        figures = {field: np.full(places, share * stiffness) for field, share in shares.items()}
        changes["friction_stiffness"][model.contact_radius == 0] /= CORNERS
        sharp = (model.planes.radius == 0) & ~model.planes.curved
        figures["friction_stiffness"][sharp] /= CORNERS
        changes["planes"] = dataclasses.replace(model.planes, **figures)
    if not names & {"pair_stiffness", "pair_damping", "pair_friction_stiffness"}:
        shares = {"stiffness": 1.0, "damping": 0.01, "friction_stiffness": 0.01}
        count = len(model.geoms.names)
        figures = {field: np.full(count, share * stiffness) for field, share in shares.items()}
        changes["geoms"] = dataclasses.replace(model.geoms, **figures)
    return dataclasses.replace(model, **changes)


def _base(path: str, model: Model) -> int:
    """Link that carries the root's mass."""
    roots = np.flatnonzero(model.parent == -1)
    if len(roots) > 1:
        named = ", ".join(repr(model.link_names[root]) for root in roots)
        raise ValueError(f"{path}: a robot that walks has one root, this has {named}")
    if model.joint_type[0] is JointType.FREE:
        return 0
    base = int(np.flatnonzero(model.mass > 0)[0])
    kinds = [model.joint_type[link] for link in range(base + 1)]
    chain = model.parent[: base + 1].tolist() == list(range(-1, base))
    ordered = sorted(kinds) == kinds  # slides before hinges: along the world's axes
    if not chain or not ordered or kinds[0] is not JointType.SLIDE:
        raise ValueError(
            f"{path}: a robot that walks needs a free joint at its root, or slides and then hinges"
        )
    return base


def _actions(
    path: str,
    model: Model,
    compiled: mujoco.MjModel,
    names: tuple[str, ...],
    velocities: tuple[int, ...],
    strength: float,
) -> dict[str, Any]:
    """Names, scale and offset of the actions."""
    actuators = model.actuators
    if actuators.names:
        low, high = actuators.control_lower, actuators.control_upper
        ranged = np.isfinite(low) & np.isfinite(high)
        low, high = np.where(ranged, low, -1.0), np.where(ranged, high, 1.0)
        return {
            "action_names": actuators.names,
            "action_scale": 0.5 * (high - low)[:, None],
            "action_offset": 0.5 * (high + low)[:, None],
        }
    scale = _efforts(path, compiled, velocities, strength)
    return {
        "action_names": names,
        "action_scale": scale[:, None],
        "action_offset": np.zeros((len(scale), 1)),
    }


def _efforts(
    path: str, compiled: mujoco.MjModel, velocities: tuple[int, ...], strength: float
) -> Floats:
    """Largest force of each joint that is pushed."""
    if not velocities:
        raise ValueError(f"{path}: nothing can be moved: there is no joint besides the root's")
    joints = compiled.dof_jntid[list(velocities)]
    efforts = compiled.jnt_actfrcrange[joints, 1] * compiled.jnt_actfrclimited[joints]
    scale: Floats = np.where(efforts > 0, efforts, strength)
    if not scale.all():
        raise ValueError(
            f"{path} has no actuators, and no effort limits that could stand for them; say how "
            "strong its joints are (strength)"
        )
    return scale


def _start(model: Model, compiled: mujoco.MjModel) -> Floats:
    """The first keyframe, or the rest pose within the joints' ranges, on the ground (nq,)."""
    if compiled.nkey:
        keyframe: Floats = compiled.key_qpos[0].copy()
        return keyframe
    q: Floats = compiled.qpos0.copy()
    for link, kind in enumerate(model.joint_type):
        if kind is not JointType.FREE:
            row, dof = model.coordinate_start[link], model.velocity_start[link]
            q[row] = np.clip(q[row], model.limit_lower[dof], model.limit_upper[dof])
    return on_the_ground(model, compiled, q)


def on_the_ground(model: Model, compiled: mujoco.MjModel, q: Floats) -> Floats:
    """A pose (nq,) moved up or down until its lowest point touches z = 0."""
    q = q.copy()
    data = mujoco.MjData(compiled)
    data.qpos = q
    mujoco.mj_kinematics(compiled, data)
    free = model.joint_type[0] is JointType.FREE
    upright = [
        k
        for k in range(1 if free else model.num_links)
        if free or (model.joint_type[k] is JointType.SLIDE and abs(data.xaxis[k, 2]) > 0.99)
    ]
    if not upright or not len(model.contact_link):
        return q
    points = zip(model.contact_link, model.contact_position, model.contact_radius, strict=True)
    lowest = min(in_world(data, model, int(link), at)[2] - radius for link, at, radius in points)
    link = upright[0]
    coordinate = 2 if free else model.coordinate_start[link]
    q[coordinate] -= lowest * (1.0 if free else np.sign(data.xaxis[link, 2]))
    return q
