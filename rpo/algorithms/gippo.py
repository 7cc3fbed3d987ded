"""Gradient-informed Proximal Policy Optimization (Son et al. 2023), as the RPO paper compares it.

A_t is the generalised advantage of step t. Per iteration:

1. Differentiable rollout; dA_t/du_t of every step by one backward pass.
2. The alpha policy: the actor is fitted to actions u_t + alpha * dA_t/du_t (`alpha_policy.py`).
3. alpha follows two tests. Variance: the ratio of the two policies' volumes, the product over
   action dimensions of std_alpha / std_old, must be within 1 +- alpha_interval for all samples.
   Bias: few samples' density ratio pi_alpha / pi_old may leave the clipping range, and the gain
   that it predicts, sum A * pi_alpha / pi_old - sum A, must not be unusually bad. If the regression
   has failed, its rate falls for good instead.
4. PPO from the alpha policy on, its ratio being relative to (pi_old + pi_alpha) / 2, with an
   optimiser of its own (`mixture_ppo.py`).

Steps 2 and 4 are attempted several times if need be (`attempts.py`).
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rpo.algorithms.alpha_policy import AdvantageBatch, fit_alpha_policy
from rpo.algorithms.attempts import RATE_FACTOR, Actor, Outcome
from rpo.algorithms.base import Metrics, TrainState
from rpo.algorithms.bounds import bound_values
from rpo.algorithms.config import require, require_ranges
from rpo.algorithms.devices import device_max, device_mean, device_sum, standardize
from rpo.algorithms.first_order import FirstOrderAlgorithm, FirstOrderConfig
from rpo.algorithms.keys import iteration_keys
from rpo.algorithms.mixture_ppo import PPOBatch, density_ratio, log_denominator, train_ppo
from rpo.algorithms.optimizer import Optimizer, Schedule
from rpo.algorithms.returns import generalized_advantage, step_discounts, td_lambda
from rpo.algorithms.rollout import Rollout, Segment
from rpo.nets import Gaussian, GaussianPolicy, Normalizer, new_normalizer

SMALLEST_WEIGHT = 1e-20
"""Smallest (discount * td_lambda)^steps by which a gradient in float32 can be divided."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GIPPOConfig(FirstOrderConfig):
    """Settings of GI-PPO. The defaults are the paper's for Ant (Tables 2, 3 and 5).

    `td_lambda` is the lambda of advantages, too; `actor_learning_rate` and `betas` are the
    regression's (`betas` the critics', too), the schedule is that of both phases' rates.

    Args:
        initial_alpha: step length of the targets along dA/du, at the start; in (0, 1].
        alpha_interval: delta of the variance test.
        alpha_factor: by which alpha is multiplied or divided after an iteration.
        alpha_steps: full-batch regression steps.
        alpha_attempts: at the regression; each has two thirds of the last one's rate.
        alpha_min_learning_rate: below which failures do not lower the regression's rate for good.
        max_out_of_range: largest share of samples whose ratio may leave the clipping range (oorr).
        clip: how far a ratio may leave 1.
        ppo_epochs: passes over the batch after the regression.
        ppo_minibatches: per pass; must divide the horizon.
        ppo_attempts: at the PPO phase; each has two thirds of the last one's rate.
        ppo_learning_rate: of PPO, at the start.
        ppo_betas: decay rates of the moments of PPO's AdamW.

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
    alpha_attempts: int = 8
    alpha_min_learning_rate: float = 1e-5
    max_out_of_range: float = 0.8
    clip: float = 0.2
    ppo_epochs: int = 5
    ppo_minibatches: int = 1
    ppo_attempts: int = 8
    ppo_learning_rate: float = 5e-4
    ppo_betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges(
            self,
            counts=(
                *("alpha_steps", "alpha_attempts"),
                *("ppo_epochs", "ppo_minibatches", "ppo_attempts"),
            ),
            positive=("initial_alpha", "alpha_interval", "clip", "ppo_learning_rate"),
            not_negative=("alpha_min_learning_rate",),
            fractions=("initial_alpha", "max_out_of_range"),
            betas=("ppo_betas",),
            parts_of_horizon=("ppo_minibatches",),
        )
        require(self.clip <= 1, f"clip is {self.clip}, must be at most 1: ratios are positive")
        require(self.alpha_factor >= 1, f"alpha_factor is {self.alpha_factor}, must be at least 1")
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
        rate_scale: by which failures have multiplied the regression's rate so far.
        ppo_moments: of PPO's optimiser. The shared state's `actor_optimizer` has the regression's,
            and counts the skipped steps of both.
    """

    alpha: Float[Array, ""]
    gains: Normalizer
    rate_scale: Float[Array, ""]
    ppo_moments: PyTree


def volume_ratio(new: Gaussian, old: Gaussian) -> Float[Array, "*batch"]:
    """Product over action dimensions of std_new / std_old."""
    return jnp.exp(jnp.sum(new.log_std - old.log_std, axis=-1))


