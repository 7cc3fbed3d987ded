"""What cannot fit is refused before anything is compiled, with what would fit."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from rpo.training import SettingsError, memory
from rpo.training.program import Program
from rpo.training.settings import resolve
from tests.training.fakes import PENDULUM, TINY


def refusal(**settings: object) -> str:
    resolved = resolve(PENDULUM, settings=TINY | {"devices": 1} | settings)
    with pytest.raises(SettingsError, match="of memory are available") as caught:
        memory.require_fitting(Program(resolved))
    return str(caught.value)


def test_too_many_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**30)
    (fitting,) = re.findall(r"num_envs of about ([\d,]+) would fit", refusal(num_envs=10**9))
    count = int(fitting.replace(",", ""))
    memory.require_fitting(Program(resolve(PENDULUM, settings=TINY | {"num_envs": count})))
    refusal(num_envs=2 * count)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"actor_hidden_sizes": (10**6, 10**5)}, "lower the networks' hidden sizes"),
        ({"horizon": 2**31 - 4}, "lower horizon"),
        ({"seeds": 1024, "critic_hidden_sizes": (1000, 1000)}, "seeds"),
    ],
)
def test_other_settings(settings: dict, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**30)
    assert remedy in refusal(**settings)


def test_a_compiled_step_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * 2**30)
    found = SimpleNamespace(
        temp_size_in_bytes=8 * 2**30, output_size_in_bytes=5, alias_size_in_bytes=5
    )
    compiled = SimpleNamespace(memory_analysis=lambda: found)
    memory.require_room_to_run(compiled, 1, 100)
    with pytest.raises(SettingsError, match=r"needs about 16\.0 GiB.*about 62 would fit"):
        memory.require_room_to_run(compiled, 2, 100)


def test_this_machine_says_what_it_has() -> None:
    available = memory.available_bytes()
    assert available is None or 2**20 < available < 2**50
