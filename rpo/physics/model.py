"""A robot as static constants: tree of links, joints, inertias, contact points.

Everything here is NumPy in float64 and known while tracing, so the dynamics fold zeros and ones
away (an axis-aligned offset costs nothing at run time). Precision and batch come from the state.
"""

from __future__ import annotations

import dataclasses
import enum
from functools import cached_property

import numpy as np

from rpo.physics.actuators import NO_ACTUATORS, Actuators
from rpo.physics.fluid import NO_FLUID, Fluid
from rpo.physics.geoms import NO_GEOMS, Floats, Geoms, Ints
from rpo.physics.planes import NO_PLANE_CONTACTS, PlaneContacts
from rpo.physics.tables import check_ranges, check_table
from rpo.physics.tendons import NO_CORDS, NO_TENDONS, Cords, Tendons


class JointType(enum.IntEnum):
    """Kind of the one joint that attaches a link to its parent."""

    FREE = 0
    SLIDE = 1
    HINGE = 2

    @property
    def coordinates(self) -> int:
        """Number of generalised coordinates (free joint: position 3, quaternion 4)."""
        return 7 if self is JointType.FREE else 1

    @property
    def velocities(self) -> int:
        """Number of generalised velocities (free joint: linear 3, angular 3)."""
        return 6 if self is JointType.FREE else 1


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A kinematic tree of `L` links with `nq` coordinates, `nv` velocities and `K` contact points.

    Links are ordered parents first and each has exactly one joint. The link frame has its origin
    at the joint's anchor (for a free joint: at the body's origin). The world is z-up, the ground is
    the plane z = 0. Lengths in m, masses in kg, angles in rad, forces in N or N m.

    Generalised coordinates: a free joint has position (3) and unit quaternion w, x, y, z (4) in the
    world frame; slide and hinge have one each. Generalised velocities: a free joint has the linear
    velocity of the link's origin (3) and the angular velocity (3), both in the world frame.

    Args:
        name: what to call the robot.
        link_names: name of each link (L).
        joint_names: name of each link's joint (L).
        parent: index of the parent link, -1 for the world (L,).
        joint_type: `JointType` of each link's joint (L).
        joint_position: link origin in the parent's link frame at zero coordinate (L, 3).
        joint_quaternion: link orientation in the parent's frame at zero coordinate, w x y z (L, 4).
        joint_axis: unit axis of the joint in the link frame (L, 3); ignored for free joints.
        mass: (L,); zero for the first links of a body with several joints.
        center_of_mass: in the link frame (L, 3).
        inertia: about the centre of mass along link axes (L, 3, 3), symmetric.
        armature: added to the diagonal of the mass matrix (nv,).
        damping: force per velocity (nv,).
        stiffness: spring force per displacement from `spring_target` (nv,).
        spring_target: rest coordinate of that spring (nv,).
        limit_lower, limit_upper: joint range, infinite where there is none (nv,).
        limit_stiffness: spring force per displacement beyond the range (nv,).
        limit_damping: damping that belongs to the limit but always acts (nv,).
        limit_damping_beyond: damping that acts beyond the range only, at once in full (nv,).
        frictionloss: dry friction of the joint, -loss tanh(velocity / speed) (nv,).
        frictionloss_speed: velocity scale of that friction, rad/s or m/s (nv,).
        contact_link: link of each contact point (K,).
        contact_position: in the link frame (K, 3).
        contact_radius: distance subtracted along the ground normal (K,).
        contact_stiffness, contact_damping: normal force per depth, and per depth and velocity (K,).
        friction_stiffness, friction_coefficient: tangential force per velocity, Coulomb bound (K,).
        gravity: acceleration (3,).
        geoms: shapes of links that may touch one another, with their pairs.
        planes: contact with planes other than the ground, and of shapes whose lowest point moves.
        tendons: springs, dampers and limits that act on several joints at once.
        cords: the same between points of links.
        fluid: drag of a medium.
        actuators: what the description's motors do with controls; a task may use them or not.
        inertia_link: for each link the one whose inertia, where that one is, enters the mass matrix
            in its stead (L,); None for its own, as it should be.

    Raises:
        ValueError: if shapes disagree, an index is out of order or a figure is not finite or
            negative where it cannot be.
    """

    name: str
    link_names: tuple[str, ...]
    joint_names: tuple[str, ...]
    parent: Ints
    joint_type: tuple[JointType, ...]
    joint_position: Floats
    joint_quaternion: Floats
    joint_axis: Floats
    mass: Floats
    center_of_mass: Floats
    inertia: Floats
    armature: Floats
    damping: Floats
    stiffness: Floats
    spring_target: Floats
    limit_lower: Floats
    limit_upper: Floats
    limit_stiffness: Floats
    limit_damping: Floats
    limit_damping_beyond: Floats
    frictionloss: Floats
    frictionloss_speed: Floats
    contact_link: Ints
    contact_position: Floats
    contact_radius: Floats
    contact_stiffness: Floats
    contact_damping: Floats
    friction_stiffness: Floats
    friction_coefficient: Floats
    gravity: Floats
    geoms: Geoms = NO_GEOMS
    planes: PlaneContacts = NO_PLANE_CONTACTS
    tendons: Tendons = NO_TENDONS
    cords: Cords = NO_CORDS
    fluid: Fluid = NO_FLUID
    actuators: Actuators = NO_ACTUATORS
    inertia_link: Ints | None = None

    def __post_init__(self) -> None:
        links, dofs, points = len(self.joint_type), self.nv, len(self.contact_link)
        shapes: dict[str, tuple[int, ...]] = {
            "parent": (links,),
            "joint_position": (links, 3),
            "joint_quaternion": (links, 4),
            "joint_axis": (links, 3),
            "mass": (links,),
            "center_of_mass": (links, 3),
            "inertia": (links, 3, 3),
            "contact_position": (points, 3),
            "gravity": (3,),
        }
        shapes |= dict.fromkeys(DOF_FIELDS, (dofs,)) | dict.fromkeys(CONTACT_FIELDS, (points,))
        bounds = ("limit_lower", "limit_upper")
        check_table(self.name, self, shapes, not_negative=NOT_NEGATIVE, bounds=bounds)
        check_ranges(self.name, self, "limit")
        self._check_tree()
        self._check_references()

    def _check_tree(self) -> None:
        for link, (parent, kind) in enumerate(zip(self.parent, self.joint_type, strict=True)):
            label = f"{self.name}: link {self.link_names[link]!r}"
            if not -1 <= parent < link:
                raise ValueError(f"{label} must come after its parent")
            if kind is JointType.FREE and parent != -1:
                raise ValueError(f"{label} has a free joint but is not attached to the world")
            if kind is not JointType.FREE and abs(np.linalg.norm(self.joint_axis[link]) - 1) > 1e-6:
                raise ValueError(f"{label} needs a joint axis of unit length")

    def _check_references(self) -> None:
        links = self.num_links
        if ((self.geoms.link < -1) | (self.geoms.link >= links)).any():
            raise ValueError(f"{self.name}: a geom belongs to a link that does not exist")
        for what, owners in (
            ("plane contact", self.planes.link),
            ("body in the fluid", self.fluid.link),
        ):
            if ((owners < 0) | (owners >= links)).any():
                raise ValueError(f"{self.name}: a {what} belongs to a link that does not exist")
        if self.cords.links and not -1 <= min(self.cords.links) <= max(self.cords.links) < links:
            raise ValueError(f"{self.name}: a cord is fixed to a link that does not exist")
        for what, matrix in (
            ("tendons", self.tendons.coefficient),
            ("actuators", self.actuators.moment),
        ):
            if len(matrix) and matrix.shape[1] != self.nv:
                raise ValueError(
                    f"{self.name}: {what} act on {matrix.shape[1]} velocities, not {self.nv}"
                )
        if (self.frictionloss * (self.frictionloss_speed <= 0)).any():
            raise ValueError(f"{self.name}: frictionloss_speed must be positive")
        if self.inertia_link is not None and sorted(self.inertia_link) != list(range(links)):
            raise ValueError(f"{self.name}: inertia_link must name every link once")

    @property
    def num_links(self) -> int:
        """Number of links, L."""
        return len(self.joint_type)

    @cached_property
    def nq(self) -> int:
        """Number of generalised coordinates."""
        return sum(kind.coordinates for kind in self.joint_type)

    @cached_property
    def nv(self) -> int:
        """Number of generalised velocities (degrees of freedom)."""
        return sum(kind.velocities for kind in self.joint_type)

    @cached_property
    def coordinate_start(self) -> tuple[int, ...]:
        """First coordinate of each link's joint (L)."""
        return _starts([kind.coordinates for kind in self.joint_type])

    @cached_property
    def velocity_start(self) -> tuple[int, ...]:
        """First degree of freedom of each link's joint (L)."""
        return _starts([kind.velocities for kind in self.joint_type])


DOF_FIELDS = (
    *("armature", "damping", "stiffness", "spring_target", "limit_lower", "limit_upper"),
    *("limit_stiffness", "limit_damping", "limit_damping_beyond"),
    *("frictionloss", "frictionloss_speed"),
)
CONTACT_FIELDS = (
    *("contact_link", "contact_radius", "contact_stiffness", "contact_damping"),
    *("friction_stiffness", "friction_coefficient"),
)
NOT_NEGATIVE = (
    "mass",
    *("armature", "damping", "stiffness", "limit_stiffness", "limit_damping"),
    *("contact_radius", "contact_stiffness", "contact_damping"),
    *("friction_stiffness", "friction_coefficient", "frictionloss"),
)


def _starts(sizes: list[int]) -> tuple[int, ...]:
    return tuple(int(start) for start in np.cumsum([0, *sizes[:-1]]))
