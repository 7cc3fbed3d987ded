"""A task of your own in one file: swing a pendulum up and keep it there.

rpo train examples/pendulum.py:Pendulum
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from rpo.envs import EnvSpec, EpisodicEnv


class Pendulum(EpisodicEnv):
    """A rod on a motor too weak to lift it in one go.

    The state is (angle from upright in rad, angular velocity in rad/s). The reward is highest, 1,
    at rest upright; an episode lasts 10 s.
    """

    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec(
            "pendulum", observation_size=3, action_size=1, episode_length=200, control_dt=0.05
        ),
    )
    gravity: float = 9.81  # m/s^2
    length: float = 1.0  # m
    strength: float = 5.0  # largest angular acceleration of the motor, rad/s^2

    def initial_state(self, key):
        return jnp.array([jnp.pi, 0.0]) + jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5)

    def dynamics(self, state, action):
        angle, velocity = state.T
        acceleration = self.gravity / self.length * jnp.sin(angle) + self.strength * action[:, 0]
        velocity = velocity + self.spec.control_dt * acceleration
        return jnp.stack([angle + self.spec.control_dt * velocity, velocity], axis=1)

    def observe(self, state):
        angle, velocity = state.T
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), velocity], axis=1)

    def reward(self, state, action, next_state):
        angle, velocity = state.T
        effort = 0.01 * velocity**2 + 0.01 * action[:, 0] ** 2
        return jnp.cos(angle) - effort
