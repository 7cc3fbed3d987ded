"""What all tests share: two CPU devices on any machine, and what makes compiling cheaper.

Compiling takes most of the time here. One cache of compiled programs lives as long as the run of
the tests and serves all its workers and child processes. Unless `RPO_TESTS_OPTIMIZE=1` asks for the
programs as users get them, XLA leaves its expensive passes out, and writes the code of fused loops
by its older generator: a step then compiles in 40% of the time, RPO's iteration in a quarter.
JAX makes a context of MLIR for each program, a quarter of a single operation's time: here all share
one. It notes of every operation the lines it comes from, a tenth of some files' time: not here. Of
what is left a third is tracing, which makes millions of objects that stay: Python's garbage
collector, as it comes, would look at them again and again (a sixth of some files' time).

Workers take whole files. Those that take longest come first, lest one is left over for the end.
"""

import atexit
import functools
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("RPO_CPU_DEVICES", "2")
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rpo-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    # A shell starts what it puts in the background deaf to Ctrl-C, and so would be what we start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
if os.environ.get("RPO_TESTS_OPTIMIZE", "0") == "0":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if "fusion_emitters" not in os.environ.get("XLA_FLAGS", ""):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = flags.strip()


from tests.shapes import check_annotations

check_annotations()

LONGEST = """
show/test_view reproduce/test_ray training/test_processes training/test_resume
envs/test_randomization algorithms/test_lowering
algorithms/test_action_gradients algorithms/test_probes physics/test_step envs/test_locomotion
physics/test_pairs training/test_cli
algorithms/test_devices training/test_candidates benchmarks/test_parity show/test_details
training/test_seeds physics/test_planes show/test_render reproduce/test_reproduce
algorithms/test_model_free envs/test_gradient_check physics/test_against_mujoco
nets/test_state_values envs/test_gradients algorithms/test_gippo training/test_failures
training/test_task_files envs/test_hand envs/test_base training/test_policy_file
training/test_origin show/test_export training/test_wandb nets/test_networks
algorithms/test_symmetric algorithms/test_poison show/test_pretrained envs/test_custom
physics/test_tendons physics/test_factors
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first; the workers' scheduler keeps the order.

    (`--no-loadscope-reorder` in pyproject.toml; by itself it would begin with the files that have
    the most tests.)
    """
    from rpo import runtime  # it starts JAX, which must see what is set here

    runtime.collect_garbage_rarely()
    runtime.keep_memory()
    if os.environ.get("RPO_TESTS_OPTIMIZE", "0") == "0":
        share_context()
    here = Path(__file__).parent
    place = {(here / f"{name}.py"): k for k, name in enumerate(LONGEST.split())}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def share_context() -> None:
    """All programs are lowered in one MLIR context; with another JAX perhaps each in its own."""
    from jax._src.interpreters import mlir

    if hasattr(mlir, "make_ir_context"):
        mlir.make_ir_context = functools.cache(mlir.make_ir_context)
