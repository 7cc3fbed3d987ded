"""Several candidates per seed, of which the better half goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import rpo
from rpo.errors import CheckpointError
from rpo.training import Run, SettingsError
from rpo.training.checkpoint import iteration_of, last_checkpoint, restore_checkpoint
from rpo.training.metrics import WALL_CLOCK_COLUMNS
from rpo.training.program import Program
from rpo.training.selection import Race, Selection
from rpo.training.settings import resolve
from tests.marks import nightly, rest_nightly
from tests.training.conftest import copying
from tests.training.fakes import PENDULUM, TINY, Countdown

SETTINGS = {"seeds": 2, "candidates": 3, "selection_share": 0.6, "total_steps": 64 * 120}


FIRST, SECOND = Selection(3, 120, 0.6).ends
STOPS = {"between two rounds": SECOND - 1, "before the first round ends": FIRST - 1}
STOPS["after"] = SECOND + 1


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where `selected` is copied as a kill after so many iterations would leave it."""
    return {when: tmp_path_factory.mktemp("killed") / "run" for when in STOPS}


@pytest.fixture(scope="module")
def selected(train_tiny: Callable[..., Run], copies: dict[str, Path]) -> Run:
    """A complete run."""
    callbacks = [copying(STOPS[when] + 1, to=path) for when, path in copies.items()]
    settings = SETTINGS | {"checkpoint_interval": 0, "evaluation_episodes": 2}
    # SHAC: half of what RPO compiles, three times
    return train_tiny(Countdown(), "shac", **settings, callbacks=callbacks)


def test_the_latest_rewards_may_decide_instead() -> None:
    race = Race.start(Selection(3, 1000, 0.5, score="reward"), seeds=1)
    returns = {"episode_return": np.array([3.0, 2.0, np.nan])}
    race.note(returns | {"reward": np.array([1.0, 4.0, 4.0])})
    race.note(returns | {"reward": np.array([1.0, 4.0, 16.0])})
    np.testing.assert_allclose(race.rewards, [[1.0, 4.0, 5.0]])
    again = Race.resume(race.selection, 1, race.facts() | {"iteration": 2}, Path("there"))
    np.testing.assert_array_equal(again.rewards, race.rewards)
    failing = returns | {"updates_skipped_in_a_row": np.array([0.0, 1.0, 0.0])}
    assert race.drop(race.selection.ends[0], failing) == [0, 2]
    np.testing.assert_allclose(race.rewards, [[1.0, 5.0]])
    left = {"episode_return": np.array([3.0, np.nan])}
    assert race.drop(race.selection.ends[1], left) == [1]
    assert race.numbers.tolist() == [[2]]


@pytest.mark.parametrize("rewards", [None, [[1.0]], "many", [["x", 1.0, 2.0]]])
def test_a_checkpoint_without_sound_rewards_is_damaged(rewards: object) -> None:
    selection = Selection(3, 1000, 0.5, score="reward")
    facts = {"iteration": 5, "candidates": [[0, 1, 2]], "rewards": rewards}
    with pytest.raises(CheckpointError, match="its rewards cannot be"):
        Race.resume(selection, 1, facts, Path("there"))


def rounds_of(run: Run) -> list[dict]:
    return json.loads((run.path / "candidates.json").read_text())


@pytest.mark.parametrize(
    ("candidates", "sizes"), [(1, [1]), (2, [2, 1]), (3, [3, 2, 1]), (4, [4, 2, 1])]
)
def test_everybodys_iterations_are_counted(candidates: int, sizes: list[int]) -> None:
    selection = Selection(candidates, 1000, 0.25)
    assert selection.sizes == sizes
    alive = [selection.alive(k) for k in range(selection.iterations)]
    assert [selection.spent(k) for k in range(len(alive) + 1)] == [0, *np.cumsum(alive)]
    assert 1000 - candidates < selection.spent(selection.iterations) <= 1000
    assert sorted(set(alive), reverse=True) == sizes
    if candidates > 1:
        assert selection.ends[-1] == int(selection.iterations * 0.25)
        spans = np.diff([0, *selection.ends])
        np.testing.assert_allclose(spans, selection.ends[-1] / len(spans), atol=1)


def test_the_first_round_can_be_longer_and_rounds_can_leave_fewer() -> None:
    selection = Selection(20, 20_000, 0.25, start=0.15, kept=0.3)
    assert selection.sizes == [20, 6, 2, 1]
    length = selection.iterations
    assert selection.ends == [int(length * share) for share in (0.15, 0.2, 0.25)]
    alive = [selection.alive(k) for k in range(length)]
    assert selection.spent(length) == sum(alive) and 20_000 - 20 < sum(alive) <= 20_000
    assert Selection(10, 9000, 0.25, kept=0.3).sizes == [10, 3, 1]
    assert Selection(3, 9000, 0.25, kept=0.99).sizes == [3, 2, 1]  # every round drops one
    assert Selection(2, 9000, 0.25, start=0.1).ends == Selection(2, 9000, 0.25).ends


