"""`rpo.train`: the training program with its curve drawn at the end."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from rpo.envs.base import Env
from rpo.show import draw_curve
from rpo.training import Callback, Run
from rpo.training import train as train_without_curve


@functools.wraps(train_without_curve)
def train(
    task: str | Env | None = None,
    algorithm: str = "rpo",
    *,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Run:
    """See `rpo.training.train`."""
    return train_without_curve(task, algorithm, callbacks=(*callbacks, draw_curve), **settings)
