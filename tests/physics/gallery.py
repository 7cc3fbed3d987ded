"""Robot descriptions of other people's packages, and whether they load.

    python -m tests.physics.gallery

prints the table of `docs/robots.md`. The packages are those of the extra `robots`; what is missing
is left out.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

from rpo.physics.mjcf import load_mjcf
from rpo.physics.model import Model

FOLDERS = {"gymnasium": "envs/mujoco/assets", "dm_control": "suite"}
COUNT = 33


def descriptions() -> dict[str, Path]:
    """Path of every MJCF model of gymnasium and dm_control, by package and file name."""
    found: dict[str, Path] = {}
    for package, folder in FOLDERS.items():
        spec = importlib.util.find_spec(package)  # importing them takes seconds
        if spec is not None and spec.origin is not None:
            files = sorted((Path(spec.origin).parent / folder).glob("*.xml"))
            found |= {f"{package}/{path.name}": path for path in files}
    return found


def load(path: Path) -> Model | str:
    """The robot, or the line that refuses it. Warnings (of overlaps, say) are left to others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return load_mjcf(path)
        except ValueError as error:
            return str(error).removeprefix(f"{path}: ")


def table() -> str:
    """All of them in Markdown: degrees of freedom, or the reason."""
    lines = ["| model | loads | degrees of freedom, or the reason |", "|---|---|---|"]
    for name, path in descriptions().items():
        robot = load(path)
        loads, what = ("no", robot) if isinstance(robot, str) else ("yes", robot.nv)
        lines.append(f"| {name} | {loads} | {what} |")
    loaded = sum("| yes |" in line for line in lines)
    return "\n".join([*lines, "", f"{loaded} of {len(lines) - 2} load."])


if __name__ == "__main__":
    print(table())
