"""What the tasks around a simulated robot share: its step, with the episode's own figures."""

from __future__ import annotations

import abc
import functools
import operator
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from rpo.envs.base import EpisodicEnv
from rpo.physics.factors import Factors
from rpo.physics.model import Model
from rpo.physics.step import StepSettings, control_step


class RobotEnv(EpisodicEnv):
    """A task around a robot of `rpo.physics`, all of whose figures can be randomised.

    Subclass it, define `model`, move the robot by `advance`, and multiply what actuators exert by
    `self.factors.strength` (`rpo.envs.randomization.scaled`).
    """

    factor_names: ClassVar[tuple[str, ...]] = Factors._fields
    model: eqx.AbstractVar[Model]

    @property
    def num_bodies(self) -> int:
        """Links of the robot."""
        return self.model.num_links

    def advance(
        self,
        settings: StepSettings,
        q: Float[Array, "envs nq"],
        qd: Float[Array, "envs nv"],
        force: Float[Array, "nv envs"],
    ) -> tuple[Float[Array, "envs nq"], Float[Array, "envs nv"]]:
        """One control step; the place where batch-first meets the physics' batch-last.

        Args:
            settings: how the step is cut.
            q: coordinates.
            qd: velocities.
            force: along each joint, of motors of whatever strength they have.
        """
        factors = self.factors.transposed()
        q_after, qd_after = control_step(self.model, settings, q.T, qd.T, force, factors)
        return q_after.T, qd_after.T


class RobotTask(RobotEnv):
    """A task around a robot whose reward is the sum of named terms."""

    @abc.abstractmethod
    def reward_terms(
        self, state: PyTree, action: Float[Array, "envs action"], next_state: PyTree
    ) -> dict[str, Float[Array, " envs"]]:
        """What the reward is the sum of, by name."""

    def reward(
        self, state: PyTree, action: Float[Array, "envs action"], next_state: PyTree
    ) -> Float[Array, " envs"]:
        """The sum of `reward_terms`, in their order."""
        terms = self.reward_terms(state, action, next_state)
        return functools.reduce(operator.add, terms.values())
