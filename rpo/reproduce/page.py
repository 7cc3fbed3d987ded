"""One self-contained HTML page with every table and figure in an output directory."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

from rpo.errors import one_line
from rpo.reproduce.targets import TARGETS
from rpo.training import RunError
from rpo.training.provenance import hardware, versions
from rpo.training.run_files import read_json

PAGE = "index.html"
MAX_FIGURE_BYTES = 50_000_000

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2730; background: #fff;
  max-width: 76rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 3rem; border-top: 1px solid #d9dee2; padding-top: 1rem; }
nav a { margin-right: 1rem; white-space: nowrap; } a { color: #0b6e99; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e3e6e8; text-align: left;
  white-space: nowrap; }
thead th { border-bottom: 2px solid #9aa5ad; }
code { background: #f2f4f5; padding: .1rem .3rem; border-radius: 3px; overflow-wrap: anywhere; }
.failed { color: #a3341a; }
details { margin: .8rem 0; } li { margin: .2rem 0; }
"""


def write_page(output: Path) -> Path:
    """Writes the page of all targets that were reproduced in a directory.

    Args:
        output: directory given to `rpo reproduce`.

    Returns:
        the page.

    Raises:
        RunError: if a report below it is damaged.
        OSError: if it cannot be written.
    """
    order = list(TARGETS)
    reports = [_read(path) for path in sorted(output.glob("*/report.json"))]
    reports.sort(key=lambda report: (order.index(report["target"]), report["budget"]))
    links = "".join(
        f'<a href="#{escape(_anchor(report))}">{escape(_anchor(report))}</a>' for report in reports
    )
    sections = "\n".join(_section(report) for report in reports)
    about = ", ".join(f"{name} {version}" for name, version in versions().items())
    machine = hardware()
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reparameterization Proximal Policy Optimization: reproduction</title>
<style>{_STYLE}</style></head><body>
<h1>Reparameterization Proximal Policy Optimization: reproduction</h1>
<p>Each section shows a table or figure of the paper, reproduced by the command below its title.
Shades are one standard deviation over seeds, intervals stratified bootstrap intervals of 95 %.
Page written with {escape(about)} on {escape(str(machine["processor"]))}
({escape(", ".join(machine["jax_devices"]))}); every run directory records its own.</p>
<nav>{links}</nav>
{sections}
</body></html>
"""
    path = output / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def _read(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = read_json(path)
    try:
        if report["target"] not in TARGETS:
            raise ValueError(f"there is no target {report['target']}")
        _check(report)
        report["drawn"] = [_drawn(path.parent / x) for x in report["figures"] if x[-4:] == ".svg"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        words = f"{path} cannot be read: {one_line(error)[:300]}"
        raise RunError(f"{words}; its target's own command writes it again") from error
    return report


def _drawn(path: Path) -> bytes:
    """A figure, if it is a plain file of a size that a page may have."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_FIGURE_BYTES:
        raise ValueError(f"{path.name} is missing, or no figure")
    return path.read_bytes()


_PARTS: dict[str, type] = {
    **dict.fromkeys(("target", "budget", "title", "command", "claim", "note"), str),
    **dict.fromkeys(("figures", "orders"), list),
    **dict.fromkeys(("tables", "failed", "cells"), dict),
}


def _check(report: dict[str, Any]) -> None:
    """Refuses a report that lacks a part, or whose figures lie elsewhere."""
    for name, kind in _PARTS.items():
        if not isinstance(report.get(name), kind):
            raise ValueError(f"{name} is missing or not what it should be")
    if any(not isinstance(name, str) or Path(name).name != name for name in report["figures"]):
        raise ValueError("figures must be names of files beside it")
    tables = report["tables"].values()
    if not all(isinstance(x, list) and x and all(isinstance(r, list) for r in x) for x in tables):
        raise ValueError("tables must be lists of rows")
    texts = [*report["orders"], *report["failed"].values()]
    texts += [*report["cells"].values(), *(c for x in tables for row in x for c in row)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("what it tells must be text")


def _anchor(report: dict[str, Any]) -> str:
    return f"{report['target']}-{report['budget']}"


def _section(report: dict[str, Any]) -> str:
    title = f"{report['target']}: {report['title']} (budget {report['budget']})"
    parts = [f'<section id="{escape(_anchor(report))}"><h2>{escape(title)}</h2>']
    parts.append(f"<p><code>{escape(report['command'])}</code></p>")
    parts.append(f"<p>The paper: {escape(report['claim'])} {escape(report['note'])}</p>")
    parts += [_image(drawn, title) for drawn in report["drawn"]]
    for heading, table in report["tables"].items():
        parts += [f"<h3>{escape(heading)}</h3>", _table(table)]
    parts.append(_list(report["orders"]))
    failures = [f"failed: {name}: {line}" for name, line in report["failed"].items()]
    parts.append(_list(failures, "failed"))
    commands = "".join(
        f"<li>{escape(name)}<br><code>{escape(command)}</code></li>"
        for name, command in report["cells"].items()
    )
    parts.append(
        f"<details><summary>Runs and their commands</summary><ul>{commands}</ul></details>"
    )
    return "\n".join(part for part in parts if part) + "</section>"


def _image(drawn: bytes, title: str) -> str:
    data = base64.b64encode(drawn).decode()
    return f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{data}">'


def _table(table: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table[1:]
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _list(lines: list[str], kind: str = "") -> str:
    if not lines:
        return ""
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(x)}</li>" for x in lines) + "</ul>"
