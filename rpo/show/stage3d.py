"""A robot, its ground and its arrows in viser's 3-D scene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

from rpo.envs.markers import Marker
from rpo.show.details import Details
from rpo.show.episode import Episodes
from rpo.show.scene import dress, moves, robot_box
from rpo.show.solids import solids_of, triangles

GROUND_COLOR = (236, 240, 243)
LINES = (165, 175, 185)
LARGE = 0.6
"""A robot larger than this (m) stands on a grid of half metres, a smaller one of decimetres."""
SEE_THROUGH = 0.6
"""Opacity of what is handled: the forces on it point into it."""
FORCE_COLOR = (30, 150, 90)
GRADIENT_COLOR = (214, 69, 65)
FORCE_LENGTH = 0.3
"""Length of a contact arrow that carries the weight on contacts, as a share of the robot's size."""
GRADIENT_LENGTH = 0.35
"""Length of the arrow of a large action gradient (the 95th percentile), likewise."""


class Robot3D:
    """Shapes of a robot whose links can be moved."""

    def __init__(self, server: Any, spec: mujoco.MjSpec, markers: Mapping[str, Marker]) -> None:
        """Adds the robot, the ground and what else the task wants drawn to a scene.

        Args:
            server: a viser server.
            spec: the robot's description; is changed.
            markers: of the task, wherever they are.
        """
        dress(spec)
        self.model = spec.compile()
        self._data = mujoco.MjData(self.model)
        self._server = server
        self._world = server.scene.add_frame("/world", show_axes=False)
        self._bodies = {}
        for body in range(1, self.model.nbody):
            name = f"/world/link_{body}"
            self._bodies[body] = server.scene.add_frame(name, show_axes=False)
        for geom in range(self.model.ngeom):
            self._add_shape(geom)
        self._markers = {
            name: self._add_marker(f"/world/marker_{number}", marker)
            for number, (name, marker) in enumerate(markers.items())
        }
        mujoco.mj_kinematics(self.model, self._data)
        middle, self.size = robot_box(self.model, self._data)
        self._add_grounds()
        root = self._data.xpos[1] if self.model.nbody > 1 else np.zeros(3)
        self.height = float(root[2])
        self.middle = middle - [root[0], root[1], 0.0]  # with the root in the middle
        self.fixed = not moves(self.model)
        # About the root, because a browser moves frames at once and arrows a little later.
        self._root = server.scene.add_frame("/world/arrows", show_axes=False)
        empty = np.zeros((1, 2, 3), np.float32)
        thickness = {
            "shaft_radius": 0.012 * self.size,
            "head_radius": 0.03 * self.size,
            "head_length": 0.06 * self.size,
        }
        self._arrows = {
            name: server.scene.add_arrows(f"/world/arrows/{name}", empty, color, **thickness)
            for name, color in (("forces", FORCE_COLOR), ("gradients", GRADIENT_COLOR))
        }

    def _add_grounds(self) -> None:
        """Every plane; a bare grid at height zero for orientation where there is none.

        The ground has no edge; other planes are drawn as large as the description says.
        """
        model = self.model
        planes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
        cell = 0.5 if self.size > LARGE else 0.1
        look: dict[str, Any] = {
            "cell_size": cell,
            "section_size": 5 * cell,
            "fade_distance": 120 * cell,
            "section_color": LINES,
        }
        solid: dict[str, Any] = {
            "plane_color": GROUND_COLOR,
            "plane_opacity": 1.0,
            "shadow_opacity": 0.3,
        }
        if not len(planes):
            self._server.scene.add_grid("/world/grid", infinite_grid=True, **look)
        for geom in planes:
            ground = model.geom_quat[geom][0] == 1 and model.geom_pos[geom][2] == 0
            width, height = 2 * model.geom_size[geom][:2]
            self._server.scene.add_grid(
                f"/world/plane_{geom}",
                infinite_grid=bool(ground or not (width and height)),
                width=float(width) or 1.0,
                height=float(height) or 1.0,
                position=model.geom_pos[geom],
                wxyz=model.geom_quat[geom],
                **look,
                **solid,
            )

    def _add_shape(self, geom: int) -> None:
        model, scene = self.model, self._server.scene
        kind, size = model.geom_type[geom], model.geom_size[geom]
        body = int(model.geom_bodyid[geom])
        if kind == mujoco.mjtGeom.mjGEOM_PLANE:
            return
        mesh = _mesh(model, geom, kind, size)
        opacity = float(model.geom_rgba[geom, 3])
        scene.add_mesh_simple(
            f"/world/link_{body}/shape_{geom}" if body else f"/world/shape_{geom}",
            np.asarray(mesh.vertices),
            np.asarray(mesh.faces),
            color=tuple(int(255 * c) for c in model.geom_rgba[geom, :3]),
            flat_shading=kind == mujoco.mjtGeom.mjGEOM_BOX,  # else its edges look round
            opacity=min(opacity, SEE_THROUGH if _loose(model, body) else 1.0),
            position=model.geom_pos[geom],
            wxyz=model.geom_quat[geom],
        )

    def _add_marker(self, name: str, marker: Marker) -> Any:
        """Its shapes, on a frame that can be moved."""
        scene = self._server.scene
        frame = scene.add_frame(name, show_axes=False)
        for number, solid in enumerate(solids_of(marker)):
            mesh = triangles(solid.kind, solid.size)
            scene.add_mesh_simple(
                f"{name}/shape_{number}",
                np.asarray(mesh.vertices),
                np.asarray(mesh.faces),
                color=tuple(int(255 * c) for c in solid.color[:3]),
                opacity=solid.color[3],
                flat_shading=solid.kind == mujoco.mjtGeom.mjGEOM_BOX,
                position=solid.offset,
                cast_shadow=False,
            )
        return frame

    def pose(self, q: Float[np.ndarray, " nq"], *, follow: bool) -> None:
        """Moves the links.

        Args:
            q: coordinates.
            follow: keep the robot in the middle, and move the ground instead.
        """
        self._data.qpos[:] = q
        mujoco.mj_kinematics(self.model, self._data)
        root = self._data.xpos[1] if self.model.nbody > 1 else np.zeros(3)
        self._world.position = (-root[0], -root[1], 0.0) if follow else (0.0, 0.0, 0.0)
        self._root.position = tuple(root)
        for body, frame in self._bodies.items():
            frame.position = tuple(self._data.xpos[body])
            frame.wxyz = tuple(self._data.xquat[body])

    def place_markers(self, markers: Mapping[str, Marker]) -> None:
        """Moves them to where they are in one environment."""
        for name, marker in markers.items():
            frame = self._markers[name]
            frame.position = tuple(map(float, marker.position))
            quaternion = np.array(marker.quaternion, np.float64)
            mujoco.mju_normalize4(quaternion)
            frame.wxyz = tuple(quaternion)

    def show_arrows(self, details: Details, step: int, *, forces: bool, gradients: bool) -> None:
        """Draws contact forces and action gradients of a step."""
        scale = FORCE_LENGTH * self.size / (details.weight or _large(details.contact_force))
        start = details.contact_position[step]
        self._set("forces", start, scale * details.contact_force[step], visible=forces)
        joints = details.joint_push.shape[1]  # none where the robot's model is not ours
        along = details.joint_push[step] * details.action_gradient[step, :joints, None]
        scale = GRADIENT_LENGTH * self.size / _large(details.action_gradient)
        self._set("gradients", details.joint_position[step], scale * along, visible=gradients)

    def _set(self, name: str, start: Any, arrow: Any, *, visible: bool) -> None:
        length = np.linalg.norm(arrow, axis=-1)
        arrow = arrow * np.minimum(1.0, self.size / np.maximum(length, 1e-9))[:, None]
        shown = length > 0.02 * self.size
        visible = visible and bool(shown.any())
        if visible:
            start = start - self._root.position
            points = np.stack([start[shown], (start + arrow)[shown]], axis=1)
            self._arrows[name].points = points.astype(np.float32)
        self._arrows[name].visible = visible


