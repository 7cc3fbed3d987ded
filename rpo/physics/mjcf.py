"""Robot descriptions (MJCF, URDF) to `Model`, through MuJoCo's compiler.

What is taken over: the tree of bodies with free, slide and hinge joints (several per body too),
masses and inertias, `armature`, `damping`, `stiffness`, `springref`, `range`, `frictionloss`,
gravity, a fluid (`rpo.physics.fluid`), tendons and actuators (`rpo.physics.mjcf_tendons`), and the
shapes that collide with planes (`rpo.physics.mjcf_planes`) or with one another. Bodies without a
joint are merged into the body they are fixed to. What the dynamics do not have is refused by name
(`rpo.physics.unsupported`). What actuators do with controls is kept as `Model.actuators`, for the
task to use.

There is no ground unless MJCF has a plane; a URDF, which cannot have one, stands on z = 0. Contact
is a spring-damper. Its constants are not MuJoCo's, so MJCF carries them as custom numbers, read by
name (defaults: `ContactMaterial`, `LimitSpring`, `JointFriction`):

    <custom>
      <numeric name="contact_stiffness" data="20000"/>
      <numeric name="contact_damping" data="2000"/>
      <numeric name="friction_stiffness" data="1000"/>
      <numeric name="limit_stiffness" data="1000"/>
      <numeric name="limit_damping" data="0"/>
      <numeric name="limit_damping_beyond" data="10"/>
      <numeric name="frictionloss_speed" data="0.1"/>
    </custom>

The friction coefficient is each geom's own `friction` (its first number). Contact of links with one
another has numbers of its own, see `rpo.physics.mjcf_geoms`.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import mujoco
import numpy as np

from rpo.physics.fluid import NO_FLUID, Fluid
from rpo.physics.inertia import (
    NOTHING,
    MassProperties,
    combine,
    reference_mass_properties,
    rotation_matrix,
)
from rpo.physics.mjcf_checks import check_spec, check_text, exists, numbers_out_of_range
from rpo.physics.mjcf_geoms import read_geoms
from rpo.physics.mjcf_numbers import (
    ContactMaterial,
    JointFriction,
    LimitSpring,
    PairMaterial,
    all_numbers,
    read_numbers,
)
from rpo.physics.mjcf_planes import read_planes
from rpo.physics.mjcf_tendons import read_tendons
from rpo.physics.mjcf_tree import IDENTITY, Pose, Tree
from rpo.physics.model import JointType, Model
from rpo.physics.touching import is_disabled
from rpo.physics.unsupported import friendly_name, unsupported

InertiaRule: TypeAlias = Literal["physical", "reference"]
Source: TypeAlias = str | os.PathLike[str]
Change: TypeAlias = Callable[[mujoco.MjSpec], None]


def load_mjcf(
    source: Source,
    *,
    inertia: InertiaRule = "physical",
    name: str | None = None,
    change: Change | None = None,
) -> Model:
    """Load a robot from an MJCF file or from MJCF text.

    Args:
        source: path of the file, or the XML itself (anything that starts with `<`).
        inertia: "physical" for the compiler's masses and inertias, "reference" for those of
            `rpo.physics.inertia.reference_mass_properties` (shapes only, density 1000).
        name: what to call the model; by default the name in the description.
        change: what to do to the description (a `MjSpec`) before it is compiled.

    Returns:
        The robot as constants, in SI units and a z-up world.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one line, if the description is malformed or has an unsupported feature.
    """
    if inertia not in ("physical", "reference"):
        raise ValueError(f"unknown inertia {inertia!r}: expected 'physical' or 'reference'")
    label, spec = _parse(source)
    if change is not None:
        change(spec)
    model = attempt(label, spec.compile)
    return _finish(label, model, inertia, None, name or spec.modelname)


_REMEDIES = {
    "set contype and conaffinity so that they do not meet": (
        "let links touch the ground only (link_contact=False)"
    ),
    "set contype and conaffinity to 0": "leave its collision out",
}
"""What a URDF has in the place of MJCF's masks."""


