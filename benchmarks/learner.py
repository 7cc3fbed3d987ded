"""Where an iteration's time goes, for every method, beside the machine's peak.

Each method is compiled in stages, every one ending later in the iteration: forward simulation,
simulation with action gradients, the actor's epochs, the critics' passes, the whole iteration. A
phase costs what its stage takes longer than the one before. All stages of all methods take turns
and the minimum of several rounds counts, so that a disturbance hits all alike. Operations are
counted in the programs (`flops.py`); the peak is that of a large matrix product.

    python benchmarks/learner.py [--task ant] [--presets fast paper] [--json results/learner.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flops import count_flops
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from record import markdown, write_record

from rpo.algorithms import make, names
from rpo.algorithms.collection import collect
from rpo.algorithms.devices import environment_indices, environment_keys, environment_noise
from rpo.algorithms.first_order import FirstOrderAlgorithm
from rpo.algorithms.ppo import PPO
from rpo.runtime import keep_memory
from rpo.training.cache import enable_compilation_cache
from rpo.training.settings import resolve

AXIS = "devices"
PHASES = ("forward", "backward", "actor", "critics", "rest")
ROUNDS = 7


def forward(algorithm, env, state):
    """The simulation alone, in closed loop with the policy."""
    policy, normalizer = state.policy, state.normalizer
    indices = environment_indices(state.environments.episode_return.shape[0], algorithm.axis)
    keys = environment_keys(state.key, indices)
    noise = environment_noise(keys, (algorithm.config.horizon, env.spec.action_size))

    def act(observation, noise):
        return policy.squash(policy(normalizer(observation)).sample(noise))

    return collect(env, act, state.environments, noise)


def first_order_stages(algorithm, env):
    """Stages of RPO, SHAC, SAPO and GI-PPO."""
    config = algorithm.config

    def backward(state):
        return algorithm.rollout(env, state, state.key)

    def actor(state):
        rollout = backward(state)
        observation = state.normalizer(rollout.segment.observation)
        batch = algorithm.make_batch(state, rollout, observation)
        rate = jnp.asarray(config.actor_learning_rate)
        return rollout, observation, algorithm.update_actor(state, batch, rate)

    def critics(state):
        rollout, observation, updated = actor(state)
        coefficient = algorithm.entropy_coefficient(state)
        target = algorithm.value_target(rollout.segment, rollout.auxiliary, coefficient)
        fitted = algorithm.train_critics(state, observation, target, state.key)
        return rollout, updated, fitted

    return {"backward": backward, "actor": actor, "critics": critics}


def ppo_stages(algorithm, env):
    """PPO: one gradient moves actor and critic, so that they cannot be told apart."""

    def actor(state):
        environments, experience = algorithm.collect(env, state, state.key)
        batch, *_ = algorithm.make_batch(state, experience)
        return environments, experience, algorithm.learn(state, batch, state.key)

    return {"actor": actor}


def sac_stages(algorithm, env):
    """SAC: critics, actor and temperature take turns, on the same minibatches."""
    from rpo.algorithms.sac import Learner

    def actor(state):
        environments, experience = algorithm.collect(env, state, state.key)
        method = state.method
        replay = method.replay.add(experience)
        learner = Learner(
            *(state.policy, state.critics, method.target_critics, method.temperature),
            *(state.actor_optimizer, state.critic_optimizer),
        )
        keys = jax.random.split(state.key, algorithm.config.gradient_steps)
        learner, metrics = lax.scan(
            lambda learner, key: algorithm.learn(learner, replay, state.normalizer, key),
            learner,
            keys,
        )
        method = dataclasses.replace(method, replay=replay)
        return dataclasses.replace(state, method=method), (environments, learner, metrics)

    return {"actor": actor}


def build(name: str, task: str, preset: str, devices: int | None) -> dict[str, Any]:
    """State, programs and operations of every stage of a method."""
    resolved = resolve(task, name, preset, {} if devices is None else {"devices": devices})
    env, count = resolved.env, resolved.run_settings.devices
    mesh = Mesh(np.array(jax.devices()[:count]), (AXIS,))
    algorithm = make(name, resolved.config, axis=AXIS)
    state = jax.jit(algorithm.init, static_argnums=0)(env, jax.random.key(0))
    partition = algorithm.partition(state)
    state = jax.device_put(state, jax.tree.map(lambda spec: NamedSharding(mesh, spec), partition))
    kinds = ((FirstOrderAlgorithm, first_order_stages), (PPO, ppo_stages))
    make_stages = next((make for kind, make in kinds if isinstance(algorithm, kind)), sac_stages)
    stages = {"forward": lambda state: forward(algorithm, env, state)}
    stages |= make_stages(algorithm, env)

    def keeping(stage, name):
        # the state is given back, so that it can be handed over: no copy of a replay buffer
        def run(state):
            result = stage(state)
            if name == "actor" and make_stages is sac_stages:
                return result
            return state, result

        return run

    programs = {name: keeping(stage, name) for name, stage in stages.items()}
    programs["rest"] = lambda state: algorithm.update(env, state)
    mapped = {
        name: jax.shard_map(
            program,
            mesh=mesh,
            in_specs=(partition,),
            out_specs=(partition, PartitionSpec()),
            check_vma=False,
        )
        for name, program in programs.items()
    }
    flops = {name: count_flops(program, state) for name, program in mapped.items()}
    compiled = {
        name: jax.jit(program, donate_argnums=0).lower(state).compile()
        for name, program in mapped.items()
    }
    state, _ = compiled["rest"](state)  # SAC learns from the second iteration on
    return {"state": state, "programs": compiled, "flops": flops, "resolved": resolved}


def time_all(methods: dict[str, dict[str, Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Shortest seconds of every stage of every method; they take turns."""
    seconds = {name: dict.fromkeys(method["programs"], np.inf) for name, method in methods.items()}
    for _ in range(rounds):
        for name, method in methods.items():
            for stage, program in method["programs"].items():
                for _ in range(3):
                    jax.block_until_ready(method["state"])
                    start = time.perf_counter()
                    method["state"], result = program(method["state"])
                    jax.block_until_ready((method["state"], result))
                    elapsed = time.perf_counter() - start
                    seconds[name][stage] = min(seconds[name][stage], elapsed)
    return seconds


