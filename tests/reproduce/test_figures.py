"""Tables, figures and the page say what known run directories hold."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from rpo.reproduce import cells
from rpo.reproduce.cells import Plan, make_plan
from rpo.reproduce.figures import draw, largest_fall, series, smoothed
from rpo.reproduce.page import write_page
from rpo.reproduce.tables import markdown_table, rows_of, write_report
from rpo.reproduce.targets import PANELS, VARIANTS, Target
from rpo.show.curves import COLORS, Curve
from rpo.training import Run, RunError
from tests.reproduce.conftest import write_run
from tests.training.fakes import PENDULUM

RPO, SAPO, SHAC = (VARIANTS[name] for name in ("RPO", "SAPO", "SHAC"))
RETURN, RETURN_OVER_SECONDS = PANELS["return"], PANELS["return over seconds"]
LARGEST_RATIO, UPDATE_KL = PANELS["largest ratio"], PANELS["divergence of an update"]


def scores(*stochastic: float) -> dict[str, list[float]]:
    return {
        "stochastic": list(stochastic),
        "deterministic": [10 * score for score in stochastic],
    }


@pytest.fixture
def compared(small_world: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plan:
    """RPO 30, SHAC 12 on a pendulum; the paper has them the other way round."""
    target = Target(
        "Three methods",
        "SHAC is <better>.",
        (),
        (RPO, SHAC, SAPO),
        panels=(RETURN, RETURN_OVER_SECONDS, LARGEST_RATIO),
        paper={PENDULUM: {"RPO": (20.0, 1.0), "SHAC": (25.0, 2.0)}},
    )
    monkeypatch.setitem(cells.TARGETS, "three", target)
    return make_plan("three", tmp_path, budget="tiny", tasks=[PENDULUM])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty pictures, for tests that do not look at them: drawing one takes a second."""

    def blank(figure: Figure, path: Path, **_: object) -> None:
        path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')

    monkeypatch.setattr(Figure, "savefig", blank)


def written(plan: Plan) -> dict[str, Run]:
    rpo, shac, _ = plan.cells
    ratios = {f"ratio_max_epoch_{m}": float(m) for m in range(1, 5)}
    return {
        rpo.name: write_run(rpo, scores(28.0, 32.0), columns=ratios),
        shac.name: write_run(shac, scores(10.0, 14.0), seconds_per_iteration=6.0),
    }


@pytest.mark.usefixtures("undrawn")
def test_tables_from_known_runs(compared: Plan) -> None:
    finished = written(compared)
    write_report(compared, finished, {compared.cells[2].name: "it | broke"})
    text = (compared.report / "table.md").read_text()
    table = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in line] for line in table]
    assert lines[0] == ["", "pendulum, ours", "pendulum, paper"]
    assert lines[2:5] == [
        ["RPO", "30.0 ± 2.0", "20.0 ± 1.0"],
        ["SHAC", "12.0 ± 2.0", "25.0 ± 2.0"],
        ["SAPO", "-", "-"],
    ]
    assert "pendulum: the order differs: RPO > SHAC; the paper's: SHAC > RPO" in text
    assert f"failed: {compared.cells[2].name}: it | broke" in text
    # 100 iterations of 6 s for two seeds are five minutes each.
    details = next(line for line in lines if line[:2] == ["pendulum", "SHAC"])
    assert details[2:] == [
        *("12.0 (10.0 to 14.0)", "12.0 (10.0 to 14.0)", "2.0", "2", "2", "6,400", "5.0"),
    ]
    # Divided by RPO's mean, 30; every seed of RPO beats every seed of SHAC.
    overall = next(line for line in lines if line[:2] == ["SHAC", "pendulum"])
    assert overall[2:] == [*["0.400 (0.333 to 0.467)"] * 2, "1.00 (1.00 to 1.00)"]


