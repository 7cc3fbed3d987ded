"""Settings of XLA that must be made before JAX starts its backend.

Importing `rpo` calls `configure()`. Two things matter on a CPU, both measured with the physics:

- the compiler option `xla_cpu_use_multi_output_fusion`, which is off by default and without which
  XLA recomputes shared values again and again (several times slower forward, ten times backward);
- one XLA device per core, because the physics kernels run on one core each.

Both can be refused: `RPO_CPU_DEVICES=1`, and `RPO_FUSION=0` for a program on which XLA aborts with
"symbolic_map.cc: Check failed" (seen in jaxlib 0.10.2 with scatters inside a loop).

Nothing the user has set himself is changed, and a backend that already runs is left alone: then
`configure()` returns what could not be done, in words, and training warns with them.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import gc
import os
import sys

import jax

from rpo.errors import SettingsError

VERSION = "0.1.0"

FUSION_OPTION = "xla_cpu_use_multi_output_fusion"
_EXTRA = "--xla_backend_extra_options="
_COUNT = "--xla_force_host_platform_device_count"
DEVICES_VARIABLE = "RPO_CPU_DEVICES"
MAX_CPU_DEVICES = 4096
FUSION_VARIABLE = "RPO_FUSION"

# M_TRIM_THRESHOLD, M_TOP_PAD (bytes) and M_MMAP_MAX (buffers) of glibc's malloc.h.
_KEEP = {-1: 2**31 - 1, -2: 2**26, -4: 0}

_flags_before: str | None = None
"""`XLA_FLAGS` before the compiler option was added to it here, if it was."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Splits the run over several processes; each is started with this, and its own number.

    Args:
        coordinator: HOST:PORT at which process 0 is to be found, any free port; or auto, where the
            cluster knows (Slurm, Open MPI, Kubernetes, TPU).
        num_processes: how many there are.
        process_id: which one this is, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def collect_garbage_rarely() -> None:
    """For processes of `rpo`'s own: Python's collector looks at what is new, and not so often.

    Tracing a program makes millions of objects that stay; as Python comes, each of them is looked
    at again and again, for an eighth of the time that `rpo train` takes to start.
    """
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


def keep_memory() -> None:
    """For processes of `rpo`'s own: memory that was freed is kept for the next iteration.

    As the C library comes, every large buffer is handed back to the system, and its pages are
    asked for and zeroed again: the system's share of the time of a training of five seeds on a
    CPU, 6 to 8%, falls to 0.2%. Elsewhere than on Linux with glibc nothing is done.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _KEEP.items():
            mallopt(option, value)


@functools.cache
def configure() -> tuple[str, ...]:
    """Set the compiler option and the number of CPU devices, once, before the backend starts.

    The environment variable `RPO_CPU_DEVICES` overrides the number of CPU devices (default: the
    number of usable cores), `RPO_FUSION=0` leaves the compiler option alone. `XLA_FLAGS` and
    `JAX_NUM_CPU_DEVICES` set by the user win.

    Returns:
        One line for each thing that could not be set; empty if all is well.

    Raises:
        SettingsError: if `RPO_CPU_DEVICES` is not a positive whole number.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    count = _requested_devices()
    if _backend_started():
        if f"{FUSION_OPTION}=true" in flags:
            return ()
        return (
            "JAX was started before rpo was imported: the CPU physics runs several times slower; "
            "import rpo first, or set XLA_FLAGS=" + _EXTRA + FUSION_OPTION + "=true",
        )
    if os.environ.get(FUSION_VARIABLE, "1") != "0":
        global _flags_before
        _flags_before = flags
        os.environ["XLA_FLAGS"] = with_fusion(flags)
    if _COUNT not in flags and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", count)
    return ()


def without_fusion() -> bool:
    """Takes the compiler option back, for programs on which XLA aborts with it.

    That works until JAX has started, and only if it was this process that set it.

    Returns:
        whether programs are compiled without it.
    """
    global _flags_before
    if _flags_before is not None and not _backend_started():
        if os.environ.get("XLA_FLAGS") == with_fusion(_flags_before):
            os.environ["XLA_FLAGS"] = _flags_before
        _flags_before = None
    if f"{FUSION_OPTION}=true" not in os.environ.get("XLA_FLAGS", ""):
        return True
    return _backend_started() and jax.default_backend() != "cpu"


def with_fusion(flags: str) -> str:
    """`XLA_FLAGS` with the fusion option added, everything in it kept."""
    if FUSION_OPTION in flags:
        return flags
    words = flags.split()
    for k, word in enumerate(words):
        if word.startswith(_EXTRA):
            words[k] = f"{word},{FUSION_OPTION}=true"
            return " ".join(words)
    return " ".join([*words, f"{_EXTRA}{FUSION_OPTION}=true"])


def _requested_devices() -> int:
    text = os.environ.get(DEVICES_VARIABLE)
    if text is None:
        return usable_cores()
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MAX_CPU_DEVICES:
        raise SettingsError(
            f"{DEVICES_VARIABLE} must be a positive whole number, at most {MAX_CPU_DEVICES}, "
            f"got {text[:40]!r}"
        )
    return int(text)


def _backend_started() -> bool:
    from jax._src import xla_bridge  # there is no public way to ask without starting it

    return bool(xla_bridge.backends_are_initialized())
