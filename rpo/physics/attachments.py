"""Tables of what hangs on links (contacts, shapes, bodies in a fluid), laid out for the groups."""

from __future__ import annotations

import numpy as np

from rpo.physics.geoms import Floats, Ints
from rpo.physics.spatial import Rotation, Vector, constant, vector


def slots(rows: list[Ints]) -> list[Ints]:
    """Which rows of a table are computed as one array.

    Args:
        rows: for each link of a group its rows; isomorphic links have as many.

    Returns:
        a lone link's rows side by side; of several links one array per row.
    """
    if not len(rows[0]):
        return []
    return [rows[0]] if len(rows) == 1 else list(np.stack(rows).T)


def vectors(frames: list[Floats], values: Floats) -> Vector:
    """Vectors (n, 3) given in link frames, in the axes that the dynamics use.

    Args:
        frames: from those axes to the link's, for each row (`topology.joint_axis_frames`).
        values: the vectors.
    """
    turned = np.stack([frame.T @ value for frame, value in zip(frames, values, strict=True)])
    return vector(map(constant, turned.T))


def turns(frames: list[Floats], quaternions: Floats) -> Rotation:
    """Orientations (n, 4) given in link frames, in the axes that the dynamics use."""
    matrices = [quaternion_matrix(quaternion) for quaternion in quaternions]
    x, y, z = (vectors(frames, np.stack([m[:, k] for m in matrices])) for k in range(3))
    return (x, y, z)


def quaternion_matrix(q: Floats) -> Floats:
    """Rotation matrix of a unit quaternion w, x, y, z."""
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
