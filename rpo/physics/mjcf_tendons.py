"""Tendons and actuators of a compiled description.

Fixed tendons become rows of `Tendons`, spatial ones that run straight from site to site become
`Cords`; a tendon that nothing pulls on (no spring, damper, friction, limit or actuator) is left
out. Motors and servos (`position`, `velocity`, `general` with an affine bias) on hinges, slides and
fixed tendons become `Actuators`, and the state-dependent part of a servo a row of `Tendons`; so do
equality constraints (`rpo.physics.mjcf_equality`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np

from rpo.physics.actuators import NO_ACTUATORS, Actuators
from rpo.physics.geoms import Floats
from rpo.physics.mjcf_equality import (
    SLACK,
    is_fixed_tendon,
    read_equalities,
    tendon_coefficients,
    wraps,
)
from rpo.physics.mjcf_tree import Tree
from rpo.physics.tendons import NO_CORDS, NO_TENDONS, STRAND_FIELDS, Cords, Tendons
from rpo.physics.touching import is_disabled
from rpo.physics.unsupported import friendly_name

_WRAP = mujoco.mjtWrap
_JOINTS = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
_TENDON = int(mujoco.mjtTrn.mjTRN_TENDON)


def read_tendons(tree: Tree, numbers: dict[str, float]) -> dict[str, Any]:
    """The fields `tendons`, `cords` and `actuators` of a `Model`.

    Args:
        tree: of the compiled description.
        numbers: values of `LimitSpring` and `JointFriction`.

    Raises:
        ValueError: in one line, naming the first tendon or actuator that is not supported.
    """
    model = tree.model
    for problem in itertools.chain(_tendon_problems(model), _actuator_problems(model)):
        raise ValueError(problem)
    fixed: list[dict[str, Any]] = []
    spatial: list[dict[str, Any]] = []
    for tendon in range(model.ntendon):
        if _is_idle(model, tendon):
            continue
        row = _strand(model, tendon, numbers)
        if is_fixed_tendon(model, tendon):
            fixed.append(row | {"coefficient": tendon_coefficients(model, tendon)})
        else:
            places = map(tree.place_site, map(int, model.wrap_objid[wraps(model, tendon)]))
            path = tuple((link, tuple(map(float, at))) for link, at in places)
            spatial.append(row | {"path": path})
    actuators = _actuators(model)
    if not is_disabled(model, "actuation"):
        fixed += _servos(model, actuators.moment)
    fixed += read_equalities(model)
    return {
        "tendons": Tendons(**_columns(fixed)) if fixed else NO_TENDONS,
        "cords": Cords(**_columns(spatial)) if spatial else NO_CORDS,
        "actuators": actuators,
    }


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {field: [row[field] for row in rows] for field in rows[0]}
    figures = {field: np.array(columns.pop(field), np.float64) for field in STRAND_FIELDS}
    own = {name: np.stack(x) if name == "coefficient" else tuple(x) for name, x in columns.items()}
    return figures | {"names": own.pop("name")} | own


def _strand(model: mujoco.MjModel, tendon: int, numbers: dict[str, float]) -> dict[str, Any]:
    limited = bool(model.tendon_limited[tendon]) and not is_disabled(model, "limit")
    low, high = model.tendon_range[tendon] if limited else (-np.inf, np.inf)
    rest_lower, rest_upper = model.tendon_lengthspring[tendon]
    loss = 0.0 if is_disabled(model, "frictionloss") else model.tendon_frictionloss[tendon]
    return {
        "name": friendly_name(model, "tendon", tendon),
        "stiffness": _first(model.tendon_stiffness, tendon),
        "rest_lower": rest_lower,
        "rest_upper": rest_upper,
        "damping": _first(model.tendon_damping, tendon),
        "frictionloss": loss,
        "frictionloss_speed": numbers["frictionloss_speed"],
        "limit_lower": low,
        "limit_upper": high,
        "limit_stiffness": numbers["limit_stiffness"],
        # Beyond the range only: a cord that is slack brakes nothing.
        "limit_damping": numbers["limit_damping"] + numbers["limit_damping_beyond"],
    }


def _servos(model: mujoco.MjModel, moment: Floats) -> list[dict[str, Any]]:
    """Springs and dampers of the servos, at rest where the length is zero."""
    return [
        SLACK
        | {
            "name": friendly_name(model, "actuator", int(index)),
            "stiffness": -model.actuator_biasprm[index, 1],
            "damping": -model.actuator_biasprm[index, 2],
            "coefficient": moment[index],
        }
        for index in np.flatnonzero(_is_servo(model))
    ]


def _actuators(model: mujoco.MjModel) -> Actuators:
    if not model.nu or is_disabled(model, "actuation"):
        return NO_ACTUATORS
    names = tuple(friendly_name(model, "actuator", index) for index in range(model.nu))
    affine = model.actuator_biastype == mujoco.mjtBias.mjBIAS_AFFINE
    clipped = model.actuator_ctrllimited.astype(bool) & (not is_disabled(model, "clampctrl"))
    limited, servo = model.actuator_forcelimited.astype(bool), _is_servo(model)
    joint = model.dof_jntid
    held = model.jnt_actfrclimited[joint].astype(bool)
    moment = np.stack([_moment(model, index) for index in range(model.nu)])
    forces = np.where(limited[:, None], model.actuator_forcerange, [-np.inf, np.inf])
    for index in np.flatnonzero(servo):  # the only one on its joint, if that is held
        for dof in np.flatnonzero((moment[index] != 0) & held):
            bounds = np.sort(model.jnt_actfrcrange[joint[dof]] / moment[index, dof])
            forces[index] = np.clip(forces[index], *bounds)
            held[dof] = False
    return Actuators(
        names=names,
        moment=moment,
        gain=model.actuator_gainprm[:, 0].copy(),
        offset=np.where(affine, model.actuator_biasprm[:, 0], 0.0),
        control_lower=np.where(clipped, model.actuator_ctrlrange[:, 0], -np.inf),
        control_upper=np.where(clipped, model.actuator_ctrlrange[:, 1], np.inf),
        force_lower=forces[:, 0],
        force_upper=forces[:, 1],
        joint_lower=np.where(held, model.jnt_actfrcrange[joint, 0], -np.inf),
        joint_upper=np.where(held, model.jnt_actfrcrange[joint, 1], np.inf),
        servo=servo,
    )


def _moment(model: mujoco.MjModel, index: int) -> Floats:
    """Joint force per force of an actuator (nv,)."""
    gear, target = model.actuator_gear[index, 0], int(model.actuator_trnid[index, 0])
    if int(model.actuator_trntype[index]) == _TENDON:
        return np.asarray(gear * tendon_coefficients(model, target))
    moment = np.zeros(model.nv)
    moment[model.jnt_dofadr[target]] = gear
    return moment


def _is_servo(model: mujoco.MjModel) -> np.ndarray:
    affine = model.actuator_biastype == mujoco.mjtBias.mjBIAS_AFFINE
    return np.asarray(affine & (model.actuator_biasprm[:, 1:3] != 0).any(axis=1))


def _first(values: Any, index: int) -> float:
    return float(np.ravel(values[index])[0])


def _is_idle(model: mujoco.MjModel, tendon: int) -> bool:
    """Whether a tendon pulls on nothing by itself (what an actuator does is in `Actuators`)."""
    limited = bool(model.tendon_limited[tendon]) and not is_disabled(model, "limit")
    friction = model.tendon_frictionloss[tendon] and not is_disabled(model, "frictionloss")
    springs = (_first(model.tendon_stiffness, tendon), _first(model.tendon_damping, tendon))
    return not (limited or friction or any(springs) or any(_nonlinear(model, tendon)))


def _nonlinear(model: mujoco.MjModel, tendon: int) -> Iterator[str]:
    """Attributes that this version of MuJoCo has and the dynamics have not."""
    for field in ("armature", "stiffnesspoly", "dampingpoly", "springyield"):
        values = getattr(model, f"tendon_{field}", None)  # some came with later versions
        if values is not None and np.any(values[tendon]):
            yield field


def _tendon_problems(model: mujoco.MjModel) -> Iterator[str]:
    """What is not supported of the tendons that are not idle."""
    for tendon in range(model.ntendon):
        label = f"tendon {friendly_name(model, 'tendon', tendon)!r}"
        if _is_idle(model, tendon):
            continue
        for field in _nonlinear(model, tendon):
            yield f"{label}: {field} is not supported"
        if not is_fixed_tendon(model, tendon):
            kinds = {int(kind) for kind in model.wrap_type[wraps(model, tendon)]}
            if kinds != {int(_WRAP.mjWRAP_SITE)}:
                yield (
                    f"{label} is not supported: it must run straight from site to site, "
                    "without pulleys or wrapping"
                )


def _actuator_problems(model: mujoco.MjModel) -> Iterator[str]:
    """What is not supported of the actuators."""
    if is_disabled(model, "actuation"):
        return
    if model.nu and model.opt.disableactuator:
        yield "option 'actuatorgroupdisable' is not supported: remove the actuators instead"
    servos = _is_servo(model)
    for index in range(model.nu):
        label = f"actuator {friendly_name(model, 'actuator', index)!r}"
        for problem in _actuator(model, index, bool(servos[index])):
            yield f"{label} {problem}"


def _actuator(model: mujoco.MjModel, index: int, servo: bool) -> Iterator[str]:
    kind, target = int(model.actuator_trntype[index]), int(model.actuator_trnid[index, 0])
    plain = (
        model.actuator_gaintype[index] == mujoco.mjtGain.mjGAIN_FIXED
        and int(model.actuator_biastype[index])
        in (int(mujoco.mjtBias.mjBIAS_NONE), int(mujoco.mjtBias.mjBIAS_AFFINE))
        and kind in (*_JOINTS, _TENDON)
    )
    if not plain:
        yield "is not supported: only motors and servos on joints and fixed tendons are"
        return
    if model.actuator_dyntype[index] != mujoco.mjtDyn.mjDYN_NONE:
        yield "is not supported: it has an activation of its own; remove dyntype"
    if kind == _TENDON and not is_fixed_tendon(model, target):
        yield "is not supported: it pulls on a spatial tendon"
    held = getattr(model, "tendon_actfrclimited", None)  # came with a later version
    if kind == _TENDON and held is not None and held[target]:
        yield "is not supported: its tendon limits the force (actuatorfrcrange)"
    if kind in _JOINTS and int(model.jnt_type[target]) not in (
        int(mujoco.mjtJoint.mjJNT_HINGE),
        int(mujoco.mjtJoint.mjJNT_SLIDE),
    ):
        yield "is not supported: it must act on a hinge or slide"
    for field in ("damping", "dampingpoly", "armature", "delay"):
        values = getattr(model, f"actuator_{field}", None)
        if values is not None and np.any(values[index]):
            yield f"is not supported: it has {field}"
    if servo:
        yield from _servo(model, index, kind, target)


def _servo(model: mujoco.MjModel, index: int, kind: int, target: int) -> Iterator[str]:
    if (model.actuator_biasprm[index, 1:3] > 0).any():
        yield "is not supported: its position or velocity feedback is positive"
    if kind == _TENDON and not is_fixed_tendon(model, target):
        return
    dofs = np.flatnonzero(_moment(model, index))
    held = (
        model.actuator_forcelimited[index] or model.jnt_actfrclimited[model.dof_jntid[dofs]].any()
    )
    if held and kind == _TENDON:
        yield "is not supported: the force of a servo on a tendon cannot be limited"
    elif held and sum(_moment(model, k)[dofs].any() for k in range(model.nu)) > 1:
        yield "is not supported: a servo of limited force must be alone on its joint"
