"""A few seconds of fuzzing; `python -m tests.fuzz` takes hours.

The inputs are the same in every run (`derandomize`): a failure is one of the change at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings

from tests.fuzz import targets
from tests.fuzz.targets import STRATEGIES

QUICK = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@settings(QUICK, max_examples=150)
@given(*STRATEGIES["mjcf"])
def test_mjcf(xml: str) -> None:
    targets.robot(xml)


@settings(QUICK, max_examples=100)
@given(*STRATEGIES["urdf"])
def test_urdf(xml: str, floating: bool) -> None:
    targets.urdf_robot(xml, floating)


@settings(QUICK, max_examples=200)
@given(*STRATEGIES["settings"])
@example(("ant", "rpo", {"discount": 10**400}))
def test_settings(chosen: tuple[str, str, dict[str, Any]]) -> None:
    targets.settle(chosen)


@pytest.fixture(scope="module")
def damaged_runs() -> Iterator[targets.Runs]:
    made = targets.Runs()
    yield made
    made.close()


@settings(QUICK, max_examples=60)
@given(*STRATEGIES["runs"])
def test_runs(damaged_runs: targets.Runs, done: list) -> None:
    damaged_runs.open(done)


def test_a_sound_run_is_taken(damaged_runs: targets.Runs) -> None:
    before = targets.counted["runs taken"]
    damaged_runs.open([])
    assert targets.counted["runs taken"] == before + 1


def test_a_broken_promise_is_noticed() -> None:
    def refuse_in_two_lines() -> None:
        raise ValueError("one\ntwo")

    with pytest.raises(targets.BrokenPromiseError, match="not one line"):
        targets.judged("x", refuse_in_two_lines, (ValueError,))
    with pytest.raises(ZeroDivisionError):
        targets.judged("x", lambda: 1 / 0, (ValueError,))
