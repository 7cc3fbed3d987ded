"""Several trainings per seed at first, of which the better ones are kept again and again.

Chance early in a training decides which gait a robot ends up with, and early returns tell. So it
pays to start several trainings and to drop those that lag behind (successive halving, Jamieson and
Talwalkar 2016), as long as the steps of all of them are counted. Very early returns tell nothing,
so the first round may be longer than the others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from rpo.errors import CheckpointError, SettingsError

Score = Literal["return", "reward"]
SCORES: tuple[Score, ...] = get_args(Score)

LATEST = 1 / 12
"""Weight of the newest iteration in the mean reward by which candidates may be compared."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """When candidates are dropped, and what they cost.

    Args:
        candidates: per seed, at the start.
        budget: iterations of all candidates of a seed together; positive.
        until: share of the training that is kept after which only that one is left; in (0, 1).
        start: share after which the first ones are dropped, in [0, until); the rounds after it are
            equally long. 0: all rounds are.
        kept: share of the candidates that a round leaves, rounded up; in [0, 1).
        score: what they are compared by: "return", the mean of the latest finished episodes, or
            "reward", the mean reward of a step in the latest iterations.

    Raises:
        SettingsError: if the budget is too small for every candidate to train.
    """

    candidates: int
    budget: int
    until: float
    start: float = 0.0
    kept: float = 0.5
    score: Score = "return"

    def __post_init__(self) -> None:
        if self.candidates > 1 and (0 in self.ends or len(set(self.ends)) < len(self.ends)):
            raise SettingsError(
                f"candidates is {self.candidates}, too many for {self.budget} iterations; "
                "lower candidates or raise total_steps"
            )

    @property
    def sizes(self) -> list[int]:
        """Candidates in each round, and 1 for the rest of the training."""
        sizes = [self.candidates]
        while sizes[-1] > 1:
            left = math.ceil(sizes[-1] * self.kept - 1e-9)  # 0.3 * 10 is a little above 3
            sizes.append(min(max(left, 1), sizes[-1] - 1))
        return sizes

    @property
    def ends(self) -> list[int]:
        """Iterations after which the rounds end."""
        return self._ends(self.iterations)

    @property
    def iterations(self) -> int:
        """Of the training that is kept: as many as the budget allows."""
        low, high = 0, self.budget  # the cost grows with the length
        while low < high:
            middle = -(-(low + high) // 2)
            if self._cost(middle, self._ends(middle)) <= self.budget:
                low = middle
            else:
                high = middle - 1
        return low

    def alive(self, iteration: int) -> int:
        """Candidates per seed that are left after so many iterations."""
        return self.sizes[sum(iteration >= end for end in self.ends)]

    def spent(self, iteration: int) -> int:
        """Iterations of all candidates of a seed, when the kept one has made so many."""
        return self._cost(iteration, self.ends)

    def keep(
        self, iteration: int, scores: Float[np.ndarray, "seeds candidates"]
    ) -> Int[np.ndarray, "seeds left"]:
        """The candidates to go on with after an iteration, for each seed, in ascending order.

        Args:
            iteration: finished iterations.
            scores: higher is better; NaN is worst. Of equals the first is kept.
        """
        order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), axis=1, kind="stable")
        return np.sort(order[:, : self.alive(iteration)], axis=1)

    def _ends(self, iterations: int) -> list[int]:
        rounds = len(self.sizes) - 1
        if self.start == 0.0 or rounds == 1:
            return [int(iterations * self.until * k / rounds) for k in range(1, rounds + 1)]
        spans = (self.start + (self.until - self.start) * k / (rounds - 1) for k in range(rounds))
        return [int(iterations * span) for span in spans]

    def _cost(self, iteration: int, ends: list[int]) -> int:
        starts = [0, *ends]
        stops = [*ends, max(iteration, *ends, 0)]
        spans = (max(min(iteration, b) - a, 0) for a, b in zip(starts, stops, strict=True))
        return sum(size * span for size, span in zip(self.sizes, spans, strict=True))


class Race:
    """The candidates that are left.

    Args:
        selection: when they are dropped.
        numbers: of the candidates of each seed (seeds, candidates left), ascending.
        rewards: the mean reward of a step in each one's latest iterations, weighted by
            (1 - LATEST)^age; None before the first.
    """

    def __init__(
        self,
        selection: Selection,
        numbers: Int[np.ndarray, "seeds candidates"],
        rewards: Float[np.ndarray, "seeds candidates"] | None = None,
    ) -> None:
        self.selection = selection
        self.numbers = numbers
        self.rewards = rewards

    @classmethod
    def start(cls, selection: Selection, seeds: int) -> Race:
        """All candidates of all seeds."""
        return cls(selection, np.tile(np.arange(selection.candidates), (seeds, 1)))

    @classmethod
    def resume(cls, selection: Selection, seeds: int, facts: Mapping[str, Any], path: Path) -> Race:
        """Those that a checkpoint names.

        Args:
            selection: of the run.
            seeds: how many the run has.
            facts: of the checkpoint: `iteration` and `candidates`.
            path: of the checkpoint.

        Raises:
            CheckpointError: if the numbers cannot be.
        """
        left, numbers = selection.alive(facts["iteration"]), facts.get("candidates")
        sound = (
            isinstance(numbers, list)
            and len(numbers) == seeds
            and all(
                isinstance(row, list)
                and len(row) == left
                and all(isinstance(one, int) and 0 <= one < selection.candidates for one in row)
                and sorted(set(row)) == row
                for row in numbers
            )
        )
        if not sound:
            raise CheckpointError(f"checkpoint {path} is damaged: its candidates cannot be")
        numbers, rewards = np.array(numbers), facts.get("rewards")
        if rewards is not None or (selection.score == "reward" and facts["iteration"] > 0):
            try:
                rewards = np.array(rewards, float)
                sound = rewards.shape == numbers.shape
            except (TypeError, ValueError):
                sound = False
            if not sound:
                raise CheckpointError(f"checkpoint {path} is damaged: its rewards cannot be")
        return cls(selection, numbers, rewards)

    def facts(self) -> dict[str, Any]:
        """What `resume` needs in a checkpoint."""
        rewards = None if self.rewards is None else self.rewards.tolist()
        return {"candidates": self.numbers.tolist(), "rewards": rewards}

    def note(self, metrics: dict[str, np.ndarray]) -> None:
        """Enters an iteration into the rewards."""
        reward = metrics["reward"].astype(float).reshape(self.numbers.shape)
        if self.rewards is None:
            self.rewards = reward
        else:
            self.rewards = self.rewards + LATEST * (reward - self.rewards)

    def scores(self, metrics: dict[str, np.ndarray]) -> Float[np.ndarray, "seeds candidates"]:
        """The mean return of each one's latest episodes; NaN where updates fail or none is over.

        Args:
            metrics: by name, one value per training, seed by seed.
        """
        scores = np.where(_failing(metrics), np.nan, metrics["episode_return"])
        return scores.reshape(self.numbers.shape)

    def leading(self, metrics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Metrics of the candidate with the best score of each seed, one value per seed.

        Where there is a choice, `candidate` is its number and `candidates` how many are left.
        """
        if self.selection.candidates == 1:
            return metrics
        best = self.leaders(self.scores(metrics))
        leading = {name: values[best] for name, values in metrics.items()}
        left = np.full(len(best), self.numbers.shape[1])
        return leading | {"candidate": self.numbers.ravel()[best], "candidates": left}

    def leaders(self, scores: Float[np.ndarray, "..."]) -> list[int]:
        """The training with the best score of each seed, by its number among those left."""
        seeds, left = self.numbers.shape
        best = np.argmax(np.nan_to_num(scores, nan=-np.inf).reshape(seeds, left), axis=1)
        trainings: list[int] = (np.arange(seeds) * left + best).tolist()
        return trainings

    def drop(self, iteration: int, metrics: dict[str, np.ndarray]) -> list[int] | None:
        """Drops the worse ones if a round ends with this iteration.

        Returns:
            which trainings go on, by their number among those that are left; None for all.
        """
        seeds, before = self.numbers.shape
        if self.selection.alive(iteration) == before:
            return None
        scores = self.scores(metrics)
        if self.selection.score == "reward" and self.rewards is not None:
            scores = np.where(_failing(metrics).reshape(-1, before), np.nan, self.rewards)
        kept = self.selection.keep(iteration, scores)
        rows = np.arange(seeds)[:, None]
        self.numbers = self.numbers[rows, kept]
        if self.rewards is not None:
            self.rewards = self.rewards[rows, kept]
        trainings: list[int] = (rows * before + kept).ravel().tolist()
        return trainings


def _failing(metrics: dict[str, np.ndarray]) -> Bool[np.ndarray, " trainings"]:
    """Whose latest update was not finite."""
    skipped = metrics.get("updates_skipped_in_a_row", np.zeros(len(metrics["episode_return"])))
    failing: Bool[np.ndarray, " trainings"] = skipped > 0
    return failing
