"""Which shapes may touch: MuJoCo's masks and flags, and limbs that provably cannot get there."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from rpo.physics.mjcf import load_mjcf
from rpo.physics.touching import Reach, has_friction, may_touch

# Two arms on parallel hinges, 1 m apart; the wheel is a cylinder at its own hinge.
ARMS = """<mujoco>{rest}<worldbody>
  <geom name="floor" type="plane" size="1 1 1"/>
  <body name="wheel" pos="0 0 1"><joint axis="0 1 0" {joint}/>
    <geom name="wheel" type="cylinder" size="0.1 0.4" euler="90 0 0"/></body>
  <body name="upper" pos="1 0 1"><joint axis="0 1 0"/>
    <geom type="capsule" size="0.04" fromto="0 0 0 0 0 0.4"/>
    <body name="lower" pos="0 0 0.4"><joint axis="0 1 0"/>
      <geom name="tip" type="cylinder" size="0.04" fromto="0 0 0 0 0 {length}"/></body></body>
  </worldbody></mujoco>"""


def arms(length: float = 0.4, joint: str = "", rest: str = "") -> str:
    return ARMS.format(length=length, joint=joint, rest=rest)


def test_limbs_on_parallel_hinges_that_cannot_meet_need_no_contact() -> None:
    """0.4 + 0.4 + 0.04 + 0.1 < 1 in the plane in which everything turns; a ball about the wheel
    would be too large. The wheel never gets to the floor either."""
    model = load_mjcf(arms())
    assert not len(model.geoms.pairs) and not len(model.planes.link)
    with pytest.raises(ValueError, match="geom 'wheel' of body 'wheel': a cylinder cannot touch"):
        load_mjcf(arms(length=0.5))
    slide = arms(joint='type="slide"')
    with pytest.raises(ValueError, match="a cylinder cannot touch geom"):
        load_mjcf(slide)


@pytest.mark.parametrize("axes", ["0 1 0", "1 2 3"])
def test_what_is_apart_never_touches_in_mujoco(axes: str) -> None:
    """Over random poses of random arms; some are apart, some are not, and none is missed."""
    apart = touched = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        xml = arms(length=draw.uniform(0.1, 0.6))
        xml = xml.replace('axis="0 1 0"', f'axis="{axes}"', 1)
        if axes != "0 1 0":  # balls, not circles: they never prove it at this distance
            xml = xml.replace('pos="1 0 1"', 'pos="0.6 0 1"')
        compiled = mujoco.MjModel.from_xml_string(xml)
        wheel, tip = compiled.geom("wheel").id, compiled.geom("tip").id
        proved = Reach(compiled).apart(wheel, tip)
        data = mujoco.MjData(compiled)
        for _ in range(100):
            data.qpos = draw.uniform(-np.pi, np.pi, compiled.nq)
            if axes == "0 1 0":  # towards the wheel
                data.qpos[1:] = np.array([-np.pi / 2, 0.0]) + 0.2 * draw.normal(size=2)
            mujoco.mj_forward(compiled, data)
            met = any({wheel, tip} == set(pair) for pair in data.contact.geom)
            assert not (met and proved)
            touched += met
        apart += proved
    assert touched and (apart or axes != "0 1 0")


def test_masks_parents_excludes_and_flags() -> None:
    compiled = mujoco.MjModel.from_xml_string(arms())
    floor, wheel, upper, tip = range(4)
    assert may_touch(compiled, floor, tip) and may_touch(compiled, wheel, tip)
    assert not may_touch(compiled, upper, tip)  # parent and child
    excluded = '<contact><exclude body1="wheel" body2="lower"/></contact>'
    assert not may_touch(mujoco.MjModel.from_xml_string(arms(rest=excluded)), wheel, tip)
    for flag in ("contact", "constraint"):
        rest = f'<option><flag {flag}="disable"/></option>'
        off = mujoco.MjModel.from_xml_string(arms(rest=rest))
        assert not may_touch(off, wheel, tip)
    compiled.geom_contype[tip], compiled.geom_conaffinity[tip] = 0, 2
    assert not may_touch(compiled, wheel, tip)


@pytest.mark.parametrize(
    ("condim", "priority", "expected"),
    [((1, 1), (0, 0), False), ((1, 3), (0, 0), True), ((1, 3), (1, 0), False)],
)
def test_friction_follows_condim_as_in_mujoco(condim, priority, expected) -> None:
    xml = f"""<mujoco><worldbody>
      <geom type="plane" size="1 1 1" condim="{condim[0]}" priority="{priority[0]}"/>
      <body><freejoint/><geom size="1" condim="{condim[1]}" priority="{priority[1]}"/></body>
      </worldbody></mujoco>"""
    compiled = mujoco.MjModel.from_xml_string(xml)
    assert has_friction(compiled, 0, 1) is expected
    data = mujoco.MjData(compiled)
    mujoco.mj_forward(compiled, data)
    assert (data.contact.dim[0] > 1) == expected
