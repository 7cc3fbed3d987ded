"""Small robots written out by hand, for tests of the physics alone."""

from __future__ import annotations

import numpy as np

from rpo.physics.model import CONTACT_FIELDS, DOF_FIELDS, JointType, Model

Z = (0.0, 0.0, 1.0)


def robot(
    joints: list[tuple[JointType, int, tuple, tuple]],
    *,
    contacts: list[tuple[int, tuple, float]] = (),  # type: ignore[assignment]
    masses: list[float] | None = None,
    **figures: float,
) -> Model:
    """A robot from (type, parent, offset, axis) per link; figures hold for every joint or point."""
    links = len(joints)
    nv = sum(kind.velocities for kind, *_ in joints)
    values = {field: np.full(nv, figures.get(field, 0.0)) for field in DOF_FIELDS}
    values["limit_lower"] = np.full(nv, figures.get("limit_lower", -np.inf))
    values["limit_upper"] = np.full(nv, figures.get("limit_upper", np.inf))
    material = {
        "contact_stiffness": 2e4,
        "contact_damping": 2e3,
        "friction_stiffness": 1e3,
        "friction_coefficient": 0.75,
    } | figures
    values |= {field: np.full(len(contacts), material.get(field, 0.0)) for field in CONTACT_FIELDS}
    values["contact_link"] = np.array([link for link, _, _ in contacts], np.int64)
    values["contact_radius"] = np.array([radius for _, _, radius in contacts], np.float64)
    mass = np.array(masses if masses is not None else [1.0] * links)
    return Model(
        name="test robot",
        link_names=tuple(f"link {k}" for k in range(links)),
        joint_names=tuple(f"joint {k}" for k in range(links)),
        parent=np.array([parent for _, parent, _, _ in joints], np.int64),
        joint_type=tuple(kind for kind, *_ in joints),
        joint_position=np.array([offset for _, _, offset, _ in joints], np.float64),
        joint_quaternion=np.tile([1.0, 0.0, 0.0, 0.0], (links, 1)),
        joint_axis=np.array([axis for *_, axis in joints], np.float64),
        mass=mass,
        center_of_mass=np.tile([0.05, -0.02, -0.1], (links, 1)) * (mass > 0)[:, None],
        inertia=np.einsum("l,ij->lij", mass, np.diag([0.02, 0.03, 0.04])),
        contact_position=np.array([p for _, p, _ in contacts], np.float64).reshape(-1, 3),
        gravity=np.array([0.0, 0.0, -9.81]),
        **values,
    )


def quadruped(**figures: float) -> Model:
    """Free torso, four hips and four knees: groups of one, four and four links."""
    joints = [(JointType.FREE, -1, (0.0, 0.0, 0.0), Z)]
    contacts = [(0, (0.0, 0.0, 0.0), 0.1)]
    for k, (x, y) in enumerate([(0.3, 0.2), (-0.3, 0.2), (-0.3, -0.2), (0.3, -0.2)]):
        joints.append((JointType.HINGE, 0, (x, y, 0.0), (1.0, 0.0, 0.0)))
        joints.append((JointType.HINGE, 1 + 2 * k, (0.0, 0.0, -0.2), (0.0, 1.0, 0.0)))
        contacts.append((2 + 2 * k, (0.0, 0.0, -0.25), 0.02))
    return robot(joints, contacts=contacts, armature=0.02, damping=1.0, **figures)


def planar(**figures: float) -> Model:
    """Slides x and z, pitch, and a leg: the root moves along the world's axes."""
    joints = [
        (JointType.SLIDE, -1, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0)),
        (JointType.SLIDE, 0, (0.0, 0.0, 0.8), Z),
        (JointType.HINGE, 1, (0.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        (JointType.HINGE, 2, (0.0, 0.0, -0.3), (0.0, 1.0, 0.0)),
    ]
    contacts = [(2, (0.0, 0.0, 0.2), 0.05), (3, (0.0, 0.0, -0.4), 0.05)]
    return robot(joints, contacts=contacts, masses=[0.0, 0.0, 3.0, 1.0], armature=0.5, **figures)


def random_state(model: Model, batch: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (nq, batch) near the ground and velocities (nv, batch), float64."""
    draws = np.random.default_rng(seed)
    q = draws.normal(size=(model.nq, batch)) * 0.4
    if model.joint_type[0] is JointType.FREE:
        q[2] = 0.45 + 0.1 * draws.normal(size=batch)
        q[3:7] = draws.normal(size=(4, batch)) * 0.3
        q[3] += 1.0
        q[3:7] /= np.linalg.norm(q[3:7], axis=0)
    return q, draws.normal(size=(model.nv, batch))
