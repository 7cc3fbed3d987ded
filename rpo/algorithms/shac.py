"""Short-Horizon Actor-Critic (Xu et al. 2021), in the improved version that the RPO paper uses.

One ascent step per iteration along the gradient of the discounted return of H steps plus the
bootstrap value, by back-propagation through time (eq. 4).
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
from jaxtyping import Array, Float

from rpo.algorithms.base import Metrics, TrainState
from rpo.algorithms.first_order import FirstOrderAlgorithm, FirstOrderConfig, descend_once
from rpo.algorithms.surrogate import ActorBatch, surrogate
from rpo.nets import GaussianPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class SHACConfig(FirstOrderConfig):
    """Settings of SHAC; none beyond the shared ones."""


class SHAC(FirstOrderAlgorithm):
    """Short-Horizon Actor-Critic."""

    config: SHACConfig = eqx.field(static=True)

    def loss(self, policy: GaussianPolicy, batch: ActorBatch) -> tuple[Float[Array, ""], Metrics]:
        """Minus the mean return per step."""
        return -surrogate(policy(batch.observation), batch), {}

    def update_actor(
        self, state: TrainState, batch: ActorBatch, learning_rate: Float[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """One ascent step along the gradient of the return."""
        return descend_once(self, self.loss, state, batch, learning_rate)
