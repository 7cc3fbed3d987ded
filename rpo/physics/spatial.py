"""Vector algebra on separate components, with constants folded while tracing.

A `Scalar` is a Python float, a NumPy constant of shape (links, 1) or a traced array of shape
(links, batch). Vectors are tuples of three scalars, rotations tuples of three columns. Keeping
every component apart makes the whole step one elementwise kernel over contiguous memory; stacking
them and indexing the stack makes XLA copy the stack into each of its users.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Scalar = Any
Vector = tuple[Scalar, Scalar, Scalar]
Rotation = tuple[Vector, Vector, Vector]

ZERO: Vector = (0.0, 0.0, 0.0)
IDENTITY: Rotation = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_ROUNDING = 1e-13


def constant(values: Any) -> Scalar:
    """Constant of a group of links: a float if all links share it, else an array (links, 1)."""
    values = np.asarray(values, np.float64)
    values = np.where(
        np.isclose(values, np.round(values), rtol=0, atol=_ROUNDING), np.round(values), values
    )
    if (values == values.flat[0]).all():
        return float(values.flat[0])
    return values.reshape(-1, 1)


def is_constant(value: Scalar) -> bool:
    """Whether the value is known while tracing."""
    return isinstance(value, float | int | np.ndarray | np.floating)


def _fold(value: Any) -> Scalar:
    return float(value) if np.ndim(value) == 0 else constant(value)


def _operation(
    direct: Callable[[Any, Any], Any], general: Callable[[Any, Any], Any], a: Scalar, b: Scalar
) -> Scalar:
    """The operation on two operands of which at least one is known only when it runs.

    Of equal types and ranks it needs no rules of promotion: those of `jax.numpy` are a program of
    their own for every operation, a fifth to a third of the time that tracing a step would take.
    """
    if not isinstance(a, jax.Array):
        a = np.asarray(a, b.dtype)
    if not isinstance(b, jax.Array):
        b = np.asarray(b, a.dtype)
    if a.dtype == b.dtype and (a.ndim == b.ndim or not a.ndim or not b.ndim):
        return direct(a, b)
    return general(a, b)


def _is(value: Scalar, number: float) -> bool:
    return isinstance(value, float | int) and value == number


def mul(a: Scalar, b: Scalar) -> Scalar:
    """Product; nothing is emitted for a factor of 0, 1 or -1."""
    if is_constant(a) and is_constant(b):
        return _fold(a * b)
    if is_constant(b):
        a, b = b, a
    if _is(a, 0.0):
        return 0.0
    if _is(a, 1.0):
        return b
    if _is(a, -1.0):
        return neg(b)
    return _operation(lax.mul, operator.mul, a, b)


def add(a: Scalar, b: Scalar) -> Scalar:
    """Sum; nothing is emitted for a zero."""
    if is_constant(a) and is_constant(b):
        return _fold(a + b)
    if _is(a, 0.0):
        return b
    if _is(b, 0.0):
        return a
    return _operation(lax.add, operator.add, a, b)


def neg(a: Scalar) -> Scalar:
    """Negative."""
    return lax.neg(a) if isinstance(a, jax.Array) else -a


def sub(a: Scalar, b: Scalar) -> Scalar:
    """Difference; nothing is emitted for a zero."""
    if _is(a, 0.0):
        return neg(b) if not _is(b, 0.0) else 0.0
    if _is(b, 0.0):
        return a
    if is_constant(a) and is_constant(b):
        return _fold(a - b)
    return _operation(lax.sub, operator.sub, a, b)


def total(*terms: Scalar) -> Scalar:
    """Sum of several scalars."""
    result: Scalar = 0.0
    for term in terms:
        result = add(result, term)
    return result


def vector(components: Iterable[Scalar]) -> Vector:
    """Three scalars as a vector."""
    x, y, z = components
    return (x, y, z)


def vadd(a: Vector, b: Vector) -> Vector:
    """Vector sum."""
    return (add(a[0], b[0]), add(a[1], b[1]), add(a[2], b[2]))


def vsub(a: Vector, b: Vector) -> Vector:
    """Vector difference."""
    return (sub(a[0], b[0]), sub(a[1], b[1]), sub(a[2], b[2]))


def scale(s: Scalar, a: Vector) -> Vector:
    """Scalar times vector."""
    return (mul(s, a[0]), mul(s, a[1]), mul(s, a[2]))


def dot(a: Vector, b: Vector) -> Scalar:
    """Inner product."""
    return total(mul(a[0], b[0]), mul(a[1], b[1]), mul(a[2], b[2]))


def cross(a: Vector, b: Vector) -> Vector:
    """Cross product a x b."""
    return (
        sub(mul(a[1], b[2]), mul(a[2], b[1])),
        sub(mul(a[2], b[0]), mul(a[0], b[2])),
        sub(mul(a[0], b[1]), mul(a[1], b[0])),
    )


def rotate(rotation: Rotation, a: Vector) -> Vector:
    """R a, from local to outer axes."""
    columns = [scale(a[k], rotation[k]) for k in range(3)]
    return vadd(vadd(columns[0], columns[1]), columns[2])


def rotate_back(rotation: Rotation, a: Vector) -> Vector:
    """R^T a, from outer to local axes."""
    return (dot(rotation[0], a), dot(rotation[1], a), dot(rotation[2], a))


def compose(outer: Rotation, inner: Rotation) -> Rotation:
    """Product of two rotations."""
    return (rotate(outer, inner[0]), rotate(outer, inner[1]), rotate(outer, inner[2]))


def turn_about_z(rotation: Rotation, angle: Scalar) -> Rotation:
    """R Rz(angle): the turn of a hinge whose axis is the local z axis."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    x, y, z = rotation
    return (vadd(scale(c, x), scale(s, y)), vsub(scale(c, y), scale(s, x)), z)


