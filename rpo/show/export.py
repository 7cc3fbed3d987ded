"""A policy as an ONNX file, for programs without JAX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rpo.errors import RunError
from rpo.nets import Actor
from rpo.runtime import VERSION
from rpo.training.files import replacing
from rpo.training.needs import need, quiet
from rpo.training.policies import Source, open_policies
from rpo.training.policy_file import PolicyFacts, WhichCheckpoint

CHECKED_OBSERVATIONS = 1000
TOLERANCE = 1e-5
"""Largest difference of an action, which lies in [-1, 1], between the file and the policy."""


def export_policy(
    source: Source,
    output: Path,
    *,
    seed: int | None = None,
    checkpoint: WhichCheckpoint = "last",
) -> float:
    """Writes the deterministic policy as ONNX, once it has been found to act as the policy does.

    The file has the input `observation` (batch, observation_size), float32, as the environment
    gives it, and the output `action` (batch, action_size) in [-1, 1]; statistics and squashing are
    inside. Its metadata hold names, units, the control period and where it came from.

    Args:
        source: a run, its directory, a policy file (.npz), or the name of a shipped task.
        output: file to write.
        seed: which of the run's seeds, the first by default.
        checkpoint: the newest policy, or the one with the best training return.

    Returns:
        the largest difference of an action over `CHECKED_OBSERVATIONS` observations.

    Raises:
        RunError: if there is no policy, the extra `export` is not installed, or the difference is
            larger than `TOLERANCE`; then nothing is written.
        OSError: if the file cannot be written.
    """
    file = open_policies(source)
    index = file.index(seed)
    actor = file.actors(checkpoint)[index]
    model = _convert(actor, file.facts)
    for name, value in _metadata(file.facts, file.facts.seeds[index], checkpoint).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    contents: bytes = model.SerializeToString()
    difference = _largest_difference(contents, actor)
    if not difference <= TOLERANCE:
        raise RunError(
            f"the exported policy's actions differ by {difference:.1e} from the policy's, more "
            f"than {TOLERANCE:g}; nothing was written"
        )
    with replacing(output) as temporary:
        temporary.write_bytes(contents)
    return difference


def _convert(actor: Actor, facts: PolicyFacts) -> Any:
    """The policy as an ONNX model, as float32 whatever JAX computes with."""
    with quiet("jax2onnx"):  # it complains at length about plugins that it does not need here
        jax2onnx = need("jax2onnx", "export")
        single: Actor = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), actor)
        model = jax2onnx.to_onnx(
            lambda observation: jnp.clip(single(observation), -1.0, 1.0),
            [("batch", facts.network.observation_size)],
            model_name=facts.task,
            input_names=["observation"],
            output_names=["action"],
        )
    need("onnx", "export").checker.check_model(model)
    return model


def _metadata(facts: PolicyFacts, seed: int, checkpoint: WhichCheckpoint) -> dict[str, str]:
    return {
        "task": facts.task,
        "task_settings": json.dumps(facts.task_settings),
        "algorithm": facts.algorithm,
        "preset": facts.preset,
        "seed": str(seed),
        "checkpoint": checkpoint,
        "env_steps": str(facts.env_steps),
        "observation_names": json.dumps(facts.observation_names),
        "observation_units": json.dumps(facts.observation_units),
        "action_names": json.dumps(facts.action_names),
        "action_units": json.dumps(facts.action_units),
        "control_period_seconds": repr(facts.control_dt),
        "rpo_version": VERSION,
    }


def _largest_difference(contents: bytes, actor: Actor) -> float:
    """Between the file and the policy, on observations like those of training and wider ones."""
    onnxruntime = need("onnxruntime", "export")
    draw = np.random.default_rng(0)
    mean, std = np.asarray(actor.normalizer.mean), np.asarray(actor.normalizer.std)
    width = np.where(np.arange(CHECKED_OBSERVATIONS) % 2, 1.0, 5.0)[:, None]
    observations = mean + std * width * draw.normal(size=(CHECKED_OBSERVATIONS, len(mean)))
    observations = observations.astype(np.float32)
    session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
    (found,) = session.run(["action"], {"observation": observations})
    expected = np.clip(np.asarray(jax.jit(actor.__call__)(observations)), -1.0, 1.0)
    return float(np.abs(found - expected).max())
