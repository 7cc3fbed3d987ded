"""What happens inside an episode: contact forces, the reward's terms, action gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rpo.envs.base import Env, EnvState
from rpo.physics.contact_report import contact_forces, contact_names
from rpo.physics.diagnostics import link_poses
from rpo.physics.factors import NOMINAL, Factors
from rpo.physics.model import JointType, Model
from rpo.show.episode import Episodes
from rpo.training.policies import Policy

HORIZON = 32
"""Each action gradient covers at least so many steps, and less than twice as many."""
DISCOUNT = 0.99


@dataclasses.dataclass(frozen=True)
class Details:
    """Of the first environment's episode, by step.

    Args:
        contact_names: of the contacts that carry a force at any time; none where the robot's model
            is not ours.
        contact_position: where they are, in the world, m.
        contact_force: on the robot's link, N; of two links, on the one later in the description.
        weight: of what contacts carry, N; see `carried_weight`.
        terms: what the reward is the sum of, by name, not a number in the last step; only `reward`
            where the task does not say.
        action_names: of the entries of an action; numbers where the task has not named them.
        action_gradient: of the discounted return of the following steps, by each action entry.
        joint_position: where the joint of each action is, in the world, m; none where the model is
            not ours.
        joint_push: how each joint's motor would move its limb: a unit vector.
    """

    contact_names: tuple[str, ...]
    contact_position: Float[np.ndarray, "steps points 3"]
    contact_force: Float[np.ndarray, "steps points 3"]
    weight: float
    terms: dict[str, Float[np.ndarray, " steps"]]
    action_names: tuple[str, ...]
    action_gradient: Float[np.ndarray, "steps action"]
    joint_position: Float[np.ndarray, "steps joints 3"]
    joint_push: Float[np.ndarray, "steps joints 3"]


def look_into(policy: Policy, episodes: Episodes) -> Details:
    """Computes the details of the first environment's episode.

    Args:
        policy: that acted.
        episodes: what it did.
    """
    task: Any = policy.env
    length = int(episodes.length[0])
    played = jax.tree.map(lambda x: np.asarray(x)[:length, 0], episodes.states)
    states = jax.device_put(played)
    action = jax.device_put(episodes.action[:length, 0])
    terms = {"reward": episodes.reward[:length, 0]}
    if hasattr(task, "reward_terms"):
        terms = jax.device_get(eqx.filter_jit(_terms)(task, states, action))
    gradient = _gradients(policy, played, length)
    names = task.spec.action_names or tuple(f"action {k}" for k in range(gradient.shape[1]))
    model = getattr(task, "model", None)
    if not isinstance(model, Model):
        nothing = np.zeros((length, 0, 3), np.float32)
        return Details((), nothing, nothing, 0.0, terms, names, gradient, nothing, nothing)
    q, qd, factors = states.physics.q.T, states.physics.qd.T, states.variation.factors
    slippery = Factors(friction=factors.friction).transposed()  # all that a force depends on
    found = eqx.filter_jit(contact_forces)(model, q, qd, slippery)
    position, force = (np.moveaxis(x, -1, 0) for x in jax.device_get(found))
    touching = np.flatnonzero(force.any(axis=(0, 2)))
    joint, push = jax.device_get(eqx.filter_jit(joint_pushes)(model, q))
    motors = slice(joint.shape[1] - gradient.shape[1], None)
    return Details(
        contact_names(model, touching.tolist()),
        position[:, touching],
        force[:, touching],
        carried_weight(model, jax.tree.map(lambda x: x[0], factors)),
        terms,
        names,
        gradient,
        joint[:, motors],
        push[:, motors],
    )


def _terms(task: Any, states: EnvState, action: Array) -> dict[str, Array]:
    """Not of the last step: where that led to is not on record."""
    following = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), states.physics)
    terms: dict[str, Array] = task.reward_terms(states.physics, action, following)
    return {name: term.at[-1].set(jnp.nan) for name, term in terms.items()}


def carried_weight(model: Model, factors: Factors = NOMINAL) -> float:
    """Of what contacts carry, N: of all links, or of those that fall freely where others do not.

    Args:
        model: the robot.
        factors: of one environment: masses (links,), gravity.
    """
    root = list(range(model.num_links))
    for link, parent in enumerate(model.parent):
        root[link] = link if parent < 0 else root[parent]
    free = np.array([model.joint_type[k] is JointType.FREE for k in root])
    masses = model.mass * (1.0 if factors.mass is None else np.asarray(factors.mass))
    mass = float(masses[free if free.any() else slice(None)].sum())
    gravity = 1.0 if factors.gravity is None else float(factors.gravity)
    return mass * gravity * float(np.linalg.norm(model.gravity))


def joint_pushes(
    model: Model, q: Float[Array, "nq batch"]
) -> tuple[Float[Array, "batch joints 3"], Float[Array, "batch joints 3"]]:
    """Of every hinge and slide: its place, and which way a positive force pushes its limb."""
    position, rotation = link_poses(model, q)
    jointed = [k for k, kind in enumerate(model.joint_type) if kind is not JointType.FREE]
    links = np.array(jointed)
    axis = jnp.einsum(
        "kijb,kj->kib", rotation[links], jnp.asarray(model.joint_axis[links], q.dtype)
    )
    centres = jnp.asarray(np.stack([_limb_centre(model, k) for k in jointed]), q.dtype)
    arm = jnp.einsum("kijb,kj->kib", rotation[links], centres)
    push = jnp.where(
        np.array([model.joint_type[k] is JointType.HINGE for k in jointed])[:, None, None],
        jnp.cross(axis, arm, axis=1),
        axis,
    )
    length = jnp.linalg.norm(push, axis=1, keepdims=True)
    push = jnp.where(length > 1e-6, push / jnp.maximum(length, 1e-6), axis)
    return jnp.moveaxis(position[links], -1, 0), jnp.moveaxis(push, -1, 0)


def _limb_centre(model: Model, link: int) -> np.ndarray:
    """Centre of a link's contact points, or of its mass, or the joint of its first child."""
    points = model.contact_position[model.contact_link == link]
    if len(points):
        centre: np.ndarray = points.mean(axis=0)
    elif model.mass[link] > 0:
        centre = model.center_of_mass[link]
    else:
        children = np.flatnonzero(model.parent == link)
        centre = model.joint_position[children[0]] if len(children) else np.zeros(3)
    return centre