@pytest.mark.usefixtures("undrawn")
def test_csv_from_known_runs(compared: Plan) -> None:
    write_report(compared, written(compared), {})
    with (compared.report / "table.csv").open(newline="") as file:
        rpo, shac = csv.DictReader(file)
    assert rpo["variant"] == "RPO"
    assert rpo["command"] == compared.cells[0].command()
    figures = {name: float(rpo[name]) for name in ("mean", "std", "paper_mean", "paper_std")}
    assert figures == {"mean": 30.0, "std": 2.0, "paper_mean": 20.0, "paper_std": 1.0}
    assert shac["scores"] == "10 14"
    assert (shac["env_steps"], shac["seeds"], shac["task"]) == ("6400", "2", "pendulum")


def test_a_target_decides_how_policies_act(compared: Plan) -> None:
    finished = written(compared)
    quiet = dataclasses.replace(compared.target, mode="deterministic")
    rows = rows_of(dataclasses.replace(compared, target=quiet), finished)
    assert [row.summary.mean.value for row in rows] == [300.0, 120.0]


def test_damaged_results_are_named(compared: Plan) -> None:
    finished = written(compared)
    path = finished[compared.cells[0].name].path / "evaluation.json"
    sound = path.read_text()
    for damaged in (
        sound.replace("mean_return_per_seed", "returns"),
        json.dumps(
            {mode: one | {"mean_return_per_seed": [1.0]} for mode, one in json.loads(sound).items()}
        ),
    ):
        path.write_text(damaged)
        with pytest.raises(RunError, match="results cannot be read"):
            rows_of(compared, finished)


@pytest.mark.usefixtures("undrawn")
def test_one_seed_shows_neither_interval_nor_deviation(small_world: None, tmp_path: Path) -> None:
    plan = make_plan("pair", tmp_path, budget="tiny", tasks=[PENDULUM], seeds=1)
    finished = {cell.name: write_run(cell, scores(5.0)) for cell in plan.cells}
    write_report(plan, finished, {})
    text = (plan.report / "table.md").read_text()
    assert "nan" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert not any(sign in line for line in tables for sign in (" to ", "±", "0.0 |", "1.00 |"))


def test_markdown_keeps_bars_inside_cells() -> None:
    assert markdown_table([["a|b", "c"], ["d", "e"]]).splitlines() == [
        "| a\\|b | c |",
        "|------|---|",
        "| d    | e |",
    ]


def test_series_are_means_of_columns_by_seed_over_time_per_seed(compared: Plan) -> None:
    finished = written(compared)
    rpo, shac, _ = compared.cells
    curves = series(finished[rpo.name], LARGEST_RATIO)
    assert list(curves) == [0, 1]
    np.testing.assert_array_equal(curves[1].returns, np.full(100, 3.0))  # of 2, 3 and 4
    assert series(finished[shac.name], LARGEST_RATIO) == {}
    returns = series(finished[shac.name], RETURN)[0]
    np.testing.assert_array_equal(returns.returns, np.arange(1, 101))
    np.testing.assert_allclose(returns.seconds, 3.0 * np.arange(1, 101))
    np.testing.assert_array_equal(returns.steps, 64.0 * np.arange(1, 101))


def test_smoothing_is_a_centred_mean() -> None:
    values = np.zeros(200)
    values[100] = 5.0
    curve = smoothed(Curve(np.arange(200.0), np.arange(200.0), values))
    np.testing.assert_allclose(curve.returns[96:105], [0, 0, 1, 1, 1, 1, 1, 0, 0])
    ends = smoothed(Curve(np.arange(200.0), np.arange(200.0), np.full(200, 2.0)))
    np.testing.assert_allclose(ends.returns, 2.0)


def test_largest_fall() -> None:
    assert largest_fall(np.array([0.0, 5.0, 3.0, 9.0, 8.0])) == 2.0
    assert largest_fall(np.array([1.0, 2.0])) == 0.0


