"""Imports point one way: no circle between modules, none from a lower room to a higher one."""

from __future__ import annotations

import ast
import functools
import graphlib
from pathlib import Path

import rpo

ROOT = Path(rpo.__file__).parent
ROOMS = (  # from the ground up; docs/architecture.md says what each may know
    "errors",
    "runtime",
    "mirror",
    "physics",
    "envs",
    "adapters",
    "nets",
    "algorithms",
    "training",
    "show",
    "reproduce",
    "api",
    "arguments",
    "train_command",
    "check_command",
    "cli",
    "__main__",
)


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports: anywhere in it, also for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            assert node.level == 0, path
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= named & known.keys()
            if named - known.keys():  # a name that the package itself defines or passes on
                found.add(node.module)
    return found


ABOVE = {"rpo.adapters.gymnasium": "show"}  # it hands pictures on


def room(module: str) -> int:
    if module in ABOVE:
        return ROOMS.index(ABOVE[module]) + 1
    return ROOMS.index(module.split(".")[1]) if "." in module else len(ROOMS)


KNOWN = modules()


@functools.cache  # reading all files takes a second: not while tests are collected
def graph() -> dict[str, set[str]]:
    """What each module imports of the package."""
    return {module: imports(path, KNOWN) - {module} for module, path in KNOWN.items()}


def test_every_module_has_a_room():
    assert {name.split(".")[1] for name in KNOWN if "." in name} - {"pretrained"} <= set(ROOMS)


def test_no_import_points_upwards():
    upwards = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if room(other) > room(module)
    ]
    assert upwards == []


def test_there_is_no_circle():
    try:
        graphlib.TopologicalSorter(graph()).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(f"a circle of imports: {' -> '.join(error.args[1])}") from None
