"""The simulators that `benchmarks/peers.py` times, ours among them: one module per family."""

from __future__ import annotations

import dataclasses
from importlib.metadata import PackageNotFoundError, version


@dataclasses.dataclass(frozen=True)
class Peer:
    """A simulator as it is compared.

    Args:
        label: how tables call it.
        module: of this package; its `build(name, robot, num_envs, cores)` gives a `Simulation`.
        packages: distributions that it needs.
        on_gpu: whether it runs on GPUs.
        gradient_envs: rollouts that are differentiated at most, on a CPU, where environments cost
            the same however many there are, and all of them would take minutes.
    """

    label: str
    module: str
    packages: tuple[str, ...]
    on_gpu: bool = True
    gradient_envs: int | None = None

    def missing(self) -> list[str]:
        """The distributions that are not installed."""
        return [name for name in self.packages if _version(name) is None]

    def versions(self) -> dict[str, str]:
        """Of what it needs, as far as installed."""
        found = {name: _version(name) for name in self.packages}
        return {name: number for name, number in found.items() if number}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


PEERS = {
    "rpo": Peer("rpo", "in_jax", ("rpo-jax", "jax", "jaxlib")),
    "mujoco": Peer("MuJoCo, C engine", "in_c", ("mujoco",), on_gpu=False, gradient_envs=8),
    "mjx": Peer("MuJoCo MJX", "in_jax", ("mujoco-mjx", "mujoco", "jax")),
    "brax-spring": Peer("Brax, spring", "in_jax", ("brax", "jax")),
    "brax-positional": Peer("Brax, positional", "in_jax", ("brax", "jax")),
    "brax-generalized": Peer("Brax, generalized", "in_jax", ("brax", "jax")),
    "brax-mjx": Peer("Brax, mjx", "in_jax", ("brax", "mujoco-mjx", "jax")),
    "mujoco-warp": Peer("MuJoCo Warp", "in_warp", ("mujoco-warp", "mujoco", "warp-lang")),
    "newton": Peer("Newton, Featherstone", "in_warp", ("newton", "warp-lang"), gradient_envs=8),
}
