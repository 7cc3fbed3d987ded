"""The training program: from settings to a run directory, and from there to evaluations."""

from rpo.training.errors import (
    CheckpointError,
    RunError,
    SettingsError,
    TrainingError,
    TrainingInterrupted,
)
from rpo.training.evaluation import Evaluation, evaluate
from rpo.training.loop import Callback, Progress, train
from rpo.training.policies import Policy, load_policies, load_policy
from rpo.training.run import Run

__all__ = [
    "Callback",
    "CheckpointError",
    "Evaluation",
    "Policy",
    "Progress",
    "Run",
    "RunError",
    "SettingsError",
    "TrainingError",
    "TrainingInterrupted",
    "evaluate",
    "load_policies",
    "load_policy",
    "train",
]
