"""The parity benchmark's verdict: status 0, 1 or 2, as a table or as JSON."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from tests.reference import hand_path, load_reference, reference_path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "parity.py"


@pytest.fixture(scope="module")
def main():
    specification = importlib.util.spec_from_file_location("parity_command", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # as for a script
        specification.loader.exec_module(module)
    return module.main


def test_parity_is_status_0(main, capsys):
    assert main([str(reference_path("hopper")), "--only", "rewards", "observations"]) == 0
    table = capsys.readouterr().out
    assert "rewards" in table
    assert "BEYOND" not in table


def test_an_error_beyond_tolerance_is_status_1(main, tmp_path, capsys):
    data = load_reference("hopper")
    data["reward"] = data["reward"] + np.float32(0.01)
    np.savez(tmp_path / "changed.npz", **data)
    assert main([str(tmp_path / "changed.npz"), "--only", "rewards", "--json"]) == 1
    (measured,) = json.loads(capsys.readouterr().out)["changed"]
    assert measured["within"] is False
    assert measured["absolute"] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("content", [b"", b"no archive", None], ids=["empty", "foreign", "missing"])
def test_a_file_that_is_no_recording_is_status_2(main, tmp_path, capsys, content):
    path = tmp_path / "broken.npz"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert f"{path} cannot be compared" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "comparison"),
    [(hand_path(), "open-loop"), (reference_path("hopper"), "gradients")],
    ids=["hand", "hopper"],
)
def test_a_comparison_of_other_recordings_is_status_2(main, capsys, path, comparison):
    assert main([str(path), "--only", "rewards", comparison]) == 2
    error = capsys.readouterr().err
    assert f"{path} cannot be compared: unknown comparison '{comparison}'; known: con" in error


def test_a_truncated_recording_is_status_2(main, tmp_path, capsys):
    whole = reference_path("hopper").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert main([str(tmp_path / "cut.npz")]) == 2
    assert "cannot be compared" in capsys.readouterr().err


def test_a_recording_of_another_robot_is_status_2(main, tmp_path, capsys):
    data = load_reference("hopper") | {"model_joint_coord_count": np.int64(99)}
    np.savez(tmp_path / "other.npz", **data)
    assert main([str(tmp_path / "other.npz")]) == 2
    assert "no task has a robot with 99 coordinates" in capsys.readouterr().err