def rotation_from_quaternion(w: Scalar, x: Scalar, y: Scalar, z: Scalar) -> Rotation:
    """Columns of the rotation of a unit quaternion."""
    xx, yy, zz = x * x, y * y, z * z
    xy, xz, yz = x * y, x * z, y * z
    wx, wy, wz = w * x, w * y, w * z
    return (
        (1 - 2 * (yy + zz), 2 * (xy + wz), 2 * (xz - wy)),
        (2 * (xy - wz), 1 - 2 * (xx + zz), 2 * (yz + wx)),
        (2 * (xz + wy), 2 * (yz - wx), 1 - 2 * (xx + yy)),
    )


Symmetric = tuple[Scalar, Scalar, Scalar, Scalar, Scalar, Scalar]
"""xx, yy, zz, xy, xz, yz of a symmetric 3 x 3 matrix."""


def symmetric_times(matrix: Symmetric, a: Vector) -> Vector:
    """Symmetric matrix times vector."""
    xx, yy, zz, xy, xz, yz = matrix
    return (
        total(mul(xx, a[0]), mul(xy, a[1]), mul(xz, a[2])),
        total(mul(xy, a[0]), mul(yy, a[1]), mul(yz, a[2])),
        total(mul(xz, a[0]), mul(yz, a[1]), mul(zz, a[2])),
    )


def rotate_symmetric(rotation: Rotation, matrix: Symmetric) -> Symmetric:
    """R M R^T."""
    x, y, z = rotation
    xx, yy, zz, xy, xz, yz = matrix
    columns = (
        vadd(vadd(scale(xx, x), scale(xy, y)), scale(xz, z)),
        vadd(vadd(scale(xy, x), scale(yy, y)), scale(yz, z)),
        vadd(vadd(scale(xz, x), scale(yz, y)), scale(zz, z)),
    )

    def entry(i: int, j: int) -> Scalar:
        return total(*(mul(columns[k][i], rotation[k][j]) for k in range(3)))

    return (entry(0, 0), entry(1, 1), entry(2, 2), entry(0, 1), entry(0, 2), entry(1, 2))


def point_mass_inertia(mass: Scalar, c: Vector) -> Symmetric:
    """m (|c|^2 1 - c c^T): inertia of a mass at c about the origin."""
    x, y, z = c
    mx, my, mz = scale(mass, c)
    xx, yy, zz = mul(mx, x), mul(my, y), mul(mz, z)
    return (
        add(yy, zz),
        add(xx, zz),
        add(xx, yy),
        neg(mul(mx, y)),
        neg(mul(mx, z)),
        neg(mul(my, z)),
    )
