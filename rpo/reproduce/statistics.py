"""Statistics over seeds, with rliable (Agarwal et al. 2021).

Scores are matrices with one row per seed and one column per task.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float

Scores = Float[np.ndarray, "seeds tasks"]

REPETITIONS = 2000
"""Bootstrap resamples."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % stratified bootstrap interval; bounds are NaN with a single seed."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """Statistics of one method.

    Args:
        mean: over seeds, then over tasks.
        std: standard deviation over seeds (divided by their number), mean over tasks; nan of one
            seed.
        interquartile_mean: mean of the middle half of all scores.
        seeds: number of seeds.
    """

    mean: Estimate
    std: float
    interquartile_mean: Estimate
    seeds: int


def summarize(scores: Float[np.ndarray, "..."], repetitions: int = REPETITIONS) -> Summary:
    """Mean, standard deviation and interquartile mean of one method.

    Args:
        scores: of every seed on every task (seeds, tasks).
        repetitions: bootstrap resamples.

    Raises:
        ValueError: if this is no matrix, there is no score, or one is not finite.
    """
    from rliable import metrics

    scores = _checked(scores)

    def aggregates(sample: Scores) -> Float[np.ndarray, "2"]:
        return np.array([metrics.aggregate_mean(sample), metrics.aggregate_iqm(sample)])

    mean, middle = _estimates(aggregates, scores, repetitions=repetitions)
    std = float(scores.std(axis=0).mean()) if len(scores) > 1 else math.nan
    return Summary(mean, std, middle, len(scores))


def probability_of_improvement(
    first: Scores, second: Float[np.ndarray, "others tasks"], repetitions: int = REPETITIONS // 4
) -> Estimate:
    """Probability that a seed of the first method beats one of the second, mean over tasks.

    Args:
        first: scores of every seed on every task.
        second: the same of the other method; seeds may be fewer or more.
        repetitions: bootstrap resamples.

    Raises:
        ValueError: if there is no score, one is not finite, or the tasks differ in number.
    """
    from rliable import metrics

    first, second = _checked(first), _checked(second)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{first.shape[1]} tasks against {second.shape[1]}")

    def aggregate(
        first: Scores, second: Float[np.ndarray, "others tasks"]
    ) -> Float[np.ndarray, "1"]:
        return np.array([metrics.probability_of_improvement(first, second)])

    return _estimates(aggregate, first, second, repetitions=repetitions)[0]


def _checked(scores: Float[np.ndarray, "..."]) -> Scores:
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"scores have shape {scores.shape}, must be (seeds, tasks)")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    return scores


def _estimates(
    func: Callable[..., Any], *scores: Float[np.ndarray, "..."], repetitions: int
) -> list[Estimate]:
    from rliable import library

    values = func(*scores)
    if min(len(each) for each in scores) < 2:  # resampling a single seed would feign certainty
        return [Estimate(float(value), np.nan, np.nan) for value in values]
    with _seeded(0):
        _, intervals = library.get_interval_estimates(
            {"": scores[0] if len(scores) == 1 else list(scores)}, func, reps=repetitions
        )
    low, high = intervals[""]
    return [Estimate(*map(float, figures)) for figures in zip(values, low, high, strict=True)]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """rliable draws from numpy's global generator: fix it for the moment, then put it back."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
