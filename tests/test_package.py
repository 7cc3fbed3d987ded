"""The wheel holds everything that the package has, and works where it is unpacked."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it, by the backend that pyproject.toml names."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = place.iterdir()
    return path


def test_it_holds_every_file_of_the_package(wheel: Path) -> None:
    """Also those that are no Python: robots, policies, the paper's tables, the mark of types."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("rpo/")}
        facts = [name for name in archive.namelist() if name not in held]
    own = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "rpo").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == own
    others = {Path(name).suffix for name in held} - {".py"}
    assert others == {".xml", ".npz", ".toml", ".md", ".typed"}
    assert {"rpo/pretrained/ant.npz", "rpo/pretrained/hopper.npz"} <= held
    assert any(name.endswith("/licenses/LICENSE") for name in facts)


USE = """
import pathlib, rpo, rpo.envs, rpo.reproduce.targets
assert pathlib.Path(rpo.__file__).is_relative_to(pathlib.Path.cwd()), rpo.__file__
policy = rpo.load_policy("ant")
assert policy.env.spec.action_size == 8
print(*(rpo.envs.make(task).model.nq for task in rpo.envs.names()))
print(len(rpo.reproduce.targets.TARGETS))
"""


def test_it_works_outside_of_the_source(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    coordinates, targets = done.stdout.splitlines()
    assert coordinates == "6 15 19 28 23"
    assert int(targets) > 5
