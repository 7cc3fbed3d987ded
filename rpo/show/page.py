"""One HTML file that plays an episode in any browser, without a server."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from rpo.envs.base import Env
from rpo.show.details import look_into
from rpo.show.episode import record_episodes, robot_of
from rpo.show.scene import FIXED_LOOK
from rpo.show.scenes import Scene
from rpo.show.stage3d import Robot3D, play
from rpo.training.files import replacing
from rpo.training.needs import need
from rpo.training.policies import Policy, Source, env_of, open_policies

FRAMES_PER_SECOND = 30


def save_page(
    source: Source, output: Path, scene: Scene | None = None, *, env: Env | str | None = None
) -> int:
    """Writes a page that plays one episode in 3-D, with contact forces and action gradients.

    Args:
        source: a run, its directory, a policy file (.npz), or the name of a shipped task.
        output: the page, .html.
        scene: what to show; one environment, and the newest or the best policy.
        env: the environment, if it is a user's own: an instance or `FILE.py:CLASS`.

    Returns:
        the number of frames.

    Raises:
        RunError: if there is no such policy, no robot to show, or the extra `view` is missing.
        OSError: if the page cannot be written.
    """
    viser = need("viser", "view")
    scene = scene or Scene()
    file = open_policies(source, env)
    chosen = env_of(source, file, env)
    actors = file.actors("best" if scene.checkpoint == "best" else "last")
    policy = Policy(actors[file.index(scene.seed)], chosen)
    episodes = record_episodes(
        policy, deterministic=not scene.sampled, seed=scene.start, steps=scene.steps(chosen)
    )
    details = look_into(policy, episodes)
    server = start_server(viser, "127.0.0.1", 0)
    try:
        robot = Robot3D(server, robot_of(chosen), episodes.markers)
        place_camera(server, robot)
        length = int(episodes.length[0])
        stride = max(round(1 / (FRAMES_PER_SECOND * episodes.control_dt)), 1)
        steps = range(min(round(scene.skip / episodes.control_dt), length - 1), length, stride)
        play(robot, episodes, details, steps[0])
        recording = server.get_scene_serializer()
        for step in steps:
            play(robot, episodes, details, step)
            recording.insert_sleep(stride * episodes.control_dt)
        page = recording.as_html()
    finally:
        stop_server(server)
    with replacing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return len(steps)


def start_server(viser: Any, host: str, port: int) -> Any:
    """A viser server that keeps quiet.

    Args:
        viser: the module.
        host: address to listen at.
        port: 0 for any that is free.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        return viser.ViserServer(host=host, port=port, label="rpo", verbose=False)


def stop_server(server: Any) -> None:
    """Stops it, as quietly."""
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()


def place_camera(server: Any, robot: Robot3D) -> None:
    """Looks at the robot from the side, a little ahead of it; at a fixed one as in films."""
    size, height = robot.size, robot.height
    target = np.array([0.0, 0.0, 0.6 * height])
    offset = np.array([0.8 * size, -1.3 * size, 0.4 * height + 0.3 * size])
    if robot.fixed:
        azimuth, elevation, distance = FIXED_LOOK
        around, up = np.deg2rad(azimuth), np.deg2rad(elevation)
        target = robot.middle
        offset = (
            -distance
            * size
            * np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
        )
    server.initial_camera.position = tuple(target + offset)
    server.initial_camera.look_at = tuple(target)
    server.initial_camera.up = (0.0, 0.0, 1.0)
