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
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from rpo.errors import CheckpointError


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

    Raises:
        ValueError: if the budget is too small for every candidate to train.
    """

    candidates: int
    budget: int
    until: float
    start: float = 0.0
    kept: float = 0.5

    def __post_init__(self) -> None:
        if self.candidates > 1 and (0 in self.ends or len(set(self.ends)) < len(self.ends)):
            raise ValueError(
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
    """

    def __init__(self, selection: Selection, numbers: Int[np.ndarray, "seeds candidates"]) -> None:
        self.selection = selection
        self.numbers = numbers

    @classmethod
    def start(cls, selection: Selection, seeds: int) -> Race:
        """All candidates of all seeds."""
        return cls(selection, np.tile(np.arange(selection.candidates), (seeds, 1)))

    @classmethod
    def resume(cls, selection: Selection, facts: Mapping[str, Any], path: Path) -> Race:
        """Those that a checkpoint names.

        Args:
            selection: of the run.
            facts: of the checkpoint: `iteration` and `candidates`.
            path: of the checkpoint.

        Raises:
            CheckpointError: if the numbers cannot be.
        """
        left, numbers = selection.alive(facts["iteration"]), facts.get("candidates")
        sound = isinstance(numbers, list) and all(
            isinstance(row, list)
            and len(row) == left
            and all(isinstance(one, int) and 0 <= one < selection.candidates for one in row)
            and sorted(set(row)) == row
            for row in numbers
        )
        if not sound:
            raise CheckpointError(f"checkpoint {path} is damaged: its candidates cannot be")
        return cls(selection, np.array(numbers))

    def scores(self, metrics: dict[str, np.ndarray]) -> Float[np.ndarray, "seeds candidates"]:
        """The mean return of each one's latest episodes; NaN where updates fail or none is over.

        Args:
            metrics: by name, one value per training, seed by seed.
        """
        failing = metrics.get("updates_skipped_in_a_row", np.zeros(1)) > 0
        scores = np.where(failing, np.nan, metrics["episode_return"])
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
        kept = self.selection.keep(iteration, self.scores(metrics))
        rows = np.arange(seeds)[:, None]
        self.numbers = self.numbers[rows, kept]
        trainings: list[int] = (rows * before + kept).ravel().tolist()
        return trainings
