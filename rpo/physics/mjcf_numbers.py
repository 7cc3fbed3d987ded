"""Constants that MJCF has no words for: defaults, and `<custom>` numbers of the same name."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np

from rpo.physics.unsupported import friendly_name

_NUMBER_PREFIXES = ("contact_", "friction_", "frictionloss_", "limit_", "pair_")


@dataclasses.dataclass(frozen=True)
class ContactMaterial:
    """Constants of the ground contact that a description does not carry itself.

    Args:
        contact_stiffness: normal force per depth (N/m).
        contact_damping: normal force per depth and closing speed (N s/m^2).
        friction_stiffness: friction force per sliding speed below the Coulomb bound (N s/m).
    """

    contact_stiffness: float = 2.0e4
    contact_damping: float = 2.0e3
    friction_stiffness: float = 1.0e3


@dataclasses.dataclass(frozen=True)
class LimitSpring:
    """Spring and damper of the joint limits (N m/rad and N m s/rad, or N/m and N s/m for slides).

    The spring acts beyond the joint's range, the damper always, or beyond it only.
    """

    limit_stiffness: float = 1.0e3
    limit_damping: float = 0.0
    limit_damping_beyond: float = 10.0


@dataclasses.dataclass(frozen=True)
class JointFriction:
    """How fast a joint's or tendon's `frictionloss` sets in: -loss tanh(velocity / speed).

    Args:
        frictionloss_speed: velocity at which it is three quarters of its full size (rad/s or m/s).
    """

    frictionloss_speed: float = 0.1


@dataclasses.dataclass(frozen=True)
class PairMaterial:
    """Constants of the contact between links that a description does not carry itself.

    Args:
        pair_stiffness: normal force per depth (N/m).
        pair_damping: normal force per closing speed (N s/m).
        pair_friction_stiffness: friction force per sliding speed below the Coulomb bound (N s/m).
    """

    pair_stiffness: float = 1.0e4
    pair_damping: float = 1.0e2
    pair_friction_stiffness: float = 1.0e2


def all_numbers(
    *given: ContactMaterial | LimitSpring | PairMaterial | JointFriction | None,
) -> dict[str, float]:
    """All constants by name: defaults, and what is given instead.

    Args:
        given: constants that replace the defaults; None leaves them.
    """
    numbers: dict[str, float] = {}
    for part in (ContactMaterial(), LimitSpring(), PairMaterial(), JointFriction(), *given):
        numbers |= dataclasses.asdict(part) if part is not None else {}
    return numbers


def read_numbers(model: mujoco.MjModel) -> dict[str, float]:
    """Constants that the description overrides with `<custom><numeric>` of the same name.

    Args:
        model: MuJoCo's compiled model.

    Returns:
        The values of `all_numbers` by name. Numbers of other names are left alone.

    Raises:
        ValueError: if a number is negative, not single, or has a misspelt name.
    """
    values = all_numbers()
    for index in range(model.nnumeric):
        name = friendly_name(model, "numeric", index)
        data = model.numeric_data[model.numeric_adr[index] :][: model.numeric_size[index]]
        if name not in values:
            if name.startswith(_NUMBER_PREFIXES):
                raise ValueError(f"unknown custom numeric {name!r}; known are {', '.join(values)}")
            continue
        if len(data) != 1 or not np.isfinite(data[0]) or data[0] < 0.0:
            raise ValueError(f"custom numeric {name!r} must be one number, zero or more")
        values[name] = float(data[0])
    return values
