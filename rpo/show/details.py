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
from rpo.physics.contact import point_force
from rpo.physics.diagnostics import link_poses
from rpo.physics.model import JointType, Model
from rpo.physics.topology import ContactPoints
from rpo.show.episode import Episodes
from rpo.training.policies import Policy

HORIZON = 32
"""Each action gradient covers at least so many steps, and less than twice as many."""
DISCOUNT = 0.99


@dataclasses.dataclass(frozen=True)
class Details:
    """Of the first environment's episode, by step.

    Args:
        contact_names: of the contact points: their links, numbered where a link has several.
        contact_position: of the contact points, in the world, m.
        contact_force: of the ground on each of them, N; none where the robot's model is not ours.
        terms: what the reward is the sum of, by name; only `reward` where the task does not say.
        action_gradient: of the discounted return of the following steps, by each action entry.
        joint_position: where the joint of each action is, in the world, m.
        joint_push: how each joint's motor would move its limb: a unit vector.
    """

    contact_names: tuple[str, ...]
    contact_position: Float[np.ndarray, "steps points 3"]
    contact_force: Float[np.ndarray, "steps points 3"]
    terms: dict[str, Float[np.ndarray, " steps"]]
    action_gradient: Float[np.ndarray, "steps action"]
    joint_position: Float[np.ndarray, "steps action 3"]
    joint_push: Float[np.ndarray, "steps action 3"]


def look_into(policy: Policy, episodes: Episodes, env: int = 0) -> Details:
    """Computes the details of one environment's episode.

    Args:
        policy: that acted.
        episodes: what it did.
        env: whose.
    """
    task: Any = policy.env
    length = int(episodes.length[env])
    states = jax.tree.map(lambda x: jnp.asarray(x[:length, env]), episodes.states)
    action = jnp.asarray(episodes.action[:length, env])
    terms = {"reward": episodes.reward[:length, env]}
    if hasattr(task, "reward_terms"):
        terms = jax.device_get(eqx.filter_jit(_terms)(task, states, action))
    gradient = _gradients(policy, states, length)
    model = getattr(task, "model", None)
    if not isinstance(model, Model):
        nothing = np.zeros((length, 0, 3), np.float32)
        return Details((), nothing, nothing, terms, gradient[:, :0], nothing, nothing)
    q, qd = states.physics.q.T, states.physics.qd.T
    position, force = jax.device_get(eqx.filter_jit(contact_forces)(model, q, qd))
    joint, push = jax.device_get(eqx.filter_jit(joint_pushes)(model, q))
    motors = slice(joint.shape[1] - gradient.shape[1], None)
    return Details(
        contact_names(model),
        position,
        force,
        terms,
        gradient,
        joint[:, motors],
        push[:, motors],
    )


def contact_names(model: Model) -> tuple[str, ...]:
    """Of the contact points: their links, numbered where a link has several."""
    links = [model.link_names[link] for link in model.contact_link]
    return tuple(
        f"{name} {links[:k].count(name) + 1}" if links.count(name) > 1 else name
        for k, name in enumerate(links)
    )


def _terms(task: Any, states: EnvState, action: Array) -> dict[str, Array]:
    following = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), states.physics)
    terms: dict[str, Array] = task.reward_terms(states.physics, action, following)
    return terms


def contact_forces(
    model: Model, q: Float[Array, "nq batch"], qd: Float[Array, "nv batch"]
) -> tuple[Float[Array, "batch points 3"], Float[Array, "batch points 3"]]:
    """Lowest point of each contact sphere, and the ground's force on it, along the world's axes."""

    def places(q: Array) -> Array:
        position, rotation = link_poses(model, q)
        link = model.contact_link
        offset = jnp.asarray(model.contact_position, q.dtype)
        place = position[link] + jnp.einsum("kijb,kj->kib", rotation[link], offset)
        return place.at[:, 2].add(-jnp.asarray(model.contact_radius, q.dtype)[:, None])

    # A contact point is a place in its link: its velocity is not that of the sphere's lowest point,
    # but the physics take it there as if that were fixed to the link.
    place, velocity = jax.jvp(places, (q,), (coordinate_rates(model, q, qd),))
    velocity = velocity + _from_radius(model, q, qd)
    rows = {
        name: jnp.asarray(getattr(model, f"contact_{name}"), q.dtype)[:, None]
        for name in ("radius", "stiffness", "damping")
    }
    friction = {
        f"friction_{name}": jnp.asarray(getattr(model, f"friction_{name}"), q.dtype)[:, None]
        for name in ("stiffness", "coefficient")
    }
    points = ContactPoints(position=(0.0, 0.0, 0.0), **rows, **friction)
    force = point_force(points, place[:, 2], (velocity[:, 0], velocity[:, 1], velocity[:, 2]))
    return jnp.moveaxis(place, -1, 0), jnp.moveaxis(jnp.stack(force, axis=1), -1, 0)


def _from_radius(model: Model, q: Array, qd: Array) -> Array:
    """w x (0, 0, -radius): the lowest point moves with the link's turning."""

    def down(q: Array) -> Array:
        return link_poses(model, q)[1]

    rotation, rate = jax.jvp(down, (q,), (coordinate_rates(model, q, qd),))
    spin = jnp.einsum("lijb,lkjb->likb", rate, rotation)[model.contact_link]  # [w]x = R' R^T
    radius = jnp.asarray(model.contact_radius, q.dtype)[:, None, None]
    velocity: Array = -spin[:, :, 2] * radius
    return velocity


def coordinate_rates(model: Model, q: Array, qd: Array) -> Array:
    """Time derivatives of the coordinates (nq, batch)."""
    rows = []
    for link, kind in enumerate(model.joint_type):
        c, v = model.coordinate_start[link], model.velocity_start[link]
        rows.append(qd[v : v + (3 if kind is JointType.FREE else 1)])
        if kind is JointType.FREE:
            w, x, y, z = q[c + 3 : c + 7]
            a, b, d = 0.5 * qd[v + 3 : v + 6]
            turned = [-a * x - b * y - d * z, a * w + b * z - d * y]
            turned += [b * w + d * x - a * z, d * w + a * y - b * x]
            rows.append(jnp.stack(turned))
    return jnp.concatenate(rows)


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
    begin = jax.tree.map(lambda x: x[starts], states)
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
