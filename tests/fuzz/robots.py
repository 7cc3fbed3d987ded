"""Robot descriptions: well-formed ones of odd contents, and shipped ones with damage."""

from __future__ import annotations

from importlib import resources
from xml.etree import ElementTree

from hypothesis import strategies as st

ASSETS = tuple(
    (resources.files("rpo.envs") / "assets" / f"{name}.xml").read_text()
    for name in ("hopper", "ant", "humanoid")
)
_INERTIAL = (
    '<inertial><mass value="1"/>'
    '<inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
)
URDF = f"""<robot name="r"><link name="base">{_INERTIAL}<collision><geometry><sphere radius="0.1"/>
  </geometry></collision></link><link name="arm">{_INERTIAL}</link>
  <joint name="hinge" type="revolute"><parent link="base"/><child link="arm"/><axis xyz="0 0 1"/>
  <origin xyz="0 0 1" rpy="0 0 0.5"/><limit lower="-1" upper="1" effort="1" velocity="1"/>
  <dynamics damping="0.1" friction="0"/></joint></robot>"""
PLAIN_MJCF = """<mujoco><worldbody><geom type="plane" size="1 1 1"/><body name="a" pos="0 0 1">
  <freejoint/><geom name="g" size="0.1"/><body name="b" pos="0.1 0 0"><joint name="j" axis="0 1 0"
  range="-30 30" damping="1"/><geom type="capsule" size="0.05 0.1" mass="1"/></body></body>
  </worldbody><actuator><motor joint="j" gear="2"/></actuator></mujoco>"""
ODD = ("nan", "inf", "-inf", "1e300", "-1e300", "1e-300", "1e13", "-1", "0", "", "x", "1e999", "-0")
SIZES = ("1000000000", "99999", "501", "4097", "-5", "2147483648", "1e9")


def weighted(*given: tuple[int, st.SearchStrategy]) -> st.SearchStrategy:
    """One of several strategies, each so often; `one_of` drops repetitions."""
    each = [strategy for count, strategy in given for _ in range(count)]
    return st.integers(0, len(each) - 1).flatmap(lambda k: each[k])


def number() -> st.SearchStrategy[str]:
    """Mostly an ordinary number, now and then an odd one."""
    ordinary = st.floats(-3, 3, allow_nan=False).map(lambda x: f"{x:.4g}")
    positive = st.floats(0.01, 1.0).map(lambda x: f"{x:.4g}")
    odd = st.one_of(st.sampled_from(ODD), st.floats().map(repr))
    return weighted((40, positive), (20, ordinary), (1, odd))


def numbers(low: int, high: int) -> st.SearchStrategy[str]:
    """A few of them in one attribute, separated by spaces."""
    return st.lists(number(), min_size=low, max_size=high).map(" ".join)


def names() -> st.SearchStrategy[str]:
    """Few enough to meet one another, and some that are no names."""
    unique = st.integers(0, 10**6).map(lambda k: f"n{k}")
    odd = st.one_of(st.sampled_from(("a", "b", "nan", "world", "")), st.text(max_size=6))
    return weighted((20, unique), (1, odd))


def attributes(**known: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, str]]:
    """Any of these attributes, and now and then one that does not belong there."""
    stray = st.dictionaries(
        st.sampled_from(("size", "pos", "range", "count", "file", "class", "odd")),
        st.one_of(number(), st.sampled_from(SIZES), names()),
        max_size=1,
    )
    fixed = st.fixed_dictionaries({}, optional=known)
    return weighted((20, fixed), (1, st.builds(lambda a, b: a | b, fixed, stray)))


def element(tag: str, given: dict[str, str], children: list[ElementTree.Element] = []):  # noqa: B006
    """An XML element; what XML cannot hold is left out."""
    clean = {k: "".join(c for c in v if c.isprintable()) for k, v in given.items()}
    made = ElementTree.Element(tag, clean)
    made.extend(children)
    return made


def one(tag: str, **known: st.SearchStrategy[str]) -> st.SearchStrategy[ElementTree.Element]:
    """An element without children."""
    return attributes(**known).map(lambda given: element(tag, given))


