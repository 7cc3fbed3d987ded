"""Speed of the differentiable simulation: environment steps per second, forward and with gradient.

Every figure is a closed loop of 32 control steps with a small policy (two layers of 64) through
the public environment interface, resets included. Each task and number of cores runs in a process
of its own, pinned to its cores, so that compile time and peak memory are its own; the physics is
validated before it is timed. The minimum of several repetitions is reported.

    python benchmarks/physics.py [--tasks ant hopper] [--cores 1 2] [--json results/physics.json]

With `--kernels` it compares what can run a step (docs/gpu-kernel.md) on one device, a GPU if there
is one, for several numbers of environments, all of them side by side:

    python benchmarks/physics.py --kernels xla pallas [--num-envs 128 1024 8192 65536]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from record import best_of, markdown, write_record

HORIZON = 32
NUM_ENVS = {"hopper": 1024, "ant": 128, "anymal": 128, "humanoid": 64, "hand": 64}
STAND = {"hopper": -0.1, "ant": 0.3, "anymal": 0.3, "humanoid": 1.0, "hand": 0.57}
"""Height of the root (hand: of the cube) that is still there after 5 steps without control."""
FALL = {"hopper": -0.45, "ant": 0.45, "anymal": 0.5, "humanoid": 0.74, "hand": 0.57}
"""Height that it must have sunk below after 360 steps without control."""
HEIGHT = {"hopper": 1, "hand": 18}
"""Coordinate that is this height; 2 of all others."""
SIZES = [128, 1024, 8192, 65536]
"""Numbers of environments at which kernels are compared."""
BLOCK = 128
"""Largest block of environments whose rollout stays in a core's cache."""


