"""Which shapes of a compiled description may touch: MuJoCo's masks and flags, and what can be
proved about the reach of limbs."""

from __future__ import annotations

from functools import cached_property

import mujoco
import numpy as np

from rpo.physics.geoms import Floats

_DISABLED = mujoco.mjtDisableBit
_GEOM = mujoco.mjtGeom


def is_disabled(model: mujoco.MjModel, flag: str) -> bool:
    """Whether a flag of MuJoCo's `option` switches something off, `constraint` with all it does."""
    flags = int(getattr(_DISABLED, f"mjDSBL_{flag.upper()}"))
    if flag in ("contact", "limit", "frictionloss", "equality"):
        flags |= int(_DISABLED.mjDSBL_CONSTRAINT)
    return bool(model.opt.disableflags & flags)


def may_touch(model: mujoco.MjModel, a: int, b: int, *, excluded: bool = True) -> bool:
    """Whether MuJoCo would look at two shapes.

    Their masks must meet, and their bodies must not be welded together, parent and child (a parent
    that is fixed to the world counts as none), or (if that counts) named in an `<exclude>`.
    """
    if is_disabled(model, "contact"):
        return False
    meeting = (model.geom_contype[a] & model.geom_conaffinity[b]) | (
        model.geom_contype[b] & model.geom_conaffinity[a]
    )
    bodies = int(model.geom_bodyid[a]), int(model.geom_bodyid[b])
    moving = [int(model.body_weldid[body]) for body in bodies]
    if not meeting or _related(model, *moving):
        return False
    return not (excluded and is_excluded(model, *bodies))


def _related(model: mujoco.MjModel, a: int, b: int) -> bool:
    """Whether two moving bodies (or the world) are the same, or parent and child."""
    if a == b:
        return True
    parents = [int(model.body_weldid[model.body_parentid[body]]) for body in (a, b)]
    parent_filter = not is_disabled(model, "filterparent")
    return parent_filter and a != 0 and b != 0 and (a == parents[1] or b == parents[0])


def is_excluded(model: mujoco.MjModel, a: int, b: int) -> bool:
    """Whether an `<exclude>` names two bodies."""
    signatures = {divmod(int(signature), 1 << 16) for signature in model.exclude_signature}
    return (a, b) in signatures or (b, a) in signatures


def has_friction(model: mujoco.MjModel, a: int, b: int) -> bool:
    """Whether the contact of two shapes has friction (`condim` above 1)."""
    first, second = model.geom_priority[a], model.geom_priority[b]
    if first != second:
        return int(model.geom_condim[a if first > second else b]) > 1
    return max(int(model.geom_condim[a]), int(model.geom_condim[b])) > 1


class Reach:
    """How far shapes can get, whatever their joints do.

    A shape that hangs on hinges only stays in a ball about the anchor of the first of them. If all
    hinges of two shapes are parallel, the same holds for the projections along their axis, whose
    balls are smaller. Slides and free joints reach everything; limits are springs and hold nothing.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self.model = model

    @cached_property
    def _data(self) -> mujoco.MjData:
        data = mujoco.MjData(self.model)
        mujoco.mj_kinematics(self.model, data)
        return data

    def apart(self, a: int, b: int) -> bool:
        """Whether two shapes, or a shape and a plane, provably never touch."""
        of_a, of_b = self._chain(a), self._chain(b)
        if of_a is None or of_b is None:
            return False
        axes = [self._data.xaxis[joint] for joint in of_a + of_b]
        parallel = axes and all(np.linalg.norm(np.cross(axes[0], axis)) < 1e-9 for axis in axes)
        onto = np.eye(3) - np.outer(axes[0], axes[0]) if parallel else np.eye(3)
        plane = int(_GEOM.mjGEOM_PLANE)
        if int(self.model.geom_type[a]) == plane:
            return self._above(b, of_b, a, onto)
        if int(self.model.geom_type[b]) == plane:
            return self._above(a, of_a, b, onto)
        (first, radius), (second, other) = self._ball(a, of_a, onto), self._ball(b, of_b, onto)
        return bool(np.linalg.norm(onto @ (first - second)) > radius + other)

    def _above(self, geom: int, chain: list[int], plane: int, onto: Floats) -> bool:
        normal = self._data.geom_xmat[plane].reshape(3, 3)[:, 2]
        if np.linalg.norm(onto @ normal - normal) > 1e-9:
            onto = np.eye(3)
        center, radius = self._ball(geom, chain, onto)
        return bool(normal @ (center - self._data.geom_xpos[plane]) > radius)

    def _chain(self, geom: int) -> list[int] | None:
        """Hinges from a shape up to the world; None if there is another joint."""
        model = self.model
        body, chain = int(model.geom_bodyid[geom]), []
        while body > 0:
            first = int(model.body_jntadr[body])
            chain += [first + k for k in reversed(range(int(model.body_jntnum[body])))]
            body = int(model.body_parentid[body])
        hinges = all(model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE for joint in chain)
        return chain if hinges else None

    def _ball(self, geom: int, chain: list[int], onto: Floats) -> tuple[Floats, float]:
        """Centre and radius of the ball that a shape stays in, after projection."""
        center, radius = self._data.geom_xpos[geom], self._extent(geom, onto)
        for joint in chain:
            anchor = self._data.xanchor[joint]
            radius += float(np.linalg.norm(onto @ (anchor - center)))
            center = anchor
        return center, radius

    def _extent(self, geom: int, onto: Floats) -> float:
        """Radius about its centre of a shape's projection; infinite if the compiler gives none."""
        model, kind = self.model, int(self.model.geom_type[geom])
        if kind in (int(_GEOM.mjGEOM_CAPSULE), int(_GEOM.mjGEOM_CYLINDER)):
            radius, half = model.geom_size[geom, :2]
            axis = self._data.geom_xmat[geom].reshape(3, 3)[:, 2]
            along = half * np.linalg.norm(onto @ axis)
            return float(along + radius)
        bound = float(model.geom_rbound[geom])
        return bound if bound > 0 else np.inf
