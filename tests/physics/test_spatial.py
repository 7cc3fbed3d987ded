"""Components: what is emitted for them, and in which precision."""

from __future__ import annotations

import operator

import jax
import numpy as np
import pytest

from rpo.physics import spatial

OPERATIONS = {"mul": operator.mul, "add": operator.add, "sub": operator.sub}
LINKS, BATCH = 3, 5
PER_LINK = np.array([[0.5], [-2.0], [3.25]])
SCALARS = [2.5, PER_LINK, "state", "one link"]


@pytest.mark.parametrize("b", SCALARS, ids=["number", "constant", "state", "link"])
@pytest.mark.parametrize("a", SCALARS, ids=["number", "constant", "state", "link"])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_operations_are_numpys_in_the_states_precision(name: str, a: object, b: object) -> None:
    draws = np.random.default_rng(0)
    drawn = {
        "state": draws.normal(size=(LINKS, BATCH)).astype(np.float32),
        "one link": draws.normal(size=(1, BATCH)).astype(np.float32),
    }

    def operands(values: dict) -> list:
        return [values[x] if isinstance(x, str) else x for x in (a, b)]

    result = jax.jit(lambda values: getattr(spatial, name)(*operands(values)))(drawn)
    expected = OPERATIONS[name](*(np.asarray(x, np.float32) for x in operands(drawn)))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    if isinstance(a, str) or isinstance(b, str):
        assert result.dtype == np.float32


def test_operations_need_no_rules_of_promotion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `jax.numpy` trace a program per operation."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    def several(x, y):
        product = spatial.mul(spatial.mul(2.5, x), spatial.mul(PER_LINK, y))
        return spatial.neg(spatial.sub(spatial.add(product, x), PER_LINK))

    state = jax.ShapeDtypeStruct((LINKS, BATCH), np.float32)
    monkeypatch.setattr(jax.numpy.ufunc, "__call__", refuse)
    jax.jit(several).trace(state, state)
