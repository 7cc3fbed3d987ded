"""Robot descriptions: what is taken over, how bodies become links, what is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rpo.physics.inertia import MassProperties, combine
from rpo.physics.mjcf import ContactMaterial, LimitSpring, load_mjcf, load_urdf
from rpo.physics.model import JointType

SPHERE = '<geom type="sphere" size="0.1"/>'
FLOOR = '<geom name="floor" type="plane" size="1 1 1"/>'


def mjcf(body: str = SPHERE, *, joint: str = '<joint name="hinge"/>', rest: str = "") -> str:
    return f"""<mujoco model="test">
      <compiler angle="radian"/>
      {rest}
      <worldbody>{FLOOR}<body name="arm">{joint}{body}</body></worldbody>
    </mujoco>"""


def refusal(xml: str) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load_mjcf(xml)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_joint_constants_come_from_the_joint() -> None:
    joint = """<joint name="hinge" axis="0 3 4" range="-1 2" armature="0.1" damping="0.2"
                 stiffness="0.3" springref="0.4"/>"""
    model = load_mjcf(mjcf(joint=joint))
    assert model.name == "test"
    assert model.joint_names == ("hinge",) and model.link_names == ("arm",)
    assert model.joint_type == (JointType.HINGE,)
    np.testing.assert_allclose(model.joint_axis, [[0, 0.6, 0.8]], atol=1e-15)
    values = [model.armature, model.damping, model.stiffness, model.spring_target]
    np.testing.assert_allclose(np.concatenate(values), [0.1, 0.2, 0.3, 0.4])
    assert (model.limit_lower.item(), model.limit_upper.item()) == (-1.0, 2.0)
    limit = (model.limit_stiffness, model.limit_damping, model.limit_damping_beyond)
    np.testing.assert_array_equal(np.concatenate(limit), [1e3, 0.0, 10.0])
    np.testing.assert_allclose(model.gravity, [0, 0, -9.81])


def test_joint_without_range_has_infinite_limits() -> None:
    model = load_mjcf(mjcf())
    assert model.limit_lower.item() == -np.inf and model.limit_upper.item() == np.inf


def test_custom_numbers_set_contact_and_limit_constants() -> None:
    rest = """<custom>
      <numeric name="contact_stiffness" data="1"/><numeric name="contact_damping" data="2"/>
      <numeric name="friction_stiffness" data="3"/><numeric name="limit_stiffness" data="4"/>
      <numeric name="limit_damping" data="5"/><numeric name="something_else" data="7 8"/>
    </custom>"""
    model = load_mjcf(mjcf('<geom type="sphere" size="0.1" friction="0.6"/>', rest=rest))
    assert model.contact_stiffness.tolist() == [1.0]
    assert model.contact_damping.tolist() == [2.0]
    assert model.friction_stiffness.tolist() == [3.0]
    assert model.friction_coefficient.tolist() == [0.6]
    assert model.limit_stiffness.tolist() == [4.0]
    assert model.limit_damping.tolist() == [5.0]


@pytest.mark.parametrize(
    ("numeric", "message"),
    [
        ('name="contact_stifness" data="1"', "unknown custom numeric 'contact_stifness'"),
        ('name="contact_damping" data="-1"', "'contact_damping' must be one number"),
        ('name="limit_damping" data="1 2"', "'limit_damping' must be one number"),
    ],
)
def test_wrong_custom_numbers_are_refused(numeric: str, message: str) -> None:
    assert message in refusal(mjcf(rest=f"<custom><numeric {numeric}/></custom>"))


def test_several_joints_of_a_body_become_a_chain_of_links() -> None:
    joints = """<joint name="slide" type="slide" axis="1 0 0"/>
                <joint name="first" axis="0 0 1" pos="0.1 0 0"/>
                <joint name="second" axis="0 1 0" pos="0.1 0.2 0"/>"""
    model = load_mjcf(mjcf('<geom type="sphere" size="0.1" pos="0.1 0.2 0.3"/>', joint=joints))
    assert model.joint_names == ("slide", "first", "second")
    assert model.joint_type == (JointType.SLIDE, JointType.HINGE, JointType.HINGE)
    assert model.parent.tolist() == [-1, 0, 1]
    np.testing.assert_allclose(model.joint_position, [[0.0, 0, 0], [0.1, 0, 0], [0, 0.2, 0]])
    assert (model.mass > 0).tolist() == [False, False, True]
    np.testing.assert_allclose(model.center_of_mass[2], [0, 0, 0.3], atol=1e-12)
    assert model.contact_link.tolist() == [2]
    np.testing.assert_allclose(model.contact_position, [[0, 0, 0.3]], atol=1e-12)


def test_child_of_a_body_with_a_moved_anchor_is_placed_from_that_anchor() -> None:
    xml = mjcf(
        f'{SPHERE}<body name="hand" pos="0 0 1"><joint pos="0 0 0.25"/>{SPHERE}</body>',
        joint='<joint pos="0 0 -0.5"/>',
    )
    model = load_mjcf(xml)
    np.testing.assert_allclose(model.joint_position, [[0, 0, -0.5], [0, 0, 1.75]])


def test_fixed_bodies_are_merged_into_the_body_that_carries_them() -> None:
    """A box cut in two halves, one of them in a turned body two fixings away, is the whole box."""
    whole = load_mjcf(mjcf('<geom type="box" size="0.1 0.2 0.4" pos="0 0 0.4"/>'))
    half = '<geom type="box" size="0.1 0.2 0.2" pos="0 0 0.2"/>'
    other = """<body name="a" pos="0 0 0.4" euler="0 0 1.5707963267948966">
        <body name="b" pos="0 0 0.2" euler="1.5707963267948966 0 0">
          <geom type="box" size="0.2 0.2 0.1"/>
        </body></body>"""
    merged = load_mjcf(mjcf(half + other))
    assert merged.link_names == whole.link_names
    np.testing.assert_allclose(merged.mass, whole.mass, rtol=1e-12)
    np.testing.assert_allclose(merged.center_of_mass, whole.center_of_mass, atol=1e-12)
    np.testing.assert_allclose(merged.inertia, whole.inertia, atol=1e-9)
    corners = {tuple(np.round(p, 9) + 0.0) for p in whole.contact_position}
    assert corners <= {tuple(np.round(p, 9) + 0.0) for p in merged.contact_position}


def test_joints_below_a_fixed_body_hang_on_the_body_that_carries_it() -> None:
    child = f"""{SPHERE}<body name="bracket" pos="1 0 0" euler="0 0 1.5707963267948966">
        <body name="hand" pos="1 0 0"><joint name="wrist"/>{SPHERE}</body></body>"""
    model = load_mjcf(mjcf(child))
    assert model.link_names == ("arm", "hand") and model.parent.tolist() == [-1, 0]
    np.testing.assert_allclose(model.joint_position[1], [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(model.joint_quaternion[1], [0.5**0.5, 0, 0, 0.5**0.5], atol=1e-12)


def test_a_body_fixed_to_the_world_is_part_of_the_world() -> None:
    xml = f"""<mujoco><worldbody><body name="stand" pos="0 0 2">
      <geom type="cylinder" size="0.1 0.2" contype="0" conaffinity="0"/>
      <body name="arm" pos="0 0 1"><joint/>{SPHERE}</body></body></worldbody></mujoco>"""
    model = load_mjcf(xml)
    assert model.link_names == ("arm",)
    np.testing.assert_allclose(model.joint_position, [[0, 0, 3]])


def test_contact_points_of_each_shape() -> None:
    shapes = """<geom type="sphere" size="0.1" pos="1 2 3"/>
      <geom type="capsule" size="0.2" fromto="0 0 0 0 1 0"/>
      <geom type="box" size="0.1 0.2 0.3" pos="0 0 1"/>"""
    model = load_mjcf(mjcf(shapes))
    assert model.contact_radius.tolist() == [0.1, 0.2, 0.2] + 8 * [0.0]
    np.testing.assert_allclose(model.contact_position[0], [1, 2, 3])
    np.testing.assert_allclose(model.contact_position[1:3], [[0, 0, 0], [0, 1, 0]], atol=1e-12)
    corners = model.contact_position[3:] - [0, 0, 1]
    np.testing.assert_allclose(np.abs(corners), np.tile([0.1, 0.2, 0.3], (8, 1)))
    assert len({tuple(np.sign(corner)) for corner in corners}) == 8


def test_shapes_whose_masks_miss_the_ground_have_no_contact_points() -> None:
    seen = '<geom type="sphere" size="0.1" contype="0" conaffinity="0"/>'
    assert len(load_mjcf(mjcf(seen)).contact_link) == 0
    other_group = '<geom type="sphere" size="0.1" contype="2" conaffinity="2"/>'
    assert len(load_mjcf(mjcf(other_group)).contact_link) == 0
    for flag in ("contact", "constraint"):
        nothing = f'<option><flag {flag}="disable"/></option>'
        assert len(load_mjcf(mjcf(rest=nothing)).contact_link) == 0
    assert len(load_mjcf(mjcf()).contact_link) == 1
    assert len(load_mjcf(mjcf().replace(FLOOR, "")).contact_link) == 0  # there is no ground


def test_ref_shifts_the_coordinate_of_the_described_pose() -> None:
    hinge = load_mjcf(mjcf(joint='<joint axis="0 0 1" ref="1.5707963267948966"/>'))
    np.testing.assert_allclose(hinge.joint_quaternion[0], [0.5**0.5, 0, 0, -(0.5**0.5)], atol=1e-12)
    slide = load_mjcf(mjcf(joint='<joint type="slide" axis="0 0 1" ref="0.25"/>'))
    np.testing.assert_allclose(slide.joint_position[0], [0, 0, -0.25])


def test_plain_motors_are_left_to_the_task() -> None:
    model = load_mjcf(mjcf(rest='<actuator><motor joint="hinge" gear="9"/></actuator>'))
    assert model.nv == 1


MESH = """<asset><mesh name="wedge" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset>"""


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (mjcf(joint='<joint name="hip" type="ball"/>'), "joint 'hip': ball joints"),
        (mjcf(joint='<joint name="b" type="free" damping="1"/>'), "joint 'b': a free joint"),
        (
            mjcf(rest='<equality><weld name="glue" body1="arm"/></equality>'),
            "equality constraint 'glue' (weld)",
        ),
        (
            mjcf(
                rest="""<actuator>
                  <muscle name="biceps" joint="hinge" lengthrange="0 1"/></actuator>"""
            ),
            "actuator 'biceps'",
        ),
        (
            mjcf('<geom name="shell" type="mesh" mesh="wedge"/>', rest=MESH),
            "geom 'shell' of body 'arm': a mesh cannot touch the ground",
        ),
        (mjcf().replace('name="arm"', 'name="arm" gravcomp="1"'), "body 'arm': gravity"),
        (
            mjcf().replace(
                "<worldbody>", '<worldbody><geom name="step" type="ellipsoid" size="1 1 1"/>'
            ),
            "geom 'step' of body 'world': an ellipsoid cannot touch geom",
        ),
        ("<mujoco/>", "nothing can move"),
    ],
)
def test_unsupported_features_are_refused_by_name(xml: str, message: str) -> None:
    assert message in refusal(xml)


def test_the_same_shapes_are_accepted_where_they_cannot_collide() -> None:
    shapes = f"""{SPHERE}<geom type="mesh" mesh="wedge" contype="0" conaffinity="0"/>
      <geom type="cylinder" size="1 1" contype="0" conaffinity="0"/>"""
    assert len(load_mjcf(mjcf(shapes, rest=MESH)).contact_link) == 1


def test_malformed_files_are_refused_with_their_name(tmp_path: Path) -> None:
    path = tmp_path / "robot.xml"
    cases = {
        "<mujoco><worldbody>": "XML",
        mjcf('<geom type="capsle" size="0.1"/>'): "capsle",
        mjcf(""): "mass and inertia of moving bodies",
        "not xml at all": "XML",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            load_mjcf(path)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_and_unknown_inertia() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.xml"):
        load_mjcf("nowhere.xml")
    with pytest.raises(ValueError, match="unknown inertia 'exact'"):
        load_mjcf(mjcf(), inertia="exact")  # type: ignore[arg-type]


def test_reference_inertia_is_refused_for_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"geom 'brick'.*spheres and capsules only"):
        load_mjcf(mjcf('<geom name="brick" type="box" size="1 1 1"/>'), inertia="reference")


def test_reference_rule_on_a_capsule_along_z() -> None:
    """R takes x to z, so R_ii^2 = (0, 1, 0): only the moment about y is left."""
    capsule = mjcf('<geom type="capsule" size="0.05" fromto="0 0 -0.2 0 0 0.2"/>')
    reference, physical = load_mjcf(capsule, inertia="reference"), load_mjcf(capsule)
    expected = np.diag([0, physical.inertia[0, 1, 1], 0])
    np.testing.assert_allclose(reference.inertia[0], expected, atol=1e-12)
    np.testing.assert_allclose(reference.mass, physical.mass, rtol=1e-12)


def test_combine_two_point_masses() -> None:
    point = [
        MassProperties(m, np.array([x, 0.0, 0.0]), np.zeros((3, 3))) for m, x in ((1, 0), (3, 4))
    ]
    both = combine(point)
    assert both.mass == 4
    np.testing.assert_allclose(both.center_of_mass, [3, 0, 0])
    np.testing.assert_allclose(both.inertia, np.diag([0, 12, 12]))
    assert combine([]).mass == 0


URDF = """<robot name="two">
  <link name="base"><inertial><mass value="2"/>
    <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>
    <collision><geometry><sphere radius="0.3"/></geometry></collision></link>
  <link name="arm"><inertial><origin xyz="0 0 1"/><mass value="1"/>
    <inertia ixx="1" iyy="1.1" izz="1.2" ixy="0" ixz="0" iyz="0"/></inertial>
    <collision><geometry><sphere radius="0.1"/></geometry></collision></link>
  <link name="tip"><inertial><mass value="3"/>
    <inertia ixx="0.1" iyy="0.1" izz="0.1" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <joint name="elbow" type="revolute"><parent link="base"/><child link="arm"/>
    <origin xyz="0 0 0.5"/><axis xyz="0 1 0"/><limit lower="-1" upper="2" effort="5" velocity="3"/>
    <dynamics damping="0.3"/></joint>
  <joint name="glue" type="fixed"><parent link="arm"/><child link="tip"/>
    <origin xyz="0 0 2"/></joint>
