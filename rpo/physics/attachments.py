"""Tables of what hangs on links (contact places, bodies in a fluid), laid out for the groups."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from rpo.physics.contact import Wrench
from rpo.physics.geoms import Floats, Ints
from rpo.physics.spatial import Rotation, Scalar, Vector, constant
from rpo.physics.topology import quaternion_matrix


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
    return (constant(turned[:, 0]), constant(turned[:, 1]), constant(turned[:, 2]))


def turns(frames: list[Floats], quaternions: Floats) -> Rotation:
    """Orientations (n, 4) given in link frames, in the axes that the dynamics use."""
    matrices = [quaternion_matrix(quaternion) for quaternion in quaternions]
    x, y, z = (vectors(frames, np.stack([m[:, k] for m in matrices])) for k in range(3))
    return (x, y, z)


def on_links(wrench: Wrench, rows: int, size: int) -> Wrench:
    """Wrenches on a group of `size` links from those on `rows` attachments.

    Constants that fold make a component smaller than (rows, batch), or a plain number.
    """

    def gather(value: Scalar) -> Scalar:
        value = jnp.atleast_2d(value)
        if size > 1 or rows == 1:
            return value
        return jnp.sum(jnp.broadcast_to(value, (rows, value.shape[1])), axis=0, keepdims=True)

    return Wrench(
        (gather(wrench.angular[0]), gather(wrench.angular[1]), gather(wrench.angular[2])),
        (gather(wrench.linear[0]), gather(wrench.linear[1]), gather(wrench.linear[2])),
    )
