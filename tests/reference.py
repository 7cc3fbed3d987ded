"""Where the tests find the reference recordings (DFlex), and their model constants in our terms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ROOT = Path(__file__).resolve().parents[1]
_FULL = _ROOT.parent / "shared" / "dflex-reference"
_SAMPLE = _ROOT / "tests" / "data"
ROBOTS = ("hopper", "ant", "anymal", "humanoid")
RECORDINGS = (*ROBOTS, "hopper_mm4", "ant_mm1", "humanoid_mm48")


def reference_path(name: str) -> Path:
    """The recording `name` (one of `RECORDINGS`): the full one if it is there, else the sample."""
    full = _FULL / f"{name}.npz"
    return full if full.is_file() else _SAMPLE / f"{name}.npz"


def load_reference(name: str) -> dict[str, NDArray[Any]]:
    """All arrays of a recording by key."""
    with np.load(reference_path(name)) as data:
        return {key: data[key] for key in data.files}


@dataclasses.dataclass(frozen=True)
class ReferenceLinks:
    """The reference's links at zero coordinates, fixed ones merged, in the frame of the base.

    For a free base that is the root link's frame; otherwise the z-up world. Everything is along the
    axes of that frame, so that nothing depends on how link frames are oriented.
    """

    parent: list[int]
    joint: list[int]  # index of the reference's joint
    anchor: Floats  # (L, 3)
    axis: Floats  # (L, 3)
    mass: Floats  # (L,)
    center_of_mass: Floats  # (L, 3), from the base's origin
    inertia: Floats  # (L, 3, 3) about the centre of mass
    contact_link: list[int]
    contact_position: Floats  # (K, 3), from the base's origin
    contact_radius: Floats  # (K,)
    contact_material: Floats  # (K, 4): ke, kd, kf, mu


_FREE, _FIXED = 4, 3


def reference_links(data: dict[str, NDArray[Any]]) -> ReferenceLinks:
    """Merge the reference's fixed links and express everything at zero coordinates."""
    constants = {
        key.removeprefix("model_"): value.astype(np.float64)
        for key, value in data.items()
        if key.startswith("model_") and value.dtype != bool
    }
    kinds = constants["joint_type"].astype(int)
    parents = constants["joint_parent"].astype(int)
    position, rotation = _rest_poses(constants, kinds, parents)
    moving = [i for i, kind in enumerate(kinds) if kind != _FIXED]
    owner = list(range(len(kinds)))  # the moving link that each link is rigidly part of
    for i, kind in enumerate(kinds):
        if kind == _FIXED:
            owner[i] = owner[parents[i]]
    index = {link: number for number, link in enumerate(moving)} | {-1: -1}
    mass, center, inertia = _merged(constants, position, rotation, owner, moving)
    link = constants["contact_body0"].astype(int)
    shift = np.einsum("kij,kj->ki", rotation[link], constants["contact_point0"])
    material = constants["contact_material"].astype(int)
    return ReferenceLinks(
        parent=[index[owner[parents[i]] if parents[i] >= 0 else -1] for i in moving],
        joint=moving,
        anchor=position[moving],
        axis=np.einsum("lij,lj->li", rotation[moving], constants["joint_axis"][moving]),
        mass=mass,
        center_of_mass=center,
        inertia=inertia,
        contact_link=[index[owner[i]] for i in link],
        contact_position=position[link] + shift,
        contact_radius=constants["contact_dist"],
        contact_material=constants["shape_materials"][material],
    )


def rotation_from_xyzw(quaternion: Floats) -> Floats:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) in the order x, y, z, w."""
    x, y, z, w = np.moveaxis(quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def _rest_poses(
    constants: dict[str, Floats], kinds: NDArray[np.int_], parents: NDArray[np.int_]
) -> tuple[Floats, Floats]:
    count = len(kinds)
    position, rotation = np.zeros((count, 3)), np.zeros((count, 3, 3))
    to_z_up = rotation_from_xyzw(np.array([0.5**0.5, 0.0, 0.0, 0.5**0.5]))
    for i in range(count):
        offset = constants["joint_X_pj"][i]
        turn = rotation_from_xyzw(offset[3:])
        if parents[i] >= 0:
            base, frame = position[parents[i]], rotation[parents[i]]
        else:
            base, frame = np.zeros(3), np.eye(3) if kinds[i] == _FREE else to_z_up
        position[i], rotation[i] = base + frame @ offset[:3], frame @ turn
    return position, rotation


def _merged(
    constants: dict[str, Floats],
    position: Floats,
    rotation: Floats,
    owner: list[int],
    moving: list[int],
) -> tuple[Floats, Floats, Floats]:
    masses = constants["body_I_m"][:, 3, 3]
    centers = position + np.einsum("lij,lj->li", rotation, constants["joint_X_cm"][:, :3])
    mass, center, inertia = np.zeros(len(moving)), np.zeros((len(moving), 3)), []
    for number, link in enumerate(moving):
        parts = [i for i in range(len(owner)) if owner[i] == link and masses[i] > 0]
        mass[number] = masses[parts].sum()
        if parts:
            center[number] = masses[parts] @ centers[parts] / mass[number]
        tensor = np.zeros((3, 3))
        for i in parts:
            d = centers[i] - center[number]
            own = rotation[i] @ constants["body_I_m"][i, :3, :3] @ rotation[i].T
            tensor += own + masses[i] * (d @ d * np.eye(3) - np.outer(d, d))
        inertia.append(tensor)
    return mass, center, np.array(inertia)


def hand_path() -> Path:
    """The recording of the hand: the full one if it is there, else the sample."""
    full = _ROOT.parent / "shared" / "rewarped-reference" / "allegro_hand.npz"
    return full if full.is_file() else _SAMPLE / "allegro_hand.npz"