def load_urdf(
    source: Source,
    *,
    floating_base: bool,
    contact: ContactMaterial | None = None,
    limit: LimitSpring | None = None,
    pairs: PairMaterial | None = None,
    joint_friction: JointFriction | None = None,
    link_contact: bool = True,
    friction_coefficient: float = 1.0,
    name: str | None = None,
    change: Change | None = None,
) -> Model:
    """Load a robot from a URDF file or from URDF text.

    Args:
        source: path of the file, or the XML itself (anything that starts with `<`).
        floating_base: whether the root link moves freely; otherwise it is fixed to the world, and
            its shapes cannot touch anything.
        contact: constants of the ground contact.
        limit: constants of the joint limits.
        pairs: constants of the contact between links.
        joint_friction: constant of the joints' dry friction.
        link_contact: whether links may touch one another, or the ground only.
        friction_coefficient: Coulomb coefficient of every contact.
        name: what to call the model; by default the robot's name in the description.
        change: what to do to the description (a `MjSpec`) before it is compiled.

    Returns:
        The robot as constants, in SI units and a z-up world.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one line, if the description is malformed or has an unsupported feature.
    """
    label, spec = _parse(source, urdf=True, floating_base=floating_base)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    if change is not None:
        change(spec)
    model = attempt(label, spec.compile)
    plane = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    welded = (model.body_weldid[model.geom_bodyid] == 0) & ~plane
    model.geom_contype[welded] = model.geom_conaffinity[welded] = 0
    if not link_contact:
        model.geom_conaffinity[~plane] = 0
        model.geom_contype[plane] = 0
    model.geom_friction[:, 0] = friction_coefficient
    numbers = all_numbers(contact, limit, pairs, joint_friction)
    try:
        return _finish(label, model, "physical", numbers, name or spec.modelname)
    except ValueError as error:
        told = str(error)
        for mjcf, urdf in _REMEDIES.items():
            told = told.replace(mjcf, urdf)
        raise ValueError(told) from None


def parse_description(source: Source, *, urdf: bool = False) -> Any:
    """A description as MuJoCo's `MjSpec`, to be changed and compiled.

    Args:
        source: path of the file, or the XML itself (anything that starts with `<`).
        urdf: whether it is one; its root then moves freely, as by `load_urdf`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one line, if it is malformed.
    """
    return _parse(source, urdf=urdf, floating_base=urdf)[1]


def _parse(
    source: Source, *, urdf: bool = False, floating_base: bool = False
) -> tuple[str, mujoco.MjSpec]:
    text = os.fspath(source)
    label, read = text, mujoco.MjSpec.from_file
    if text.lstrip().startswith("<"):
        label, read = "robot description", mujoco.MjSpec.from_string
    elif not exists(text):
        shown = repr(text) if len(text) < 200 else f"{text[:100]!r}..."
        raise FileNotFoundError(f"{shown}: no such robot description")
    attempt(label, check_text, text)
    spec = attempt(label, read, text)
    attempt(label, check_spec, spec)
    if urdf:
        spec.compiler.fusestatic = False  # the merge is done here, with all names still known
        root = spec.worldbody.first_body()
        if floating_base and root is not None and root.first_joint() is None:
            root.add_freejoint(name=f"{root.name}_free")
    return label, spec


