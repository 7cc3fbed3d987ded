"""What a compiled description may not contain, because the dynamics would silently differ.

Every refusal is a `ValueError` of one line that names the element and says what to do where there
is something to do.
"""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np

_GEOM = mujoco.mjtGeom
COLLIDERS = (_GEOM.mjGEOM_SPHERE, _GEOM.mjGEOM_CAPSULE, _GEOM.mjGEOM_BOX)
_NUMBER_PREFIXES = ("contact_", "friction_", "limit_", "pair_")


def refuse_unsupported(model: mujoco.MjModel) -> None:
    """Check a compiled description for features that the dynamics do not have.

    Args:
        model: MuJoCo's compiled model.

    Raises:
        ValueError: in one line, naming the first element that is not supported.
    """
    for problem in _problems(model):
        raise ValueError(problem)


def friendly_name(model: mujoco.MjModel, kind: str, index: int) -> str:
    """Name of an element, or a stand-in like `body_3` where it has none."""
    object_type = getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}")
    return mujoco.mj_id2name(model, object_type, index) or f"{kind}_{index}"


def geom_label(model: mujoco.MjModel, geom: int) -> str:
    """What to call a shape in a message."""
    body = friendly_name(model, "body", int(model.geom_bodyid[geom]))
    return f"geom {friendly_name(model, 'geom', geom)!r} of body {body!r}"


def collides_with_ground(model: mujoco.MjModel, geom: int) -> bool:
    """Whether MuJoCo's collision masks let a shape touch the ground.

    The ground is the plane that is part of the world; without one, a plane with default masks.
    """
    if model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT:
        return False
    planes = np.flatnonzero(
        (model.geom_type == _GEOM.mjGEOM_PLANE)
        & ((model.geom_contype != 0) | (model.geom_conaffinity != 0))
    )
    types = model.geom_contype[planes] if len(planes) else np.array([1])
    affinities = model.geom_conaffinity[planes] if len(planes) else np.array([1])
    touching = (model.geom_contype[geom] & affinities) | (types & model.geom_conaffinity[geom])
    return bool(np.any(touching))


def read_numbers(model: mujoco.MjModel, defaults: dict[str, float]) -> dict[str, float]:
    """Constants that the description overrides with `<custom><numeric>` of the same name.

    Args:
        model: MuJoCo's compiled model.
        defaults: names and default values of the constants.

    Returns:
        The values by name. Numbers of other names are left alone.

    Raises:
        ValueError: if a number is negative, not single, or has a misspelt name.
    """
    values = dict(defaults)
    for index in range(model.nnumeric):
        name = friendly_name(model, "numeric", index)
        data = model.numeric_data[model.numeric_adr[index] :][: model.numeric_size[index]]
        if name not in defaults:
            if name.startswith(_NUMBER_PREFIXES):
                raise ValueError(
                    f"unknown custom numeric {name!r}; known are {', '.join(defaults)}"
                )
            continue
        if len(data) != 1 or not np.isfinite(data[0]) or data[0] < 0.0:
            raise ValueError(f"custom numeric {name!r} must be one number, zero or more")
        values[name] = float(data[0])
    return values


def _problems(model: mujoco.MjModel) -> Iterator[str]:
    yield from _whole_elements(model)
    yield from _options(model)
    yield from _bodies(model)
    yield from _joints(model)
    yield from _actuators(model)
    for geom in range(model.ngeom):
        yield from _geom(model, geom)


def _whole_elements(model: mujoco.MjModel) -> Iterator[str]:
    for kind, count in (
        ("tendon", model.ntendon),
        ("flex", model.nflex),
        ("plugin", model.nplugin),
    ):
        for index in range(count):
            yield f"{kind} {friendly_name(model, kind, index)!r} is not supported"
    for index in range(model.neq):
        kind = mujoco.mjtEq(model.eq_type[index]).name.removeprefix("mjEQ_").lower()
        name = friendly_name(model, "equality", index)
        yield f"equality constraint {name!r} ({kind}) is not supported"
    for pair in range(model.npair):
        name = friendly_name(model, "pair", pair)
        yield f"contact pair {name!r} is not supported: use contype and conaffinity"


