"""Gradient-informed Proximal Policy Optimization (Son et al. 2023), as the RPO paper compares it.

A_t is the generalised advantage of step t. Per iteration:

1. Differentiable rollout; dA_t/du_t of every step by one backward pass.
2. The alpha policy: the actor is fitted to actions u_t + alpha * dA_t/du_t (`alpha_policy.py`).
3. alpha follows two tests. Variance: the ratio of the two policies' volumes, the product over
   action dimensions of std_alpha / std_old, must be within 1 +- alpha_interval for all samples.
   Bias: few samples' density ratio pi_alpha / pi_old may leave the clipping range, and the gain
   that it predicts, sum A * pi_alpha / pi_old - sum A, must not be unusually bad.
4. PPO from the alpha policy on, its ratio being relative to (pi_old + pi_alpha) / 2.
"""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt32

from rpo.algorithms.alpha_policy import Actor, AdvantageBatch, fit_alpha_policy
from rpo.algorithms.base import Metrics, TrainState, require
from rpo.algorithms.bounds import bound_values
from rpo.algorithms.checks import require_ranges
from rpo.algorithms.critic_training import shuffled_rows
from rpo.algorithms.devices import (
    device_max,
    device_mean,
    device_sum,
    environment_indices,
    standardize,
)
from rpo.algorithms.first_order import FirstOrderAlgorithm, FirstOrderConfig
from rpo.algorithms.optimizer import Schedule
from rpo.algorithms.ppo import clipped_objective
from rpo.algorithms.returns import generalized_advantage, step_discounts, td_lambda
from rpo.algorithms.rollout import Rollout, Segment
from rpo.algorithms.surrogate import actor_gradient
from rpo.nets import Gaussian, GaussianPolicy, Normalizer, new_normalizer

