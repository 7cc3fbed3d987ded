"""Gymnasium's HalfCheetah in our simulator: its robot and its reward, our contact and derivative.

rpo train examples/half_cheetah.py:HalfCheetah --num-envs 64 --horizon 8
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

ROBOT = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
LOADED = load_mjcf(ROBOT)
# The joints have damping of their own; that of our limits would come on top of it.
MODEL = dataclasses.replace(LOADED, limit_damping=np.zeros_like(LOADED.limit_damping))
SETTINGS = StepSettings(control_dt=0.05, substeps=40, mass_matrix_interval=5)
GEARS = (120.0, 90.0, 60.0, 120.0, 60.0, 30.0)  # N m per action, from the robot's motors


class HalfCheetah(EpisodicEnv):
    """The state is (coordinates, velocities): x, height, pitch, six joints of two legs. The reward
    is the forward velocity less 0.1 of the squared actions. Episodes of 50 s do not end early."""

    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec(
            "half_cheetah", observation_size=17, action_size=6, episode_length=1000, control_dt=0.05
        ),
    )

    @property
    def mjcf(self):
        return ROBOT

    def initial_state(self, key):
        place, speed = jax.random.split(key)
        q = jax.random.uniform(place, (9,), minval=-0.1, maxval=0.1)
        return State(q, 0.1 * jax.random.normal(speed, (9,)))

    def dynamics(self, state, action):
        force = jnp.concatenate([jnp.zeros((3, len(action))), (action * jnp.array(GEARS)).T])
        q, qd = control_step(MODEL, SETTINGS, state.q.T, state.qd.T, force)
        return State(q.T, qd.T)

    def observe(self, state):
        return jnp.concatenate([state.q[:, 1:], state.qd], axis=1)

    def reward(self, state, action, next_state):
        speed = (next_state.q[:, 0] - state.q[:, 0]) / self.spec.control_dt
        return speed - 0.1 * jnp.sum(action**2, axis=1)


class State(eqx.Module):
    """Coordinates and velocities; the name `q` lets the robot be seen."""

    q: jax.Array
    qd: jax.Array
