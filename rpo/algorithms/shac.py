"""Short-Horizon Actor-Critic (Xu et al. 2021), in the improved version that the RPO paper uses.

One ascent step per iteration along the gradient of the discounted return of H steps plus the
bootstrap value, by back-propagation through time (eq. 4).
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
from jaxtyping import Array, Float

from rpo.algorithms.base import Metrics, TrainState
from rpo.algorithms.devices import device_mean
from rpo.algorithms.first_order import FirstOrderAlgorithm, FirstOrderConfig, descend_once
from rpo.algorithms.surrogate import ActorBatch, actor_gradient, surrogate
from rpo.nets import GaussianPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class SHACConfig(FirstOrderConfig):
    """Settings of SHAC; none beyond the shared ones."""


class SHAC(FirstOrderAlgorithm):
    """Short-Horizon Actor-Critic."""

    config: SHACConfig = eqx.field(static=True)
    axis: str | None = eqx.field(static=True, default=None)

    def entropy_coefficient(self, state: TrainState) -> Float[Array, ""] | float:
        """No entropy bonus."""
        del state
        return 0.0

    def actor_gradient(self, state: TrainState, batch: ActorBatch) -> GaussianPolicy:
        """Gradient of minus the mean return per step."""

        def loss(policy: GaussianPolicy, batch: ActorBatch) -> tuple[Array, Metrics]:
            return -surrogate(policy(batch.observation), batch), {}

        gradient, _ = actor_gradient(loss, state.policy, batch)
        return device_mean(gradient, self.axis)

    def update_actor(
        self, state: TrainState, batch: ActorBatch, learning_rate: Float[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """One ascent step along the gradient of the return."""
        return descend_once(self, state, batch, self.actor_gradient(state, batch), learning_rate)
