"""The script that gathers finished runs for the repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rpo.training.errors import RunError

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
    assert lines[4] == "| **ant rpo fast, 2 seeds** | | **2.0** | **200 ± 100** | **200 ± 0** |"
    assert lines[6] == "| **ant shac fast, 1 seeds** | | **2.0** | **7 ± 0** | **8 ± 0** |"


def test_an_unfinished_run_is_refused() -> None:
    run = SimpleNamespace(path=Path("runs/x"), evaluation=lambda: None)
    with pytest.raises(RunError, match="no stochastic evaluation"):
        collect().returns_of(run, "stochastic")