MAX_LOG_RATIO = 16.0
"""At which log ratios are clamped."""
MAX_LOG_DIFFERENCE = 4.0
"""Of pi_alpha and pi_old, beyond which their mean no longer is the denominator of PPO's ratio."""
SMALLEST_WEIGHT = 1e-20
"""Smallest (discount * td_lambda)^steps by which a gradient in float32 can be divided."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GIPPOConfig(FirstOrderConfig):
    """Settings of GI-PPO. The defaults are the paper's for Ant (Tables 2, 3 and 5).

    `td_lambda` is the lambda of advantages, too.

    Args:
        initial_alpha: step length of the targets along dA/du, at the start; in (0, 1].
        alpha_interval: delta of the variance test.
        alpha_factor: by which alpha is multiplied or divided after an iteration.
        alpha_steps: full-batch regression steps.
        alpha_retries: how often the regression is repeated with a smaller rate while it fails.
        max_out_of_range: largest share of samples whose ratio may leave the clipping range (oorr).
        clip: how far a ratio may leave 1.
        ppo_epochs: passes over the batch after the regression.
        ppo_minibatches: per pass; must divide the horizon.

    Raises:
        ValueError: if a setting is out of range.
    """

    actor_learning_rate: float = 5e-4
    actor_learning_rate_schedule: Schedule = "constant"
    max_gradient_norm: float = 1.0
    initial_alpha: float = 0.5
    alpha_interval: float = 0.4
    alpha_factor: float = 1.02
    alpha_steps: int = 16
    alpha_retries: int = 8
    max_out_of_range: float = 0.8
    clip: float = 0.2
    ppo_epochs: int = 5
    ppo_minibatches: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges(
            self,
            counts=("alpha_steps", "ppo_epochs", "ppo_minibatches"),
            positive=("initial_alpha", "alpha_interval", "clip"),
            not_negative=("alpha_retries",),
            fractions=("initial_alpha", "max_out_of_range"),
        )
        require(self.alpha_factor >= 1, f"alpha_factor is {self.alpha_factor}, must be at least 1")
        require(
            self.horizon % self.ppo_minibatches == 0,
            f"ppo_minibatches is {self.ppo_minibatches}, must divide the horizon ({self.horizon})",
        )
        require(
            (self.discount * self.td_lambda) ** (self.horizon - 1) >= SMALLEST_WEIGHT,
            f"td_lambda is {self.td_lambda}, must be larger for advantage gradients of "
            f"{self.horizon} steps at a discount of {self.discount}",
        )


class AlphaState(eqx.Module):
    """What GI-PPO keeps beside the shared state.

    Args:
        alpha: step length of the next targets.
        gains: running statistics of the predicted gain, one sample per iteration.
    """

    alpha: Float[Array, ""]
    gains: Normalizer


class PPOBatch(eqx.Module):
    """The samples of the PPO phase; all lead with (steps, envs), or with samples.

    Args:
        observation: normalised.
        action: u, before squashing.
        old: distribution that u was drawn from.
        log_denominator: log density of u that ratios are relative to.
        advantage: normalised over the batch.
    """

    observation: Float[Array, "steps envs observation"]
    action: Float[Array, "steps envs action"]
    old: Gaussian
    log_denominator: Float[Array, "steps envs"]
    advantage: Float[Array, "steps envs"]


def volume_ratio(new: Gaussian, old: Gaussian) -> Float[Array, "*batch"]:
    """Product over action dimensions of std_new / std_old."""
    return jnp.exp(jnp.sum(new.log_std - old.log_std, axis=-1))


def density_ratio(
    log_numerator: Float[Array, "*batch"], log_denominator: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """The ratio of two densities; its logarithm is clamped to +-16."""
    return jnp.exp(jnp.clip(log_numerator - log_denominator, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def log_denominator(
    log_old: Float[Array, "*batch"], log_alpha: Float[Array, "*batch"], axis: str | None
) -> Float[Array, "*batch"]:
    """log((pi_old + pi_alpha) / 2); log pi_alpha if the two are far apart in any sample."""
    largest = device_max(jnp.max(jnp.abs(log_alpha - log_old)), axis)
    mean = jnp.logaddexp(log_old, log_alpha) - math.log(2.0)
    return jnp.where(largest > MAX_LOG_DIFFERENCE, log_alpha, mean)


def next_alpha(
    alpha: Float[Array, ""], passed: Array, factor: float, largest: float = 1.0
) -> Float[Array, ""]:
    """Longer, up to `largest`, if both tests were passed, otherwise shorter."""
    return jnp.where(passed, jnp.minimum(alpha * factor, largest), alpha / factor)


class GIPPO(FirstOrderAlgorithm):
    """Gradient-informed Proximal Policy Optimization."""

    config: GIPPOConfig = eqx.field(static=True)
    axis: str | None = eqx.field(static=True, default=None)

    def initial_method_state(self) -> AlphaState:
        """alpha, and no gains seen."""
        dtype = jax.dtypes.canonicalize_dtype(float)
        return AlphaState(jnp.asarray(self.config.initial_alpha, dtype), new_normalizer(1))

    def entropy_coefficient(self, state: TrainState) -> float:
        """No entropy bonus."""
        del state
        return 0.0

    def actor_return(
        self,
        segment: Segment,
        reward: Float[Array, "steps envs"],
        next_value: Float[Array, "steps envs"],
    ) -> Float[Array, " envs"]:
        """Sum of the advantages of the segments' first steps, up to a constant.

        With k counting steps since the segment began, A_start is the sum of (gamma lambda)^k times
        the TD errors. u_t moves no error before its own: error t - 1 ends with V(o_t), error t
        begins with it, and o_t does not depend on u_t. So dA_start/du_t is the sum from t on, which
        is (gamma lambda)^k dA_t/du_t. A_start + V(o_start) is the TD(lambda) target.
        """
        config = self.config
        ended = segment.terminated | segment.truncated
        target = td_lambda(
            reward,
            next_value,
            segment.terminated,
            segment.truncated,
            config.discount,
            config.td_lambda,
        )
        starts = jnp.concatenate([jnp.ones_like(ended[:1]), ended[:-1]])
        return jnp.sum(jnp.where(starts, target, 0), axis=0)

    def make_batch(
        self, state: TrainState, rollout: Rollout, observation: Float[Array, "steps envs size"]
    ) -> AdvantageBatch:
        """Advantages, and their gradients from those of `actor_return`."""
        config, segment = self.config, rollout.segment
        advantage = generalized_advantage(
            segment.reward,
            jnp.mean(state.critics(observation), axis=0),
            jnp.mean(rollout.auxiliary, axis=-1),
            segment.terminated,
            segment.truncated,
            config.discount,
            config.td_lambda,
        )
        advantage, _ = bound_values(advantage, self.axis)
        weight = step_discounts(
            segment.terminated | segment.truncated,
            config.discount * config.td_lambda,
            segment.reward.dtype,
        )
        return AdvantageBatch(
            observation=observation,
            action=segment.action,
            old=segment.distribution,
            advantage=advantage,
            gradient=rollout.action_gradient / weight[..., None],
        )

    def update_actor(
        self, state: TrainState, batch: AdvantageBatch, learning_rate: Float[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """Regression, tests, PPO."""
        old: AlphaState = state.method
        fit = fit_alpha_policy(
            (state.policy, state.actor_optimizer),
            batch,
            old.alpha,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            steps=self.config.alpha_steps,
            retries=self.config.alpha_retries,
            axis=self.axis,
        )
        alpha = fit.actor[0](batch.observation)
        method, metrics = self.adapt_alpha(old, batch, alpha)
        samples = PPOBatch(
            observation=batch.observation,
            action=batch.action,
            old=batch.old,
            log_denominator=log_denominator(
                batch.old.log_prob(batch.action), alpha.log_prob(batch.action), self.axis
            ),
            advantage=standardize(batch.advantage, self.axis),
        )
        # the third of three keys: the rollout and the critics use the first two
        key = jax.random.split(jax.random.fold_in(state.key, state.iteration), 3)[2]
        (policy, optimizer), ppo_metrics = self.run_ppo(fit.actor, samples, key, learning_rate)
        state = dataclasses.replace(state, policy=policy, actor_optimizer=optimizer, method=method)
        metrics |= {
            "alpha_loss_first": fit.first_loss,
            "alpha_loss_last": fit.last_loss,
            "alpha_attempts": fit.attempts.astype(fit.last_loss.dtype),
            "alpha_gradient_norm": fit.gradient_norm,
        }
        return state, metrics | ppo_metrics

    def adapt_alpha(
        self, state: AlphaState, batch: AdvantageBatch, alpha_policy: Gaussian
    ) -> tuple[AlphaState, Metrics]:
        """Chooses the next iteration's alpha by the tests of variance and bias."""
        config = self.config
        deviation = jnp.abs(volume_ratio(alpha_policy, batch.old) - 1)
        deviation = device_max(jnp.max(deviation), self.axis)
        ratio = density_ratio(alpha_policy.log_prob(batch.action), batch.old.log_prob(batch.action))
        out_of_range = device_mean(jnp.mean(jnp.abs(ratio - 1) > config.clip), self.axis)
        gain = device_sum(jnp.sum(batch.advantage * (ratio - 1)), self.axis)
        gains = state.gains.update(gain[None])
        standardized = gains(gain[None])[0]

        biased = (out_of_range > config.max_out_of_range) | ((gain < 0) & (standardized < -1))
        passed = (deviation <= config.alpha_interval) & ~biased
        metrics = {
            "alpha": state.alpha,
            "alpha_volume_deviation": deviation,
            "alpha_out_of_range": out_of_range,
            "alpha_gain": standardized,
        }
        return AlphaState(next_alpha(state.alpha, passed, config.alpha_factor), gains), metrics

    def ppo_loss(self, policy: GaussianPolicy, batch: PPOBatch) -> tuple[Float[Array, ""], Metrics]:
        """Minus the clipped objective, and its diagnostics."""
        clip = self.config.clip
        distribution = policy(batch.observation)
        ratio = density_ratio(distribution.log_prob(batch.action), batch.log_denominator)
        return -jnp.mean(clipped_objective(ratio, batch.advantage, clip)), {
            "kl": jnp.mean(distribution.kl_from(batch.old)),
            "clip_fraction": jnp.mean(jnp.abs(ratio - 1) > clip),
            "ratio_max": jnp.max(ratio),
        }

    def run_ppo(
        self,
        actor: Actor,
        batch: PPOBatch,
        key: UInt32[Array, "2"],
        learning_rate: Float[Array, ""],
    ) -> tuple[Actor, Metrics]:
        """All epochs. Minibatches do not depend on how environments are split over devices."""
        config = self.config
        steps, envs = batch.advantage.shape
        samples = jax.tree.map(lambda x: x.reshape(steps * envs, *x.shape[2:]), batch)
        rows = shuffled_rows(key, environment_indices(envs, self.axis), steps, config.ppo_epochs)
        rows = rows.reshape(config.ppo_epochs * config.ppo_minibatches, -1, envs)

        def step(actor: Actor, chosen: Array) -> tuple[Actor, Metrics]:
            policy, optimizer = actor
            minibatch = jax.tree.map(lambda x: x[chosen], samples)
            gradient, chunks = actor_gradient(self.ppo_loss, policy, minibatch)
            ratio_max = device_max(chunks.pop("ratio_max").max(), self.axis)
            means = {name: value.mean() for name, value in chunks.items()}
            gradient, means = device_mean((gradient, means), self.axis)
            policy, optimizer, norm = self.optimizer.step(
                policy, optimizer, gradient, learning_rate
            )
            means |= {"ratio_max": ratio_max, "actor_gradient_norm": norm}
            return (policy, optimizer), means

        actor, metrics = lax.scan(step, actor, rows)
        return actor, _epoch_metrics(metrics, config.ppo_epochs)


def _epoch_metrics(steps: dict[str, Float[Array, " steps"]], epochs: int) -> Metrics:
    """Per-epoch divergence and largest ratio, and the rest as a mean over all steps."""
    kl = steps.pop("kl").reshape(epochs, -1).mean(axis=1)
    ratio_max = steps.pop("ratio_max").reshape(epochs, -1).max(axis=1)
    metrics = {f"kl_epoch_{m + 1}": kl[m] for m in range(epochs)}
    metrics |= {f"ratio_max_epoch_{m + 1}": ratio_max[m] for m in range(epochs)}
    return metrics | {name: value.mean() for name, value in steps.items()}