</robot>"""


def test_urdf_with_floating_base_merges_fixed_links() -> None:
    model = load_urdf(
        URDF,
        floating_base=True,
        contact=ContactMaterial(contact_stiffness=5.0),
        limit=LimitSpring(limit_damping=6.0),
        friction_coefficient=0.7,
    )
    assert model.name == "two" and model.link_names == ("base", "arm")
    assert model.joint_type == (JointType.FREE, JointType.HINGE)
    np.testing.assert_allclose(model.mass, [2, 4])
    np.testing.assert_allclose(model.center_of_mass[1], [0, 0, 1.75])
    np.testing.assert_allclose(np.diag(model.inertia[1]), [1.85, 1.95, 1.3])
    np.testing.assert_allclose(model.damping, [0] * 6 + [0.3])
    assert (model.limit_lower[6], model.limit_upper[6]) == (-1.0, 2.0)
    assert model.contact_link.tolist() == [0, 1] and model.contact_radius.tolist() == [0.3, 0.1]
    assert set(model.contact_stiffness) == {5.0} and set(model.friction_coefficient) == {0.7}
    assert model.limit_damping[6] == 6.0


def test_urdf_with_fixed_base() -> None:
    model = load_urdf(URDF, floating_base=False)
    assert model.link_names == ("arm",) and model.parent.tolist() == [-1]
    assert model.contact_radius.tolist() == [0.1]  # the base cannot touch anything


def test_urdf_refusals(tmp_path: Path) -> None:
    path = tmp_path / "robot.urdf"
    path.write_text(URDF.replace("</robot>", ""))
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_urdf(path, floating_base=True)
    assert "\n" not in str(caught.value)


def test_what_a_urdf_holds_for_other_programs_is_skipped() -> None:
    plugin = '<gazebo><plugin name="p" filename="lib.so"><gain>nan</gain></plugin></gazebo>'
    assert load_urdf(URDF.replace("</robot>", f"{plugin}</robot>"), floating_base=True).nv == 7
    with pytest.raises(ValueError, match="extension is not supported"):
        load_mjcf(mjcf(rest='<extension><plugin name="p" plugin="x"/></extension>'))


def test_links_of_a_urdf_may_be_told_not_to_touch() -> None:
    """A hand whose palm is a cylinder, which a box cannot touch."""
    cylinder = URDF.replace('<sphere radius="0.3"/>', '<cylinder radius="0.1" length="1"/>')
    tip = '<collision><geometry><box size="1 1 1"/></geometry></collision></link>'
    hand = cylinder.replace('<link name="tip">', f'<link name="other">{tip}<link name="tip">')
    hand = hand.replace('type="fixed"><parent link="arm"/>', 'type="fixed"><parent link="other"/>')
    driven = """<joint name="wrist" type="revolute"><parent link="arm"/><child link="other"/>
      <axis xyz="1 0 0"/><limit lower="-1" upper="2" effort="5" velocity="3"/></joint></robot>"""
    hand = hand.replace("</robot>", driven)
    with pytest.raises(ValueError, match=r"a cylinder cannot touch .*, a box"):
        load_urdf(hand, floating_base=True)
    model = load_urdf(hand, floating_base=True, link_contact=False)
    assert not len(model.geoms.pairs)
    assert set(model.contact_link) == {0, 1, 2} and set(model.planes.link) == {0}


def test_urdf_mimic_joint_is_a_spring() -> None:
    driven = """<link name="end"><inertial><mass value="1"/>
      <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
      <joint name="follower" type="revolute"><parent link="tip"/><child link="end"/>
      <axis xyz="1 0 0"/><limit lower="-1" upper="2" effort="5" velocity="3"/>
      <mimic joint="elbow"/></joint></robot>"""
    model = load_urdf(URDF.replace("</robot>", driven), floating_base=True)
    np.testing.assert_array_equal(np.abs(model.tendons.coefficient), [[0] * 6 + [1, 1]])
    assert model.tendons.coefficient.sum() == 0


def test_compiler_warnings_are_python_warnings_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ignored = URDF.replace("<dynamics", '<mimic joint="glue"/><dynamics')
    with pytest.warns(UserWarning, match=r"mimic.*ignored"):
        load_urdf(ignored, floating_base=True)
    assert not list(tmp_path.iterdir())