def differences(cumulative: dict[str, float]) -> dict[str, float]:
    """What each stage adds to the one before."""
    values = [0.0, *cumulative.values()]
    return {name: values[i + 1] - values[i] for i, name in enumerate(cumulative)}


def peak(size: int = 2048, repeat: int = 10) -> float:
    """Operations per second of a matrix product in float32, on all CPU devices at once."""
    count = len(jax.devices()) if jax.default_backend() == "cpu" else 1
    mesh = Mesh(np.array(jax.devices()[:count]), (AXIS,))
    spec = PartitionSpec(AXIS)
    best = 0.0
    for shards in {1, count}:
        left = jnp.ones((shards, size, size))

        def product(x):
            return x @ x

        if shards > 1:
            product = jax.shard_map(product, mesh=mesh, in_specs=spec, out_specs=spec)
        program = jax.jit(product)
        jax.block_until_ready(program(left))
        for _ in range(repeat):
            start = time.perf_counter()
            jax.block_until_ready(program(left))
            best = max(best, shards * 2 * size**3 / (time.perf_counter() - start))
    return best


def measure(task: str, preset: str, algorithms: list[str], devices: int | None) -> list[dict]:
    """One row per method."""
    methods = {}
    for name in algorithms:
        start = time.perf_counter()
        methods[name] = build(name, task, preset, devices)
        seconds = time.perf_counter() - start
        print(f"{preset} {name}: compiled in {seconds:.0f} s", file=sys.stderr, flush=True)
    timed = time_all(methods, ROUNDS)
    rows = []
    for name, method in methods.items():
        seconds, flops = differences(timed[name]), differences(method["flops"])
        total = timed[name]["rest"]
        row = {"preset": preset, "algorithm": name, "total_ms": 1e3 * total}
        row["steps_per_s"] = method["resolved"].config.num_envs * 32 / total
        row |= {f"{phase}_ms": 1e3 * seconds[phase] for phase in PHASES if phase in seconds}
        row |= {
            f"{phase}_gflops": flops[phase] / max(seconds[phase], 1e-9) / 1e9
            for phase in PHASES[:-1]
            if phase in seconds
        }
        row["gflop"] = method["flops"]["rest"] / 1e9
        row["gflops"] = row["gflop"] / total
        rows.append(row)
    return rows


def table(rows: list[dict], peak_gflops: float) -> str:
    """Markdown: milliseconds of every phase, and GFLOP/s in brackets."""
    titles = ["preset", "method", *(f"{phase}, ms" for phase in PHASES)]
    titles += ["iteration, ms", "steps/s", "GFLOP", "GFLOP/s", "of the peak"]
    lines = []
    for row in rows:
        cells = [row["preset"], row["algorithm"]]
        for phase in PHASES:
            text = f"{row[f'{phase}_ms']:.1f}" if f"{phase}_ms" in row else ""
            rate = row.get(f"{phase}_gflops")
            cells.append(f"{text} ({rate:.0f})" if rate is not None else text)
        cells += [f"{row['total_ms']:.1f}", f"{row['steps_per_s']:,.0f}", f"{row['gflop']:.2f}"]
        cells += [f"{row['gflops']:.0f}", f"{row['gflops'] / peak_gflops:.0%}"]
        lines.append(cells)
    return markdown(titles, lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Where an iteration's time goes.")
    parser.add_argument("--task", default="ant")
    parser.add_argument("--presets", nargs="+", default=["fast", "paper"])
    parser.add_argument("--algorithms", nargs="+", choices=names(), default=list(names()))
    parser.add_argument("--devices", type=int, help="instead of all CPU cores")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    enable_compilation_cache()
    keep_memory()  # as the commands do
    rows: list[dict] = []
    best = 0.0
    for preset in args.presets:
        best = max(best, peak())
        rows += measure(args.task, preset, args.algorithms, args.devices)
        best = max(best, peak())
    print(f"large matrix product: {best / 1e9:.0f} GFLOP/s")
    print(table(rows, best / 1e9))
    for preset in args.presets:
        total = {row["algorithm"]: row["total_ms"] for row in rows if row["preset"] == preset}
        if {"rpo", "shac"} <= total.keys():
            print(f"{preset}: RPO / SHAC = {total['rpo'] / total['shac']:.3f}")
    if args.json:
        write_record(args.json, rows, task=args.task, peak_gflops=best / 1e9)


if __name__ == "__main__":
    main()
