"""States of the reference recordings (DFlex) in our coordinates, and back.

The reference world is y-up, ours z-up: a vector (x, y, z) of ours is (x, z, -y) there; the root
body's own frame is the same. The reference keeps quaternions as x, y, z, w, and the velocity of a
free joint as a spatial twist at the *world* origin: angular velocity first, then the linear
velocity of the point of the body that passes the world origin. Ours is the linear velocity of the
body's own origin, then the angular velocity, both along world axes. The planar hopper's coordinates
(x, height, pitch, hinges) are the same in both.

Everything here is exact, differentiable and works on NumPy and JAX arrays alike, so that gradients
can be mapped by differentiating through it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

BaseKind: TypeAlias = Literal["free", "planar"]
Array = TypeVar("Array", np.ndarray, jax.Array)

_HALF = 0.5**0.5  # cosine and sine of 45 degrees


def state_from_reference(q: Array, qd: Array, kind: BaseKind) -> tuple[Array, Array]:
    """Convert reference coordinates and velocities to ours.

    Args:
        q: reference coordinates (..., nq); free base: position 3, quaternion x y z w, joints.
        qd: reference velocities (..., nv); free base: angular 3, linear 3 at the world
            origin, joints.
        kind: "free" for a free base, "planar" for a robot without one (nothing changes).

    Returns:
        q (..., nq) with position, quaternion w x y z, joints and qd (..., nv) with the linear
        velocity of the base's origin, its angular velocity, joints; z-up world.

    Raises:
        ValueError: if `kind` is unknown or the sizes do not belong together.
    """
    if not _is_free(q, qd, kind):
        return q, qd
    xp = _namespace(q)
    position, angular = q[..., :3], qd[..., :3]
    linear = qd[..., 3:6] + xp.cross(angular, position)
    x, y, z, w = (q[..., i : i + 1] for i in range(3, 7))
    # Left multiplication by the turn of +90 degrees about x, which takes y-up to z-up.
    quaternion = xp.concatenate(
        [_HALF * (w - x), _HALF * (x + w), _HALF * (y - z), _HALF * (z + y)], -1
    )
    coordinates = [vector_from_reference(position), quaternion, q[..., 7:]]
    velocities = [vector_from_reference(linear), vector_from_reference(angular), qd[..., 6:]]
    return xp.concatenate(coordinates, -1), xp.concatenate(velocities, -1)


def state_to_reference(q: Array, qd: Array, kind: BaseKind) -> tuple[Array, Array]:
    """Convert our coordinates and velocities to the reference's: inverse of `state_from_reference`.

    Args:
        q: our coordinates (..., nq).
        qd: our velocities (..., nv).
        kind: "free" or "planar".

    Returns:
        Reference coordinates (..., nq) and velocities (..., nv).

    Raises:
        ValueError: if `kind` is unknown or the sizes do not belong together.
    """
    if not _is_free(q, qd, kind):
        return q, qd
    xp = _namespace(q)
    position = vector_to_reference(q[..., :3])
    angular = vector_to_reference(qd[..., 3:6])
    linear = vector_to_reference(qd[..., :3]) - xp.cross(angular, position)
    w, x, y, z = (q[..., i : i + 1] for i in range(3, 7))
    quaternion = xp.concatenate(
        [_HALF * (x - w), _HALF * (y + z), _HALF * (z - y), _HALF * (w + x)], -1
    )
    coordinates = [position, quaternion, q[..., 7:]]
    return xp.concatenate(coordinates, -1), xp.concatenate([angular, linear, qd[..., 6:]], -1)


def vector_from_reference(vector: Array) -> Array:
    """Turn vectors (..., 3) from the reference's y-up world to our z-up one."""
    x, y, z = (vector[..., k] for k in range(3))
    turned: Array = _namespace(vector).stack([x, -z, y], -1)
    return turned


def vector_to_reference(vector: Array) -> Array:
    """Turn vectors (..., 3) from our z-up world to the reference's y-up one."""
    x, y, z = (vector[..., k] for k in range(3))
    turned: Array = _namespace(vector).stack([x, z, -y], -1)
    return turned


def _is_free(q: Array, qd: Array, kind: BaseKind) -> bool:
    if kind not in ("free", "planar"):
        raise ValueError(f"unknown kind of base {kind!r}: expected 'free' or 'planar'")
    free = kind == "free"
    if q.shape[-1] != qd.shape[-1] + free:
        raise ValueError(
            f"{q.shape[-1]} coordinates and {qd.shape[-1]} velocities do not fit a {kind} base"
        )
    return free


def _namespace(array: Array) -> ModuleType:
    return jnp if isinstance(array, jax.Array) else np
