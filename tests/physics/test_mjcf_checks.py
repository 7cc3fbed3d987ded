"""Descriptions from strangers: no number that makes no sense, no size without end."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from rpo.physics.mjcf import load_mjcf, load_urdf
from tests.physics.test_mjcf import SPHERE, mjcf, refusal


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (mjcf(joint='<joint name="hip" range="nan 1"/>'), "joint 'hip': range holds nan"),
        (mjcf(joint='<joint name="hip" range="2 1"/>'), "joint 'hip': range 2 1 must be ascending"),
        (mjcf(joint='<joint name="hip" range="0 -1"/>'), "must be ascending"),
        (
            mjcf(joint='<joint name="hip" damping="-1"/>'),
            "joint 'hip': damping must not be negative",
        ),
        (mjcf(joint='<joint name="hip" stiffness="-1"/>'), "joint 'hip': stiffness must not"),
        (mjcf(joint='<joint name="hip" armature="-1"/>'), "joint 'hip': armature must not"),
        (mjcf(joint='<joint axis="inf 0 1"/>'), "joint: axis holds inf"),
        (mjcf(joint='<joint damping="nan(7)"/>'), "joint: damping holds nan(7)"),
        (mjcf(joint='<joint damping="1e999"/>'), "joint: damping holds 1e999"),
        (mjcf('<geom name="g" size="0.1" friction="-1"/>'), "geom 'g': friction must be finite"),
        (mjcf('<geom name="g" size="0.1" mass="nan"/>'), "geom 'g': mass holds nan"),
        (mjcf('<geom size="0.1" mass="1e300"/>'), "numbers may be as large as 1e+12"),
        (mjcf(rest='<option gravity="0 0 1e30"/>'), "gravity holds 1e30"),
        (mjcf(rest='<default><joint damping="nan"/></default>'), "joint: damping holds nan"),
        (
            mjcf(SPHERE + 10_000 * f"<body><joint/>{SPHERE}</body>"),
            "more than 20000 elements",
        ),
        (mjcf(SPHERE + 1000 * f"<body><joint/>{SPHERE}</body>"), "1001 bodies; a robot may have"),
        (mjcf(500 * "<frame>" + SPHERE + 500 * "</frame>"), "nested more than 400 deep"),
        (
            mjcf(f'<replicate count="300"><replicate count="300">{SPHERE}</replicate></replicate>'),
            "copies included",
        ),
        (mjcf(f'<replicate count="1e9">{SPHERE}</replicate>'), "count holds 1e9, must be at most"),
        (
            mjcf(rest='<asset><texture name="t" builtin="flat" width="99999"/></asset>'),
            "texture 't': width holds 99999",
        ),
        (
            mjcf(rest='<custom><numeric name="n" size="999999999"/></custom>'),
            "numeric 'n': size must be at most 1000",
        ),
        (mjcf(rest='<extension><plugin plugin="mujoco.sdf"/></extension>'), "not supported"),
        (mjcf(rest='<include file="/dev/zero"/>'), "/dev/zero is not a plain file"),
        (
            mjcf(rest='<asset><mesh file="/dev/zero"/></asset>'),
            "/dev/zero is not a plain file",
        ),
        ('<!DOCTYPE m [<!ENTITY a "aaa">]>' + mjcf(), "entities are not supported"),
        ("<mujoco", "XML parse error"),
        (
            '<robot xmlns:xacro="http://ros.org/wiki/xacro"><xacro:property name="m"/></robot>',
            "expand them first: xacro FILE > robot.urdf",
        ),
    ],
)
def test_numbers_and_sizes_are_refused_by_name(xml: str, message: str) -> None:
    assert message in refusal(xml)


def test_memory_for_the_compilers_own_engine_is_not_taken() -> None:
    sizes = '<size memory="100G" nuserdata="1000000000" nuser_body="1000000000"/>'
    assert load_mjcf(mjcf(rest=sizes)).nv == 1


def test_a_name_is_no_number() -> None:
    assert load_mjcf(mjcf(joint='<joint name="nan"/>')).joint_names == ("nan",)


def test_files_are_plain_and_includes_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{tmp_path} is not a plain file$"):
        load_mjcf(tmp_path)
    os.mkfifo(tmp_path / "pipe.xml")
    with pytest.raises(ValueError, match="not a plain file"):
        load_mjcf(tmp_path / "pipe.xml")
    path = tmp_path / "loop.xml"
    path.write_text(mjcf(rest='<include file="loop.xml"/>'))
    with pytest.raises(ValueError, match="include"):
        load_mjcf(path)
    path.write_text(mjcf(rest='<include file="part.xml"/>'))
    (tmp_path / "part.xml").write_text(
        '<mujocoinclude><default><joint damping="nan"/></default></mujocoinclude>'
    )
    with pytest.raises(ValueError, match="damping holds nan"):
        load_mjcf(path)


def test_meshes_that_ros_would_find() -> None:
    """MuJoCo's line, without the word that we say ourselves, and what to do."""
    mesh = '<collision><geometry><mesh filename="package://x/y.stl"/></geometry></collision>'
    with pytest.raises(ValueError, match="description: Error opening file") as caught:
        load_urdf(f'<robot name="r"><link name="base">{mesh}</link></robot>', floating_base=True)
    assert str(caught.value).endswith("; write paths of meshes relative to the description")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ('<limit lower="nan" upper="1" effort="1" velocity="1"/>', "lower holds nan"),
        ('<limit lower="1" upper="-1" effort="1" velocity="1"/>', "must be ascending"),
        ('<dynamics damping="-1"/>', "damping must not"),
    ],
)
def test_urdf_is_held_to_the_same(limit: str, message: str) -> None:
    inertial = (
        '<inertial><mass value="1"/>'
        '<inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
    )
    urdf = f"""<robot name="r"><link name="base">{inertial}</link><link name="arm">{inertial}</link>
      <joint name="hinge" type="{"revolute" if "limit" in limit else "continuous"}">
        <parent link="base"/><child link="arm"/><axis xyz="0 0 1"/>{limit}
      </joint></robot>"""
    with pytest.raises(ValueError, match=message):
        load_urdf(urdf, floating_base=False)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("limit_lower", np.nan, "limit_lower holds a non-finite number"),
        ("limit_stiffness", np.inf, "limit_stiffness holds a non-finite number"),
        ("damping", -1.0, "damping holds a negative number"),
        ("limit_upper", -2.0, "limit_lower is above limit_upper"),
    ],
)
def test_a_model_refuses_what_the_loader_would(field: str, value: float, message: str) -> None:
    model = load_mjcf(mjcf(joint='<joint range="-1 1"/>'))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(model, **{field: np.full(1, value)})
