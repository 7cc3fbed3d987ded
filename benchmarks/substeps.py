"""Are the substeps that a described robot gets enough, and are they needed?

    python benchmarks/substeps.py robot.urdf other.xml --json results/substeps.json

Drops each robot, limp, from a quarter of its height in 16 attitudes and poses (the first is its
own start) and lets it come to rest for a second, with half, once and four times the chosen number
of substeps. Printed for each: the root's distance after that second from where four times as many
substeps bring it (median over the drops, as a share of the robot's height), the largest gain of
energy at any time over the energy that was let go (a limp robot can only lose it), the fastest
joint or root speed, and how many drops stayed finite.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from record import write_record

from rpo.envs.robot_description import on_the_ground
from rpo.envs.robot_file import RobotFile, RobotSettings
from rpo.physics.diagnostics import link_poses, mass_matrix
from rpo.physics.mjcf import parse_description
from rpo.physics.model import JointType
from rpo.physics.step import StepSettings, control_step

DROPS = 16
SECONDS = 1.0
FACTORS = (4.0, 1.0, 0.5)
"""Of the chosen number of substeps; the first is what the others are compared with."""


def starts(robot: RobotFile) -> np.ndarray:
    """Coordinates (nq, DROPS), all a quarter of the robot's height above the ground."""
    model, path = robot.model, robot.description.path
    compiled = parse_description(path, urdf=path.endswith(".urdf")).compile()
    luck = np.random.default_rng(0)
    rows = []
    for k in range(DROPS):
        q = robot.description.start.copy()
        if k:
            for row, velocity in zip(
                robot.description.joint_coordinates,
                robot.description.joint_velocities,
                strict=True,
            ):
                low, high = model.limit_lower[velocity], model.limit_upper[velocity]
                q[row] = np.clip(q[row] + luck.uniform(-1, 1), low, high)
            if model.joint_type[0] is JointType.FREE:
                q[3:7] = luck.normal(size=4)
                q[3:7] /= np.linalg.norm(q[3:7])
        q = on_the_ground(model, compiled, q)
        q[2 if model.joint_type[0] is JointType.FREE else 1] += 0.25 * size_of(robot)
        rows.append(q)
    return np.array(rows).T


def size_of(robot: RobotFile) -> float:
    """The root's height at the start, m."""
    return max(robot.description.height, 0.1)


def fall(robot: RobotFile, substeps: int, q: np.ndarray) -> dict[str, Array]:
    """Root (3, DROPS) at the end, energy (steps, DROPS) and speeds of a fall."""
    model = robot.model
    settings = StepSettings(robot.step_settings.control_dt, substeps, substeps)
    steps = round(SECONDS / settings.control_dt)
    mass, base = jnp.asarray(model.mass), robot.description.base
    joints = robot.description.joint_velocities

    def energy(q: Array, qd: Array) -> Array:
        position, rotation = link_poses(model, q)
        center = position + jnp.einsum("lijb,lj->lib", rotation, jnp.asarray(model.center_of_mass))
        height = jnp.einsum("l,lib,i->b", mass, center, -jnp.asarray(model.gravity))
        springs = 0.5 * jnp.asarray(model.stiffness) @ away(q) ** 2
        return height + springs + 0.5 * jnp.einsum("ib,ijb,jb->b", qd, mass_matrix(model, q), qd)

    def away(q: Array) -> Array:
        rows = np.zeros((model.nv, q.shape[0]))
        for row, velocity in zip(robot.description.joint_coordinates, joints, strict=True):
            rows[velocity, row] = 1.0
        return jnp.asarray(rows) @ q - jnp.asarray(model.spring_target)[:, None]

    def advance(state: tuple[Array, Array], _: None) -> tuple[Any, Any]:
        state = control_step(model, settings, *state, jnp.zeros_like(state[1]))
        return state, (energy(*state), jnp.abs(state[1]).max(axis=0))

    @jax.jit
    def run(q: Array) -> dict[str, Array]:
        begin = q, jnp.zeros((model.nv, DROPS), q.dtype)
        (end, _), (energies, speeds) = lax.scan(advance, begin, None, length=steps)
        return {
            "root": link_poses(model, end)[0][base],
            "gained": energies.max(axis=0) - energy(*begin),
            "speed": speeds.max(axis=0),
        }

    return jax.device_get(run(jnp.asarray(q, jnp.float32)))


def measure(path: str) -> dict[str, Any]:
    """What the drops of one robot show."""
    robot = RobotFile(path, RobotSettings(strength=1.0, link_contact=not path.endswith(".urdf")))
    chosen = robot.step_settings.substeps
    q, weight = starts(robot), float(robot.model.mass.sum() * 9.81)
    released = weight * 0.25 * size_of(robot)
    rows: list[dict[str, Any]] = []
    reference: Array | None = None
    for factor in FACTORS:
        substeps = max(round(chosen * factor), 1)
        found = fall(robot, substeps, q)
        whole = np.isfinite(found["root"]).all(axis=0) & (found["speed"] < 1e4)
        reference = found["root"] if reference is None else reference
        away = np.linalg.norm(found["root"] - reference, axis=0)[whole]
        rows.append(
            {
                "factor": factor,
                "substeps": substeps,
                "root_distance": float(np.median(away) / size_of(robot)) if whole.any() else None,
                "energy_gained": float((found["gained"][whole] / released).max(initial=0.0)),
                "fastest": float(found["speed"][whole].max(initial=0.0)),
                "finite": int(whole.sum()),
            }
        )
        print(f"{Path(path).stem:24s}", *(f"{k}={v:.3g}" for k, v in rows[-1].items()), flush=True)
    rates = dataclasses.asdict(robot.description.rates)
    return {"robot": Path(path).name, "chosen": chosen, **rates, "rows": rows}


def main() -> None:
    """Measures every robot named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("robots", nargs="+")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = [measure(path) for path in asked.robots]
    if asked.json is not None:
        write_record(asked.json, found, drops=DROPS, seconds=SECONDS)


if __name__ == "__main__":
    main()
