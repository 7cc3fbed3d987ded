"""The pendulum of `pendulum.py` with a figure of its own in every episode.

rpo train examples/randomised_pendulum.py:RandomisedPendulum
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from rpo.envs import EnvSpec, EpisodicEnv, Randomization
from rpo.envs.randomization import scaled


class RandomisedPendulum(EpisodicEnv):
    """A rod on a motor too weak to lift it in one go.

    The state is (angle from upright in rad, angular velocity in rad/s). The mass decides what the
    motor's torque achieves, gravity how hard it is to lift.
    """

    factor_names = ("mass", "strength", "gravity")  # which of them `dynamics` heeds
    randomization: Randomization = eqx.field(
        static=True,
        kw_only=True,
        default=Randomization(
            mass_range=(0.8, 1.2),
            strength_range=(0.9, 1.1),
            gravity_range=(0.9, 1.1),
            latency_range=(0.0, 2.0),
            observation_noise=(0.01, 0.01, 0.05),
        ),
    )
    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec(
            "pendulum", observation_size=3, action_size=1, episode_length=200, control_dt=0.05
        ),
    )

    def initial_state(self, key):
        return jnp.array([jnp.pi, 0.0]) + jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5)

    def dynamics(self, state, action):
        angle, velocity = state.T
        mass = scaled(jnp.ones_like(action), self.factors.mass)  # one body, (envs, 1)
        torque = scaled(5.0 * action, self.factors.strength)  # one motor, (envs, 1)
        gravity = scaled(9.81, self.factors.gravity)  # (envs,)
        acceleration = gravity * jnp.sin(angle) + (torque / mass)[:, 0]
        velocity = velocity + self.spec.control_dt * acceleration
        return jnp.stack([angle + self.spec.control_dt * velocity, velocity], axis=1)

    def observe(self, state):
        angle, velocity = state.T
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), velocity], axis=1)

    def reward(self, state, action, next_state):
        angle, velocity = state.T
        effort = 0.01 * velocity**2 + 0.01 * action[:, 0] ** 2
        return jnp.cos(angle) - effort
