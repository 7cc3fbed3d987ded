"""Gymnasium's Walker2d (v5) in our simulator: its robot and its reward, our contact and derivative.

rpo train examples/walker2d.py:Walker2d
"""

import dataclasses
from pathlib import Path

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rpo.envs import EnvSpec, EpisodicEnv
from rpo.physics.mjcf import load_mjcf
from rpo.physics.step import StepSettings, control_step

ROBOT = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "walker2d_v5.xml"
LOADED = load_mjcf(ROBOT)
# The joints have damping of their own; that of our limits would come on top of it.
MODEL = dataclasses.replace(LOADED, limit_damping=np.zeros_like(LOADED.limit_damping))
SETTINGS = StepSettings(control_dt=0.008, substeps=16, mass_matrix_interval=4)
GEAR = 100.0  # N m per action, from the robot's motors
START_HEIGHT = 1.25


class Walker2d(EpisodicEnv):
    """The state is (coordinates, velocities): x, height, pitch, six joints of two legs. The reward
    is the forward velocity, 1 for standing, less 0.001 of the squared actions. An episode lasts
    8 s, or until the torso is not between 0.8 and 2 m, or pitches by more than 1 rad."""

    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec(
            "walker2d", observation_size=17, action_size=6, episode_length=1000, control_dt=0.008
        ),
    )

    @property
    def mjcf(self):
        return ROBOT

    def initial_state(self, key):
        noise = jax.random.uniform(key, (18,), minval=-5e-3, maxval=5e-3)
        return State(noise[:9].at[1].add(START_HEIGHT), noise[9:])

    def dynamics(self, state, action):
        force = jnp.concatenate([jnp.zeros((3, len(action))), GEAR * action.T])
        q, qd = control_step(MODEL, SETTINGS, state.q.T, state.qd.T, force)
        return State(q.T, qd.T)

    def observe(self, state):
        return jnp.concatenate([state.q[:, 1:], jnp.clip(state.qd, -10, 10)], axis=1)

    def reward(self, state, action, next_state):
        speed = (next_state.q[:, 0] - state.q[:, 0]) / self.spec.control_dt
        standing = jnp.where(self.is_terminal(next_state), 0.0, 1.0)
        return speed + standing - 1e-3 * jnp.sum(action**2, axis=1)

    def is_terminal(self, state):
        height, pitch = state.q[:, 1], state.q[:, 2]
        return (height <= 0.8) | (height >= 2.0) | (jnp.abs(pitch) >= 1.0)


class State(eqx.Module):
    """Coordinates and velocities; the name `q` lets the robot be seen."""

    q: jax.Array
    qd: jax.Array