def play(
    robot: Robot3D,
    episodes: Episodes,
    details: Details,
    step: int,
    *,
    follow: bool = True,
    forces: bool = True,
    gradients: bool = True,
) -> None:
    """Shows a step with its markers and arrows."""
    robot.pose(episodes.q[step, 0], follow=follow)
    robot.place_markers(episodes.markers_at(step, 0))
    robot.show_arrows(details, step, forces=forces, gradients=gradients)


def _large(values: np.ndarray) -> float:
    return max(float(np.percentile(np.abs(values), 95)) if values.size else 0.0, 1e-9)


def _loose(model: mujoco.MjModel, body: int) -> bool:
    """Whether a body moves freely beside the robot."""
    joint = model.body_jntadr[body]
    free = joint >= 0 and model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE
    return bool(body > 1 and free)


def _mesh(model: mujoco.MjModel, geom: int, kind: int, size: Any) -> Any:
    """The shape as triangles; a sphere in place of what has none."""
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        from trimesh import Trimesh

        number = int(model.geom_dataid[geom])
        first, count = model.mesh_vertadr[number], model.mesh_vertnum[number]
        face, faces = model.mesh_faceadr[number], model.mesh_facenum[number]
        return Trimesh(model.mesh_vert[first : first + count], model.mesh_face[face : face + faces])
    mesh = triangles(kind, size)
    if mesh is None:
        ball = mujoco.mjtGeom.mjGEOM_SPHERE
        mesh = triangles(ball, [max(model.geom_rbound[geom], 1e-3)])
    return mesh
