"""AdamW with gradient clipping, learning-rate schedules, and the guard against bad updates."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from rpo.nets.mirror import tied

Schedule = Literal["constant", "linear", "exponential"]

T = TypeVar("T")


class OptimizerState(eqx.Module):
    """Moments of AdamW, and what became of the updates.

    Args:
        adam: state of the optax transformation.
        skipped: updates not applied because the gradient was not finite.
        skipped_in_a_row: the same since the last update that was applied.
    """

    adam: PyTree
    skipped: Int[Array, "*trainings"]
    skipped_in_a_row: Int[Array, "*trainings"]

    def with_moments(self, adam: PyTree) -> OptimizerState:
        """Other moments, and these counts: for parameters that several optimisers move."""
        return OptimizerState(adam, self.skipped, self.skipped_in_a_row)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW on gradients whose global norm is clipped.

    Args:
        betas: decay rates of the two moments.
        weight_decay: decoupled decay, multiplied by the learning rate.
        max_gradient_norm: longer gradients are scaled down to this length.
        epsilon: added to the root of the second moment.
    """

    betas: tuple[float, float] = (0.7, 0.95)
    weight_decay: float = 0.01
    max_gradient_norm: float = 0.5
    epsilon: float = 1e-8

    @functools.cached_property
    def _transformation(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm),
            optax.scale_by_adam(*self.betas, eps=self.epsilon),
            optax.add_decayed_weights(self.weight_decay),
        )

    def init(self, parameters: PyTree) -> OptimizerState:
        """State before the first step."""
        zero = jnp.zeros((), jnp.int32)
        return OptimizerState(self._transformation.init(parameters), zero, zero)

    def step(
        self,
        parameters: T,
        state: OptimizerState,
        gradient: T,
        learning_rate: Float[Array, ""] | float,
    ) -> tuple[T, OptimizerState, Float[Array, ""]]:
        """One descent step, skipped and counted if the gradient is not finite.

        Args:
            parameters: a pytree of arrays.
            state: from `init` or an earlier `step`.
            gradient: of what is to be minimised, shaped as `parameters`.
            learning_rate: of this step.

        Returns:
            new parameters, new state, and the gradient's norm before clipping.
        """
        gradient = tied(gradient)
        norm = optax.tree.norm(gradient)
        updates, adam = self._transformation.update(gradient, state.adam, parameters)
        applied = jax.tree.map(lambda p, u: p - learning_rate * u, parameters, updates)
        applied = tied(applied)  # against rounding that differs between the halves
        finite = jnp.isfinite(norm)
        parameters, adam = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (applied, adam), (parameters, state.adam)
        )
        skipped = (~finite).astype(jnp.int32)
        in_a_row = (state.skipped_in_a_row + 1) * skipped
        return parameters, OptimizerState(adam, state.skipped + skipped, in_a_row), norm


def learning_rate_at(
    iteration: Int[Array, ""],
    *,
    schedule: Schedule,
    initial: float,
    final: float,
    total_iterations: int,
    hold: float = 0.0,
) -> Float[Array, ""]:
    """Learning rate of an iteration.

    Args:
        iteration: counted from zero; beyond the last one the rate stays at `final`.
        schedule: "linear" or "exponential" from `initial` to `final`, or "constant".
        initial: rate of iteration 0.
        final: rate that iteration `total_iterations` would have.
        total_iterations: length of the run.
        hold: share of the run, below 1, in which the rate stays at `initial` before it changes.
    """
    fraction = jnp.minimum(iteration / max(total_iterations, 1), 1.0)
    fraction = jnp.maximum(fraction - hold, 0.0) / (1.0 - hold)
    if schedule == "linear":
        return initial + (final - initial) * fraction
    if schedule == "exponential":
        return initial * (final / initial) ** fraction
    return jnp.full_like(fraction, initial)
