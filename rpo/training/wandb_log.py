"""Metrics to Weights & Biases, for those who ask for it: a training callback."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

from rpo.errors import RunError, one_line
from rpo.training.metrics import tagged
from rpo.training.needs import need
from rpo.training.progress import Progress


class WandbLog:
    """Sends a run's config and every iteration's metrics, tagged as in TensorBoard.

    A resumed run goes on under the same id, which lies in its directory. WANDB_MODE=offline keeps
    everything in the directory, to be sent later with `wandb sync`.
    """

    def __init__(self) -> None:
        """Finds the library.

        Raises:
            RunError: if the extra `wandb` is not installed.
        """
        self._wandb: Any = need("wandb", "wandb")
        self._log: Any = None

    def __call__(self, progress: Progress) -> None:
        """Told after every iteration, and at the end.

        Raises:
            RunError: if the service does not let us in.
        """
        if self._log is None:
            self._log = self._start(progress)
        if progress.ended:
            self._log.finish()
            return
        values = {"seconds": progress.seconds} | tagged(progress.run.seeds, progress.metrics)
        self._log.log(values, step=progress.env_steps)

    def _start(self, progress: Progress) -> Any:
        run, wandb = progress.run, self._wandb
        known = run.path / "wandb_id.txt"
        if not known.exists():
            known.write_text(secrets.token_hex(4), encoding="utf-8")
        own_id = _id(known)
        config = {name: value for name, value in run.config.items() if name != "sessions"}
        try:
            return wandb.init(
                project="rpo",
                name=run.path.name,
                id=own_id,
                resume="allow",
                dir=str(run.path),
                config=config,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except Exception as error:  # its own, of many kinds
            raise RunError(
                f"Weights & Biases: {one_line(error)[:200]}; `wandb login`, or WANDB_MODE=offline "
                "keeps the metrics here"
            ) from error


def _id(path: Path) -> str:
    """The id that a run goes on under; the service is asked for nothing else."""
    with path.open("rb") as file:
        found = file.read(100).decode("ascii", "replace").strip()
    if not re.fullmatch(r"[\w-]{1,64}", found, re.ASCII):
        raise RunError(f"{path} is damaged: it holds no id; delete it to begin under a new one")
    return found
