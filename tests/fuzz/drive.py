"""Draws inputs, makes more of their pieces, tries them: what a test and hours of it share."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz import recombine
from tests.fuzz.robots import PLAIN_MJCF, URDF

Arguments = tuple[Any, ...]
POOL = 2000
"""Inputs that others are put together from."""
TAKEN_COUNT = {"mjcf": 20, "urdf": 20}
"""So many times an input that was taken is among them, where most are refused."""
SOUND: dict[str, Arguments] = {"mjcf": (PLAIN_MJCF,), "urdf": (URDF, True)}
"""Always among them: for lack of sound ones all that is made of the others may be refused."""


class Driver:
    """Fuzzes one target.

    Args:
        target: its name.
        after: is told after every input.
    """

    def __init__(self, target: str, after: Callable[[], None] = lambda: None) -> None:
        from tests.fuzz import targets  # not before atheris can look on

        self.target, self.after = target, after
        self.call, self.strategies = targets.target(target), targets.STRATEGIES[target]
        self.counted = targets.counted
        self.pool: list[Arguments] = []

    def run(self, drawn: int, made: int, number: int) -> None:
        """Tries inputs; the same ones for the same number and pool.

        Args:
            drawn: how many hypothesis draws; a failing one is made smaller.
            made: how many are then put together from these and earlier ones.
            number: seed.

        Raises:
            Exception: of the first broken promise, with the input as a note.
        """
        luck = Random(number)
        if self.target in SOUND:
            self.pool.extend([SOUND[self.target]] * TAKEN_COUNT[self.target])
        seed(number)(as_test(self.take, self.strategies, drawn))()
        for _ in range(made):
            self.take(*recombine.recombined(self.target, self.pool, luck))
        self.pool[:] = luck.sample(self.pool, min(len(self.pool), POOL))

    def take(self, *arguments: Any) -> None:
        """Tries one."""
        name = f"{self.target} taken"
        before = self.counted[name]
        try:
            self.call(*arguments)
        except Exception as error:
            error.add_note(f"input: {arguments!r}")
            raise
        copies = TAKEN_COUNT.get(self.target, 1) if self.counted[name] > before else 1
        self.pool.extend([arguments] * copies)
        self.after()


def as_test(call: Callable[..., None], strategies: tuple[Any, ...], count: int) -> Any:
    """A test of hypothesis that calls with so many inputs."""

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.tuples(*strategies))
    def test(arguments: Arguments) -> None:
        call(*arguments)

    return test
