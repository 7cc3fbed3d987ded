"""Settings that all methods share."""

from __future__ import annotations

import dataclasses

from rpo.algorithms.base import require
from rpo.algorithms.checks import require_ranges
from rpo.envs.base import EnvSpec
from rpo.errors import SettingsError
from rpo.mirror import Mirror

MAX_STEPS = 10**15
"""Of a run; a machine that takes ten million a second would need three years."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Settings of every method.

    The defaults are the paper's (Tables 2 and 3, Ant).

    Args:
        num_envs: environments N.
        horizon: steps H per iteration.
        stagger_episodes: start with episodes of all ages, so that they do not all end in the same
            iteration ever after.
        total_steps: environment steps of the whole run; sets the pace of learning-rate schedules.
        discount: gamma.
        actor_hidden_sizes: widths of the policy's hidden layers.
        critic_hidden_sizes: widths of every critic's hidden layers.
        symmetric: policy and critics treat the mirrored situation as the mirror of this one (see
            `rpo.nets.mirror`); for tasks with a mirror, and even widths.
    """

    num_envs: int = 128
    horizon: int = 32
    stagger_episodes: bool = False
    total_steps: int = 8_000_000
    discount: float = 0.99
    actor_hidden_sizes: tuple[int, ...] = (400, 200, 100)
    critic_hidden_sizes: tuple[int, ...] = (400, 200, 100)
    symmetric: bool = False

    def __post_init__(self) -> None:
        require_ranges(
            self,
            counts=("num_envs", "horizon"),
            fractions=("discount",),
            widths=("actor_hidden_sizes", "critic_hidden_sizes"),
        )
        steps, most = self.total_steps, MAX_STEPS
        require(1 <= steps <= most, f"total_steps is {steps}, must lie between 1 and {most:,}")
        require(
            self.total_iterations < 2**31,  # they are counted in 32 bits
            f"total_steps is {steps}, too many iterations of num_envs x horizon = "
            f"{self.num_envs * self.horizon} steps",
        )

    @property
    def total_iterations(self) -> int:
        """Iterations in a run of `total_steps`, rounded up."""
        return -(-self.total_steps // (self.num_envs * self.horizon))

    def mirror_of(self, spec: EnvSpec) -> Mirror | None:
        """The task's mirror if networks are to heed it.

        Raises:
            SettingsError: if they are, and it has none.
        """
        if not self.symmetric:
            return None
        if spec.mirror is None:
            raise SettingsError(
                f"symmetric: {spec.name} says of no mirror what it does to observations and "
                "actions (EnvSpec.mirror); leave the setting out"
            )
        return spec.mirror
