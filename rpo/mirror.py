"""What exchanging left and right does to numbers that describe a robot."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np
from jax import Array
from numpy.typing import NDArray

Numbers = TypeVar("Numbers", Array, NDArray[Any])


@dataclasses.dataclass(frozen=True)
class SignedPermutation:
    """y[k] = sign[k] * x[index[k]].

    Args:
        index: a permutation of the numbers from 0.
        sign: +1 or -1 each.

    Raises:
        ValueError: if it is not one, or if doing it twice is not doing nothing.
    """

    index: tuple[int, ...]
    sign: tuple[int, ...]

    def __post_init__(self) -> None:
        index, sign = np.array(self.index), np.array(self.sign)
        if sorted(self.index) != list(range(len(sign))) or not np.all(np.abs(sign) == 1):
            raise ValueError("a mirror needs a permutation and a sign of +1 or -1 for each entry")
        if not np.array_equal(index[index], np.arange(len(index))):
            raise ValueError("a mirror must be its own inverse: its permutation only swaps pairs")
        if not np.array_equal(sign[index], sign):
            raise ValueError("a mirror must be its own inverse: both of a pair have one sign")

    def __len__(self) -> int:
        """How many entries it exchanges."""
        return len(self.index)

    def __add__(self, other: SignedPermutation) -> SignedPermutation:
        """What both do to their entries put one after the other."""
        shifted = tuple(k + len(self) for k in other.index)
        return SignedPermutation(self.index + shifted, self.sign + other.sign)

    def __call__(self, x: Numbers) -> Numbers:
        """Exchanges the entries of the last axis, of an array of JAX or NumPy."""
        exchanged: Numbers = x[..., np.array(self.index)] * np.array(self.sign)
        return exchanged

    def unsigned(self) -> SignedPermutation:
        """The same without signs: how figures that have no direction are exchanged."""
        return SignedPermutation(self.index, (1,) * len(self.sign))


@dataclasses.dataclass(frozen=True)
class Mirror:
    """What exchanging left and right does to a task.

    Args:
        observation: to an observation.
        action: to an action.
    """

    observation: SignedPermutation
    action: SignedPermutation