def whole(tag: str, **known: st.SearchStrategy[str]) -> st.SearchStrategy[ElementTree.Element]:
    """An element with all of these attributes."""
    return st.fixed_dictionaries(known).map(lambda given: element(tag, given))


def choice(*words: str) -> st.SearchStrategy[str]:
    return st.sampled_from(words)


JOINT = one(
    "joint",
    name=names(),
    type=weighted((9, choice("hinge", "slide", "free")), (1, choice("ball", "odd"))),
    axis=numbers(3, 3),
    pos=numbers(3, 3),
    range=numbers(2, 2),
    damping=number(),
    stiffness=number(),
    armature=number(),
    springref=number(),
    ref=number(),
    limited=choice("true", "false", "auto"),
    frictionloss=weighted((9, choice("0")), (1, choice("1"))),
)
GEOM = one(
    "geom",
    name=names(),
    type=weighted(
        (6, choice("sphere", "capsule", "box")),
        (1, choice("cylinder", "plane", "mesh", "ellipsoid")),
    ),
    size=numbers(3, 3),
    pos=numbers(3, 3),
    quat=numbers(4, 4),
    mass=number(),
    density=number(),
    friction=numbers(1, 3),
    contype=choice("0", "1", "2"),
    conaffinity=choice("0", "1"),
    mesh=names(),
)
PLAIN = st.just("0.1").map(lambda size: element("geom", {"size": size}))
INERTIAL = one(
    "inertial",
    pos=numbers(3, 3),
    mass=number(),
    diaginertia=number().map(lambda x: f"{x} {x} {x}"),
    quat=numbers(4, 4),
)


def bodies() -> st.SearchStrategy[ElementTree.Element]:
    """A tree of bodies, among them copies and frames."""
    leaf = st.builds(
        lambda given, joints, geoms, inertial: element("body", given, joints + geoms + inertial),
        attributes(name=names(), pos=numbers(3, 3), quat=numbers(4, 4)),
        st.lists(JOINT, min_size=1, max_size=2),
        st.lists(weighted((1, GEOM), (3, PLAIN)), min_size=1, max_size=2),
        weighted((3, st.just([])), (1, st.lists(INERTIAL, max_size=1))),
    )

    def grown(children: st.SearchStrategy[ElementTree.Element]):
        wrapped = st.builds(
            element,
            st.just("replicate"),
            attributes(
                count=weighted((5, choice("2", "3")), (1, choice(*SIZES))), offset=numbers(3, 3)
            ),
            st.lists(children, max_size=2),
        )
        nested = st.builds(
            lambda body, more: element("body", dict(body.attrib), [*body, *more]),
            leaf,
            st.lists(children, max_size=3),
        )
        return weighted((3, nested), (1, wrapped))

    return st.recursive(leaf, grown, max_leaves=6)


ASSET = st.one_of(
    one("mesh", name=names(), file=choice("/dev/zero", "x.stl", "/"), vertex=numbers(12, 15)),
    one("mesh", name=names(), builtin=choice("sphere", "supersphere"), params=choice("2", *SIZES)),
    one(
        "texture",
        name=names(),
        type=choice("2d", "cube"),
        builtin=choice("flat", "gradient"),
        width=choice("4", *SIZES),
        height=choice("4", *SIZES),
    ),
    one("hfield", name=names(), nrow=choice("3", *SIZES), ncol=choice("3", *SIZES), size=number()),
)
REST = st.one_of(
    one("option", gravity=numbers(3, 3), timestep=number(), density=number(), wind=numbers(3, 3)),
    one("compiler", angle=choice("radian", "degree"), settotalmass=number(), boundmass=number()),
    one("size", memory=choice("1M", "100G"), nuserdata=choice(*SIZES), nuser_body=choice(*SIZES)),
    st.builds(element, st.just("asset"), st.just({}), st.lists(ASSET, max_size=2)),
    st.builds(element, st.just("default"), st.just({}), st.lists(st.one_of(JOINT, GEOM))),
    st.builds(
        element,
        st.just("custom"),
        st.just({}),
        st.lists(
            one(
                "numeric",
                name=choice("contact_stiffness", "limit_damping", "friction_x", "a"),
                data=numbers(0, 2),
                size=choice("1", *SIZES),
            ),
            max_size=2,
        ),
    ),
    one("include", file=choice("/dev/zero", "/dev/null", "x.xml", ".")),
    one("extension"),
    st.builds(
        element,
        st.just("actuator"),
        st.just({}),
        st.lists(one("motor", joint=names(), gear=number(), actdim=choice(*SIZES)), max_size=2),
    ),
)


