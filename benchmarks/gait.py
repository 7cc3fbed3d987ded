"""How policies move: what touches the ground, for how long, and whether it slides; with pictures.

    python benchmarks/gait.py runs/walker2d-* --task examples/walker2d.py:Walker2d \\
        --output results/walker2d/gaits.png

prints a table, one line per policy and what touches the ground in it at least 2 % of the time:
share of the time, how fast the touching point slides, and touchdowns a second. One deterministic
episode each, as `rpo render` shows it; contact is where MuJoCo finds shapes in the ground.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import defaultdict
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from rpo.errors import RunError, SettingsError
from rpo.show.episode import Episodes, record_episodes, robot_of
from rpo.show.scene import Stage
from rpo.training.cache import enable_compilation_cache
from rpo.training.policies import Policy, env_of, open_policies

WIDTH, HEIGHT = 240, 160
RARE = 0.02
"""Of the time; what touches the ground less is left out."""


@dataclasses.dataclass(frozen=True)
class Touch:
    """What one body does on the ground.

    Args:
        share: of the steps in which it touches.
        slip: mean speed of its touching points along the ground, m/s.
        rate: touchdowns per second, as far as control steps can tell.
    """

    share: float
    slip: float
    rate: float


@dataclasses.dataclass(frozen=True)
class Gait:
    """One episode in figures.

    Args:
        seconds: its duration.
        earned: its return.
        speed: mean, along x, m/s.
        tilt: of the root against its start, degrees forward: 5th, 50th and 95th percentile.
        saturated: share of the actions at a bound.
        touches: by body.
    """

    seconds: float
    earned: float
    speed: float
    tilt: tuple[float, float, float]
    saturated: float
    touches: dict[str, Touch]


def gait_of(model: mujoco.MjModel, episodes: Episodes) -> Gait:
    """Of the first environment's episode.

    Args:
        model: the robot, with the planes that are its ground.
        episodes: played by a policy; velocities `qd` are in MuJoCo's order, too.
    """
    length, dt = int(episodes.length[0]), episodes.control_dt
    q, qd = (np.asarray(x)[:length, 0] for x in (episodes.q, episodes.states.physics.qd))
    data, tilt = mujoco.MjData(model), np.zeros(length)
    touching: dict[str, Bool[np.ndarray, " steps"]] = defaultdict(lambda: np.zeros(length, bool))
    slips: dict[str, list[float]] = defaultdict(list)
    for step in range(length):
        data.qpos, data.qvel = q[step], qd[step]
        mujoco.mj_forward(model, data)
        tilt[step] = np.degrees(np.arctan2(data.xmat[1, 2], data.xmat[1, 8]))
        for body, slip in _sliding(model, data):
            touching[body][step] = True
            slips[body].append(slip)
    action = np.abs(episodes.action[:length, 0])
    return Gait(
        seconds=length * dt,
        earned=episodes.return_until(length - 1, 0),
        speed=float(q[-1, 0] - q[0, 0]) / max((length - 1) * dt, dt),
        tilt=tuple(np.percentile(tilt - tilt[0], (5, 50, 95))),
        saturated=float((action > 0.99).mean()),
        touches={
            body: Touch(
                share=float(steps.mean()),
                slip=float(np.mean(slips[body])),
                rate=float((steps[1:] & ~steps[:-1]).sum() / (length * dt)),
            )
            for body, steps in touching.items()
        },
    )


def _sliding(model: mujoco.MjModel, data: mujoco.MjData) -> list[tuple[str, float]]:
    """Bodies in the ground, and the speed along it of each touching point."""
    found = []
    plane = mujoco.mjtGeom.mjGEOM_PLANE
    for contact in data.contact:
        kinds = model.geom_type[contact.geom]
        if contact.dist > 0 or (kinds == plane).sum() != 1:
            continue
        body = int(model.geom_bodyid[contact.geom[int(kinds[0] == plane)]])
        jacobian = np.zeros((3, model.nv))
        mujoco.mj_jac(model, data, jacobian, None, contact.pos, body)
        velocity: Float[np.ndarray, "3"] = jacobian @ data.qvel
        along = velocity - (velocity @ contact.frame[:3]) * contact.frame[:3]
        found.append((model.body(body).name, float(np.linalg.norm(along))))
    return found


def table(gaits: dict[str, Gait]) -> str:
    """Markdown, a line per policy."""
    lines = [
        "| policy | s | return | m/s | tilt, degrees | at a bound | on the ground: share, slip, "
        "touchdowns |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, gait in gaits.items():
        low, middle, high = gait.tilt
        order = sorted(gait.touches.items(), key=lambda item: -item[1].share)
        told = [
            f"{body} {touch.share:.0%}, {touch.slip:.1f} m/s, {touch.rate:.1f}/s"
            for body, touch in order
            if touch.share >= RARE
        ]
        lines.append(
            f"| {name} | {gait.seconds:.1f} | {gait.earned:.0f} | {gait.speed:.2f} | "
            f"{middle:.0f} ({low:.0f} to {high:.0f}) | {gait.saturated:.0%} | {'; '.join(told)} |"
        )
    return "\n".join(lines)


def strip(
    stage: Stage, episodes: Episodes, start: float, seconds: float, count: int
) -> Image.Image:
    """Pictures at equal distances of time, side by side; later ones stand still after an end."""
    row = Image.new("RGB", (WIDTH * count, HEIGHT))
    for k, second in enumerate(np.linspace(start, start + seconds, count, endpoint=False)):
        q = episodes.q_at(float(second), 0)
        row.paste(Image.fromarray(stage.draw(q, stage.look_at(q))), (WIDTH * k, 0))
    return row


def main() -> None:
    """Parse, play, print, draw."""
    parser = argparse.ArgumentParser(description="How policies move, in figures and pictures.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--task", help="FILE.py:CLASS, for tasks of one's own; is executed")
    parser.add_argument("--output", type=Path, help="picture, one row per policy; none by default")
    parser.add_argument("--start", type=float, default=3.0, help="of the pictures, seconds")
    parser.add_argument("--seconds", type=float, default=0.8, help="that a row spans")
    parser.add_argument("--count", type=int, default=6, help="of pictures in a row")
    args = parser.parse_args()
    enable_compilation_cache()
    gaits, rows, stage = {}, [], None
    try:
        for path in args.runs:
            file = open_policies(path, args.task)
            env = env_of(path, file, args.task)
            model = robot_of(env).compile()
            if args.output and stage is None:
                stage = Stage(robot_of(env), WIDTH, HEIGHT)
            for index, actor in enumerate(file.actors("last")):
                name = f"{path.name}, seed {file.facts.seeds[index]}"
                episodes = record_episodes(Policy(actor, env))
                gaits[name] = gait_of(model, episodes)
                if stage is not None:
                    row = strip(stage, episodes, args.start, args.seconds, args.count)
                    ImageDraw.Draw(row).text((6, 4), name, fill=(28, 38, 48))
                    rows.append(row)
    except (RunError, SettingsError) as error:
        sys.exit(f"gait: {error}")
    print(table(gaits))
    if args.output:
        whole = Image.new("RGB", (rows[0].width, HEIGHT * len(rows)))
        for k, row in enumerate(rows):
            whole.paste(row, (0, HEIGHT * k))
        whole.save(args.output)


if __name__ == "__main__":
    main()