def attempt(label: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call MuJoCo; errors become one line, warnings Python's (MuJoCo would write a log file)."""
    messages: list[str] = []
    mujoco.set_mju_user_warning(messages.append)
    try:
        return call(*arguments)
    except ValueError as error:
        said = _one_line(str(error)).removeprefix("Error: ")
        if "'package:" in said:
            said += "; write paths of meshes relative to the description"
        raise ValueError(said if said.startswith(f"{label} ") else f"{label}: {said}") from None
    finally:
        mujoco.set_mju_user_warning(None)
        for message in messages:
            warnings.warn(f"{label}: {_one_line(message)}", stacklevel=4)


def _finish(
    label: str,
    model: mujoco.MjModel,
    inertia: InertiaRule,
    numbers: dict[str, float] | None,
    name: str,
) -> Model:
    """Checks a compiled description and takes it over; without `numbers` it has its own."""
    try:
        for problem in itertools.chain(numbers_out_of_range(model), unsupported(model)):
            raise ValueError(problem)
        own = read_numbers(model) if numbers is None else numbers
        return _convert(model, inertia, own, name)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


def _one_line(message: str) -> str:
    return ", ".join(line.strip() for line in message.splitlines() if line.strip())


def _convert(
    model: mujoco.MjModel, inertia: InertiaRule, numbers: dict[str, float], name: str
) -> Model:
    tree = Tree(model)
    links: list[dict[str, Any]] = []
    for body in range(1, model.nbody):
        if model.body_weldid[body] == body:
            _append_links(tree, body, links)
    for body, properties in _merged_mass_properties(tree, inertia).items():
        links[tree.last_link[body]] |= {
            "mass": properties.mass,
            "center_of_mass": properties.center_of_mass - tree.origin[body],
            "inertia": properties.inertia,
        }
    if not links:
        raise ValueError("there is no joint, so nothing can move")
    columns = {field: [link[field] for link in links] for field in links[0]}
    names = {"link_name", "joint_name", "joint_type"}
    arrays: dict[str, Any] = {field: np.array(columns[field]) for field in columns.keys() - names}
    return Model(
        name=name,
        link_names=tuple(columns["link_name"]),
        joint_names=tuple(columns["joint_name"]),
        joint_type=tuple(columns["joint_type"]),
        gravity=np.zeros(3) if is_disabled(model, "gravity") else model.opt.gravity.copy(),
        geoms=read_geoms(tree, numbers),
        **arrays,
        **_degrees_of_freedom(model, numbers),
        **read_planes(tree, numbers),
        **read_tendons(tree, numbers),
        fluid=_fluid(tree),
    )


def _append_links(tree: Tree, body: int, links: list[dict[str, Any]]) -> None:
    """One link per joint of the body, in MuJoCo's order: each joint acts on top of the previous."""
    model = tree.model
    parent_body = model.body_weldid[model.body_parentid[body]]
    parent, parent_origin = tree.last_link[parent_body], tree.origin[parent_body]
    placed = tree.in_parent(body)
    first = model.body_jntadr[body]
    last = first + model.body_jntnum[body] - 1
    for joint in range(first, last + 1):
        kind = _JOINT_TYPES[model.jnt_type[joint]]
        anchor = np.zeros(3) if kind is JointType.FREE else model.jnt_pos[joint].copy()
        pose = IDENTITY if kind is JointType.FREE else placed.then(anchor, IDENTITY.quaternion)
        pose = _without_offset(model, joint, kind, pose)
        body_name, joint_name = friendly_name(model, "body", body), model.joint(joint).name
        joint_name = joint_name or f"{body_name}_joint_{joint - first}"
        links.append(
            {
                "link_name": body_name if joint == last else f"{body_name}/{joint_name}",
                "joint_name": joint_name,
                "joint_type": kind,
                "parent": parent,
                "joint_position": pose.position - parent_origin,
                "joint_quaternion": pose.quaternion,
                "joint_axis": model.jnt_axis[joint] / np.linalg.norm(model.jnt_axis[joint]),
                "mass": 0.0,
                "center_of_mass": np.zeros(3),
                "inertia": np.zeros((3, 3)),
            }
        )
        parent, parent_origin, placed = len(links) - 1, anchor, IDENTITY
    tree.last_link[body], tree.origin[body] = parent, parent_origin


def _without_offset(model: mujoco.MjModel, joint: int, kind: JointType, pose: Pose) -> Pose:
    """Pose at coordinate zero, where `ref` says that the described pose has another coordinate."""
    reference = model.qpos0[model.jnt_qposadr[joint]]
    if kind is JointType.FREE or reference == 0.0:
        return pose
    if kind is JointType.SLIDE:
        return pose.then(-reference * model.jnt_axis[joint], IDENTITY.quaternion)
    turn = np.zeros(4)
    mujoco.mju_axisAngle2Quat(turn, model.jnt_axis[joint], -reference)
    return pose.then(np.zeros(3), turn)


_JOINT_TYPES = {
    int(mujoco.mjtJoint.mjJNT_FREE): JointType.FREE,
    int(mujoco.mjtJoint.mjJNT_SLIDE): JointType.SLIDE,
    int(mujoco.mjtJoint.mjJNT_HINGE): JointType.HINGE,
}


def _merged_mass_properties(tree: Tree, inertia: InertiaRule) -> dict[int, MassProperties]:
    """Mass properties of each moving body with all that is fixed to it, in its frame."""
    model = tree.model
    parts: dict[int, list[MassProperties]] = {
        body: [] for body in range(1, model.nbody) if model.body_weldid[body] == body
    }
    for body in range(1, model.nbody):
        if (moving := int(model.body_weldid[body])) == 0:
            continue
        own = NOTHING
        if inertia == "reference":
            own = reference_mass_properties(model, body)
        elif model.body_mass[body] > 0.0:
            axes = rotation_matrix(model.body_iquat[body])
            tensor = axes @ np.diag(model.body_inertia[body]) @ axes.T
            own = MassProperties(float(model.body_mass[body]), model.body_ipos[body].copy(), tensor)
        pose = tree.pose[body]
        parts[moving].append(own.moved(pose.position, pose.rotation))
    return {body: combine(own) for body, own in parts.items()}


def _degrees_of_freedom(model: mujoco.MjModel, numbers: dict[str, float]) -> dict[str, Any]:
    joint = model.dof_jntid
    free = model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE
    limited = model.jnt_limited[joint].astype(bool) & ~free & (not is_disabled(model, "limit"))
    coordinate = model.jnt_qposadr[joint]
    return {
        "armature": model.dof_armature.copy(),
        "damping": model.dof_damping.copy(),
        "stiffness": np.where(free, 0.0, model.jnt_stiffness[joint]),
        "spring_target": np.where(free, 0.0, model.qpos_spring[coordinate]),
        "limit_lower": np.where(limited, model.jnt_range[joint, 0], -np.inf),
        "limit_upper": np.where(limited, model.jnt_range[joint, 1], np.inf),
        "limit_stiffness": np.where(free, 0.0, numbers["limit_stiffness"]),
        "limit_damping": np.where(free, 0.0, numbers["limit_damping"]),
        "limit_damping_beyond": np.where(limited, numbers["limit_damping_beyond"], 0.0),
        "frictionloss": model.dof_frictionloss * (not is_disabled(model, "frictionloss")),
        "frictionloss_speed": np.where(free, 0.0, numbers["frictionloss_speed"]),
    }


def _fluid(tree: Tree) -> Fluid:
    """The medium, and a box for every body that has mass and moves."""
    model, option = tree.model, tree.model.opt
    bodies = [b for b in range(model.nbody) if model.body_weldid[b] and model.body_mass[b] > 0]
    if not (option.density or option.viscosity):
        return NO_FLUID
    moving = model.body_weldid[bodies]
    poses = [tree.pose[b].then(model.body_ipos[b], model.body_iquat[b]) for b in bodies]
    moments, mass = model.body_inertia[bodies], model.body_mass[bodies]
    squares = (moments.sum(axis=1, keepdims=True) - 2 * moments) * 6 / mass[:, None]
    return Fluid(
        link=np.array([tree.last_link[body] for body in moving], np.int64),
        position=np.array(
            [p.position - tree.origin[body] for p, body in zip(poses, moving, strict=True)]
        ),
        quaternion=np.array([pose.quaternion for pose in poses]),
        size=np.sqrt(np.maximum(squares, 0.0)),
        density=float(option.density),
        viscosity=float(option.viscosity),
        wind=option.wind.copy(),
    )
