"""The control step: conservation, known motions, precision far away, derivatives."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo.physics import diagnostics
from rpo.physics.model import JointType, Model
from rpo.physics.step import StepSettings, control_step
from tests.eager import eagerly
from tests.marks import rest_nightly
from tests.physics.robots import Z, planar, quadruped, random_state, robot

SETTINGS = StepSettings(substeps=4, mass_matrix_interval=2)


MODELS = {"free": quadruped(), "slides": planar()}
BOTH = pytest.mark.parametrize("model", list(MODELS.values()), ids=list(MODELS))


def run(model: Model, settings: StepSettings, q, qd, steps: int = 1):
    """Coordinates and velocities after some steps without forces; one step is not compiled."""
    body = lambda s, _: (control_step(model, settings, *s, 0 * qd), None)  # noqa: E731
    several = lambda *s: jax.lax.scan(body, s, length=steps)[0]  # noqa: E731
    return jax.tree.map(np.asarray, (jax.jit if steps > 1 else eagerly)(several)(q, qd))


@pytest.mark.parametrize(("substeps", "interval"), [(0, 1), (4, 0), (4, 3)])
def test_settings_refuse_an_interval_that_does_not_divide(substeps: int, interval: int) -> None:
    with pytest.raises(ValueError, match="must"):
        StepSettings(substeps=substeps, mass_matrix_interval=interval)


def test_free_fall_is_exact_for_semi_implicit_euler() -> None:
    model = robot([(JointType.FREE, -1, (0, 0, 0), Z)])
    model = dataclasses.replace(model, center_of_mass=np.zeros((1, 3)))
    with jax.enable_x64(True):
        q = np.array([[0.0], [0.0], [5.0], [1.0], [0.0], [0.0], [0.0]])
        qd = np.array([[1.0], [0.0], [2.0], [0.0], [0.0], [0.0]])
        fresh = StepSettings(substeps=4, mass_matrix_interval=1)
        q1, qd1 = run(model, fresh, jnp.asarray(q), jnp.asarray(qd))
        _, stale = run(model, SETTINGS, jnp.asarray(q), jnp.asarray(qd))
    dt, n = SETTINGS.control_dt / 4, 4
    assert qd1[2, 0] == pytest.approx(2 - 9.81 * dt * n, abs=1e-12)
    assert q1[2, 0] == pytest.approx(5 + 2 * n * dt - 9.81 * dt**2 * n * (n + 1) / 2, abs=1e-12)
    assert q1[0, 0] == pytest.approx(dt * n, abs=1e-12)
    # A cached mass matrix stays where the robot was while the forces move on: a small known error.
    assert 1e-6 < abs(stale[2, 0] - qd1[2, 0]) < 1e-3


def test_energy_and_momentum_of_a_floating_chain_are_kept_to_first_order() -> None:
    model = dataclasses.replace(
        quadruped(),
        gravity=np.zeros(3),
        damping=np.zeros(14),
        armature=np.zeros(14),
    )

    def drift(substeps: int) -> float:
        settings = StepSettings(substeps=substeps, mass_matrix_interval=1)
        q, qd = random_state(model, 4)
        q[2] += 10
        q1, qd1 = run(model, settings, jnp.asarray(q), jnp.asarray(qd), steps=2)

        def energy(q, qd):
            h = np.asarray(diagnostics.mass_matrix(model, jnp.asarray(q)))
            return 0.5 * np.einsum("ib,ijb,jb->b", qd, h, qd)

        return float(np.abs(energy(q1, qd1) - energy(q, qd)).max())

    with jax.enable_x64(True):
        coarse, fine = drift(32), drift(128)
    assert fine < coarse / 3.5


def test_a_hanging_pendulum_swings_with_its_period() -> None:
    model = robot([(JointType.HINGE, -1, (0, 0, 3), (0.0, 1.0, 0.0))])
    model = dataclasses.replace(model, center_of_mass=np.array([[0.0, 0.0, -0.5]]))
    moment = 0.03 + 0.25
    period = 2 * np.pi * np.sqrt(moment / (9.81 * 0.5))
    settings = StepSettings(control_dt=period / 100, substeps=16, mass_matrix_interval=16)
    with jax.enable_x64(True):
        q, _ = run(model, settings, jnp.array([[1e-3]]), jnp.zeros((1, 1)), steps=100)
    assert q[0, 0] == pytest.approx(1e-3, rel=1e-3)


def test_a_dropped_ball_rests_where_the_ground_spring_carries_its_weight() -> None:
    model = robot([(JointType.FREE, -1, (0, 0, 0), Z)], contacts=[(0, (0.0, 0.0, 0.0), 0.1)])
    model = dataclasses.replace(model, center_of_mass=np.zeros((1, 3)))
    depth = 9.81 / 2e4
    with jax.enable_x64(True):
        q = jnp.array([[0.0], [0.0], [0.1 - depth], [1.0], [0.0], [0.0], [0.0]])
        q, qd = run(model, StepSettings(), q, jnp.zeros((6, 1)), steps=60)
    assert np.abs(qd).max() < 1e-10
    assert q[2, 0] == pytest.approx(0.1 - depth, abs=1e-10)


def test_coulomb_friction_brakes_a_sliding_ball_that_cannot_roll() -> None:
    joints = [
        (JointType.SLIDE, -1, (0.0, 0.0, 0.1), (1.0, 0.0, 0.0)),
        (JointType.SLIDE, 0, (0.0, 0.0, 0.0), Z),
    ]
    model = robot(joints, contacts=[(1, (0.0, 0.0, 0.0), 0.1)], masses=[0.0, 1.0])
    with jax.enable_x64(True):
        q = jnp.array([[0.0], [-9.81 / 2e4]])
        _, qd = run(model, StepSettings(), q, jnp.array([[2.0], [0.0]]), steps=6)
    assert qd[0, 0] == pytest.approx(2.0 - 0.75 * 9.81 * 6 / 60, rel=1e-6)


@BOTH
def test_far_from_the_origin_the_step_is_the_same(model: Model) -> None:
    q, qd = (x.astype(np.float32) for x in random_state(model, 16))
    far = q.copy()
    far[0] += 150.0
    near_q, near_qd = run(model, SETTINGS, jnp.asarray(q), jnp.asarray(qd))
    far_q, far_qd = run(model, SETTINGS, jnp.asarray(far), jnp.asarray(qd))
    np.testing.assert_array_equal(far_qd, near_qd)
    np.testing.assert_array_equal(far_q[1:], near_q[1:])
    np.testing.assert_allclose(far_q[0] - far[0], near_q[0] - q[0], atol=2e-5)


@BOTH
def test_blocks_of_environments_do_not_mix(model: Model) -> None:
    state = [x.astype(np.float32) for x in random_state(model, 16)]
    others = [x.astype(np.float32) for x in random_state(model, 16, seed=1)]
    for x, other in zip(state, others, strict=True):
        other[:, 2:5] = x[:, 2:5]
    for x, y in zip(run(model, SETTINGS, *state), run(model, SETTINGS, *others), strict=True):
        np.testing.assert_array_equal(x[:, 2:5], y[:, 2:5])
        assert (x[:, 5:] != y[:, 5:]).any()


@BOTH
@pytest.mark.parametrize("interval", rest_nightly([2, 1]))
def test_derivative_is_that_of_the_discrete_step(model: Model, interval: int) -> None:
    settings = StepSettings(substeps=2, mass_matrix_interval=interval)
    with jax.enable_x64(True):
        q, qd = (jnp.asarray(x) for x in random_state(model, 64, seed=3))
        draws = np.random.default_rng(1)
        force = jnp.asarray(draws.normal(size=qd.shape))
        weights = [jnp.asarray(draws.normal(size=(n, 1))) for n in (model.nq, model.nv)]

        @eagerly
        def per_sample(q, qd, force):
            q, qd = control_step(model, settings, q, qd, force)
            return (weights[0] * q).sum(0) + (weights[1] * qd).sum(0)

        state = (q, qd, force)
        directions = [jnp.asarray(draws.normal(size=x.shape)) for x in state]
        slopes = jax.grad(lambda *state: per_sample(*state).sum(), argnums=(0, 1, 2))
        gradient = eagerly(slopes)(*state)
        predicted = sum((g * d).sum(0) for g, d in zip(gradient, directions, strict=True))

        def central(h):
            ahead, back = (
                per_sample(*(x + k * d for x, d in zip(state, directions, strict=True)))
                for k in (h, -h)
            )
            return (ahead - back) / (2 * h)

        wide, narrow = np.asarray(central(2e-6)), np.asarray(central(1e-6))
        predicted = np.asarray(predicted)
    assert np.isfinite(predicted).all()
    # Two step sizes that disagree have met a kink (touch-down, a limit, the friction bound).
    smooth = np.abs(wide - narrow) < 1e-6 * (1 + np.abs(narrow))
    assert smooth.mean() > 0.8
    np.testing.assert_allclose(predicted[smooth], narrow[smooth], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("x64", rest_nightly([True, False]))  # operations of the test above
def test_gradient_is_finite_where_tangential_velocity_is_zero(x64: bool) -> None:
    model, settings = quadruped(), StepSettings(substeps=2, mass_matrix_interval=2)
    with jax.enable_x64(x64):
        q, _ = random_state(model, 64)
        q[2], q[3:7], q[7:] = 0.44, np.array([1, 0, 0, 0])[:, None], 0.0
        qd = np.zeros((model.nv, 64))
        gradient = eagerly(
            jax.grad(
                lambda q, qd: sum(x.sum() for x in control_step(model, settings, q, qd, 0 * qd)),
                argnums=(0, 1),
            )
        )(jnp.asarray(q), jnp.asarray(qd))
    assert all(np.isfinite(g).all() for g in gradient)


def test_solver_inverts_the_mass_matrix() -> None:
    model = quadruped()
    with jax.enable_x64(True):
        q, qd = (jnp.asarray(x) for x in random_state(model, 64))
        q = q.at[2].add(10.0)
        still = dataclasses.replace(model, damping=np.zeros(model.nv))
        acceleration = np.asarray(diagnostics.forward_dynamics(still, q, qd, 0 * qd))
        dt = 1e-7
        settings = StepSettings(control_dt=dt, substeps=1, mass_matrix_interval=1)
        _, after = run(still, settings, q, qd)
    np.testing.assert_allclose((after - np.asarray(qd)) / dt, acceleration, rtol=1e-5, atol=1e-4)
