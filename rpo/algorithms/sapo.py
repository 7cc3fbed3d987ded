"""Soft Analytic Policy Optimization (Xing et al. 2025): SHAC with a maximum-entropy return.

Every reward becomes r + alpha * h, h being the normalised entropy sample of the squashed policy
(`surrogate.normalized_entropy`). alpha is constant within an iteration and then moves so that the
mean entropy approaches the target -action_size / 2.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import equinox as eqx
from jaxtyping import Array, Float

from rpo.algorithms.base import Metrics, TrainState
from rpo.algorithms.config import require_ranges
from rpo.algorithms.first_order import FirstOrderAlgorithm, FirstOrderConfig, descend_once
from rpo.algorithms.surrogate import ActorBatch, ActorLoss, discounted_entropy, surrogate
from rpo.algorithms.temperature import Temperature, new_temperature, target_entropy
from rpo.nets import GaussianPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class SAPOConfig(FirstOrderConfig):
    """Settings of SAPO.

    Args:
        target_value: the reference implementation uses the smaller of the two critics.
        initial_temperature: alpha at the start.
        temperature_learning_rate: of log(alpha); zero keeps alpha fixed.

    Raises:
        ValueError: if a setting is out of range.
    """

    target_value: Literal["mean", "min"] = "min"
    initial_temperature: float = 1.0
    temperature_learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges(
            self,
            positive=("initial_temperature",),
            not_negative=("temperature_learning_rate",),
        )


class SAPO(FirstOrderAlgorithm):
    """Soft Analytic Policy Optimization."""

    config: SAPOConfig = eqx.field(static=True)

    def initial_method_state(self, policy: GaussianPolicy) -> Temperature:
        """The temperature."""
        return new_temperature(self.config.initial_temperature, self.optimizer)

    def entropy_coefficient(self, state: TrainState) -> Float[Array, ""]:
        """alpha."""
        temperature: Temperature = state.method
        return temperature.alpha

    def loss(self, state: TrainState) -> ActorLoss[ActorBatch]:
        """Minus the maximum-entropy return per step."""
        coefficient = self.entropy_coefficient(state)

        def loss(policy: GaussianPolicy, batch: ActorBatch) -> tuple[Array, Metrics]:
            distribution = policy(batch.observation)
            entropy = discounted_entropy(distribution, batch)
            return -surrogate(distribution, batch) - coefficient * entropy, {}

        return loss

    def update_actor(
        self, state: TrainState, batch: ActorBatch, learning_rate: Float[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """One ascent step along the gradient of the maximum-entropy return."""
        return descend_once(self, self.loss(state), state, batch, learning_rate)

    def update_method_state(
        self, state: TrainState, entropy: Float[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """One descent step on alpha * |T| * (mean entropy - T), T being the target entropy."""
        temperature: Temperature = state.method
        target = target_entropy(state.policy.mean_head.bias.shape[-1])
        excess = -target * (entropy - target)
        rate = self.config.temperature_learning_rate
        state = dataclasses.replace(state, method=temperature.step(excess, self.optimizer, rate))
        return state, {"temperature": temperature.alpha}
