"""What a description's actuators do with controls, as static constants.

An actuator is a motor or a servo: its force is gain * control + offset - kp * length - kv * rate.
The part with the length and the rate is a tendon of the model (`rpo.physics.tendons`), always at
work; what is left is constant during a control step, and `Actuators.forces` is what
`control_step` takes for it. The force of a servo is limited where both meet, in every substep.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from rpo.physics.geoms import Floats
from rpo.physics.tables import Shapes, check_ranges, check_table, empty


@dataclasses.dataclass(frozen=True, eq=False)
class Actuators:
    """`nu` motors and servos on hinges, slides and tendons.

    Args:
        names: what to call them (nu).
        moment: joint force per force of the actuator (nu, nv).
        gain: force per control (nu,).
        offset: force at a control of zero (nu,).
        control_lower, control_upper: range to which controls are clipped, infinite if free (nu,).
        force_lower, force_upper: range to which forces are clipped, infinite if free (nu,).
        joint_lower, joint_upper: the same for what all motors together do to a joint (nv,).
        servo: whether the force depends on the joint's state as well (nu,).

    Raises:
        ValueError: in one line, if shapes disagree, a figure is not a number or a range descends.
    """

    names: tuple[str, ...]
    moment: Floats
    gain: Floats
    offset: Floats
    control_lower: Floats
    control_upper: Floats
    force_lower: Floats
    force_upper: Floats
    joint_lower: Floats
    joint_upper: Floats
    servo: np.ndarray

    def __post_init__(self) -> None:
        shapes = _shapes(len(self.names), self.moment.shape[1])
        bounds = [field for field in shapes if field.endswith(("_lower", "_upper"))]
        check_table("actuators", self, shapes, bounds=bounds)
        check_ranges("actuators", self, "control", "force", "joint")

    def forces(self, control: Array, strength: Array | None = None) -> Array:
        """Joint forces (nv, batch) for controls (nu, batch), as `control_step` takes them.

        Args:
            control: of each actuator (nu, batch).
            strength: factor on the force of each actuator (nu, batch), None for its own.
        """
        rows = np.s_[:, None]

        def clip(value: Array, lower: Floats, upper: Floats) -> Array:
            if np.isinf(lower).all() and np.isinf(upper).all():
                return value
            low, high = (jnp.asarray(bound[rows], value.dtype) for bound in (lower, upper))
            return jnp.clip(value, low, high)

        control = clip(control, self.control_lower, self.control_upper)
        gain, offset = (jnp.asarray(x[rows], control.dtype) for x in (self.gain, self.offset))
        low = np.where(self.servo, -np.inf, self.force_lower)
        high = np.where(self.servo, np.inf, self.force_upper)
        force = clip(gain * control + offset, low, high)
        if strength is not None:
            force = strength * force
        joint = jnp.dot(jnp.asarray(self.moment.T, force.dtype), force, precision="highest")
        return clip(joint, self.joint_lower, self.joint_upper)


def _shapes(count: int, dofs: int) -> Shapes:
    shapes: Shapes = {field.name: (count,) for field in dataclasses.fields(Actuators)}
    del shapes["names"]
    return shapes | {"moment": (count, dofs), "joint_lower": (dofs,), "joint_upper": (dofs,)}


NO_ACTUATORS = Actuators(names=(), **empty(_shapes(0, 0)))
"""Nothing but what a task pushes."""