def test_the_better_half_is_kept_and_none_is_worst() -> None:
    race = Race.start(Selection(4, 1000, 0.25), seeds=2)
    first, second = race.selection.ends
    returns = np.array([1.0, np.nan, 3.0, 2.0, 5.0, 5.0, 5.0, 4.0])
    assert race.drop(first - 1, {"episode_return": returns}) is None
    assert race.drop(first, {"episode_return": returns}) == [2, 3, 4, 5]
    assert race.numbers.tolist() == [[2, 3], [0, 1]]
    metrics = {
        "episode_return": np.array([9.0, 1.0, 1.0, 2.0]),
        "updates_skipped_in_a_row": np.array([1.0, 0.0, 0.0, 0.0]),
        "reward": np.arange(4.0),
    }
    leading = race.leading(metrics)  # the first one's updates fail
    assert leading["reward"].tolist() == [1.0, 3.0]
    assert leading["candidate"].tolist() == [3, 1]
    assert leading["candidates"].tolist() == [2, 2]
    assert race.drop(second, metrics) == [1, 3]
    assert race.numbers.tolist() == [[3], [1]]


def test_a_run_keeps_the_best_and_counts_all(selected: Run) -> None:
    table = selected.metrics()
    selection = Selection(3, 120, 0.6)
    last = selection.iterations
    assert table["iteration"].tolist() == [k for k in range(1, last + 1) for _ in range(2)]
    spent = [64 * selection.spent(k) for k in table["iteration"]]
    assert table["env_steps"].tolist() == spent
    assert spent[-1] <= SETTINGS["total_steps"] < spent[-1] + 3 * 64
    rounds = rounds_of(selected)
    assert [one["iteration"] for one in rounds] == [k for k in selection.ends for _ in range(2)]
    for one in rounds:
        assert one["env_steps"] == 64 * selection.spent(one["iteration"])
        reached = {c: -np.inf if x is None else x for c, x in one["returns"].items()}
        ordered = sorted(reached, key=lambda c: -reached[c])
        assert one["kept"] == sorted(int(c) for c in ordered[: len(one["kept"])])
        # the row of that iteration shows the leader
        row = (table["iteration"] == one["iteration"]) & (table["seed"] == one["seed"])
        assert table["candidate"][row][0] == int(ordered[0])
        assert table["episode_return"][row][0] == pytest.approx(reached[ordered[0]])
    final = [one["kept"][0] for one in rounds[-2:]]
    assert table["candidate"][-2:].tolist() == final
    assert table["candidates"][[0, -1]].tolist() == [3, 1]
    assert np.shape(selected.evaluation()["stochastic"]["returns"]) == (2, 2)


@pytest.mark.parametrize("when", rest_nightly(STOPS))
def test_a_stopped_run_goes_on_exactly(when: str, copies: dict[str, Path], selected: Run) -> None:
    path = copies[when]
    assert iteration_of(last_checkpoint(path / "checkpoints")) == STOPS[when]
    assert len(rpo.evaluate(path, episodes=2, env=Countdown()).returns) == 2
    resumed = rpo.train(Countdown(), resume=path, verbose=False)
    assert rounds_of(resumed) == rounds_of(selected)
    table, expected = resumed.metrics(), selected.metrics()
    for name in expected:
        if name not in WALL_CLOCK_COLUMNS:
            np.testing.assert_array_equal(table[name], expected[name], err_msg=name)


@nightly
def test_candidate_0_is_the_seed_itself(tmp_path: Path, train_tiny: Callable[..., Run]) -> None:
    together = train_tiny(candidates=2, total_steps=64 * 40)
    iterations = Selection(2, 40, 0.35).iterations
    alone = train_tiny(total_steps=64 * iterations, devices=1).metrics()
    path = last_checkpoint(together.checkpoints)
    program = Program(resolve(PENDULUM, settings=TINY | {"candidates": 2, "total_steps": 64 * 40}))
    _, facts = restore_checkpoint(path, program.shapes(iteration_of(path)))
    assert facts["candidates"] == [[0]]  # no episode had ended: the first one is kept
    table, (end,) = together.metrics(), program.selection.ends
    for name in ("reward", "value_loss", "learning_rate"):
        np.testing.assert_array_equal(table[name][:end], alone[name][:end], err_msg=name)


def test_too_many_candidates_are_refused() -> None:
    for candidates, message in ((0, "must be at least 1"), (64, "too many for 30 iterations")):
        with pytest.raises(SettingsError, match=f"candidates is {candidates}, {message}"):
            Program(resolve(PENDULUM, settings=TINY | {"candidates": candidates}))
    for name, value in (("share", 1.0), ("keep", 0.0), ("keep", float("nan")), ("start", 0.35)):
        with pytest.raises(SettingsError, match=f"selection_{name} is {value}"):
            resolve(PENDULUM, settings=TINY | {f"selection_{name}": value})
