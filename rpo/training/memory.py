"""Whether a run fits into memory, said before anything is compiled.

Without this, the system ends a process that asks for too much, without a word.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax

from rpo.errors import SettingsError

GIB = 2**30


def available_bytes() -> int | None:
    """Memory that this process may still take, of the accelerator or the machine; None: unknown."""
    if jax.default_backend() != "cpu":
        stats = jax.local_devices()[0].memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    free = [_memory_available(), _group_memory_available()]
    return min((one for one in free if one is not None), default=None)


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Refuses what cannot fit.

    Args:
        needed: bytes.
        what: needs them, as the subject of a sentence.
        remedy: what to do.

    Raises:
        SettingsError: if less is available.
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise SettingsError(
            f"{what} about {_gib(needed)}, and {_gib(available)} of memory are available; {remedy}"
        )


@dataclasses.dataclass(frozen=True)
class Needs:
    """Bytes that a run takes at least.

    Args:
        networks: actor, critics and their optimisers, of all trainings.
        environments: states and replay of all trainings, and the steps of one iteration.
    """

    networks: int
    environments: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.networks + self.environments


def needs(program: Any) -> Needs:
    """What the training state and the record of one iteration take, intermediate results left out.

    Args:
        program: of the run, not yet compiled.
    """
    shapes, config = program.shapes(), program.algorithm.config
    train = shapes.train
    of_environments = bytes_of((train.environments, getattr(train.method, "replay", None)))
    spec = program.env.spec
    numbers = 2 * spec.observation_size + 2 * spec.action_size + 6  # a step's record and gradient
    rollout = 4 * config.horizon * config.num_envs * numbers
    # Trainings that do not run side by side share the room for their steps.
    together = min(len(jax.local_devices()), jax.tree.leaves(shapes)[0].shape[0])
    # A checkpoint is written from a copy in the machine's memory, and a step makes new networks.
    return Needs(
        networks=2 * (bytes_of(shapes) - of_environments),
        environments=of_environments + together * rollout,
    )


def require_fitting(program: Any) -> None:
    """Refuses a run whose training state alone does not fit, before it is compiled.

    Raises:
        SettingsError: with what would fit.
    """
    needed, num_envs = needs(program), program.algorithm.config.num_envs
    available = available_bytes()
    if available is None or needed.total <= available:
        return
    room = available - needed.networks
    fitting = num_envs * room // max(needed.environments, 1)
    remedy = f"num_envs of about {_rounded(fitting):,} would fit"
    if fitting < 1 and needed.environments > needed.networks:
        remedy = "lower horizon, num_envs, seeds or candidates"
    elif fitting < 1:
        remedy = "lower the networks' hidden sizes, seeds or candidates"
    elif fitting >= num_envs // 2:
        remedy = "lower num_envs, the networks' hidden sizes, seeds or candidates"
    require_memory(
        needed.total,
        f"{num_envs:,} environments need {_gib(needed.environments)}, the networks "
        f"{_gib(needed.networks)}: together",
        remedy,
    )


def require_room_to_run(
    compiled: Any,
    devices: int,
    count: int,
    what: str = "the compiled training step",
    lower: str = "num_envs of about {} would fit; block_size and horizon matter too",
) -> None:
    """Refuses a compiled program whose intermediate results do not fit.

    Args:
        compiled: by JAX.
        devices: of the machine that run it side by side, in the same memory.
        count: environments of a training, or whatever its size grows with.
        what: the program is.
        lower: says how large the count may be.

    Raises:
        SettingsError: with what would fit.
    """
    found = compiled.memory_analysis()
    available = available_bytes()
    if found is None or available is None:
        return
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    needed = devices * (found.temp_size_in_bytes + max(new, 0))
    fitting = max(_rounded(count * available // max(needed, 1)), 1)
    require_memory(needed, f"{what} needs", lower.format(f"{fitting:,}"))


def bytes_of(tree: Any) -> int:
    """What the arrays of a pytree take; they may be mere shapes."""
    return sum(int(leaf.size) * int(leaf.dtype.itemsize) for leaf in jax.tree.leaves(tree))


def _rounded(count: int) -> int:
    """The two leading digits, rounded down."""
    unit: int = 10 ** max(len(str(count)) - 2, 0)
    return count // unit * unit


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB"


def _memory_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _group_memory_available() -> int | None:
    """Of a container or a job, whose limit the machine's figures do not show."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        cached = 0
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                cached = int(line.split()[1])
        return None if limit == "max" else max(int(limit) - used + cached, 0)
    except (OSError, ValueError):
        return None