class GIPPO(FirstOrderAlgorithm):
    """Gradient-informed Proximal Policy Optimization."""

    config: GIPPOConfig = eqx.field(static=True)

    def continued(self, fresh: TrainState, old: TrainState) -> TrainState:
        """See `Algorithm.continued`; the regression's rate starts anew."""
        state = super().continued(fresh, old)
        method = dataclasses.replace(old.method, rate_scale=fresh.method.rate_scale)
        return dataclasses.replace(state, method=method)

    @property
    def ppo_optimizer(self) -> Optimizer:
        """Of the PPO phase."""
        config = self.config
        return Optimizer(config.ppo_betas, config.weight_decay, config.max_gradient_norm)

    def initial_method_state(self, policy: GaussianPolicy) -> AlphaState:
        """Alpha and what goes with it."""
        return AlphaState(
            alpha=jnp.asarray(self.config.initial_alpha, jax.dtypes.canonicalize_dtype(float)),
            gains=new_normalizer(1),
            rate_scale=jnp.ones(()),
            ppo_moments=self.ppo_optimizer.init(policy).adam,
        )

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
        config, ended = self.config, segment.ended
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
        decay = config.discount * config.td_lambda
        weight = step_discounts(segment.ended, decay, segment.reward.dtype)
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
        """Regression, tests, PPO; `learning_rate` is the regression's before any failure."""
        method: AlphaState = state.method
        rate = learning_rate * method.rate_scale
        fit = fit_alpha_policy(
            (state.policy, state.actor_optimizer),
            batch,
            method.alpha,
            optimizer=self.optimizer,
            learning_rate=rate,
            steps=self.config.alpha_steps,
            attempts=self.config.alpha_attempts,
            axis=self.axis,
        )
        alpha_policy = fit.actor[0](batch.observation)
        method, metrics = self.adapt(method, batch, alpha_policy, fit.failed)
        ppo = self.run_ppo(state, fit.actor, batch, alpha_policy, learning_rate)
        policy, ppo_state = ppo.actor
        state = dataclasses.replace(
            state,
            policy=policy,
            actor_optimizer=ppo_state.with_moments(fit.actor[1].adam),
            method=dataclasses.replace(method, ppo_moments=ppo_state.adam),
        )
        dtype = batch.advantage.dtype
        metrics |= ppo.last.metrics | {
            "alpha_loss_first": fit.last.first_loss,
            "alpha_loss_last": fit.last.last_loss,
            "alpha_attempts": fit.attempts.astype(dtype),
            "alpha_learning_rate": rate,
            "alpha_gradient_norm": fit.last.metrics["gradient_norm"],
            "ppo_attempts": ppo.attempts.astype(dtype),
            "ppo_undone": ppo.failed.astype(dtype),
        }
        return state, metrics

    def adapt(
        self, state: AlphaState, batch: AdvantageBatch, alpha_policy: Gaussian, failed: Array
    ) -> tuple[AlphaState, Metrics]:
        """Chooses the next iteration's alpha by the tests of variance and bias.

        After a regression that has failed, which leaves no policy to be tested, alpha stays and the
        regression's rate falls.
        """
        config = self.config
        deviation = jnp.abs(volume_ratio(alpha_policy, batch.old) - 1)
        deviation = device_max(jnp.max(deviation), self.axis)
        ratio = density_ratio(alpha_policy.log_prob(batch.action), batch.old.log_prob(batch.action))
        out_of_range = device_mean(jnp.mean(jnp.abs(ratio - 1) > config.clip), self.axis)
        gain = device_sum(jnp.sum(batch.advantage * (ratio - 1)), self.axis)
        # by the gains before this one: an outlier would hide in statistics that know it
        standardized = state.gains(gain[None])[0]

        biased = (out_of_range > config.max_out_of_range) | ((gain < 0) & (standardized < -1))
        passed = (deviation <= config.alpha_interval) & ~biased
        longer, shorter = state.alpha * config.alpha_factor, state.alpha / config.alpha_factor
        alpha = jnp.where(passed, jnp.minimum(longer, 1.0), shorter)
        lowest = min(config.alpha_min_learning_rate / config.actor_learning_rate, 1.0)
        lower = jnp.maximum(state.rate_scale / RATE_FACTOR, lowest)
        metrics = {
            "alpha": state.alpha,
            "alpha_volume_deviation": deviation,
            "alpha_out_of_range": out_of_range,
            "alpha_gain": standardized,
        }
        state = dataclasses.replace(
            state,
            alpha=jnp.where(failed, state.alpha, alpha),
            gains=state.gains.update(gain[None]),
            rate_scale=jnp.where(failed, lower, state.rate_scale),
        )
        return state, metrics

    def run_ppo(
        self,
        state: TrainState,
        actor: Actor,
        batch: AdvantageBatch,
        alpha_policy: Gaussian,
        learning_rate: Float[Array, ""],
    ) -> Outcome:
        """The PPO phase, with the moments of `state.method` and the counts of `actor`."""
        config = self.config
        samples = PPOBatch(
            observation=batch.observation,
            action=batch.action,
            old=batch.old,
            log_denominator=log_denominator(
                batch.old.log_prob(batch.action), alpha_policy.log_prob(batch.action), self.axis
            ),
            advantage=standardize(batch.advantage, self.axis),
        )
        key = iteration_keys(state.key, state.iteration).further
        policy, optimizer_state = actor
        return train_ppo(
            (policy, optimizer_state.with_moments(state.method.ppo_moments)),
            samples,
            key,
            optimizer=self.ppo_optimizer,
            learning_rate=config.ppo_learning_rate * learning_rate / config.actor_learning_rate,
            clip=config.clip,
            epochs=config.ppo_epochs,
            minibatches=config.ppo_minibatches,
            attempts=config.ppo_attempts,
            axis=self.axis,
        )
