"""What a task wants drawn and what it reports are in films and on pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpo import envs
from rpo.envs import EnvSpec, EpisodicEnv, Marker
from rpo.show.details import look_into
from rpo.show.episode import Episodes, Push, record_episodes, robot_of
from rpo.show.film import Film, Format, Panel, caption
from rpo.show.panel import Choice
from rpo.show.panel import Panel as Controls
from rpo.show.scene import Stage
from rpo.show.solids import FACES, solids_of, triangles
from rpo.show.stage3d import Robot3D

SLIDER = """<mujoco><worldbody><body name="slider"><joint type="slide" axis="1 0 0"/>
<geom type="box" size="0.1 0.1 0.1"/></body></worldbody></mujoco>"""


class Place(eqx.Module):
    """Where a slider is, and where it is to be; a goal that was reached jumps to the other side."""

    q: jax.Array
    goal: jax.Array
    goals_reached: jax.Array


class Slider(EpisodicEnv):
    """Goes ahead by 0.1 m a step, or back if the goal is there."""

    report_names = ("goals_reached",)
    spec: EnvSpec = eqx.field(static=True, default=EnvSpec("slider", 2, 1, 12, 0.1))

    @property
    def mjcf(self) -> str:
        return SLIDER

    def initial_state(self, key: Any) -> Place:
        return Place(jnp.zeros(1), jnp.asarray(0.35), jnp.asarray(0))

    def dynamics(self, state: Place, action: Any) -> Place:
        q = state.q + 0.1 * jnp.sign(state.goal)[:, None]
        reached = jnp.abs(q[:, 0]) > jnp.abs(state.goal)
        goal = jnp.where(reached, -state.goal, state.goal)
        return Place(q, goal, state.goals_reached + reached)

    def observe(self, state: Place) -> Any:
        return jnp.stack([state.q[:, 0], state.goal], axis=1)

    def reward(self, state: Place, action: Any, next_state: Place) -> Any:
        return -jnp.abs(next_state.q[:, 0] - next_state.goal)

    def report(self, state: Place) -> dict[str, Any]:
        return {"goals_reached": state.goals_reached}

    def markers(self, state: Place) -> dict[str, Marker]:
        place = jnp.stack([state.goal, 0 * state.goal, 0 * state.goal], axis=1)
        return {"goal": Marker(place, shape="sphere", size=(0.05,))}


class Still(eqx.Module):
    """A policy that rests."""

    env: EpisodicEnv

    def __call__(self, observation: Any, key: Any = None) -> Any:
        return jnp.zeros((*observation.shape[:-1], 1))

    @property
    def actor(self) -> Still:
        return self


@pytest.fixture(scope="module")
def slider(opengl: None) -> Iterator[Stage]:
    stage = Stage(robot_of(Slider()), 160, 120)
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    return record_episodes(Still(Slider()), 2)


def test_an_episode_keeps_goals_and_what_was_reached(episodes: Episodes) -> None:
    """0.4 m ahead is beyond the first goal, 0.4 m back (from there 8 steps) beyond the second."""
    goals = episodes.markers["goal"].position[:, 1, 0]
    np.testing.assert_allclose(goals, [0.35] * 4 + [-0.35] * 8)
    assert episodes.figures["goals_reached"][:, 0].tolist() == [0] * 3 + [1] * 8 + [2]
    assert float(episodes.markers_at(5, 1)["goal"].position[0]) == pytest.approx(-0.35)
    assert caption(Panel("", episodes), 3).endswith("goals reached 1   0.4 s")
    assert episodes.words(11, 0)[1:] == ["goals reached 2", "1.2 s"]


def test_a_film_holds_where_it_ends_with_a_fall(slider: Stage, episodes: Episodes) -> None:
    ended = [np.array(x) for x in ((True, True), (False, True))]
    fallen = dataclasses.replace(episodes, terminated=ended[0])
    earlier = dataclasses.replace(episodes, terminated=ended[1], length=np.array([12, 5]))
    counts = []
    for played in (episodes, fallen, earlier):
        film = Film(robot_of(Slider()), [Panel("", played, k) for k in (0, 1)], Format(64, 64, 10))
        film.close()
        counts.append(film.count)
    assert counts == [12, 19, 12]


def test_a_film_draws_them_where_they_are(opengl: None, episodes: Episodes) -> None:
    film = Film(robot_of(Slider()), [Panel("", episodes)], Format(160, 120, 10))
    try:
        pictures = np.stack([film.frame(k).astype(int) for k in (1, 8)])
    finally:
        film.close()
    red, green, blue = np.moveaxis(pictures, -1, 0)
    marked = (green > red + 30) & (green > blue + 15)
    assert (marked.sum(axis=(1, 2)) > 20).all()
    columns = [np.nonzero(one)[1].mean() for one in marked]
    assert abs(columns[0] - columns[1]) > 20  # on either side of the robot


def test_a_page_moves_them(episodes: Episodes) -> None:
    server = MagicMock()
    made: dict[str, SimpleNamespace] = {}
    server.scene.add_frame = lambda name, **_: made.setdefault(name, SimpleNamespace())
    robot = Robot3D(server, robot_of(Slider()), episodes.markers)
    shapes = [
        call for call in server.scene.add_mesh_simple.call_args_list if "marker" in call[0][0]
    ]
    assert [call[1]["opacity"] for call in shapes] == [pytest.approx(0.45)]
    for step, place in ((0, 0.35), (8, -0.35)):
        robot.place_markers(episodes.markers_at(step, 0))
        assert made["/world/marker_0"].position == pytest.approx((place, 0, 0))
        assert made["/world/marker_0"].wxyz == pytest.approx((1, 0, 0, 0))


@pytest.mark.parametrize(("task", "count"), [("hand", 7), ("ant", 0)])
def test_a_page_shows_the_forces_on_what_is_handled(task: str, count: int) -> None:
    """They point into it, so that it must be translucent: the cube and its six faces."""
    server = MagicMock()
    Robot3D(server, robot_of(envs.make(task)), {})
    shapes = server.scene.add_mesh_simple.call_args_list
    assert sum(call[1]["opacity"] < 1 for call in shapes) == count
    assert len(shapes) > count + 10


def test_a_page_plots_what_the_task_reports(episodes: Episodes) -> None:
    server = MagicMock()
    first = Choice(checkpoint="last", seed=0, sampled=False, start=0, push=Push())
    panel = Controls(server, labels=["last"], seeds=[0], pushes=0, first=first, training=False)
    panel.load(episodes, look_into(Still(Slider()), episodes))
    calls = {call[1]["title"]: call[0] for call in server.gui.add_uplot.call_args_list}
    drawn, series = ({title: call[k] for title, call in calls.items()} for k in (0, 1))
    reached = episodes.figures["goals_reached"][:, 0]
    np.testing.assert_array_equal(drawn["goals reached"][1], reached)
    assert [line["label"] for line in series["action gradients"][1:]] == ["action 0"]


@pytest.mark.parametrize(
    ("shape", "size", "low", "high"),
    [
        ("box", (0.02, 0.03, 0.2), -0.2, 0.2),
        ("sphere", (0.2,), -0.2, 0.2),
        ("capsule", (0.03, 0.15), -0.18, 0.18),
        ("cylinder", (0.03, 0.15), -0.15, 0.15),
        ("arrow", (0.02, 0.2), 0.0, 0.2),
    ],
)
def test_films_and_pages_draw_shapes_of_the_same_height(
    slider: Stage, shape: Any, size: tuple[float, ...], low: float, high: float
) -> None:
    (solid,) = solids_of(Marker([0, 0, 0], size, shape=shape))
    bottom, top = np.asarray(triangles(solid.kind, solid.size).bounds)[:, 2]
    assert (bottom, top) == pytest.approx((low, high), abs=2e-3)
    # MuJoCo's is covered by a box from low to high, and sticks out of any lower one.
    for share, covered in ((1.05, True), (0.8, False)):
        middle, half = (low + high) / 2, (high - low) / 2
        wide = 1.2 * size[0] if shape == "sphere" else 0.05
        box = Marker([0, 0, middle], (wide, wide, share * half), color=(1, 0, 0, 1))
        own = Marker([0, 0, 0], size, shape=shape, color=(0, 1, 0, 1))
        shown = [slider.draw(np.zeros(1), np.zeros(3), marks) for marks in ((box,), (box, own))]
        assert np.array_equal(*shown) == covered


def test_a_cubes_faces_have_their_colours() -> None:
    cube, *faces = solids_of(Marker([0, 0, 0], size=(1, 2, 3), color=(1, 1, 1, 0.4), faces=True))
    assert cube.color == (1, 1, 1, 0.4)
    assert [face.color for face in faces] == [(*color[:3], 0.8) for color in FACES]
    np.testing.assert_allclose(faces[3].offset, [0, -2, 0])


def test_the_hands_goal_is_seen_beside_it(opengl: None) -> None:
    """All of it, wherever it points."""
    env = envs.make("hand")
    stage = Stage(robot_of(env), 160, 120)
    q = np.zeros((1, 23), np.float32)
    q[:, 16:] = [0.0, -0.1, 0.6, 1.0, 0.0, 0.0, 0.0]
    marker = jax.tree.map(
        np.asarray, env.markers(env.state(jnp.asarray(q), jnp.zeros((1, 22))))["goal"].of_each(1)
    )
    one = jax.tree.map(lambda x: x[0], marker)
    try:
        pictures = [stage.draw(q[0], stage.look_at(q[0]), marks) for marks in ((), (one,))]
    finally:
        stage.close()
    changed = (np.abs(np.diff(np.stack(pictures).astype(int), axis=0)[0]) > 8).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert len(rows) > 150
    assert rows.min() > 8  # below the caption
    assert rows.max() < 119
    assert 0 < columns.min() < columns.max() < 159
