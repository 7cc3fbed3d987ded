"""The script that gathers finished runs for the repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rpo.errors import RunError

PATH = Path(__file__).parents[2] / "benchmarks" / "collect.py"


def collect() -> Any:
    spec = importlib.util.spec_from_file_location("collect", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(run: str, algorithm: str, stochastic: float, deterministic: float) -> dict[str, Any]:
    return {
        "run": run,
        "key": ("ant", algorithm, "fast"),
        "steps": 1000,
        "minutes": 2.0,
        "stochastic": stochastic,
        "deterministic": deterministic,
    }


def test_seeds_of_one_method_are_averaged_and_methods_kept_apart() -> None:
    rows = [row("a", "rpo", 100, 200), row("b", "rpo", 300, 200), row("c", "shac", 7, 8)]
    lines = collect().table(rows).splitlines()
    name = "ant rpo fast, 2 seeds: mean ± std"
    assert lines[4] == f"| **{name}** | | **2.0** | **200 ± 100** | **200 ± 0** |"
    assert lines[6].startswith("| **ant shac fast, 1 seeds: mean ± std** | | **2.0** | **7 ± 0** |")


def test_many_seeds_have_a_range_and_an_interquartile_mean() -> None:
    rows = [row(str(k), "rpo", value, 5) for k, value in enumerate((0, 10, 20, 60, 100, 9, 21, 80))]
    lines = collect().table(rows).splitlines()
    assert lines[-2] == "| **interquartile mean** | | | **28** | **5** |"
    assert lines[-1] == "| **lowest to highest** | | | **0 to 100** | **5 to 5** |"


def test_an_unfinished_run_is_refused() -> None:
    run = SimpleNamespace(path=Path("runs/x"), evaluation=lambda: None)
    with pytest.raises(RunError, match="no stochastic evaluation"):
        collect().returns_of(run, "stochastic")
