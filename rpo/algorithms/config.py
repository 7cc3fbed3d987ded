"""Settings that all methods share, and the ranges of settings: a failure is one line that says what
to change."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rpo.envs.base import EnvSpec
from rpo.errors import SettingsError
from rpo.mirror import Mirror

MAX_STEPS = 10**15
"""Of a run; a machine that takes ten million a second would need three years."""


def per_mille(share: float) -> int:
    """A share below 1 in thousandths: exact, however many environments it is of."""
    return min(round(1000 * share), 999)


def require(condition: bool, message: str) -> None:
    """Raises ValueError with `message` unless `condition` holds; for settings."""
    if not condition:
        raise ValueError(message)


def require_ranges(
    config: Any,
    *,
    counts: Iterable[str] = (),
    positive: Iterable[str] = (),
    not_negative: Iterable[str] = (),
    fractions: Iterable[str] = (),
    shares: Iterable[str] = (),
    widths: Iterable[str] = (),
    betas: Iterable[str] = (),
    parts_of_horizon: Iterable[str] = (),
) -> None:
    """Checks the settings with these names.

    Args:
        config: has the settings as attributes.
        counts: from 1 to 2^31 - 1.
        positive: finite and above 0.
        not_negative: finite and at least 0.
        fractions: in [0, 1].
        shares: in [0, 1).
        widths: tuples of at most 100 hidden layers' widths, at most a million each.
        betas: pairs of decay rates in [0, 1).
        parts_of_horizon: numbers of minibatches, which divide the horizon.

    Raises:
        ValueError: naming the first setting that is out of range.
    """
    for name in counts:
        value = getattr(config, name)
        require(value >= 1, f"{name} is {value}, must be at least 1")
        require(value < 2**31, f"{name} is {value}, must be below 2^31")
    for name in positive:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{name} is {value}, must be positive and finite")
    for name in not_negative:
        value = getattr(config, name)
        require(0 <= value < math.inf, f"{name} is {value}, must not be negative, and be finite")
    for name in fractions:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{name} is {value}, must lie in [0, 1]")
    for name in shares:
        value = getattr(config, name)
        require(0 <= value < 1, f"{name} is {value}, must be at least 0 and below 1")
    for name in widths:
        sizes = getattr(config, name)
        valid = len(sizes) > 0 and all(size >= 1 for size in sizes)
        require(valid, f"{name} is {sizes}, must list at least one positive width")
        fitting = len(sizes) <= 100 and max(sizes) <= 10**6
        require(fitting, f"{name} is {sizes}: at most 100 layers of a million units are possible")
    for name in betas:
        rates = getattr(config, name)
        valid = all(0 <= rate < 1 for rate in rates)
        require(valid, f"{name} is {rates}, both must lie in [0, 1)")
    for name in parts_of_horizon:
        value, horizon = getattr(config, name), config.horizon
        require(horizon % value == 0, f"{name} is {value}, must divide the horizon ({horizon})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Settings of every method. What is a `Literal` is one of its words.

    The defaults are the paper's (Tables 2 and 3, Ant).

    Args:
        num_envs: environments N.
        horizon: steps H per iteration.
        stagger_episodes: start with episodes of all ages, so that they do not all end in the same
            iteration ever after.
        short_episodes: share of the environments, below 1, whose episodes end early (as by a time
            limit, with the value of what would have followed), so that more of what is learned from
            are starts. They do not count as finished episodes.
        short_episode_steps: after how many steps these end.
        total_steps: environment steps of the whole run; sets the pace of learning-rate schedules.
        discount: gamma.
        actor_hidden_sizes: widths of the policy's hidden layers.
        critic_hidden_sizes: widths of every critic's hidden layers.
        betas: decay rates of AdamW's moments.
        weight_decay: of AdamW.
        max_gradient_norm: at which gradients are clipped.
        policy_average: weight that the average of all policies so far keeps in an iteration, below
            1; the average, not the newest policy, is then what a run saves, evaluates and shows. 0:
            none. What is learned, and the returns seen meanwhile, are the newest policy's.
        symmetric: policy and critics treat the mirrored situation as the mirror of this one (see
            `rpo.nets.mirror`); for tasks with a mirror, and even widths.
    """

    num_envs: int = 128
    horizon: int = 32
    stagger_episodes: bool = False
    short_episodes: float = 0.0
    short_episode_steps: int = 200
    total_steps: int = 8_000_000
    discount: float = 0.99
    actor_hidden_sizes: tuple[int, ...] = (400, 200, 100)
    critic_hidden_sizes: tuple[int, ...] = (400, 200, 100)
    betas: tuple[float, float] = (0.7, 0.95)
    weight_decay: float = 0.01
    max_gradient_norm: float = 0.5
    policy_average: float = 0.0
    symmetric: bool = False

    def __post_init__(self) -> None:
        require_ranges(
            self,
            counts=("num_envs", "horizon", "short_episode_steps"),
            positive=("max_gradient_norm",),
            not_negative=("weight_decay",),
            fractions=("discount",),
            shares=("short_episodes", "policy_average"),
            widths=("actor_hidden_sizes", "critic_hidden_sizes"),
            betas=("betas",),
        )
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal:
                value, known = getattr(self, name), get_args(kind)
                listed = ", ".join(map(str, known))
                require(value in known, f"{name} is {value!r}, must be one of {listed}")
        steps = self.total_steps
        require(1 <= steps <= MAX_STEPS, f"total_steps is {steps}, must lie between 1 and 10^15")
        require(
            self.total_iterations < 2**31,  # they are counted in 32 bits
            f"total_steps is {steps}, too many iterations of num_envs x horizon = "
            f"{self.num_envs * self.horizon} steps",
        )

    @property
    def total_iterations(self) -> int:
        """Iterations in a run of `total_steps`, rounded up."""
        return -(-self.total_steps // (self.num_envs * self.horizon))

    @property
    def short_environments(self) -> int:
        """How many environments end their episodes early."""
        return self.num_envs * per_mille(self.short_episodes) // 1000

    def require_effect(self, spec: EnvSpec) -> None:
        """Refuses settings that would change nothing on a task.

        Raises:
            ValueError: in one line.
        """
        if not self.short_episodes:
            return
        require(
            self.short_episode_steps < spec.episode_length,
            f"short_episode_steps is {self.short_episode_steps}, must be below the length of an "
            f"episode, {spec.episode_length}",
        )
        require(
            self.short_environments > 0,
            f"short_episodes is {self.short_episodes}: of {self.num_envs} environments that is "
            "none; raise it, or leave it at 0",
        )

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