def _options(model: mujoco.MjModel) -> Iterator[str]:
    option = model.opt
    for name, value in (("wind", option.wind.any()), ("density", option.density)):
        if value:
            yield f"option {name!r} is not supported: there is no fluid"
    if option.viscosity:
        yield "option 'viscosity' is not supported: there is no fluid"
    for flag in ("SPRING", "DAMPER"):
        if option.disableflags & getattr(mujoco.mjtDisableBit, f"mjDSBL_{flag}"):
            yield f"flag {flag.lower()!r} is not supported: remove the joints' own values instead"


def _bodies(model: mujoco.MjModel) -> Iterator[str]:
    for body in range(model.nbody):
        name = friendly_name(model, "body", body)
        if model.body_mocapid[body] >= 0:
            yield f"body {name!r}: mocap bodies are not supported"
        if model.body_gravcomp[body]:
            yield f"body {name!r}: gravity compensation is not supported"


def _joints(model: mujoco.MjModel) -> Iterator[str]:
    for joint in range(model.njnt):
        label = f"joint {friendly_name(model, 'joint', joint)!r}"
        kind = model.jnt_type[joint]
        if kind == mujoco.mjtJoint.mjJNT_BALL:
            yield f"{label}: ball joints are not supported; use three hinges"
        free = kind == mujoco.mjtJoint.mjJNT_FREE
        dof = slice(model.jnt_dofadr[joint], model.jnt_dofadr[joint] + (6 if free else 1))
        if model.dof_frictionloss[dof].any():
            yield f"{label}: frictionloss is not supported"
        if free and (model.dof_damping[dof].any() or model.jnt_stiffness[joint]):
            yield f"{label}: a free joint cannot have damping or stiffness"
        for name, values in (
            ("dof_dampingpoly", dof),
            ("jnt_stiffnesspoly", joint),
            ("jnt_springyield", joint),
        ):
            # These came with later versions of MuJoCo; a zero is the plain linear joint.
            field = getattr(model, name, None)
            if field is not None and np.any(field[values]):
                yield f"{label}: {name[4:]} is not supported, joints are linear"


def _actuators(model: mujoco.MjModel) -> Iterator[str]:
    transmissions = (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)
    for index in range(model.nu):
        plain = (
            model.actuator_dyntype[index] == mujoco.mjtDyn.mjDYN_NONE
            and model.actuator_gaintype[index] == mujoco.mjtGain.mjGAIN_FIXED
            and model.actuator_biastype[index] == mujoco.mjtBias.mjBIAS_NONE
            and int(model.actuator_trntype[index]) in transmissions
        )
        if not plain:
            name = friendly_name(model, "actuator", index)
            yield f"actuator {name!r} is not supported: only plain motors on joints are"


def _geom(model: mujoco.MjModel, geom: int) -> Iterator[str]:
    body = int(model.geom_bodyid[geom])
    kind = int(model.geom_type[geom])
    label = geom_label(model, geom)
    can_collide = model.geom_contype[geom] != 0 or model.geom_conaffinity[geom] != 0
    if not can_collide or model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT:
        return
    remedy = "set contype and conaffinity to 0 if it is only seen"
    if kind == _GEOM.mjGEOM_PLANE:
        normal = np.zeros(3)
        mujoco.mju_rotVecQuat(normal, np.array([0.0, 0.0, 1.0]), model.geom_quat[geom])
        level = np.abs(normal - [0.0, 0.0, 1.0]).max() < 1e-9 and model.geom_pos[geom, 2] == 0.0
        if body != 0 or not level:
            yield f"{label}: the ground must be the plane z = 0 of the world; {remedy}"
    elif model.body_weldid[body] == 0 or kind in COLLIDERS:
        return
    elif collides_with_ground(model, geom):
        name = _GEOM(kind).name.removeprefix("mjGEOM_").lower()
        yield f"{label}: a {name} cannot touch the ground (use spheres, capsules, boxes); {remedy}"
