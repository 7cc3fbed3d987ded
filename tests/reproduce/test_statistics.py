"""Statistics with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rpo.reproduce.statistics import probability_of_improvement, summarize
from tests.marks import nightly


def test_mean_std_and_interquartile_mean_of_known_scores() -> None:
    scores = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [99.0]])
    summary = summarize(scores)
    assert summary.mean.value == 15.0
    assert summary.std == pytest.approx(np.std(scores))
    assert summary.interquartile_mean.value == 3.5  # of 2, 3, 4, 5: the outlier does not count
    assert summary.seeds == 8


def test_mean_is_over_seeds_and_tasks_and_std_is_within_tasks() -> None:
    summary = summarize(np.array([[1.0, 101.0], [3.0, 103.0]]))
    assert summary.mean.value == 52.0
    assert summary.std == 1.0


def test_intervals_are_those_of_the_bootstrap_distribution() -> None:
    """The mean of two draws from {0, 1} is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4."""
    mean = summarize(np.array([[0.0], [1.0]])).mean
    assert (mean.low, mean.value, mean.high) == (0.0, 0.5, 1.0)


def test_resampling_is_within_tasks() -> None:
    """Were scores exchanged between tasks, the mean would vary."""
    mean = summarize(np.array([[0.0, 10.0]] * 4)).mean
    assert (mean.low, mean.value, mean.high) == (5.0, 5.0, 5.0)


@nightly
def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        mean = summarize(rng.normal(size=(20, 1)), repetitions=200).mean
        hits += mean.low <= 0.0 <= mean.high
    assert 84 <= hits <= 99


def test_a_single_seed_has_no_interval() -> None:
    summary = summarize(np.array([[3.0]]))
    assert summary.mean.value == 3.0
    assert math.isnan(summary.mean.low)
    assert math.isnan(summary.interquartile_mean.high)
    assert math.isnan(summary.std)


def test_equal_questions_get_equal_answers_and_nobody_elses_numbers_change() -> None:
    scores = np.random.default_rng(1).normal(size=(5, 2))
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    first = summarize(scores)
    assert np.random.rand() == expected  # noqa: NPY002
    assert summarize(scores) == first


def test_probability_of_improvement_counts_pairs() -> None:
    better = probability_of_improvement(np.array([[1.0], [4.0]]), np.array([[0.0], [2.0], [3.0]]))
    assert better.value == pytest.approx(4 / 6)  # 1 beats one of three, 4 beats three of three
    assert 0 <= better.low <= better.value <= better.high <= 1
    assert probability_of_improvement(np.array([[1.0]]), np.array([[1.0]])).value == 0.5


@pytest.mark.parametrize("scores", [np.zeros((0, 1)), np.zeros(3), np.array([[np.nan]])])
def test_what_are_no_scores_is_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="score"):
        summarize(scores)
