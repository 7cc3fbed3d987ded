"""What the paper's tables and figures need and what the paper found, from `paper.toml`.

A target's variants are trained on each of its tasks.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

Mode = Literal["stochastic", "deterministic"]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of a figure, or one row of a table.

    Args:
        label: in legends and tables.
        algorithm: name of the method.
        settings: what differs from the preset.
        factors: settings of the preset that are multiplied, by name; `total_steps` among them.
        slug: what tells it from the plain method in the name of its run directory.
    """

    label: str
    algorithm: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    slug: str = ""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One column of a figure.

    Args:
        title: what is drawn.
        columns: of `metrics.csv`; the mean over them is drawn.
        axis: "steps", or "seconds" of training per seed.
        log: logarithmic.
        smooth: draw the running mean over 2 % of the iterations, and single seeds raw behind it.
    """

    title: str
    columns: tuple[str, ...] = ("episode_return",)
    axis: Literal["steps", "seconds"] = "steps"
    log: bool = False
    smooth: bool = False


@dataclasses.dataclass(frozen=True)
class Target:
    """A table or figure of the paper.

    Args:
        title: what it shows.
        claim: what the paper says it shows.
        tasks: the paper's.
        variants: what is compared.
        mode: how policies act in the evaluation that the table lists.
        panels: columns of the figure; each task is a row.
        paper: mean and standard deviation by task and label.
        note: what the paper leaves open.
        unstable_seeds: draw only so many seeds per line, those whose return fell furthest.
    """

    title: str
    claim: str
    tasks: tuple[str, ...]
    variants: tuple[Variant, ...]
    mode: Mode = "stochastic"
    panels: tuple[Panel, ...] = ()
    paper: Mapping[str, Mapping[str, tuple[float, float]]] = dataclasses.field(default_factory=dict)
    note: str = ""
    unstable_seeds: int = 0


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is spent.

    Args:
        preset: settings to start from.
        seeds: per cell.
        episodes: per seed and evaluation.
        steps: environment steps per seed, by task; "" means every other task. Without it they take
            the preset's.
        settings: what else differs from the preset, by method; "" means every method.
    """

    preset: str
    seeds: int
    episodes: int
    steps: Mapping[str, int]
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def tuples(value: Any) -> Any:
    """Lists, which settings cannot be, as tuples."""
    if isinstance(value, dict):
        return {name: tuples(one) for name, one in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


_PAPER: dict[str, dict[str, dict[str, Any]]] = tuples(
    tomllib.loads((resources.files("rpo.reproduce") / "paper.toml").read_text(encoding="utf-8"))
)


def _target(
    *, variants: tuple[str, ...], panels: tuple[str, ...], paper: str | None = None, **rest: Any
) -> Target:
    return Target(
        variants=tuple(VARIANTS[label] for label in variants),
        panels=tuple(PANELS[name] for name in panels),
        paper=_PAPER["tables"][paper] if paper is not None else {},
        **rest,
    )


VARIANTS = {label: Variant(label, **data) for label, data in _PAPER["variants"].items()}
PANELS = {name: Panel(**data) for name, data in _PAPER["panels"].items()}
TARGETS = {name: _target(**data) for name, data in _PAPER["targets"].items()}
BUDGETS = {name: Budget(**data) for name, data in _PAPER["budgets"].items()}