def measure(
    task: str, num_envs: int, cores: int, repeat: int, kernel: str = ""
) -> dict[str, float | int | str]:
    """Validate and time one task in this process.

    Args:
        task: which.
        num_envs: how many environments.
        cores: as many devices are used.
        repeat: calls of which the fastest counts.
        kernel: setting of the task; then one device is used, and all environments are one block.
    """
    import jax

    import rpo.envs

    env = rpo.envs.make(task, **({"kernel": kernel} if kernel else {}))
    validate(env, task)
    devices = jax.devices()[: 1 if kernel else cores]
    state, zero, forward, gradient = build(env, num_envs, devices, num_envs if kernel else BLOCK)
    row: dict[str, float | int | str] = {"task": task, "cores": cores, "num_envs": num_envs}
    if kernel:
        row |= {"kernel": kernel, "device": devices[0].device_kind}
    for name, function in (("forward", forward), ("gradient", gradient)):
        start = time.perf_counter()
        lowered = function.lower(state, zero)
        row[f"{name}_trace_s"] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()
        compiled = lowered.compile()
        row[f"{name}_compile_s"] = round(time.perf_counter() - start, 2)
        jax.block_until_ready(compiled(state, zero))  # to warm up
        seconds = best_of(lambda run=compiled: jax.block_until_ready(run(state, zero)), repeat)
        row[f"{name}_ms"] = round(1e3 * seconds, 2)
        row[f"{name}_steps_per_s"] = round(num_envs * HORIZON / seconds)
    row["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return row


def validate(env, task: str) -> None:
    """Refuse to time a simulation that diverges, does not stand or does not fall.

    Raises:
        SystemExit: with the figure that is wrong.
    """
    import jax
    import jax.numpy as jnp

    state = env.reset(jax.random.key(0), 16)
    zero = jnp.zeros((16, env.spec.action_size))

    @jax.jit
    def heights(state):
        def body(physics, _):
            physics = env.dynamics(physics, zero)
            height = physics.q[:, HEIGHT.get(task, 2)]
            return physics, (height, jnp.isfinite(physics.qd).all())

        return jax.lax.scan(body, state.physics, length=360)[1]

    height, finite = jax.device_get(heights(state))
    if not finite.all():
        sys.exit(f"{task}: the state did not stay finite")
    if height[4].min() < STAND[task]:
        sys.exit(f"{task}: fell to {height[4].min():.2f} m within 5 steps")
    if height[-1].max() > FALL[task]:
        sys.exit(f"{task}: still at {height[-1].max():.2f} m after 360 steps without control")


def build(env, num_envs: int, devices, block: int):
    """State, zero perturbation, and the forward and gradient programs over the given devices."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    draws = np.random.default_rng(0)
    sizes = (env.spec.observation_size, 64, 64, env.spec.action_size)
    weights = [
        jnp.asarray(draws.normal(size=s) / np.sqrt(s[0]), jnp.float32)
        for s in itertools.pairwise(sizes)
    ]

    def rollout(state, perturbation):
        def body(state, shift):
            hidden = state.observation
            for layer in weights[:-1]:
                hidden = jax.nn.silu(hidden @ layer)
            state, transition = env.step(state, jnp.tanh(hidden @ weights[-1] + shift))
            return state, transition.reward.sum()

        state, reward = jax.lax.scan(body, state, perturbation)
        return reward.sum(), state

    def in_blocks(function):
        def run(state, perturbation):
            local = perturbation.shape[1]
            size = max(d for d in range(1, block + 1) if local % d == 0)
            if size == local:
                return function((state, perturbation))
            cut = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), state)
            shifts = jnp.moveaxis(perturbation.reshape(HORIZON, -1, size, sizes[-1]), 1, 0)
            return jax.lax.map(function, (cut, shifts))

        return run

    def differentiate(arguments):
        gradient, _ = jax.grad(lambda p, s: rollout(s, p), has_aux=True)(arguments[1], arguments[0])
        return jnp.abs(gradient).sum()[None]

    mesh = Mesh(np.array(devices), ("cores",))
    along = PartitionSpec("cores")
    specs = (along, PartitionSpec(None, "cores"))

    def program(function):
        mapped = jax.shard_map(
            in_blocks(function), mesh=mesh, in_specs=specs, out_specs=along, check_vma=False
        )
        return jax.jit(mapped)

    state = jax.jit(lambda: env.reset(jax.random.key(1), num_envs))()
    zero = jnp.zeros((HORIZON, num_envs, sizes[-1]))
    state = jax.device_put(state, NamedSharding(mesh, along))
    zero = jax.device_put(zero, NamedSharding(mesh, specs[1]))
    forward = program(lambda arguments: rollout(*arguments)[0][None])
    return state, zero, forward, program(differentiate)


def in_own_process(task: str, num_envs: int, cores: int, repeat: int, kernel: str = "") -> dict:
    """Run `measure` in a fresh process pinned to `cores` cores."""
    numbers = [str(number) for number in (num_envs, cores, repeat)]
    command = [sys.executable, __file__, "--worker", task, *numbers, kernel]
    environment = os.environ | {"RPO_CPU_DEVICES": str(cores)}
    usable = sorted(os.sched_getaffinity(0))[:cores] if hasattr(os, "sched_getaffinity") else []
    result = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, usable)) if usable else None,
    )
    if result.returncode:
        sys.exit(result.returncode)
    return json.loads(result.stdout.splitlines()[-1])


COLUMNS = (
    ("task", "task"),
    ("cores", "cores"),
    ("num_envs", "environments"),
    ("forward_steps_per_s", "forward, steps/s"),
    ("gradient_steps_per_s", "forward + backward, steps/s"),
    ("gradient_ms", "ms"),
    ("gradient_trace_s", "trace, s"),
    ("gradient_compile_s", "compile, s"),
    ("peak_memory_mb", "peak memory, MB"),
)
KERNEL_COLUMNS = (
    *(("task", "task"), ("kernel", "kernel"), ("device", "device"), COLUMNS[2], COLUMNS[3]),
    *(("forward_ms", "ms"), ("forward_compile_s", "compile, s"), *COLUMNS[4:8]),
)


def table(rows: list[dict]) -> str:
    """Markdown table of the measurements."""
    columns = KERNEL_COLUMNS if "kernel" in rows[0] else COLUMNS
    titles = [title for _, title in columns]
    cells = (
        [f"{row[k]:,}" if isinstance(row[k], int) else str(row[k]) for k, _ in columns]
        for row in rows
    )
    return markdown(titles, cells)


def main() -> None:
    """Parse, measure, print."""
    if len(sys.argv) == 7 and sys.argv[1] == "--worker":
        num_envs, cores, repeat = (int(word) for word in sys.argv[3:6])
        print(json.dumps(measure(sys.argv[2], num_envs, cores, repeat, sys.argv[6])))
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(description="Speed of the differentiable simulation.")
    parser.add_argument("--tasks", nargs="+", choices=list(NUM_ENVS), default=list(NUM_ENVS))
    parser.add_argument("--cores", nargs="+", type=int, default=sorted({1, cores}))
    parser.add_argument("--num-envs", nargs="+", type=int, help="instead of the task's own number")
    parser.add_argument("--kernels", nargs="+", choices=["xla", "pallas", "interpret"])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    if args.kernels:
        what = itertools.product(args.tasks, args.num_envs or SIZES, [cores], args.kernels)
    else:
        sizes = {task: args.num_envs or [NUM_ENVS[task]] for task in args.tasks}
        what = ((task, n, k, "") for task in args.tasks for n in sizes[task] for k in args.cores)
    rows = []
    for task, num_envs, count, kernel in what:
        rows.append(in_own_process(task, num_envs, count, args.repeat, kernel))
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if args.json:
        write_record(args.json, rows)


if __name__ == "__main__":
    main()
