"""Networks that act in a mirrored situation as the mirror of what they do in this one.

A robot with a left and a right half does as well with its halves exchanged. The exchange M turns an
observation o into M o and an action a into M a, both signed permutations that are their own
inverse. A policy with pi(M o) = M pi(o) and a critic with V(M o) = V(o) need not learn the same
twice, and cannot learn it for one side only.

Multilayer perceptrons are like that if every affine map commutes with the exchange: P_in W P_out =
W and b P_out = b, where P_in and P_out are the exchange at the map's input and output. In a hidden
layer it swaps the layer's halves. The maps with this property form a linear space, in which a
network stays if it starts there and its gradients are projected on it: (G + P_in G P_out) / 2. So
nothing is added to what a network computes, and its parameters are ordinary ones.
"""

from __future__ import annotations

import abc
from typing import TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Float

from rpo.errors import SettingsError
from rpo.mirror import SignedPermutation
from rpo.nets.mlp import MLP, Linear, Trunk

T = TypeVar("T")


class Tied(eqx.Module):
    """A network, or several, whose affine maps commute with an exchange where it has one."""

    @abc.abstractmethod
    def tied(self, scale: float = 1.0) -> Tied:
        """The nearest one that is so, times `scale`; itself where there is no exchange."""


def tied(tree: T) -> T:
    """A pytree of parameters, or of their gradients, with all `Tied` networks in it tied."""
    result: T = jax.tree.map(
        lambda node: node.tied() if isinstance(node, Tied) else node,
        tree,
        is_leaf=lambda node: isinstance(node, Tied),
    )
    return result


def halves(width: int) -> SignedPermutation:
    """What the exchange does in a hidden layer: swaps its halves.

    Raises:
        SettingsError: if the width is odd.
    """
    if width % 2:
        raise SettingsError(f"a symmetric network needs hidden layers of even width, not {width}")
    half = width // 2
    return SignedPermutation((*range(half, width), *range(half)), (1,) * width)


def tied_trunk(trunk: Trunk, before: SignedPermutation, scale: float) -> Trunk:
    """Hidden layers whose input is exchanged like `before`."""
    linears, norms = [], []
    for linear, norm in zip(trunk.linears, trunk.norms, strict=True):
        after = halves(len(linear.bias))
        linears.append(tied_linear(linear, before, after, scale))
        scales_and_offsets = (_mean(norm.scale, after, 1.0), _mean(norm.offset, after, 1.0))
        norms.append(eqx.tree_at(lambda x: (x.scale, x.offset), norm, scales_and_offsets))
        before = after
    layers = (tuple(linears), tuple(norms))
    result: Trunk = eqx.tree_at(lambda x: (x.linears, x.norms), trunk, layers)
    return result


def tied_linear(
    linear: Linear, before: SignedPermutation, after: SignedPermutation, scale: float
) -> Linear:
    """The nearest affine map from what is exchanged like `before` to what is like `after`."""
    other = before(after(linear.weight).T).T
    arrays = (0.5 * scale * (linear.weight + other), _mean(linear.bias, after, scale))
    result: Linear = eqx.tree_at(lambda x: (x.weight, x.bias), linear, arrays)
    return result


def tied_mlp(network: MLP, before: SignedPermutation, scale: float) -> MLP:
    """A network whose outputs the exchange leaves alone."""
    trunk = tied_trunk(network.trunk, before, scale)
    width, outputs = network.head.weight.shape
    unmoved = SignedPermutation(tuple(range(outputs)), (1,) * outputs)
    head = tied_linear(network.head, halves(width), unmoved, scale)
    result: MLP = eqx.tree_at(lambda x: (x.trunk, x.head), network, (trunk, head))
    return result


def _mean(x: Float[Array, " entries"], after: SignedPermutation, scale: float) -> Array:
    return 0.5 * scale * (x + after(x))