def _gradients(policy: Policy, states: EnvState, length: int) -> Float[np.ndarray, "steps action"]:
    """By the action at every step, of the discounted return of the steps that follow it."""
    starts = np.arange(0, length, HORIZON)
    begin = jax.device_put(jax.tree.map(lambda x: x[starts], states))
    gradient = jax.device_get(_window_gradients(policy, begin))
    flat: np.ndarray = np.swapaxes(gradient, 0, 1).reshape(-1, gradient.shape[-1])[:length]
    return flat


@eqx.filter_jit
def _window_gradients(policy: Policy, begin: EnvState) -> Float[Array, f"{HORIZON} windows action"]:
    """Windows of two horizons; the gradients of the first one see enough of what follows."""
    env: Env = policy.env
    fixed: Any = jax.tree.map(lax.stop_gradient, policy.actor)

    def total(shift: Array) -> Array:
        def step(state: EnvState, inputs: tuple[Array, Array]) -> tuple[EnvState, Array]:
            number, change = inputs
            state, transition = env.step(state, fixed(state.observation) + change)
            return state, DISCOUNT**number * transition.reward

        numbers = jnp.arange(2 * HORIZON, dtype=shift.dtype)
        return jnp.sum(lax.scan(step, begin, (numbers, shift))[1])

    shape = (2 * HORIZON, len(begin.observation), env.spec.action_size)
    gradient: Array = jax.grad(total)(jnp.zeros(shape, begin.observation.dtype))
    # Discounted to the step itself, not to the start of its window.
    scale = DISCOUNT ** -jnp.arange(HORIZON, dtype=gradient.dtype)
    scaled: Array = gradient[:HORIZON] * scale[:, None, None]
    return scaled
