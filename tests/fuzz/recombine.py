"""Many inputs from few: pieces of inputs that were drawn, put together anew.

Drawing a structured input takes ten times as long as judging it; putting pieces of drawn ones
together takes a tenth. What is lost is that a failing input is not made smaller.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from random import Random
from typing import Any
from xml.etree import ElementTree

from tests.fuzz.robots import ODD, SIZES
from tests.fuzz.runs import Damage

Arguments = tuple[Any, ...]
"""Of a target."""


def recombined(target: str, drawn: list[Arguments], luck: Random) -> Arguments:
    """An input made of pieces of others.

    Args:
        target: its name.
        drawn: the others, at least one.
        luck: chooses.
    """
    makers: dict[str, Callable[[list[Arguments], Random], Arguments]] = {
        "mjcf": _description,
        "urdf": _description,
        "settings": _settings,
        "runs": _damages,
    }
    return makers[target](drawn, luck)


def _description(drawn: list[Arguments], luck: Random) -> Arguments:
    """One whose elements are moved, doubled, left out, or have others' attributes or children."""
    text, *rest = min(luck.choice(drawn), luck.choice(drawn), key=lambda one: len(one[0]))
    tree = _parsed(text)
    if tree is None:
        cut, other = luck.randrange(len(text) + 1), luck.choice(drawn)[0]
        return text[:cut] + other[luck.randrange(len(other) + 1) :], *rest
    for _ in range(luck.randint(1, 4)):
        element = luck.choice(list(tree.iter()))
        donor = _parsed(luck.choice(drawn)[0])
        other = luck.choice(list((tree if donor is None else donor).iter()))
        kind = luck.randrange(6)
        if kind == 0 and other.attrib:
            name = luck.choice(list(other.attrib))
            element.set(name, other.attrib[name])
        elif kind == 1 and element.attrib:
            name = luck.choice(list(element.attrib))
            words = element.attrib[name].split() or [""]
            words[luck.randrange(len(words))] = luck.choice((*ODD, *SIZES))
            element.set(name, " ".join(words))
        elif kind == 2 and element.attrib:
            del element.attrib[luck.choice(list(element.attrib))]
        elif kind == 3 and len(element):
            element.remove(luck.choice(list(element)))
        elif kind == 4 and other.tag != tree.tag:
            element.insert(luck.randint(0, len(element)), copy.deepcopy(other))
        elif kind == 5 and len(element):
            element.append(copy.deepcopy(luck.choice(list(element))))
    return ElementTree.tostring(tree, encoding="unicode"), *rest


def _parsed(text: str) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None


def _settings(drawn: list[Arguments], luck: Random) -> Arguments:
    """A task and a method with settings of up to three others, some with another's value."""
    ((task, method, _),) = luck.choice(drawn)
    pairs = [pair for _ in range(3) for pair in luck.choice(drawn)[0][2].items()]
    chosen = dict(luck.sample(pairs, min(len(pairs), luck.randint(1, 4))))
    for name in chosen:
        if pairs and luck.random() < 0.3:
            chosen[name] = luck.choice(pairs)[1]
    return ((task, method, chosen),)


def _damages(drawn: list[Arguments], luck: Random) -> Arguments:
    """One or two damages, each of the fields of several."""

    def one() -> Damage:
        names = [field.name for field in dataclasses.fields(Damage)]
        return Damage(**{name: getattr(luck.choice(luck.choice(drawn)[0]), name) for name in names})

    return ([one() for _ in range(luck.randint(1, 2))],)
