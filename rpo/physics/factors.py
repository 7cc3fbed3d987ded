"""By what an environment's robot and world differ from the model: one factor per environment.

The dynamics take constants of a `Group` as floats, as columns over its links, or as arrays over
(links, batch). So a robot whose mass differs from environment to environment is a group with
another mass, and nothing else changes; without factors the groups are the model's own, and fold as
they always do.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, tree

from rpo.physics.joints import take_rows
from rpo.physics.model import Model
from rpo.physics.spatial import Scalar, Vector, mul, vector
from rpo.physics.topology import Group


class Factors(NamedTuple):
    """Factors on figures of a model, without unit; None leaves a figure as it is.

    Arrays end with the batch in the physics and lead with it in a task: (links, batch) is
    (envs, links) there. `transposed` takes one to the other.

    Args:
        mass: of each link, of its mass and its inertia: a denser body (links, batch).
        inertia: of each link, of its inertia about the centre of mass beside that (links, batch).
        friction: of Coulomb's coefficient of all contacts (batch,).
        strength: of what each actuator exerts (actuators, batch).
        gravity: of the gravitational acceleration (batch,).
    """

    mass: Array | None = None
    inertia: Array | None = None
    friction: Array | None = None
    strength: Array | None = None
    gravity: Array | None = None

    def transposed(self) -> Factors:
        """Batch last where it led, and the other way round."""
        turned: Factors = tree.map(jnp.transpose, self)
        return turned


NOMINAL = Factors()
"""The model as it is."""


def varied_groups(groups: tuple[Group, ...], factors: Factors) -> tuple[Group, ...]:
    """Groups with the masses, inertias and ground friction of each environment."""
    if factors.mass is None and factors.inertia is None and factors.friction is None:
        return groups
    return tuple(_varied(group, factors) for group in groups)


def _varied(group: Group, factors: Factors) -> Group:
    mass = _of_links(factors.mass, group)
    inertia = mul(mass, _of_links(factors.inertia, group))
    friction = of_batch(factors.friction)
    return dataclasses.replace(
        group,
        mass=mul(group.mass, mass),
        inertia=tuple(mul(entry, inertia) for entry in group.inertia),
        contacts=tuple(
            dataclasses.replace(
                points, friction_coefficient=mul(points.friction_coefficient, friction)
            )
            for points in group.contacts
        ),
    )


def _of_links(factor: Array | None, group: Group) -> Scalar:
    return 1.0 if factor is None else take_rows(factor, group.links)


def of_batch(factor: Array | None) -> Scalar:
    """A factor of every environment (batch,) as a scalar of the dynamics (1, batch)."""
    return 1.0 if factor is None else factor[None]


def gravity_of(model: Model, factors: Factors) -> Vector:
    """Gravitational acceleration, m/s^2."""
    return vector(mul(float(g), of_batch(factors.gravity)) for g in model.gravity)


def of_tendon(model: Model, factors: Factors, tendon: int) -> Scalar:
    """Factor on a tendon's force: a servo's strength where the tendon is its spring and damper."""
    actuator = _servo_of_tendon(model).get(tendon)
    return 1.0 if factors.strength is None or actuator is None else factors.strength[actuator][None]


def servo_limits(model: Model, tendon: int) -> tuple[float, float]:
    """Range of the force of a servo whose spring and damper the tendon is, control included."""
    actuator = _servo_of_tendon(model).get(tendon)
    if actuator is None:
        return -np.inf, np.inf
    actuators = model.actuators
    return float(actuators.force_lower[actuator]), float(actuators.force_upper[actuator])


@lru_cache(maxsize=64)
def _servo_of_tendon(model: Model) -> dict[int, int]:
    """Actuators of which a part is a tendon of the model, by that tendon."""
    actuators, tendons = model.actuators, model.tendons
    return {
        t: int(a)
        for a in np.flatnonzero(actuators.servo)
        for t, name in enumerate(tendons.names)
        if name == actuators.names[a] and (tendons.coefficient[t] == actuators.moment[a]).all()
    }
