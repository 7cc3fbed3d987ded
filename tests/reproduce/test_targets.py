"""The declarations say what the paper and the presets say, and every one of them can be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpo import algorithms, envs
from rpo.reproduce.cells import make_plan
from rpo.reproduce.targets import BUDGETS, TARGETS
from rpo.training import SettingsError


@pytest.fixture(autouse=True)
def one_environment_per_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are resolved hundreds of times here; building the robots once is enough."""
    built = {name: envs.make(name) for name in envs.names()}
    monkeypatch.setattr("rpo.training.settings.make_env", lambda task, settings: built[task])


def test_targets_are_those_of_the_paper() -> None:
    figures = [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert list(TARGETS) == ["table1", "table6", *(f"figure{number}" for number in figures)]
    assert list(BUDGETS) == ["smoke", "short", "paper"]


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_target_expands(budget: str, tmp_path: Path) -> None:
    by_path: dict[Path, dict] = {}
    for name, target in TARGETS.items():
        runnable = [v for v in target.variants if v.algorithm in algorithms.names()]
        tasks = [task for task in target.tasks if task in envs.names()]
        plan = make_plan(name, tmp_path, budget=budget)
        assert len(plan.cells) == len(runnable) * len(tasks) > 0
        paths = [cell.path for cell in plan.cells]
        assert len(set(paths)) == len(paths)
        for cell in plan.cells:
            assert cell.settings["seeds"] == BUDGETS[budget].seeds
            assert cell.settings["candidates"] == 1
            # Targets share runs: one directory may mean one thing only.
            assert by_path.setdefault(cell.path, cell.settings) == cell.settings


def test_names_are_readable_and_the_same_every_time(tmp_path: Path) -> None:
    names = [cell.name for cell in make_plan("figure12", tmp_path, budget="short").cells]
    assert names == [
        "humanoid-rpo-short-seeds0-2",
        "humanoid-rpo-no-kl-clip-0.1-short-seeds0-2",
        "humanoid-rpo-no-kl-clip-0.2-short-seeds0-2",
    ]


def test_ablations_change_what_they_name_and_nothing_else(tmp_path: Path) -> None:
    plan = make_plan("figure4", tmp_path, budget="paper", tasks=["humanoid"])
    full, no_kl, one_epoch, no_clip = (vars(cell.resolved().config) for cell in plan.cells)

    def changed(config: dict) -> dict:
        return {name: value for name, value in config.items() if value != full[name]}

    assert full["kl_coefficient"] == 0.5
    assert full["actor_epochs"] == 5
    assert changed(no_kl) == {"kl_coefficient": 0.0}
    assert changed(one_epoch) == {"actor_epochs": 1}
    assert changed(no_clip) == {"clip_low": 1.0, "clip_high": 1e30}


def test_factors_multiply_the_settings_of_preset_and_budget(tmp_path: Path) -> None:
    rpo, shac = make_plan("figure5", tmp_path, budget="paper").cells
    assert rpo.resolved().config.total_steps == 10_000_000
    assert shac.resolved().config.total_steps == 40_000_000
    cells = {cell.label: cell for cell in make_plan("figure11", tmp_path, budget="paper").cells}
    doubled = cells["KL x 2, entropy x 1"].resolved().config
    assert (doubled.kl_coefficient, doubled.entropy_coefficient) == (0.4, 0.25)  # ANYmal's .2, .25


def test_paper_budget_is_the_papers(tmp_path: Path) -> None:
    steps = {"hopper": 20e6, "ant": 8e6, "humanoid": 10e6, "anymal": 10e6, "hand": 4.1e6}
    for cell in make_plan("table1", tmp_path, budget="paper").cells:
        resolved = cell.resolved()
        assert resolved.config.total_steps == steps[cell.task]
        assert resolved.run_settings.seeds == 12
        assert resolved.run_settings.evaluation_episodes == 128
        assert resolved.preset == "paper"


def test_papers_figures() -> None:
    """A few, read off Tables 1 and 6 once more; and RPO leads where the paper says so."""
    assert TARGETS["table1"].paper["anymal"]["RPO"] == (15674.12, 316.26)
    assert TARGETS["table1"].paper["ant"]["PPO"] == (4146.00, 164.14)
    assert TARGETS["table6"].paper["hopper"]["SAPO"] == (5478.12, 4.45)
    for name in ("table1", "table6"):
        for task, methods in TARGETS[name].paper.items():
            best = max(methods, key=lambda label: methods[label][0])
            assert best == ("SAPO" if (name, task) == ("table6", "ant") else "RPO")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "table2"}, r"unknown target 'table2' \(did you mean table"),
        ({"budget": "huge"}, "unknown budget 'huge'; known: smoke, short, paper"),
        ({"seeds": 0}, "seeds is 0, must be at least 1"),
        ({"tasks": ["horse"]}, "horse"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        make_plan(**({"name": "table1", "output": tmp_path} | arguments))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