def drawn(plan: Plan, finished: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> list:
    """The axes of the figure."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    draw(plan, finished, plan.output)
    return figures[0].axes


def test_figure_shows_mean_and_shade_over_steps_and_seconds(
    compared: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = {0: lambda k: float(k), 1: lambda k: k + 2.0}
    rpo = compared.cells[0]
    ratios = {f"ratio_max_epoch_{m}": float(m) for m in range(1, 5)}
    run = write_run(rpo, scores(1.0, 2.0), curves=curves, columns=ratios)
    over_steps, over_seconds, ratio = drawn(compared, {rpo.name: run}, monkeypatch)
    (line,) = over_steps.lines
    assert line.get_label() == "RPO, 2 seeds"
    x, y = line.get_data()
    np.testing.assert_allclose(y, x / 64 + 1)
    vertices = over_steps.collections[0].get_paths()[0].vertices
    assert vertices[:, 1].min() == pytest.approx(1.0)  # mean 2, std 1 at the start
    assert vertices[:, 1].max() == pytest.approx(102.0)
    np.testing.assert_allclose(over_seconds.lines[0].get_xdata()[-1], 100.0)
    assert ratio.get_yscale() == "log"


def test_a_method_keeps_its_colour_where_others_are_missing(compared: Plan, monkeypatch) -> None:
    shac = compared.cells[1]
    run = write_run(shac, scores(1.0, 2.0))
    assert drawn(compared, {shac.name: run}, monkeypatch)[0].lines[0].get_color() == COLORS[1]


def test_unstable_seeds_are_those_that_fell_furthest(
    compared: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = dataclasses.replace(compared.target, unstable_seeds=1, panels=(RETURN, UPDATE_KL))
    plan = dataclasses.replace(compared, target=target)
    sapo = plan.cells[2]
    fall = {0: lambda k: float(k), 1: lambda k: 50.0 * (k != 60) + k}
    run = write_run(sapo, scores(1.0, 2.0), curves=fall, columns={"kl_update": 0.1})
    returns, kl = drawn(plan, {sapo.name: run}, monkeypatch)
    assert [line.get_label() for line in returns.lines] == ["SAPO, seed 1"]
    assert len(kl.lines) == 2  # as it is, and smoothed


def test_runs_without_what_a_panel_needs_leave_it_empty(compared: Plan, monkeypatch) -> None:
    shac = compared.cells[1]
    finished = {shac.name: write_run(shac, scores(1.0, 2.0))}
    *_, ratio = drawn(compared, finished, monkeypatch)
    assert len(ratio.lines) == 0
    assert [text.get_text() for text in ratio.texts] == ["no data"]


def test_page_holds_everything_by_itself(compared: Plan) -> None:
    write_report(compared, written(compared), {compared.cells[2].name: "it broke"})
    page = write_page(compared.output).read_text()
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for cell in compared.cells:
        assert cell.command() in text
    assert compared.command() in text
    for words in ("SHAC is <better>.", "30.0 ± 2.0", "20.0 ± 1.0", "it broke", "order differs"):
        assert words in text
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert any(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert (compared.report / "figure.png").read_bytes().startswith(b"\x89PNG")
    ElementTree.parse(compared.report / "figure.svg")


@pytest.mark.usefixtures("undrawn")
def test_page_shows_every_target_in_the_papers_order(
    compared: Plan, small_world: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = written(compared)
    write_report(compared, finished, {})
    other = make_plan("pair", compared.output, budget="tiny", tasks=[PENDULUM])
    write_report(other, finished, {})
    page = write_page(compared.output).read_text()
    assert re.findall(r'<section id="([^"]*)"', page) == ["pair-tiny", "three-tiny"]
    report = json.loads((other.report / "report.json").read_text())
    figures: tuple[dict, ...] = ({"figures": ["../secret.svg"]}, {"figures": ["missing.svg"]})
    tables: tuple[dict, ...] = ({"tables": {"a": "b"}}, {"tables": {"a": []}})
    changed = [report | change for change in (*figures, *tables, {"cells": {"a": 3}})]
    for text in (*map(json.dumps, changed), "[]", "[" * 100_000):
        (other.report / "report.json").write_text(text)
        with pytest.raises(RunError, match=r"report\.json cannot be read"):
            write_page(compared.output)
    (other.report / "report.json").write_text(json.dumps(report))
    (other.report / "figure.svg").unlink()
    os.mkfifo(other.report / "figure.svg")  # reading it would never end
    with pytest.raises(RunError, match=r"figure\.svg is missing, or no figure; its target's own"):
        write_page(compared.output)
