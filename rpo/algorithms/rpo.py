"""Reparameterization Proximal Policy Optimization (Algorithm 1 of the paper).

(Not to be confused with Robust Policy Optimization, which shares the abbreviation.)

The action gradients g of one rollout serve M epochs. Each epoch regenerates the recorded actions
with the current policy, u = mean + std * eps with eps held constant (eq. 10), and maximises

    surrogate - kl_coefficient * KL(old || new) + entropy_coefficient * entropy          (eq. 14)

where the surrogate is the mean over samples of w * g . u, and w the importance ratio rho of u where
1 - clip_low <= rho <= 1 + clip_high, else zero (eq. 11). In the first epoch rho = 1 and KL = 0, and
the gradient is that of back-propagation through time (SAPO's at the same temperature). The reward
holds entropy_coefficient * h, as in SAPO.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rpo.algorithms.base import Metrics, TrainState, per_epoch
from rpo.algorithms.config import require, require_ranges
from rpo.algorithms.first_order import FirstOrderAlgorithm, FirstOrderConfig
from rpo.algorithms.optimizer import OptimizerState, Schedule
from rpo.algorithms.surrogate import (
    ActorBatch,
    actor_gradient,
    discounted_entropy,
    importance_ratio,
    surrogate,
)
from rpo.nets import GaussianPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class RPOConfig(FirstOrderConfig):
    """Settings of RPO. The defaults are the paper's for Ant (Tables 2 to 4).

    Args:
        actor_epochs: M, actor updates per iteration, each on the full batch.
        clip_low: samples with an importance ratio below 1 - clip_low are left out.
        clip_high: samples with an importance ratio above 1 + clip_high are left out.
        kl_coefficient: lambda_KL of eq. 14.
        entropy_coefficient: lambda_ent of eq. 14, and weight of the entropy in the reward.

    Raises:
        ValueError: if a setting is out of range.
    """

    actor_learning_rate: float = 5e-4
    actor_learning_rate_schedule: Schedule = "exponential"
    actor_epochs: int = 5
    clip_low: float = 0.8
    clip_high: float = 1.0
    kl_coefficient: float = 0.25
    entropy_coefficient: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges(
            self,
            counts=("actor_epochs",),
            not_negative=("clip_low", "clip_high", "kl_coefficient", "entropy_coefficient"),
        )
        require(
            self.clip_low <= 1,  # ratios are positive: beyond 1 nothing would be left out
            f"clip_low is {self.clip_low}, must lie in [0, 1]: samples with a ratio below "
            "1 - clip_low are left out",
        )


def clipped_weight(
    ratio: Float[Array, "*batch"], clip_low: float, clip_high: float
) -> Float[Array, "*batch"]:
    """The ratio where it lies in [1 - clip_low, 1 + clip_high], else zero; a constant (eq. 11)."""
    inside = (ratio >= 1.0 - clip_low) & (ratio <= 1.0 + clip_high)
    return lax.stop_gradient(jnp.where(inside, ratio, 0.0))


Actor = tuple[GaussianPolicy, OptimizerState]


class RPO(FirstOrderAlgorithm):
    """Reparameterization Proximal Policy Optimization."""

    config: RPOConfig = eqx.field(static=True)

    def entropy_coefficient(self, state: TrainState) -> float:
        """lambda_ent."""
        del state
        return self.config.entropy_coefficient

    def loss(self, policy: GaussianPolicy, batch: ActorBatch) -> tuple[Float[Array, ""], Metrics]:
        """Minus the objective of eq. 14, and the epoch's diagnostics."""
        config = self.config
        distribution = policy(batch.observation)
        ratio = importance_ratio(distribution, batch)
        weight = clipped_weight(ratio, config.clip_low, config.clip_high)
        kl = jnp.mean(distribution.kl_from(batch.old))
        objective = surrogate(distribution, batch, weight) - config.kl_coefficient * kl
        if config.entropy_coefficient > 0:
            objective += config.entropy_coefficient * discounted_entropy(distribution, batch)
        return -objective, {"kl": kl, "kept": jnp.mean(weight > 0), "ratio_max": jnp.max(ratio)}

    def update_actor(
        self, state: TrainState, batch: ActorBatch, learning_rate: Float[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """M epochs on the cached action gradients."""

        def epoch(carry: Actor, _: None) -> tuple[Actor, tuple[Array, Metrics]]:
            policy, optimizer = carry
            gradient, metrics = actor_gradient(self.loss, policy, batch, self.axis)
            policy, optimizer, norm = self.optimizer.step(
                policy, optimizer, gradient, learning_rate
            )
            return (policy, optimizer), (norm, metrics)

        (policy, optimizer), (norms, epochs) = lax.scan(
            epoch, (state.policy, state.actor_optimizer), length=self.config.actor_epochs
        )
        state = dataclasses.replace(state, policy=policy, actor_optimizer=optimizer)
        kept = epochs.pop("kept")
        kept = kept[1:] if len(kept) > 1 else kept  # in the first epoch all are
        means = {"actor_gradient_norm": norms.mean(), "effective_sample_ratio": kept.mean()}
        return state, means | per_epoch(**epochs)
