"""Where a run came from: command, versions, git state, hardware."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax

from rpo.runtime import VERSION, usable_cores

PACKAGES = ("jax", "jaxlib", "numpy", "equinox", "optax", "mujoco")

_command: ContextVar[Sequence[str] | None] = ContextVar("command", default=None)


@contextmanager
def running(command: Sequence[str]) -> Iterator[None]:
    """Says which command runs, where the process was started as another: a worker of a cluster."""
    token = _command.set(command)
    try:
        yield
    finally:
        _command.reset(token)


def provenance() -> dict[str, Any]:
    """Facts about this process, ready for JSON."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(_command.get() or [Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what its numbers depend on.

    To look one up takes milliseconds, and a report asks for each of its runs.
    """
    packages = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), "rpo-jax": VERSION} | packages


def git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that the package was imported from, if it is one."""
    directory = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--", str(directory.parent))
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """Processor and memory of this machine; JAX's devices, those of all processes."""
    devices = jax.devices()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "jax_platform": devices[0].platform,
        "jax_devices": [device.device_kind for device in devices],
        "processes": jax.process_count(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
