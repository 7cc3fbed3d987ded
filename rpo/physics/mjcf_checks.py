"""Limits of a robot description: sizes, ranges and the files that it names.

Descriptions come from strangers. MuJoCo's compiler takes some numbers for unset (NaN), ignores
others (a descending range), and allocates whatever it is told to. Each check is a `ValueError` of
one line that names the element, made before the compiler could stumble over it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np

from rpo.physics.unsupported import friendly_name

MAX_BODIES = 1000
MAX_ELEMENTS = 20_000
"""Of XML, copies made by `replicate` and `composite` included."""
MAX_DEPTH = 400
MAX_DESCRIPTION_BYTES = 20_000_000
MAX_ASSET_BYTES = 100_000_000
"""Of one file that a description names, such as a mesh."""
MAX_NUMBER = 1e12
"""Magnitude of any number: its square is far from the largest single-precision number."""

_WORDS = frozenset(
    (
        *("name", "class", "childclass", "prefix", "key", "target", "link", "model"),
        *("file", "filename", "content_type", "mesh", "hfield", "material", "texture"),
        *("joint", "joint1", "joint2", "body", "body1", "body2", "geom", "geom1", "geom2", "site"),
    )
)
"""Attributes that hold names: a body may be called nan."""
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)(\(.*\))?", re.IGNORECASE)
_LARGEST: dict[str, float] = {
    **dict.fromkeys(("nrow", "ncol", "width", "height"), 4096),
    **dict.fromkeys(("count", "params"), 500),
    **dict.fromkeys(("nsample", "interp_order", "actdim", "dim", "gridlayout"), 1000),
    "octree_maxdepth": 8,
}
"""Numbers by which memory grows."""
_COPYING = ("replicate", "composite", "flexcomp")
_FOREIGN = ("gazebo", "transmission", "ros2_control")
"""Elements of a URDF that are for other programs, with all that is in them."""


def exists(path: str) -> bool:
    """Whether there is such a file or folder; a text that cannot be a name is none."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long, or with characters that no name has
        return False


def check_text(source: str) -> None:
    """Checks a description before MuJoCo reads it.

    Args:
        source: path of the file, or the XML itself (anything that starts with `<`).

    Raises:
        ValueError: in one line, if it is no XML, too large, holds a number that is not finite, or
            names a file that is not a plain one.
    """
    inline = source.lstrip().startswith("<")
    directory = Path() if inline else Path(source).parent
    if not inline:
        _require_plain(Path(source), MAX_DESCRIPTION_BYTES)
    text = source.encode("utf-8", "surrogatepass") if inline else Path(source).read_bytes()
    _Scan(directory).document(text, 0)


def check_spec(spec: mujoco.MjSpec) -> None:
    """Checks a description that MuJoCo has read, and unsets what only its own engine needs.

    Raises:
        ValueError: in one line, if there are too many bodies or a range is not ascending.
    """
    count = len(spec.bodies) - 1
    if count > MAX_BODIES:
        raise ValueError(f"there are {count} bodies; a robot may have {MAX_BODIES}")
    spec.memory = spec.njmax = spec.nconmax = spec.nstack = -1
    spec.nuserdata, spec.nkey = 0, -1
    for kind in ("body", "jnt", "geom", "site", "cam", "tendon", "actuator", "sensor"):
        setattr(spec, f"nuser_{kind}", -1)
    spec.compiler.LRopt.mode = mujoco.mjtLRMode.mjLRMODE_NONE  # it would simulate muscles
    for joint in spec.joints:
        name, (low, high) = joint.name or joint.parent.name, joint.range
        if (low or high) and not low < high:
            raise ValueError(f"joint {name!r}: range {low:g} {high:g} must be ascending")
        for what in ("stiffness", "damping", "armature"):
            if np.min(getattr(joint, what)) < 0:
                raise ValueError(f"joint {name!r}: {what} must not be negative")


def _require_plain(path: Path, largest: int) -> None:
    """Refuses devices and pipes, which may never end, and files that are too large."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a plain file")
    if path.is_file() and path.stat().st_size > largest:
        raise ValueError(f"{path} is larger than {largest / 1e6:.0f} MB")


class _Scan:
    """Walks through a description and the descriptions that it includes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.elements = 0.0
        self.assets = {Path()}

    def document(self, text: bytes, nested: int) -> None:
        if nested > 10:
            raise ValueError("descriptions include one another without end")
        if len(text) > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"it is larger than {MAX_DESCRIPTION_BYTES / 1e6:.0f} MB")
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise ValueError("document types and entities are not supported")
        copies, foreign = [1.0], 0  # depth within what MuJoCo's URDF reader skips
        for event, element in self._events(text):
            foreign += (event == "start") and bool(foreign or element.tag in _FOREIGN)
            if event == "end":
                foreign = max(foreign - 1, 0)
                copies.pop()
                continue
            if len(copies) > MAX_DEPTH:
                raise ValueError(f"elements are nested more than {MAX_DEPTH} deep")
            if not foreign:
                self._element(element, nested)
            made = copies[-1]
            copies.append(made * (_copies(element) if element.tag in _COPYING else 1.0))
            self.elements += copies[-1]
            if self.elements > MAX_ELEMENTS:
                raise ValueError(f"it has more than {MAX_ELEMENTS} elements, copies included")

    def _events(self, text: bytes) -> Iterator[tuple[str, Any]]:
        parser: Any = ElementTree.XMLPullParser(("start", "end"))
        try:
            parser.feed(text)
            parser.close()
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise ValueError(f"XML parse error: {error}") from None
        yield from parser.read_events()

    def _element(self, element: Any, nested: int) -> None:
        tag, attributes = element.tag, element.attrib
        label = f"{tag} {attributes['name']!r}" if "name" in attributes else tag
        if tag in ("plugin", "extension"):
            raise ValueError(f"{label} is not supported")
        if tag.startswith("{") and "xacro}" in tag:
            raise ValueError("it holds xacro macros; expand them first: xacro FILE > robot.urdf")
        for name, value in attributes.items():
            if name not in _WORDS:
                _check_numbers(f"{label}: {name}", name, value)
        if tag == "numeric" and _number(attributes.get("size", "0")) > 1000:
            raise ValueError(f"{label}: size must be at most 1000")
        for name in ("meshdir", "texturedir", "assetdir"):
            if tag == "compiler" and name in attributes:
                self.assets.add(Path(attributes[name]))
        file = attributes.get("file", attributes.get("filename", ""))
        for path in {self.directory / asset / file for asset in self.assets} if file else ():
            described = tag in ("include", "model")
            _require_plain(path, MAX_DESCRIPTION_BYTES if described else MAX_ASSET_BYTES)
            if described and path.is_file():
                self.document(path.read_bytes(), nested + 1)


