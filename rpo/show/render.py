"""A film of a trained policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rpo.envs.base import Env
from rpo.show.episode import record_episodes, robot_of
from rpo.show.film import (
    Film,
    Format,
    Panel,
    arrangement,
    require_possible,
    usual_format,
    write_film,
)
from rpo.show.scenes import Scene
from rpo.training.policies import Policy, Source, env_of, open_moments, open_policies
from rpo.training.policy_file import PolicyFile


def render(
    source: Source,
    output: Path,
    scene: Scene | None = None,
    form: Format | Mapping[str, int] | None = None,
    *,
    env: Env | str | None = None,
    progress: Callable[[int], Iterator[int]] | None = None,
) -> int:
    """Films an episode of a trained policy.

    Args:
        source: a run, its directory, a policy file (.npz), or the name of a shipped task.
        output: .mp4, .gif or .webm; a name without suffix is a directory of PNG pictures.
        scene: what to show.
        form: sizes and speed, or only those fields of it that are not to be the usual ones: 640 x
            480, several panels 320 x 240 each, at 30 frames a second (25 in a GIF).
        env: the environment, if it is a user's own: an instance or `FILE.py:CLASS`.
        progress: gives the numbers of the frames, and tells somebody.

    Returns:
        the number of frames.

    Raises:
        RunError: if there is no such policy, no robot to show, or nothing to draw with.
        SettingsError: if a figure is out of range.
        OSError: if the film cannot be written.
    """
    scene = scene or Scene()
    files = open_moments(source) if scene.checkpoint == "all" else [open_policies(source, env)]
    count = len(files) * scene.envs
    if not isinstance(form, Format):
        form = usual_format(count, output, **(form or {}))
    require_possible(output)  # before the long work
    arrangement(count, form)
    chosen = env_of(source, files[-1], env)
    panels = _panels(files, scene, chosen)
    film = Film(robot_of(chosen), panels, form, skip=scene.skip)
    try:
        write_film(film, output, progress)
    finally:
        film.close()
    return film.count


def _panels(files: list[PolicyFile], scene: Scene, chosen: Env) -> list[Panel]:
    panels = []
    for file in files:
        actors = file.actors("best" if scene.checkpoint == "best" else "last")
        policy = Policy(actors[file.index(scene.seed)], chosen)
        episodes = record_episodes(
            policy,
            scene.envs,
            deterministic=not scene.sampled,
            seed=scene.start,
            steps=scene.steps(chosen),
        )
        panels += [Panel(_title(file, scene), episodes, k) for k in range(scene.envs)]
    return panels


def _title(file: PolicyFile, scene: Scene) -> str:
    if scene.checkpoint != "all":
        return ""
    share = 100 * file.facts.iteration / file.facts.total_iterations
    return f"after {file.facts.env_steps:,} steps ({share:.0f} %)"
