"""The training program: from settings to a run directory, and from there to evaluations."""

from rpo.errors import (
    CheckpointError,
    RunError,
    SettingsError,
    TaskError,
    TrainingError,
    TrainingInterrupted,
)
from rpo.training.evaluation import Evaluation, evaluate
from rpo.training.loop import train
from rpo.training.policies import Policy, load_policies, load_policy
from rpo.training.progress import Callback, Progress
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
    "TaskError",
    "TrainingError",
    "TrainingInterrupted",
    "evaluate",
    "load_policies",
    "load_policy",
    "train",
]