def _copies(element: Any) -> float:
    return math.prod(max(_number(word), 1.0) for word in element.get("count", "1").split())


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return 0.0


def _check_numbers(label: str, name: str, value: str) -> None:
    for word in value.split():
        number = _number(word)
        if _NOT_FINITE.fullmatch(word) or not math.isfinite(number):
            raise ValueError(f"{label} holds {word}, which is not a finite number")
        if abs(number) > MAX_NUMBER:
            raise ValueError(f"{label} holds {word}; numbers may be as large as {MAX_NUMBER:g}")
        if number > _LARGEST.get(name, math.inf):
            raise ValueError(f"{label} holds {word}, must be at most {_LARGEST[name]:g}")


def numbers_out_of_range(model: mujoco.MjModel) -> Iterator[str]:
    """Numbers of a compiled description that the dynamics cannot use, a line for each."""
    yield from _out_of_range(model, "joint", "stiffness", model.jnt_stiffness)
    joint_of = model.dof_jntid
    yield from _out_of_range(model, "joint", "damping", model.dof_damping, joint_of)
    yield from _out_of_range(model, "joint", "armature", model.dof_armature, joint_of)
    yield from _out_of_range(model, "joint", "frictionloss", model.dof_frictionloss, joint_of)
    for what in ("stiffness", "damping", "frictionloss"):
        yield from _out_of_range(model, "tendon", what, getattr(model, f"tendon_{what}"))
    yield from _out_of_range(model, "geom", "friction", model.geom_friction)
    yield from _out_of_range(model, "body", "mass", model.body_mass)
    yield from _out_of_range(model, "body", "inertia", model.body_inertia)
    for kind, what, values in (
        ("joint", "range", model.jnt_range),
        ("joint", "axis", model.jnt_axis),
        ("joint", "pos", model.jnt_pos),
        ("body", "pos", model.body_pos),
        ("body", "quat", model.body_quat),
        ("body", "center of mass", model.body_ipos),
        ("geom", "pos", model.geom_pos),
        ("geom", "quat", model.geom_quat),
        ("geom", "size", model.geom_size),
        ("site", "pos", model.site_pos),
        ("tendon", "range", model.tendon_range),
        ("tendon", "springlength", model.tendon_lengthspring),
        ("actuator", "gear", model.actuator_gear),
        ("actuator", "gainprm", model.actuator_gainprm),
        ("actuator", "biasprm", model.actuator_biasprm),
        ("actuator", "ctrlrange", model.actuator_ctrlrange),
        ("actuator", "forcerange", model.actuator_forcerange),
    ):
        yield from _out_of_range(model, kind, what, values, signed=True)
    if not (np.abs(model.wrap_prm) <= MAX_NUMBER).all():
        yield f"a tendon's coef must be finite and at most {MAX_NUMBER:g}"
    for name, values in (("ref", model.qpos0), ("springref", model.qpos_spring)):
        if not (np.abs(values) <= MAX_NUMBER).all():
            yield f"a joint's {name} must be finite and at most {MAX_NUMBER:g}"
    for name in ("gravity", "wind"):
        if not (np.abs(getattr(model.opt, name)) <= MAX_NUMBER).all():
            yield f"option {name!r} must be finite and at most {MAX_NUMBER:g}"
    for name in ("density", "viscosity"):
        if not 0 <= getattr(model.opt, name) <= MAX_NUMBER:
            yield f"option {name!r} must be finite, not negative, and at most {MAX_NUMBER:g}"


def _out_of_range(
    model: mujoco.MjModel,
    kind: str,
    what: str,
    values: Any,
    owner: Any = None,
    *,
    signed: bool = False,
) -> Iterator[str]:
    """What is wrong with one attribute, whose rows belong to elements, or to their `owner`."""
    rows = np.asarray(values)
    rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    inside = np.abs(rows) <= MAX_NUMBER  # false for NaN too
    if not signed:
        inside &= rows >= 0
    for row in np.flatnonzero(~inside.all(axis=1)):
        name = friendly_name(model, kind, int(row if owner is None else owner[row]))
        wanted = "finite" if signed else "finite, not negative"
        yield f"{kind} {name!r}: {what} must be {wanted}, and at most {MAX_NUMBER:g}"
