"""Domain randomisation that makes no sense, or not for this task, is refused in one line."""

from __future__ import annotations

import pytest

import rpo.envs
from rpo import cli
from rpo.envs import Randomization
from rpo.training import SettingsError
from rpo.training.settings import resolve
from tests.envs.carts import Cart


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mass_range": (1.2, 0.8)}, "mass_range is 1.2 0.8, must be two numbers, the lower one"),
        ({"mass_range": (-0.5, 1.0)}, "mass_range is -0.5 1, must lie between 0.01 and 100"),
        ({"inertia_range": (0.0, 1.0)}, "inertia_range is 0 1, must lie between 0.01 and 100"),
        ({"friction_range": (0.0, 1e9)}, "friction_range is 0 1e.09, must lie between 0 and 100"),
        ({"gravity_range": (float("nan"), 1)}, "gravity_range is nan 1, must lie between"),
        ({"strength_range": (1.0,)}, "strength_range is 1, must be two numbers"),
        ({"strength_range": "all"}, "strength_range is 'all', must be numbers"),
        ({"latency_range": (0, 99)}, "latency_range is 0 99, must lie between 0 and 16 control"),
        ({"latency_range": (-1, 2)}, "latency_range is -1 2, must lie between 0 and 16 control"),
        ({"observation_noise": -0.1}, "observation_noise is -0.1, must lie between 0 and 1000"),
        ({"observation_noise": (0.1, float("nan"))}, "observation_noise is nan, must lie"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(settings, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        Randomization(**settings)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=complaint.split(",")[0].split(" is ")[0]):
        rpo.envs.make("hopper", **settings)
    with pytest.raises(SettingsError) as error:
        resolve("hopper", settings=settings)
    assert "\n" not in str(error.value)


def test_what_a_task_cannot_do_is_told_in_one_line():
    class Simple(Cart):
        factor_names = ("mass",)

    allowed = "only mass_range, latency_range, observation_noise"
    with pytest.raises(ValueError, match=f"cart cannot randomise gravity_range, {allowed}"):
        Simple(randomization=Randomization(gravity_range=(0, 1)))
    with pytest.raises(ValueError, match="observation_noise has 3 entries, must have 1 or 4"):
        Cart().with_randomization(Randomization(observation_noise=(0, 0.1, 0.2)))
    with pytest.raises(ValueError, match="observation_noise has 2 entries, must have 1 or 11"):
        rpo.envs.make("hopper", observation_noise=(0.1, 0.1))
    with pytest.raises(ValueError, match=r"mas_range.*mass_range"):
        rpo.envs.make("hopper", mas_range=(0, 1))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--mass-range", "1.2", "0.8"], "mass_range is 1.2 0.8, must be two numbers"),
        (["--latency-range", "0", "40"], "latency_range is 0 40, must lie between"),
        (["--mas-range", "1", "2"], "unknown setting --mas-range (did you mean --mass-range"),
    ],
)
def test_the_command_line_takes_them(flags, complaint, capsys):
    assert cli.main(["train", "hopper", *flags]) == 2
    told = capsys.readouterr().err
    assert complaint in told and len(told.splitlines()) == 1
