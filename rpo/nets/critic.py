"""Ensembles of value networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rpo.mirror import SignedPermutation
from rpo.nets.mirror import Tied, tied_mlp
from rpo.nets.mlp import MLP


class CriticEnsemble(Tied):
    """Independent value networks with different weights.

    They are evaluated one after the other: on a CPU that is twice as fast as one batched matrix
    product, because XLA has no fast kernel for the batched form.
    """

    members: tuple[MLP, ...]
    mirror: SignedPermutation | None = eqx.field(static=True)

    def __init__(
        self,
        observation_size: int,
        hidden_sizes: Sequence[int],
        count: int,
        key: Array,
        *,
        gain: float = 1.0,
        outputs: int = 1,
        mirror: SignedPermutation | None = None,
    ) -> None:
        """Builds `count` networks, each from its own key (the other arguments as in `MLP`).

        With a mirror, values of an input and of what the mirror makes of it are the same; see
        `rpo.nets.mirror`. Hidden widths must be even then (SettingsError).
        """
        self.members = tuple(
            MLP(observation_size, hidden_sizes, outputs, member_key, gain=gain)
            for member_key in jax.random.split(key, count)
        )
        self.mirror = mirror
        self.members = self.tied(math.sqrt(2.0)).members

    def tied(self, scale: float = 1.0) -> CriticEnsemble:
        """See `Tied`."""
        if self.mirror is None:
            return self
        members = tuple(tied_mlp(member, self.mirror, scale) for member in self.members)
        result: CriticEnsemble = eqx.tree_at(lambda x: x.members, self, members)
        return result

    def __call__(
        self, observation: Float[Array, "*batch observation"]
    ) -> Float[Array, "critics *batch"]:
        """First output for normalised observations, one row per critic."""
        return jnp.stack([member(observation)[..., 0] for member in self.members])