def mjcf() -> st.SearchStrategy[str]:
    """MJCF text."""
    text = st.builds(
        lambda rest, world: element("mujoco", {}, [*rest, element("worldbody", {}, world)]),
        weighted((2, st.just([])), (1, st.lists(REST, max_size=2))),
        st.lists(weighted((4, bodies()), (1, GEOM)), min_size=1, max_size=3),
    ).map(lambda tree: ElementTree.tostring(tree, encoding="unicode"))
    shipped = st.integers(0, len(ASSETS) - 1).map(lambda k: ASSETS[k])
    return weighted((6, text), (1, damaged(shipped)))


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A text with pieces cut out, doubled, or replaced."""
    text = draw(texts)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(text) - 1, 0)))
        end = min(start + draw(st.integers(0, 40)), len(text))
        put = draw(
            st.one_of(st.just(""), st.just(2 * text[start:end]), number(), st.text(max_size=5))
        )
        text = text[:start] + put + text[end:]
    return text


def urdf() -> st.SearchStrategy[str]:
    """URDF text: links in a row, most of them connected."""
    inertial = st.builds(
        element,
        st.just("inertial"),
        st.just({}),
        st.tuples(
            number().map(lambda x: element("mass", {"value": x})),
            st.tuples(number(), number()).map(
                lambda x: element(
                    "inertia",
                    dict.fromkeys(("ixx", "iyy", "izz"), x[0])
                    | {"ixy": "0", "ixz": "0", "iyz": "0" if len(x[1]) % 7 else x[1]},
                )
            ),
            whole("origin", xyz=numbers(3, 3), rpy=numbers(3, 3)),
        ).map(list),
    )
    shape = st.one_of(
        whole("sphere", radius=number()),
        whole("box", size=numbers(3, 3)),
        whole("cylinder", radius=number(), length=number()),
        whole("mesh", filename=choice("/dev/zero", "package://a/b.stl"), scale=numbers(3, 3)),
    )
    collision = shape.map(lambda it: element("collision", {}, [element("geometry", {}, [it])]))

    @st.composite
    def robot(draw: st.DrawFn) -> str:
        count = draw(st.integers(1, 4))
        parts = [
            element(
                "link",
                {"name": f"l{k}"},
                [draw(inertial), *draw(st.lists(collision, max_size=2))],
            )
            for k in range(count)
        ]
        for k in range(1, count):
            joint = element("joint", {"name": draw(names()) or f"j{k}"})
            joint.set(
                "type", draw(choice("revolute", "continuous", "prismatic", "fixed", "floating"))
            )
            joint.append(element("parent", {"link": f"l{draw(st.integers(0, k - 1))}"}))
            joint.append(element("child", {"link": f"l{k}"}))
            joint.append(element("axis", {"xyz": draw(numbers(3, 3))}))
            low, high = draw(st.one_of(st.just(("-1", "1")), st.tuples(number(), number())))
            joint.append(element("limit", {"lower": low, "upper": high, "effort": "1"}))
            joint.append(draw(whole("dynamics", damping=number(), friction=number())))
            joint.append(draw(whole("origin", xyz=numbers(3, 3), rpy=numbers(3, 3))))
            parts.append(joint)
        return ElementTree.tostring(element("robot", {"name": "r"}, parts), encoding="unicode")

    return weighted((6, robot()), (1, damaged(robot())))
