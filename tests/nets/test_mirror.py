"""Networks whose affine maps commute with an exchange of left and right."""

import functools

import jax
import numpy as np
import pytest

from rpo.algorithms.optimizer import Optimizer
from rpo.errors import SettingsError
from rpo.mirror import Mirror, SignedPermutation
from rpo.nets import (
    ClippedGaussianPolicy,
    CriticEnsemble,
    TanhGaussianPolicy,
    new_normalizer,
    new_state_values,
)

OBSERVATION = SignedPermutation((0, 2, 1, 3), (1, -1, -1, -1))
ACTION = SignedPermutation((1, 0, 2), (1, 1, -1))
MIRROR = Mirror(OBSERVATION, ACTION)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def some(*shape):
    return np.random.default_rng(3).normal(size=shape)


evaluated = jax.jit(lambda network, x: network(x))


@jax.jit
def stepped(network):
    """After a step along a gradient that knows nothing of a mirror."""
    gradient = jax.tree.map(lambda x: jax.random.normal(jax.random.key(5), x.shape), network)
    optimizer = Optimizer(betas=(0.7, 0.95), weight_decay=0.01, max_gradient_norm=1.0)
    return optimizer.step(network, optimizer.init(network), gradient, 0.1)[0]


def test_a_signed_permutation_moves_entries_and_is_its_own_inverse():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(OBSERVATION(x), [1, -3, -2, -4])
    np.testing.assert_array_equal(OBSERVATION(OBSERVATION(x)), x)
    np.testing.assert_array_equal(OBSERVATION.unsigned()(x), [1, 3, 2, 4])
    both = OBSERVATION + ACTION
    np.testing.assert_array_equal(both(np.r_[x, 5, 6, 7]), [1, -3, -2, -4, 6, 5, -7])


@pytest.mark.parametrize(
    ("index", "sign"),
    [
        ((0, 2), (1, 1)),
        ((1, 2, 0), (1, 1, 1)),
        ((1, 0), (1, -1)),
        ((0, 1), (1, 0)),
        ((0, 1), (1,)),
    ],
)
def test_what_is_no_mirror_is_refused(index, sign):
    with pytest.raises(ValueError, match="mirror"):
        SignedPermutation(index, sign)


@pytest.mark.parametrize("kind", [TanhGaussianPolicy, ClippedGaussianPolicy])
def test_a_policy_does_the_mirror_image_in_the_mirrored_situation(kind):
    policy = kind(4, 3, (8, 6), jax.random.key(0), mirror=MIRROR)
    x, means = some(10, 4), []
    for actor in (policy, stepped(policy)):
        here, there = (jax.device_get(evaluated(actor, at)) for at in (x, OBSERVATION(x)))
        np.testing.assert_allclose(there.mean, ACTION(here.mean), atol=1e-13)
        np.testing.assert_allclose(there.std, ACTION.unsigned()(here.std), atol=1e-13)
        assert np.abs(here.mean).max() > 1e-3
        means.append(here.mean)
    assert not np.allclose(*means)


def test_outputs_are_as_large_as_without_a_mirror():
    x = some(200, 4)

    @jax.jit
    def means():
        def mean(key, mirror):
            return TanhGaussianPolicy(4, 3, (64, 64), key, mirror=mirror)(x).mean

        keys = jax.random.split(jax.random.key(0), 20)
        return [jax.vmap(functools.partial(mean, mirror=one))(keys) for one in (None, MIRROR)]

    sizes = [np.asarray(one).std() for one in means()]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_critics_give_the_mirrored_situation_the_same_value():
    critics = CriticEnsemble(4, (8, 6), 2, jax.random.key(0), mirror=OBSERVATION)
    x = some(10, 4)
    for networks in (critics, stepped(critics)):
        here, there = (evaluated(networks, at) for at in (x, OBSERVATION(x)))
        np.testing.assert_allclose(there, here, atol=1e-13)
        assert np.asarray(here).std() > 1e-3


@pytest.mark.parametrize("critic", ["normalized", "categorical"])
def test_state_values_hand_the_mirror_on(critic):
    x = some(10, 4)
    values = new_state_values(
        4, (8,), 2, jax.random.key(0), critic=critic, discount=0.9, mirror=OBSERVATION
    )
    here, there = (evaluated(values, at) for at in (x, OBSERVATION(x)))
    np.testing.assert_allclose(there, here, atol=1e-12)


def test_without_a_mirror_nothing_is_tied():
    policy = TanhGaussianPolicy(4, 3, (7,), jax.random.key(0))
    assert policy.tied() is policy
    x = some(10, 4)
    here, there = (jax.device_get(evaluated(policy, at)) for at in (x, OBSERVATION(x)))
    assert not np.allclose(there.mean, ACTION(here.mean))


def test_layers_of_odd_width_are_refused():
    with pytest.raises(SettingsError, match="even width, not 7"):
        TanhGaussianPolicy(4, 3, (8, 7), jax.random.key(0), mirror=MIRROR)


def test_statistics_are_those_of_the_samples_and_their_mirror_images():
    samples = np.random.default_rng(0).normal([1.0, 2.0, 3.0, 4.0], size=(5, 6, 4))
    images = OBSERVATION(samples)

    @jax.jit
    def statistics():
        one = new_normalizer(4, OBSERVATION).update(samples[:2]).update(samples[2:])
        other = new_normalizer(4).update(np.stack([samples, images]))
        return one, other, one(images), one(samples)

    one, other, there, here = jax.device_get(statistics())
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-13)
    np.testing.assert_allclose(one.variance, other.variance, atol=1e-13)
    np.testing.assert_allclose(there, OBSERVATION(here), atol=1e-12)
