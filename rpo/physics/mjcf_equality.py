"""Equality constraints between joints or fixed tendons, as springs.

A constraint l1 = l1_0 + c0 + c1 (l2 - l2_0) of two lengths (coordinates or fixed tendons; l_0 in
the described pose) becomes a row of `Tendons` of the length l1 - c1 l2. Its spring and damper are
what MuJoCo aims at: for the residual r, `solref` asks for the acceleration -k r - b dr/dt, which is
a force of the same form over the constraint's inertia, taken in the described pose.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np

from rpo.physics.geoms import Floats
from rpo.physics.tendons import STRAND_FIELDS
from rpo.physics.touching import is_disabled
from rpo.physics.unsupported import friendly_name

SLACK: dict[str, Any] = dict.fromkeys(STRAND_FIELDS, 0.0)
SLACK |= {"limit_lower": -np.inf, "limit_upper": np.inf}
"""Figures of a strand that nothing acts through."""
_JOINT, _TENDON = int(mujoco.mjtEq.mjEQ_JOINT), int(mujoco.mjtEq.mjEQ_TENDON)


def read_equalities(model: mujoco.MjModel) -> list[dict[str, Any]]:
    """Rows of `Tendons`, one per active constraint.

    Args:
        model: MuJoCo's compiled model.

    Raises:
        ValueError: in one line, naming the first constraint that is not supported.
    """
    for problem in _problems(model):
        raise ValueError(problem)
    rows = [_row(model, index) for index in _active(model)]
    return [row for row in rows if row["coefficient"].any()]


def tendon_coefficients(model: mujoco.MjModel, tendon: int) -> Floats:
    """Length of a fixed tendon per coordinate (nv,)."""
    result, part = np.zeros(model.nv), wraps(model, tendon)
    for joint, coefficient in zip(model.wrap_objid[part], model.wrap_prm[part], strict=True):
        result[model.jnt_dofadr[joint]] += coefficient
    return result


def wraps(model: mujoco.MjModel, tendon: int) -> slice:
    """Rows of `wrap_type` and the like of a tendon."""
    first = int(model.tendon_adr[tendon])
    return slice(first, first + int(model.tendon_num[tendon]))


def is_fixed_tendon(model: mujoco.MjModel, tendon: int) -> bool:
    """Whether a tendon's length is a linear function of joint coordinates."""
    return int(model.wrap_type[model.tendon_adr[tendon]]) == int(mujoco.mjtWrap.mjWRAP_JOINT)


def _active(model: mujoco.MjModel) -> list[int]:
    active = np.flatnonzero(model.eq_active0) if not is_disabled(model, "equality") else ()
    return list(map(int, active))


def _problems(model: mujoco.MjModel) -> Iterator[str]:
    for index in _active(model):
        kind = int(model.eq_type[index])
        word = mujoco.mjtEq(kind).name.removeprefix("mjEQ_").lower()
        label = f"equality constraint {friendly_name(model, 'equality', index)!r} ({word})"
        if kind not in (_JOINT, _TENDON):
            yield f"{label} is not supported: only those of joints and of fixed tendons are"
        elif model.eq_data[index, 2:5].any():
            yield f"{label} is not supported: polycoef must be linear"
        elif not all(_is_linear(model, kind, target) for target in _targets(model, index)):
            yield f"{label} is not supported: it must be of hinges, slides or fixed tendons"


def _targets(model: mujoco.MjModel, index: int) -> list[int]:
    second = int(model.eq_obj2id[index])
    return [int(model.eq_obj1id[index]), *([second] if second >= 0 else [])]


def _is_linear(model: mujoco.MjModel, kind: int, target: int) -> bool:
    if kind == _TENDON:
        return is_fixed_tendon(model, target)
    hinge, slide = mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE
    return int(model.jnt_type[target]) in (int(hinge), int(slide))


def _length(model: mujoco.MjModel, kind: int, target: int) -> tuple[Floats, float]:
    """Of a joint or tendon: length per coordinate (nv,), and length in the described pose."""
    if kind == _TENDON:
        return tendon_coefficients(model, target), float(model.tendon_length0[target])
    unit = np.zeros(model.nv)
    unit[model.jnt_dofadr[target]] = 1.0
    return unit, float(model.qpos0[model.jnt_qposadr[target]])


def _row(model: mujoco.MjModel, index: int) -> dict[str, Any]:
    kind, (constant, slope) = int(model.eq_type[index]), model.eq_data[index, :2]
    targets = _targets(model, index)
    coefficient, rest = _length(model, kind, targets[0])
    rest += constant
    if len(targets) > 1:
        other, there = _length(model, kind, targets[1])
        coefficient, rest = coefficient - slope * other, rest - slope * there
    stiffness, damping = _aim(model, index)
    inertia = _inertia(model, coefficient)
    return SLACK | {
        "name": friendly_name(model, "equality", index),
        "coefficient": coefficient,
        "stiffness": inertia * stiffness,
        "damping": inertia * damping,
        "rest_lower": rest,
        "rest_upper": rest,
    }


def _aim(model: mujoco.MjModel, index: int) -> tuple[float, float]:
    """Acceleration per residual and per its rate that `solref` asks for (1/s^2, 1/s)."""
    first, second = map(float, model.eq_solref[index])
    widest = float(np.clip(model.eq_solimp[index, 1], 1e-4, 1 - 1e-4))
    if first <= 0:  # given directly
        return -first / widest**2, -second / widest
    if not is_disabled(model, "refsafe"):
        first = max(first, 2 * float(model.opt.timestep))
    return 1 / (widest * first * second) ** 2, 2 / (widest * first)


def _inertia(model: mujoco.MjModel, coefficient: Floats) -> float:
    """1 / (J M^-1 J^T) in the described pose."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    solved = np.zeros((1, model.nv))
    mujoco.mj_solveM(model, data, solved, coefficient[None])
    yielding = float(coefficient @ solved[0])
    if coefficient.any() and not 1e-12 < yielding < 1e12:
        raise ValueError("an equality constraint acts on joints that carry no mass, or too much")
    return 1 / yielding if coefficient.any() else 0.0
