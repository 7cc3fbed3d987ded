"""A robot whose links touch, in one file: a pusher rolls a ball to a place on the floor.

rpo train examples/push.py:Push
rpo view RUN --task examples/push.py:Push
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from rpo.envs import EnvSpec, Marker
from rpo.envs.randomization import scaled
from rpo.envs.robot_env import RobotEnv
from rpo.physics.mjcf import load_mjcf
from rpo.physics.model import Model
from rpo.physics.step import StepSettings

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


class PushState(eqx.Module):
    """Coordinates: pusher's x and y, ball's position and quaternion; and velocities."""

    q: jax.Array  # (envs, 9)
    qd: jax.Array  # (envs, 8)


class Push(RobotEnv):
    """The reward falls with the ball's distance from `TARGET` and, a little, with the pusher's
    distance from the ball. An episode lasts 4 s."""

    spec: EnvSpec = eqx.field(
        static=True,
        default=EnvSpec(
            "push", observation_size=8, action_size=2, episode_length=100, control_dt=0.04
        ),
    )
    model: Model = eqx.field(static=True, default=MODEL)
    strength: float = 10.0  # N

    @property
    def mjcf(self):
        return ROBOT  # what `rpo view` and `rpo render` draw

    def initial_state(self, key):
        place = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        ball = jnp.array([*place[2:], 0.1, 1.0, 0.0, 0.0, 0.0])
        return PushState(jnp.concatenate([place[:2], ball]), jnp.zeros(8))

    def dynamics(self, state, action):
        push = scaled(self.strength * action, self.factors.strength)
        force = jnp.concatenate([push.T, jnp.zeros((6, len(action)))])
        return PushState(*self.advance(SETTINGS, state.q, state.qd, force))

    def observe(self, state):
        pusher, ball = self._places(state)
        ways = [ball - pusher, jnp.array(TARGET) - ball]
        return jnp.concatenate([*ways, state.qd[:, :4]], axis=1)

    def reward(self, state, action, next_state):
        pusher, ball = self._places(next_state)
        miss = jnp.sum((ball - jnp.array(TARGET)) ** 2, axis=1)
        reach = jnp.sum((ball - pusher) ** 2, axis=1)
        return 1 - miss - 0.2 * reach - 0.01 * jnp.sum(action**2, axis=1)

    def markers(self, state):
        """Where the ball belongs: a flat disc on the floor."""
        place = jnp.array([*TARGET, 0.005])
        return {"target": Marker(place, shape="cylinder", size=(0.1, 0.004))}

    def _places(self, state):
        return state.q[:, :2] + jnp.array([-0.3, 0.0]), state.q[:, 2:4]
