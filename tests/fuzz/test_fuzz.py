"""Some seconds of fuzzing; `python -m tests.fuzz all --hours 8` takes hours.

The inputs are the same in every run: a failure is one of the change at hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz import targets
from tests.fuzz.drive import Driver
from tests.marks import nightly


@pytest.mark.parametrize(
    ("target", "drawn", "made"),
    [
        ("mjcf", 12, 200),
        ("urdf", 12, 140),
        ("settings", 40, 920),
        pytest.param("mjcf", 70, 1400, marks=nightly),
        pytest.param("urdf", 70, 960, marks=nightly),
    ],
)
def test_inputs_are_taken_or_refused(target: str, drawn: int, made: int) -> None:
    """Drawn ones cost ten times as much as those that are made of their pieces."""
    before = targets.counted.copy()
    Driver(target).run(drawn, made, 1)
    counted = targets.counted - before
    assert counted.total() >= made + drawn / 2  # hypothesis may run out of new ones
    assert counted[f"{target} taken"] > 25


def test_a_number_beyond_all_floats_is_refused() -> None:
    targets.settle(("ant", "rpo", {"discount": 10**400}))


@pytest.fixture(scope="module")
def runs() -> Driver:
    driver = Driver("runs")
    yield driver
    driver.call.__self__.close()


def test_damaged_runs_are_read_or_refused(runs: Driver) -> None:
    runs.run(20, 100, 1)
    assert targets.counted["runs refused"] > 10


def test_a_sound_run_is_taken(runs: Driver) -> None:
    before = targets.counted["runs taken"]
    runs.take([])
    assert targets.counted["runs taken"] == before + 1


def test_a_broken_promise_is_noticed() -> None:
    def refuse_in_two_lines() -> None:
        raise ValueError("one\ntwo")

    with pytest.raises(targets.BrokenPromiseError, match="not one line"):
        targets.judged("x", refuse_in_two_lines, (ValueError,))
    with pytest.raises(ZeroDivisionError):
        targets.judged("x", lambda: 1 / 0, (ValueError,))


def test_counts_are_kept_even_of_what_ends_in_a_failure(monkeypatch, tmp_path: Path) -> None:
    record = tmp_path / "fuzz.json"
    record.write_text('{"rows": [{"target": "another"}]}')
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *_: None)  # of the tests' own process
    monkeypatch.setattr(targets, "counted", type(targets.counted)())
    words = ["settings", "--inputs", "5", "--seed", "7", "--json", str(record)]
    assert fuzz.main(words) == 0

    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(targets, "settle", fail)
    with pytest.raises(ZeroDivisionError) as caught:
        fuzz.main(words)
    assert caught.value.__notes__[0].startswith("input: (")
    other, kept, failed = json.loads(record.read_text())["rows"]
    assert other == {"target": "another"}
    assert (kept["inputs"], kept["broken_promises"], kept["seed"]) == (5, 0, 7)
    assert (failed["broken_promises"], failed["broken"]) == (1, "ZeroDivisionError()")
