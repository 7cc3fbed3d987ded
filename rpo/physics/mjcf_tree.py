"""Where the parts of a compiled description are: bodies in bodies, shapes and sites on links."""

from __future__ import annotations

import dataclasses
from typing import Any

import mujoco
import numpy as np

from rpo.physics.geoms import Floats
from rpo.physics.inertia import rotation_matrix


@dataclasses.dataclass(frozen=True)
class Pose:
    position: Floats  # (3,)
    quaternion: Floats  # (4,) w, x, y, z

    @property
    def rotation(self) -> Floats:
        return rotation_matrix(self.quaternion)

    def then(self, position: Floats, quaternion: Floats) -> Pose:
        """The pose of a child that has this pose in the frame described by self."""
        product = np.zeros(4)
        mujoco.mju_mulQuat(product, self.quaternion, np.asarray(quaternion, np.float64))
        return Pose(self.position + self.rotation @ position, product)


IDENTITY = Pose(np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]))


class Tree:
    """Which body is rigidly part of which moving body, and how the moving ones become links."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.model = model
        self.pose: list[Pose] = []  # of each body in the moving body (or world) it is part of
        self.last_link: dict[int, int] = {0: -1}  # of each moving body
        self.origin: dict[int, Floats] = {0: np.zeros(3)}  # of that link, in its body's frame
        for body in range(model.nbody):
            fixed = model.body_weldid[body] != body
            self.pose.append(self.in_parent(body) if fixed else IDENTITY)

    def in_parent(self, body: int) -> Pose:
        """Pose of a body in the frame of the moving body that its parent is part of."""
        parent = self.pose[int(self.model.body_parentid[body])]
        return parent.then(self.model.body_pos[body], self.model.body_quat[body])

    def place_geom(self, geom: int) -> tuple[int, Floats, Floats]:
        """Link of a shape (-1: the world), its position and quaternion in the link frame."""
        return self._place(int(self.model.geom_bodyid[geom]), self.model.geom(geom))

    def place_site(self, site: int) -> tuple[int, Floats]:
        """Link of a site (-1: the world) and its position in the link frame."""
        return self._place(int(self.model.site_bodyid[site]), self.model.site(site))[:2]

    def _place(self, body: int, element: Any) -> tuple[int, Floats, Floats]:
        moving = int(self.model.body_weldid[body])
        pose = self.pose[body].then(element.pos, element.quat)
        return self.last_link[moving], pose.position - self.origin[moving], pose.quaternion
