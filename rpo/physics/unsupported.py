"""What a compiled description may not contain, because the dynamics would silently differ.

Every problem is told in one line that names the element and says what to do where there is
something to do.
"""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np

from rpo.physics.touching import is_disabled

_GEOM = mujoco.mjtGeom
COLLIDERS = (_GEOM.mjGEOM_SPHERE, _GEOM.mjGEOM_CAPSULE, _GEOM.mjGEOM_BOX)


def friendly_name(model: mujoco.MjModel, kind: str, index: int) -> str:
    """Name of an element, or a stand-in like `body_3` where it has none."""
    object_type = getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}")
    return mujoco.mj_id2name(model, object_type, index) or f"{kind}_{index}"


def geom_label(model: mujoco.MjModel, geom: int) -> str:
    """What to call a shape in a message."""
    body = friendly_name(model, "body", int(model.geom_bodyid[geom]))
    return f"geom {friendly_name(model, 'geom', geom)!r} of body {body!r}"


def shape_name(model: mujoco.MjModel, geom: int) -> str:
    """Kind of a shape in a word, with its article."""
    name = _GEOM(model.geom_type[geom]).name.removeprefix("mjGEOM_").lower()
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def unsupported(model: mujoco.MjModel) -> Iterator[str]:
    """What a compiled description has and the dynamics have not, a line for each element."""
    yield from _whole_elements(model)
    yield from _options(model)
    yield from _bodies(model)
    yield from _joints(model)


def _whole_elements(model: mujoco.MjModel) -> Iterator[str]:
    for kind, count in (("flex", model.nflex), ("plugin", model.nplugin)):
        for index in range(count):
            yield f"{kind} {friendly_name(model, kind, index)!r} is not supported"
    for pair in range(0 if is_disabled(model, "contact") else model.npair):
        name = friendly_name(model, "pair", pair)
        yield f"contact pair {name!r} is not supported: use contype and conaffinity"


def _options(model: mujoco.MjModel) -> Iterator[str]:
    for flag in ("SPRING", "DAMPER"):
        if is_disabled(model, flag):
            yield f"flag {flag.lower()!r} is not supported: remove the joints' own values instead"
    if model.opt.density or model.opt.viscosity:
        for geom in np.flatnonzero(model.geom_fluid[:, 0] > 0):
            yield (
                f"{geom_label(model, int(geom))}: fluidshape is not supported; bodies are dragged "
                "as boxes"
            )


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
        losses = np.concatenate([model.dof_damping[dof], model.dof_frictionloss[dof]])
        if free and (losses.any() or np.any(model.jnt_stiffness[joint])):
            yield f"{label}: a free joint cannot have damping, stiffness or frictionloss"
        for name, values in (
            ("dof_dampingpoly", dof),
            ("jnt_stiffnesspoly", joint),
            ("jnt_springyield", joint),
        ):
            # These came with later versions of MuJoCo; a zero is the plain linear joint.
            field = getattr(model, name, None)
            if field is not None and np.any(field[values]):
                yield f"{label}: {name[4:]} is not supported, joints are linear"
