"""What the soak test calls the same: two trainings, one of which was killed again and again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from rpo.training import Run
from rpo.training.array_file import Arrays, read_arrays, write_arrays
from rpo.training.checkpoint import last_checkpoint
from tests.benchmarks.test_scripts import load
from tests.fuzz.targets import Runs

load("record")
soak = load("soak")


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Runs, Runs]]:
    """Runs with the same contents, but names and times of their own."""
    made = Runs(), Runs()
    yield made
    for one in made:
        one.close()


def state(runs: Runs) -> str:
    return soak.state_of(Run.load(runs.run), runs.env)


def rewrite(runs: Runs, change: dict[str, object], arrays: Arrays) -> None:
    path = last_checkpoint(Run.load(runs.run).checkpoints)
    assert path is not None
    facts, stored, _ = read_arrays(path, "checkpoint", "checkpoint")
    write_arrays(path, "checkpoint", facts | change, stored | arrays)


def test_names_and_times_do_not_count(pair: tuple[Runs, Runs]) -> None:
    one, other = pair
    assert Run.load(one.run).config["id"] != Run.load(other.run).config["id"]
    rewrite(other, {"seconds": 77.0}, {})
    assert state(one) == state(other)


def test_one_bit_of_an_array_counts_and_so_does_a_fact(pair: tuple[Runs, Runs]) -> None:
    one, other = pair
    expected = state(one)
    path = last_checkpoint(Run.load(other.run).checkpoints)
    assert path is not None
    _, stored, _ = read_arrays(path, "checkpoint", "checkpoint")
    name = next(n for n, x in stored.items() if x.dtype == np.float32 and x.size)
    changed = stored[name].copy()
    changed.flat[0] = np.nextafter(changed.flat[0], np.float32(np.inf))
    rewrite(other, {}, {name: changed})
    assert state(other) != expected
    rewrite(other, {}, {name: stored[name]})
    assert state(other) == expected
    rewrite(other, {"another": 1}, {})
    assert state(other) != expected
