"""Pictures of robots by MuJoCo's renderer, without a display."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from rpo.envs.markers import Marker
from rpo.errors import RunError, one_line
from rpo.show.bones import add_bones
from rpo.show.solids import GHOST, faces_of, solids_of

PALETTE = (
    (0.10, 0.42, 0.58, 1.0),  # torso
    (0.88, 0.90, 0.92, 1.0),
    (0.85, 0.42, 0.24, 1.0),
    (0.94, 0.72, 0.35, 1.0),
    (0.55, 0.60, 0.66, 1.0),
)
"""Colours of links by their depth in the tree."""
UNPAINTED = (0.5, 0.5, 0.5, 1.0)
SKY = ((0.72, 0.83, 0.93), (0.97, 0.98, 1.0))
GROUND = ((0.80, 0.83, 0.86), (0.74, 0.78, 0.82))
GROUND_EDGE = (0.62, 0.67, 0.72)


FIXED_LOOK = (40.0, -35.0, 1.6)
"""Azimuth, elevation (degrees) and distance (sizes) from which a fixed robot, a hand, is seen."""


def paint(spec: mujoco.MjSpec, width: int, height: int) -> mujoco.MjModel:
    """Compiles a robot's description with sky, ground, lights and colours.

    Geoms that have a colour of their own keep it, but for the ground. Lights of the description are
    switched off: with ours they would make one white of the ground.

    Args:
        spec: the robot's; is changed.
        width: of the pictures to come, in pixels.
        height: the same.
    """
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    spec.visual.quality.shadowsize = 1024
    spec.visual.headlight.ambient = [0.35] * 3
    spec.visual.headlight.diffuse = [0.35] * 3
    spec.visual.headlight.specular = [0.1] * 3
    spec.visual.map.zfar = 200.0
    spec.visual.rgba.haze = [*np.mean(SKY, axis=0), 1.0]
    texture, builtin = mujoco.mjtTexture, mujoco.mjtBuiltin
    for light in spec.lights:
        light.active = False
    skies = [own for own in spec.textures if own.type == texture.mjTEXTURE_SKYBOX]
    for sky in skies:
        if sky.builtin != builtin.mjBUILTIN_NONE:  # a photograph stays
            sky.builtin, sky.rgb1, sky.rgb2 = builtin.mjBUILTIN_GRADIENT, *SKY
    if not skies:
        _add_texture(spec, "rpo_sky", texture.mjTEXTURE_SKYBOX, builtin.mjBUILTIN_GRADIENT, SKY)
    ground = _add_texture(
        spec, "rpo_ground", texture.mjTEXTURE_2D, builtin.mjBUILTIN_CHECKER, GROUND
    )
    ground.mark, ground.markrgb = mujoco.mjtMark.mjMARK_EDGE, GROUND_EDGE
    material = spec.add_material(name="rpo_ground", texrepeat=[1, 1], texuniform=True)
    material.textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = "rpo_ground"
    for geom in spec.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_PLANE:
            geom.material, geom.rgba = "rpo_ground", UNPAINTED  # the material's
    dress(spec)
    _add_light(spec)
    model = spec.compile()
    model.vis.map.shadowclip = max(2.0, 2.5 / max(model.stat.extent, 1e-3))
    return model


def _add_texture(spec: mujoco.MjSpec, name: str, kind: Any, builtin: Any, colors: Any) -> Any:
    return spec.add_texture(
        name=name, type=kind, builtin=builtin, rgb1=colors[0], rgb2=colors[1], width=512, height=512
    )


def dress(spec: mujoco.MjSpec) -> None:
    """Gives the links colours, rods to limbs without shapes, and faces to what is handled."""
    _paint_links(spec)
    add_bones(spec)
    _mark_faces(spec)


def _mark_faces(spec: mujoco.MjSpec) -> None:
    """Colours the faces of loose boxes beside the robot, so that one can see how they turn."""
    for body in spec.worldbody.bodies[1:]:
        loose = any(joint.type == mujoco.mjtJoint.mjJNT_FREE for joint in body.joints)
        boxes = [geom for geom in body.geoms if geom.type == mujoco.mjtGeom.mjGEOM_BOX]
        if not loose or len(body.geoms) != 1 or not boxes:
            continue
        (box,) = boxes
        axes = np.zeros(9)
        mujoco.mju_quat2Mat(axes, np.array(box.quat))
        for face in faces_of(np.array(box.size)):
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=face.size,
                pos=np.array(box.pos) + axes.reshape(3, 3) @ face.offset,
                quat=box.quat,
                rgba=face.color,
                **GHOST,
            )


def _paint_links(spec: mujoco.MjSpec) -> None:
    def visit(body: Any, depth: int) -> None:
        for geom in body.geoms:
            if not geom.material and np.allclose(geom.rgba, UNPAINTED):
                geom.rgba = PALETTE[min(depth, len(PALETTE) - 1)]
                geom.size[0] *= 1 - 0.025 * depth  # shapes that end in one another do not flicker
        for child in body.bodies:
            visit(child, depth + 1)

    for body in spec.worldbody.bodies:
        visit(body, 0)


def _add_light(spec: mujoco.MjSpec) -> None:
    """A sun that goes along with the robot, so that its shadow is always there."""
    bodies = spec.worldbody.bodies
    owner = bodies[0] if bodies else spec.worldbody
    owner.add_light(
        name="rpo_sun",
        pos=[-1.0, -2.0, 5.0],
        dir=[0.2, 0.4, -1.0],
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACK,
        diffuse=[0.55] * 3,
        specular=[0.2] * 3,
        castshadow=True,
    )


def moves(model: mujoco.MjModel) -> bool:
    """Whether the robot's root does; a hand's does not."""
    return bool(model.nbody > 1 and model.body_dofnum[1] > 0)


def robot_box(model: mujoco.MjModel, data: mujoco.MjData) -> tuple[Float[np.ndarray, "3"], float]:
    """Middle and width of the bounding box of all bodies as they stand; the width of a robot that
    is fixed without what lies loose beside it."""
    everything = model.geom_bodyid > 0
    own = everything
    if model.nbody > 1 and not moves(model):
        own = model.body_rootid[model.geom_bodyid] == 1
    low, high = _extent(model, data, everything)
    own_low, own_high = _extent(model, data, own)
    return 0.5 * (low + high), float((own_high - own_low).max())


def _extent(model: mujoco.MjModel, data: mujoco.MjData, shapes: Any) -> tuple[Any, Any]:
    centre, radius = data.geom_xpos[shapes], model.geom_rbound[shapes][:, None]
    return (centre - radius).min(axis=0), (centre + radius).max(axis=0)


class Stage:
    """Draws a robot as it stands, seen by a camera that goes along with it."""

    def __init__(self, spec: mujoco.MjSpec, width: int, height: int) -> None:
        """Opens a renderer.

        Args:
            spec: the robot's description; is changed.
            width: of the pictures, in pixels.
            height: the same.

        Raises:
            RunError: if there is no OpenGL to draw with.
        """
        choose_opengl()
        self.model = paint(spec, width, height)
        self._data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self._data)
        try:
            self._renderer = mujoco.Renderer(self.model, height, width)
        except Exception as error:  # what the system's OpenGL comes up with
            raise RunError(f"OpenGL cannot draw here: {one_line(error)}") from error
        self._camera = mujoco.MjvCamera()
        self._moves = moves(self.model)
        self._middle, self._size = robot_box(self.model, self._data)
        planar = self._moves and self.model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE
        look = (90.0, -8.0, 2.0) if planar else (130.0, -18.0, 2.0) if self._moves else FIXED_LOOK
        self._camera.azimuth, self._camera.elevation, distance = look
        self._camera.distance = distance * self._size

    def look_at(self, q: Float[np.ndarray, " nq"]) -> Float[np.ndarray, "3"]:
        """The point that the camera follows, for coordinates q: where the robot's root is, or the
        middle of a robot that is fixed."""
        self._pose(q)
        return np.array(self._data.xpos[1] if self._moves else self._middle)

    def draw(
        self,
        q: Float[np.ndarray, " nq"],
        target: Float[np.ndarray, "3"],
        markers: Iterable[Marker] = (),
    ) -> UInt8[np.ndarray, "height width 3"]:
        """A picture of the robot and of markers (each of one environment), with the camera looking
        at a point."""
        self._pose(q)
        self._camera.lookat[:] = target
        self._renderer.update_scene(self._data, self._camera)
        for marker in markers:
            _add_marker(self._renderer.scene, marker)
        picture: np.ndarray = self._renderer.render()
        return picture

    def _pose(self, q: Float[np.ndarray, " nq"]) -> None:
        if len(q) != self.model.nq:
            raise RunError(
                f"the robot's description has {self.model.nq} coordinates, the state {len(q)}"
            )
        self._data.qpos[:] = q
        mujoco.mj_kinematics(self.model, self._data)
        mujoco.mj_camlight(self.model, self._data)

    def close(self) -> None:
        """Closes the renderer."""
        self._renderer.close()


def _add_marker(scene: mujoco.MjvScene, marker: Marker) -> None:
    """To what is drawn next."""
    axes = np.zeros(9)
    quaternion = np.array(marker.quaternion, np.float64)
    mujoco.mju_normalize4(quaternion)
    mujoco.mju_quat2Mat(axes, quaternion)
    for solid in solids_of(marker):
        if scene.ngeom >= scene.maxgeom:
            return
        place = np.asarray(marker.position, np.float64) + axes.reshape(3, 3) @ solid.offset
        color = np.array(solid.color, np.float32)
        geom = scene.geoms[scene.ngeom]
        mujoco.mjv_initGeom(geom, solid.kind, solid.size, place, axes, color)
        scene.ngeom += 1


def choose_opengl() -> None:
    """Makes MuJoCo draw without a display: by EGL where that works, else by OSMesa.

    The environment variable MUJOCO_GL overrules.

    Raises:
        RunError: in one line, if neither is there; says which packages to install.
    """
    from mujoco.rendering.classic import gl_context

    if platform.system() != "Linux":
        return
    _before_mesa()
    if os.environ.get("MUJOCO_GL"):
        return
    egl = all(map(_loads, ("libEGL.so.1", "libGL.so.1")))
    osmesa = any(map(_loads, ("libOSMesa.so.8", "libOSMesa.so")))  # two names of one library
    chosen = "egl" if egl else "osmesa"
    if egl and osmesa and not _works("egl"):
        chosen = "osmesa"
    if not (egl or osmesa):
        raise RunError(
            "there is no OpenGL to draw with: install Debian's libegl1 and libgl1, or libosmesa6 "
            "(apt-get install libegl1 libgl1), or set MUJOCO_GL"
        )
    os.environ["MUJOCO_GL"] = chosen  # for child processes too
    try:
        if chosen == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.osmesa import GLContext
    except Exception as error:  # PyOpenGL's, of several kinds
        raise RunError(f"OpenGL cannot draw here: {one_line(error)}") from error
    gl_context.GLContext = GLContext


def _before_mesa() -> None:
    """Loads Triton, where it is installed, before the first picture.

    PyTorch imports it with its first optimiser. Where Mesa has drawn in software before, by an LLVM
    of its own, that ends the process (a segmentation fault; triton 3.8.0).
    """
    with contextlib.suppress(Exception):  # whatever is wrong with it, pictures do not need it
        importlib.import_module("triton")


def _loads(name: str) -> bool:
    """Whether this is a library of this system."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _works(backend: str) -> bool:
    """Tries it in a process of its own, because PyOpenGL cannot be asked twice in one."""
    done = subprocess.run(
        [sys.executable, "-c", "import mujoco; mujoco.GLContext(64, 64)"],
        env=os.environ | {"MUJOCO_GL": backend},
        capture_output=True,
    )
    return done.returncode == 0
