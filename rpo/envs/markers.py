"""What a task wants drawn beside its robot: goals, targets, commands."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

MarkerShape = Literal["box", "sphere", "capsule", "cylinder", "arrow"]
_SIZES = {"box": 3, "sphere": 1, "capsule": 2, "cylinder": 2, "arrow": 2}


def _floats(values: Any) -> Array:
    return jnp.asarray(values, float)


class Marker(eqx.Module):
    """A shape in pictures that weighs and hits nothing.

    Args:
        position: of its centre in the world, m: (envs, 3), or (3,) if it is the same in all of
            them; of an arrow, of its tail.
        size: m. Of a box its half extents along x, y and z; of a sphere its radius; of a capsule
            or cylinder its radius and half the length of its straight part; of an arrow the radius
            of its shaft and its length. These three lie along z.
        quaternion: orientation w x y z, (envs, 4) or (4,).
        shape: see `size`.
        color: red, green, blue and opacity, from 0 to 1.
        faces: of a box: each face in a colour of its own, as those of loose boxes have.

    Raises:
        ValueError: in one line, if shape, size or colour make no sense.
    """

    position: Float[Array, "... 3"] = eqx.field(converter=_floats)
    size: tuple[float, ...] = eqx.field(static=True)
    quaternion: Float[Array, "... 4"] = eqx.field(converter=_floats, default=(1.0, 0, 0, 0))
    shape: MarkerShape = eqx.field(static=True, default="box")
    color: tuple[float, ...] = eqx.field(static=True, default=(0.2, 0.7, 0.35, 0.45))
    faces: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        if self.shape not in (shapes := get_args(MarkerShape)):
            raise ValueError(f"a marker's shape is {self.shape!r}, must be one of {shapes}")
        count = _SIZES[self.shape]
        if len(self.size) != count or not all(0 < x < math.inf for x in self.size):
            raise ValueError(f"a {self.shape} needs {count} positive sizes, not {self.size}")
        if len(self.color) != 4 or not all(0 <= x <= 1 for x in self.color):
            raise ValueError(f"a marker's color is {self.color}, must be four numbers in [0, 1]")
        if self.faces and self.shape != "box":
            raise ValueError(f"only boxes have faces to colour; this marker is a {self.shape}")

    def of_each(self, envs: int) -> Marker:
        """The same with an entry per environment.

        Raises:
            ValueError: if it has entries for another number.
        """
        return dataclasses.replace(
            self,
            position=jnp.broadcast_to(self.position, (envs, 3)),
            quaternion=jnp.broadcast_to(self.quaternion, (envs, 4)),
        )
