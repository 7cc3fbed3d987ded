"""How fast each kind of critic learns the slope of the value, the only thing actors take from it.

Each critic trains with RPO. At set points the policy is frozen and a reference critic learns its
values from many more rollouts; on a rollout that neither has seen, the direction of dV/do of the
run's critics is compared with the reference's (cosine, mean over samples; observations are
normalised), and of two independent references with each other, which is the best that can be
expected.

    python benchmarks/critics.py [--task ant] [--seeds 3] [--marks 200000 600000]
        [--json results/critics-ant.json]
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from record import markdown, write_record

from rpo.algorithms import make
from rpo.algorithms.values import frozen_values
from rpo.nets import CRITICS, new_state_values
from rpo.training.cache import enable_compilation_cache
from rpo.training.settings import resolve

COLUMNS = (
    *("critic", "seed", "env_steps", "return", "cosine", "cosine_between_references"),
    *("explained_variance", "value_bias", "value_loss"),
)


def reference_critics(algorithm, env, state, key, iterations):
    """Values of a frozen policy: fresh normalised critics, and the state that collected last."""
    config = dataclasses.replace(algorithm.config, critic="normalized", critic_learning_rate=1e-3)
    learner = make("rpo", config)
    size = env.spec.observation_size
    critics = new_state_values(
        size, (256, 128, 64), 2, key, critic="normalized", discount=config.discount
    )
    state = dataclasses.replace(
        state, critics=critics, critic_optimizer=learner.optimizer.init(critics.networks)
    )

    def step(state, key):
        rollout_key, fit_key = jax.random.split(key)
        rollout = learner.rollout(env, state, jax.random.key_data(rollout_key))
        segment = rollout.segment
        coefficient = learner.entropy_coefficient(state)
        target = learner.value_target(segment, rollout.auxiliary, coefficient)
        observation = state.normalizer(segment.observation)
        state = dataclasses.replace(state, environments=rollout.environments)
        return learner.train_critics(state, observation, target, jax.random.key_data(fit_key))[
            0
        ], None

    keys = jax.random.split(jax.random.fold_in(jax.random.key(7), state.iteration), iterations)
    state, _ = jax.lax.scan(step, state, keys)
    return state


def slopes(critics, observation):
    """Gradient of the critics' mean by each observation."""
    return jax.grad(lambda x: jnp.sum(jnp.mean(frozen_values(critics, x), axis=0)))(observation)


def mean_cosine(one, other):
    """Mean over samples of the cosine of two vectors."""
    lengths = jnp.linalg.norm(one, axis=-1) * jnp.linalg.norm(other, axis=-1)
    return jnp.mean(jnp.sum(one * other, axis=-1) / jnp.maximum(lengths, 1e-12))


def comparison(algorithm, env, iterations):
    """A compiled function from a training state to the two cosines."""

    def compare(state):
        keys = jax.random.split(jax.random.key(11))
        first = reference_critics(algorithm, env, state, keys[0], iterations)
        second = reference_critics(algorithm, env, state, keys[1], iterations)
        rollout = algorithm.rollout(env, first, jax.random.key_data(jax.random.key(12)))
        observation = first.normalizer(rollout.segment.observation)
        run, one, two = (slopes(s.critics, observation) for s in (state, first, second))
        return 0.5 * (mean_cosine(run, one) + mean_cosine(run, two)), mean_cosine(one, two)

    return jax.jit(compare)


def measure(task, critic, seeds, marks, reference_iterations, print_row):
    """Rows for one kind of critic."""
    resolved = resolve(task, "rpo", "fast", {"critic": critic})
    algorithm, env = make("rpo", resolved.config), resolved.env
    update = jax.jit(lambda state: algorithm.update(env, state))
    compare = comparison(algorithm, env, reference_iterations)
    rows = []
    for seed in range(seeds):
        state = jax.jit(lambda key: algorithm.init(env, key))(jax.random.key(seed))
        for mark in marks:
            while int(state.iteration) * algorithm.steps_per_iteration < mark:
                state, metrics = update(state)
            cosine, between = compare(state)
            row = {
                "critic": critic,
                "seed": seed,
                "env_steps": int(state.iteration) * algorithm.steps_per_iteration,
                "return": round(float(metrics["episode_return"]), 1),
                "cosine": round(float(cosine), 3),
                "cosine_between_references": round(float(between), 3),
                "explained_variance": round(float(metrics["explained_variance"]), 3),
                "value_bias": round(float(metrics["value_bias"]), 2),
                "value_loss": round(float(metrics["value_loss"]), 2),
            }
            print_row(row)
            rows.append(row)
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="ant")
    parser.add_argument("--critics", nargs="+", default=list(CRITICS), choices=CRITICS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--marks", type=int, nargs="+", default=[200_000, 600_000])
    parser.add_argument("--reference-iterations", type=int, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    enable_compilation_cache()
    rows = []
    for critic in arguments.critics:
        rows += measure(
            arguments.task,
            critic,
            arguments.seeds,
            sorted(arguments.marks),
            arguments.reference_iterations,
            lambda row: print(row, flush=True),
        )
    print(markdown(COLUMNS, [[str(row[name]) for name in COLUMNS] for row in rows]))
    if arguments.json:
        write_record(arguments.json, rows, task=arguments.task)


if __name__ == "__main__":
    main()
