"""A robot whose links touch, in one file: a pusher rolls a ball to a place on the floor.

rpo train examples/push.py:Push
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from rpo.envs import EnvSpec, EpisodicEnv
from rpo.physics.mjcf import load_mjcf
from rpo.physics.step import StepSettings, control_step

# Bit 1 of the masks is the floor's, bit 2 that of the pusher and the ball.
ROBOT = """<mujoco model="push">
  <custom>
    <numeric name="contact_stiffness" data="2000"/>
    <numeric name="contact_damping" data="500"/>
    <numeric name="friction_stiffness" data="50"/>
    <numeric name="pair_stiffness" data="2000"/>
    <numeric name="pair_damping" data="20"/>
    <numeric name="pair_friction_stiffness" data="5"/>
  </custom>
  <worldbody>
    <geom name="floor" type="plane" size="1 1 1" contype="1" conaffinity="1"/>
    <body name="pusher" pos="-0.3 0 0.1">
      <joint name="x" type="slide" axis="1 0 0" damping="15"/>
      <joint name="y" type="slide" axis="0 1 0" damping="15"/>
      <geom type="capsule" size="0.05 0.05" mass="1" contype="2" conaffinity="2"/>
    </body>
    <body name="ball" pos="0 0 0.1">
      <freejoint name="ball"/>
      <geom type="sphere" size="0.1" mass="0.5" contype="3" conaffinity="3"/>
    </body>
  </worldbody>
</mujoco>"""
SETTINGS = StepSettings(control_dt=0.04, substeps=32, mass_matrix_interval=32)
MODEL = load_mjcf(ROBOT)
TARGET = (0.5, 0.0)


class Push(EpisodicEnv):
    """The state is (coordinates, velocities); the reward falls with the ball's distance from
    `TARGET` and, a little, with the pusher's distance from the ball. An episode lasts 4 s."""

    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec(
            "push", observation_size=8, action_size=2, episode_length=100, control_dt=0.04
        ),
    )
    strength: float = 10.0  # N

    def initial_state(self, key):
        place = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        ball = jnp.array([*place[2:], 0.1, 1.0, 0.0, 0.0, 0.0])
        return jnp.concatenate([place[:2], ball]), jnp.zeros(8)

    def dynamics(self, state, action):
        q, qd = (x.T for x in state)
        force = jnp.concatenate([self.strength * action.T, jnp.zeros((6, len(action)))])
        q, qd = control_step(MODEL, SETTINGS, q, qd, force)
        return q.T, qd.T

    def observe(self, state):
        q, qd = state
        pusher, ball = self._places(q)
        return jnp.concatenate([ball - pusher, jnp.array(TARGET) - ball, qd[:, :4]], axis=1)

    def reward(self, state, action, next_state):
        pusher, ball = self._places(next_state[0])
        miss = jnp.sum((ball - jnp.array(TARGET)) ** 2, axis=1)
        reach = jnp.sum((ball - pusher) ** 2, axis=1)
        return 1 - miss - 0.2 * reach - 0.01 * jnp.sum(action**2, axis=1)

    def _places(self, q):
        return q[:, :2] + jnp.array([-0.3, 0.0]), q[:, 2:4]
