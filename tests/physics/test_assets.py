"""The shipped robots have the constants of the reference recordings."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

import rpo.envs
from rpo.envs.locomotion import LocomotionEnv
from rpo.physics.inertia import rotation_matrix
from rpo.physics.mjcf import load_mjcf
from rpo.physics.model import JointType, Model
from tests.reference import ROBOTS, load_reference, reference_links

ASSETS = Path(rpo.envs.__path__[0]) / "assets"
TOTAL_MASS = {"hopper": 15.82, "ant": 182.18, "anymal": 37.25, "humanoid": 40.84}
Floats = NDArray[np.float64]


def rest_poses(model: Model) -> tuple[Floats, Floats]:
    """Positions (L, 3), rotations (L, 3, 3) at zero coordinates; a free base is at the origin."""
    position, rotation = np.zeros((model.num_links, 3)), np.zeros((model.num_links, 3, 3))
    for link, parent in enumerate(model.parent):
        base, frame = (
            (np.zeros(3), np.eye(3)) if parent < 0 else (position[parent], rotation[parent])
        )
        if model.joint_type[link] is JointType.FREE:
            rotation[link] = frame
            continue
        position[link] = base + frame @ model.joint_position[link]
        rotation[link] = frame @ rotation_matrix(model.joint_quaternion[link])
    return position, rotation


def task_robot(name: str) -> Model:
    """The robot with the figures of its task's settings."""
    env = rpo.envs.make(name)
    assert isinstance(env, LocomotionEnv)
    return env.model


@pytest.fixture(params=ROBOTS, scope="module")
def robot(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_tree_and_joint_frames_are_those_of_the_reference(robot: str) -> None:
    model = load_mjcf(ASSETS / f"{robot}.xml")
    reference = reference_links(load_reference(robot))
    position, rotation = rest_poses(model)
    axis = np.einsum("lij,lj->li", rotation, model.joint_axis)

    assert model.parent.tolist() == reference.parent
    hinged = np.array([kind is not JointType.FREE for kind in model.joint_type])
    np.testing.assert_allclose(axis[hinged], reference.axis[hinged], atol=2e-7)
    # Where a slide's anchor lies along its own or another slide's axis does not matter.
    turning = np.array([kind is not JointType.SLIDE for kind in model.joint_type])
    np.testing.assert_allclose(position[turning], reference.anchor[turning], atol=2e-7)


def test_joint_constants_are_those_of_the_reference(robot: str) -> None:
    model = task_robot(robot)
    data = load_reference(robot)
    joints = reference_links(data).joint
    scalar = [i for i, kind in enumerate(model.joint_type) if kind is not JointType.FREE]
    dofs = [model.velocity_start[i] for i in scalar]
    rows = [joints[i] for i in scalar]
    coordinates = data["model_joint_q_start"][rows]

    np.testing.assert_allclose(model.armature, data["model_joint_armature"], rtol=1e-7)
    stiffness = data["model_joint_target_ke"][rows]
    np.testing.assert_allclose(model.stiffness[dofs], stiffness, rtol=1e-7)
    np.testing.assert_allclose(model.damping[dofs], data["model_joint_target_kd"][rows], rtol=1e-7)
    sprung = stiffness != 0
    np.testing.assert_allclose(
        model.spring_target[dofs][sprung], data["model_joint_target"][coordinates][sprung]
    )
    np.testing.assert_allclose(model.limit_stiffness[dofs], data["model_joint_limit_ke"][rows])
    np.testing.assert_allclose(model.limit_damping[dofs], data["model_joint_limit_kd"][rows])
    for name, bound in (("limit_lower", -np.inf), ("limit_upper", np.inf)):
        expected = data[f"model_joint_{name}"][coordinates].astype(np.float64)
        expected[np.abs(expected) >= 1e6] = bound  # the reference's way to say that there is none
        np.testing.assert_allclose(getattr(model, name)[dofs], expected, rtol=2e-7, atol=1e-9)
    free = np.setdiff1d(np.arange(model.nv), dofs)
    for name in ("damping", "stiffness", "limit_stiffness", "limit_damping"):
        assert not getattr(model, name)[free].any()


def test_contact_points_are_those_of_the_reference(robot: str) -> None:
    model = task_robot(robot)
    reference = reference_links(load_reference(robot))
    position, rotation = rest_poses(model)
    link = model.contact_link
    world = position[link] + np.einsum("kij,kj->ki", rotation[link], model.contact_position)

    assert link.tolist() == reference.contact_link
    np.testing.assert_allclose(world, reference.contact_position, atol=2e-7)
    np.testing.assert_allclose(model.contact_radius, reference.contact_radius, rtol=1e-7)
    material = np.stack(
        [
            model.contact_stiffness,
            model.contact_damping,
            model.friction_stiffness,
            model.friction_coefficient,
        ],
        axis=-1,
    )
    np.testing.assert_allclose(material, reference.contact_material, rtol=1e-7)


def test_masses_and_inertias_follow_the_reference_rule(robot: str) -> None:
    model = load_mjcf(ASSETS / f"{robot}.xml", inertia="reference")
    reference = reference_links(load_reference(robot))
    position, rotation = rest_poses(model)
    heavy = model.mass > 0
    center = position + np.einsum("lij,lj->li", rotation, model.center_of_mass)
    inertia = rotation @ model.inertia @ rotation.transpose(0, 2, 1)

    np.testing.assert_allclose(model.mass, reference.mass, rtol=2e-7)
    assert model.mass.sum() == pytest.approx(TOTAL_MASS[robot], rel=1e-3)
    np.testing.assert_allclose(center[heavy], reference.center_of_mass[heavy], atol=2e-7)
    scale = np.abs(reference.inertia).max()
    np.testing.assert_allclose(inertia, reference.inertia, rtol=4e-6, atol=2e-7 * scale)


def test_physical_inertias_are_the_compilers(robot: str) -> None:
    """Same masses and centres; inertias of unmerged bodies equal MuJoCo's and are physical."""
    physical = load_mjcf(ASSETS / f"{robot}.xml", inertia="physical")
    reference = load_mjcf(ASSETS / f"{robot}.xml", inertia="reference")
    np.testing.assert_allclose(physical.mass, reference.mass, rtol=1e-12)
    np.testing.assert_allclose(physical.center_of_mass, reference.center_of_mass, atol=1e-12)

    compiled = mujoco.MjModel.from_xml_path(str(ASSETS / f"{robot}.xml"))
    for link in np.flatnonzero(physical.mass):
        moments = np.linalg.eigvalsh(physical.inertia[link])
        assert moments[0] > 0 and moments[2] <= moments[0] + moments[1] + 1e-12
        body = compiled.body(physical.link_names[link])
        if (compiled.body_weldid == body.id).sum() == 1:
            np.testing.assert_allclose(moments, np.sort(body.inertia), rtol=1e-9)


def test_only_anymal_has_the_same_inertias_under_both_rules() -> None:
    """The capsules of the other robots are rotated in their bodies, where the rules differ."""
    for robot in ROBOTS:
        path = ASSETS / f"{robot}.xml"
        difference = load_mjcf(path).inertia - load_mjcf(path, inertia="reference").inertia
        assert (np.abs(difference).max() < 1e-9) == (robot == "anymal")
