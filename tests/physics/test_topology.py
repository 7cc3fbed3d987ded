"""Grouping of isomorphic links and folding of constants."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rpo.physics import spatial
from rpo.physics.model import JointType
from rpo.physics.topology import groups_of
from tests.physics.robots import Z, planar, quadruped, robot


def test_like_legs_form_one_group_and_the_root_its_own() -> None:
    groups = groups_of(quadruped())
    assert [group.links for group in groups] == [(0,), (1, 3, 5, 7), (2, 4, 6, 8)]
    assert [group.summed for group in groups] == [False, True, False]
    assert [group.parent for group in groups] == [-1, 0, 1]


def test_unlike_branches_stay_apart() -> None:
    model = robot(
        [
            (JointType.FREE, -1, (0, 0, 0), Z),
            (JointType.HINGE, 0, (0, 0, 0.1), Z),
            (JointType.HINGE, 0, (0, 0, 0.2), Z),
            (JointType.HINGE, 2, (0, 0, 0.2), Z),
        ]
    )
    assert sorted(group.links for group in groups_of(model)) == [(0,), (1,), (2,), (3,)]


def test_several_like_children_of_several_parents_pair_up() -> None:
    joints = [(JointType.FREE, -1, (0, 0, 0), Z)]
    joints += [(JointType.HINGE, 0, (0, 0, 0.1), Z)] * 2
    joints += [(JointType.HINGE, parent, (0, 0, 0.1), Z) for parent in (1, 1, 2, 2)]
    groups = groups_of(robot(joints))
    assert [group.links for group in groups] == [(0,), (1, 2), (3, 5), (4, 6)]


def test_slides_from_the_world_carry_the_origin_others_do_not() -> None:
    assert [group.base for group in groups_of(planar())] == [True, True, False, False]


def test_every_joint_axis_becomes_the_local_z_axis() -> None:
    model = quadruped()
    for group in groups_of(model)[1:]:
        assert model.joint_axis[group.links[0]] @ np.array([0, 0, 1]) == 0
        third = np.array([np.broadcast_to(c, (1, 1)).item() for c in group.turn[2]])
        np.testing.assert_allclose(np.abs(third).max(), 1.0)


def test_zeros_and_ones_leave_no_operation_behind() -> None:
    def traced(x):
        same = spatial.mul(1.0, spatial.add(x, 0.0))
        return spatial.add(same, spatial.mul(0.0, x))

    assert len(jax.make_jaxpr(traced)(jnp.ones((1, 3))).eqns) == 0


def test_group_constants_do_not_promote_single_precision() -> None:
    column = spatial.constant([0.5, 0.25])
    with jax.enable_x64(True):
        value = spatial.mul(column, jnp.ones((2, 3), jnp.float32))
    assert value.dtype == jnp.float32
