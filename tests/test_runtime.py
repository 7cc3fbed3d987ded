"""XLA's options: set in time, never over the user's, and worth having."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from rpo import runtime
from tests.marks import nightly

TIMING = """
import json, sys, time
import jax, jax.numpy as jnp
sys.path.insert(0, {root!r})
if not {fusion}:
    jax.devices()  # too late for rpo to set the option
from rpo.physics.step import StepSettings, control_step
from tests.physics.robots import quadruped, random_state
model = quadruped()
q, qd = (jnp.asarray(x, jnp.float32) for x in random_state(model, 64))
step = jax.jit(lambda q, qd: control_step(model, StepSettings(), q, qd, 0 * qd))
jax.block_until_ready(step(q, qd))
durations = []
for _ in range(30):
    start = time.perf_counter()
    jax.block_until_ready(step(q, qd))
    durations.append(time.perf_counter() - start)
print(json.dumps(min(durations)))
"""


FAULTS = """
import resource
from rpo import runtime

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
runtime.keep_memory()
faults()  # gets it once
print(before, faults())
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "RPO_CPU_DEVICES")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_freed_memory_is_not_asked_for_again() -> None:
    before, after = map(int, python(FAULTS).stdout.split())
    assert after < 0.01 * before


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"),
        (
            "--xla_foo=1",
            "--xla_foo=1 --xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true",
        ),
        (
            "--xla_backend_extra_options=a=b --xla_foo=1",
            "--xla_backend_extra_options=a=b,xla_cpu_use_multi_output_fusion=true --xla_foo=1",
        ),
        (
            "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=false",
            "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=false",
        ),
    ],
)
def test_flags_of_the_user_are_kept(flags: str, expected: str) -> None:
    assert runtime.with_fusion(flags) == expected


def test_number_of_cpu_devices_can_be_chosen() -> None:
    result = python("import rpo, jax; print(jax.device_count())", RPO_CPU_DEVICES="3")
    assert result.stdout.strip() == "3"


def test_the_users_number_of_devices_wins_and_the_compiler_option_can_be_refused() -> None:
    flags = "--xla_force_host_platform_device_count=4"
    code = "import os, rpo, jax; print(jax.device_count(), os.environ['XLA_FLAGS'])"
    assert python(code, XLA_FLAGS=flags, RPO_FUSION="0").stdout.split() == ["4", flags]


def test_a_wrong_number_of_devices_takes_one_line():
    code = "import rpo.cli; rpo.cli.main(['tasks']); rpo.train('ant')"
    result = python(code, RPO_CPU_DEVICES="many")
    problem = "RPO_CPU_DEVICES must be a positive whole number, at most 4096, got 'many'"
    first, *_, last = result.stderr.splitlines()
    assert (first, last) == (f"error: {problem}", f"rpo.errors.SettingsError: {problem}")


def test_a_backend_that_already_runs_is_reported_not_changed() -> None:
    code = (
        "import jax; jax.devices(); import rpo.runtime as r;"
        "print(r.configure(), jax.device_count())"
    )
    result = python(code)
    assert "import rpo first" in result.stdout
    assert result.stdout.strip().endswith(" 1")


def test_a_command_collects_garbage_rarely_and_a_library_leaves_that_alone() -> None:
    code = "import gc, rpo, rpo.cli; a = gc.get_threshold(); rpo.cli.main(['algorithms'])"
    result = python(f"{code}; print(a[0], gc.get_threshold()[0], gc.get_freeze_count() > 10_000)")
    before, after, frozen = result.stdout.splitlines()[-1].split()
    assert before in ("700", "2000") and int(after) > 100_000 and frozen == "True"


@nightly
def test_the_fusion_option_still_makes_the_physics_several_times_faster() -> None:
    """Notices a jaxlib that drops the option, or no longer needs it."""
    root = os.path.dirname(os.path.dirname(__file__))
    seconds = {}
    for fusion in (True, False):
        result = python(TIMING.format(root=root, fusion=fusion))
        assert result.returncode == 0, result.stderr
        seconds[fusion] = json.loads(result.stdout)
    assert seconds[False] > 2.0 * seconds[True]
