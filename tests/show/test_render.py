"""A film shows the episode that was played, and is whole or absent."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import mujoco
import numpy as np
import pytest
from PIL import Image

from rpo import cli, envs
from rpo.show import scene as scenes
from rpo.show.bones import add_bones
from rpo.show.episode import Episodes, record_episodes, robot_of
from rpo.show.film import Film, Format, Panel, _pictures, caption, usual_format, write_film
from rpo.show.render import render
from rpo.show.scene import dress
from rpo.show.scenes import Scene
from rpo.show.solids import FACES
from rpo.training import RunError, load_policy
from rpo.training.evaluation import evaluate_policy
from tests.marks import nightly
from tests.training.fakes import PENDULUM

SMALL = Format(64, 64, 30)
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")  # imageio-ffmpeg's, to start ffmpeg


@pytest.fixture(scope="module")
def episodes(hopper_file: Path) -> Episodes:
    return record_episodes(load_policy(hopper_file), 2)


def frames_of(path: Path) -> np.ndarray:
    stream = imageio_ffmpeg.read_frames(path)
    width, height = next(stream)["source_size"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # at the end it does not close its pipes
        return np.stack([np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in stream])


def blue(picture: np.ndarray) -> np.ndarray:
    """Where the torso is."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return (blue > red + 50) & (blue > green + 15)


def test_an_episode_is_that_of_an_evaluation(hopper_file: Path, episodes: Episodes) -> None:
    found = evaluate_policy(load_policy(hopper_file), episodes=2, deterministic=True)
    assert episodes.length.tolist() == found.lengths[0].tolist() == [30, 30]
    returns = [episodes.return_until(29, env) for env in (0, 1)]
    np.testing.assert_allclose(returns, found.returns[0], rtol=1e-5)
    assert not episodes.terminated.any()
    sampled = record_episodes(load_policy(hopper_file), 2, deterministic=False)
    np.testing.assert_array_equal(sampled.q[0], episodes.q[0])
    assert np.abs(sampled.action - episodes.action).max() > 0.1


def test_a_film_shows_the_robot_moving(
    opengl: None, hopper_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hop.mp4"
    assert cli.main(["render", str(hopper_run), "--output", str(path), "--width", "96"]) == 0
    assert capsys.readouterr().out.startswith(f"{path} (15 frames in ")
    frames = frames_of(path)
    assert frames.shape == (15, 480, 96, 3)
    assert blue(frames[0]).sum() > 50
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 60
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("panels", "name", "asked", "expected"),
    [
        (1, "x.mp4", {}, (640, 480, 30)),
        (1, "x.gif", {"height": 96}, (640, 96, 25)),
        (2, "x.webm", {"width": 64}, (64, 240, 30)),
        (9, "x.gif", {"fps": 10}, (320, 240, 10)),
    ],
)
def test_several_panels_are_smaller_and_a_gif_is_slower(
    panels: int, name: str, asked: dict[str, int], expected: tuple[int, int, int]
) -> None:
    assert usual_format(panels, Path(name), **asked) == Format(*expected)


def test_a_single_moment_is_a_film_of_one_panel(
    opengl: None, hopper_run: Path, tmp_path: Path
) -> None:
    """For the command as for the function, which see how many there are."""
    run = shutil.copytree(hopper_run, tmp_path / "run")
    for moment in sorted((run / "policies").iterdir())[1:]:
        moment.unlink()
    words = f"render {run} --output {tmp_path / 'command'} --checkpoint all --seconds 0.02"
    assert cli.main(words.split()) == 0
    render(run, tmp_path / "function", Scene(checkpoint="all", seconds=0.02))
    for name in ("command", "function"):
        (picture,) = (tmp_path / name).iterdir()
        with Image.open(picture) as image:
            assert image.size == (640, 480)


@nightly
def test_every_moment_has_a_panel(opengl: None, hopper_run: Path, tmp_path: Path) -> None:
    scene = Scene(checkpoint="all", seconds=0.1, envs=1)
    assert render(hopper_run, tmp_path / "moments", scene, SMALL) == 3
    pictures = sorted((tmp_path / "moments").iterdir())
    assert [path.name for path in pictures] == [f"frame_{k:05d}.png" for k in range(3)]
    picture = np.asarray(Image.open(pictures[0]))
    assert picture.shape == (128, 128, 3)  # three panels in two rows of two
    quarters = [picture[:64, :64], picture[:64, 64:], picture[64:, :64], picture[64:, 64:]]
    assert [blue(quarter).any() for quarter in quarters] == [True, True, True, False]
    with pytest.raises(RunError, match="exists; choose another --output"):
        render(hopper_run, tmp_path / "moments", scene, SMALL)


def test_a_gif(opengl: None, episodes: Episodes, tmp_path: Path) -> None:
    form = Format(64, 64, 25)
    film = Film(robot_of(envs.make("hopper")), [Panel("two", episodes, 1)], form)
    write_film(film, tmp_path / "hop.gif")
    with Image.open(tmp_path / "hop.gif") as image:
        assert (image.size, image.n_frames) == ((64, 64), film.count)


def test_a_caption_says_what_was_reached(episodes: Episodes) -> None:
    forward = envs.make("hopper").spec.observation_names.index("forward_velocity")
    known = dataclasses.replace(
        episodes,
        reward=np.ones_like(episodes.reward),
        length=np.array([30, 12]),
        terminated=np.array([False, True]),
        states=dataclasses.replace(
            episodes.states, observation=np.full_like(episodes.states.observation, 2.5)
        ),
    )
    assert known.speed_column == forward
    assert caption(Panel("half way", known), 11) == "half way\nreturn 12   2.5 m/s   0.2 s"
    assert caption(Panel("", known, 1), 11) == "return 12   2.5 m/s   0.2 s, fell"
    assert known.step_at(99.0, 1) == 11
    assert "m/s" not in caption(Panel("", dataclasses.replace(known, speed_column=None)), 11)


def test_a_pose_lies_between_those_of_two_steps(episodes: Episodes) -> None:
    dt, q = episodes.control_dt, episodes.q
    np.testing.assert_allclose(episodes.q_at(3.25 * dt, 1), 0.75 * q[3, 1] + 0.25 * q[4, 1])
    np.testing.assert_array_equal(episodes.q_at(7 * dt, 0), q[7, 0])
    np.testing.assert_array_equal(episodes.q_at(99.0, 1), q[29, 1])


def test_the_camera_keeps_up_to_the_ends(opengl: None, episodes: Episodes) -> None:
    """A robot at constant speed stays in the middle from the first picture to the last."""
    q = np.zeros_like(episodes.q)
    q[..., 0] = 0.1 * np.arange(len(q))[:, None]
    states = dataclasses.replace(
        episodes.states, physics=dataclasses.replace(episodes.states.physics, q=q)
    )
    even = dataclasses.replace(episodes, states=states)
    film = Film(robot_of(envs.make("hopper")), [Panel("", even)], Format(64, 64, 25))
    film.close()
    times = np.arange(film.count) / 25
    expected = 0.1 * np.minimum(times / even.control_dt, 29)
    np.testing.assert_allclose(film._targets[0][:, 0], expected, atol=1e-6)


@pytest.mark.parametrize(("task", "faces"), [("hand", 6), ("ant", 0)])
def test_a_handled_box_shows_how_it_turns(task: str, faces: int) -> None:
    """By faces that weigh and hit nothing; nothing else gets any."""
    spec: Any = robot_of(envs.make(task))
    before = spec.compile()
    dress(spec)
    after = spec.compile()
    assert after.ngeom - before.ngeom == faces
    marked = [color for color in np.float32(FACES) if (after.geom_rgba == color).all(axis=1).any()]
    assert len(marked) == faces
    if faces:
        assert after.body_mass[-1] == before.body_mass[-1]
        assert not after.geom_contype[-faces:].any()


def test_a_full_disk_leaves_nothing(opengl: None, episodes: Episodes, tmp_path: Path) -> None:
    film = Film(robot_of(envs.make("hopper")), [Panel("", episodes)], Format(256, 256))
    (tmp_path / "hop.mp4").write_text("older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # the encoder's writes fail half way
    try:
        with pytest.raises(OSError, match=r"cannot write .*hop.mp4: the encoder stopped after"):
            write_film(film, tmp_path / "hop.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "hop.mp4").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_told_with_the_name_of_the_pictures(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, _pictures(tmp_path / "hop"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "hop")
    assert not list(tmp_path.iterdir())


def test_a_failure_while_drawing_leaves_nothing(
    opengl: None, episodes: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = Film(robot_of(envs.make("hopper")), [Panel("", episodes)], SMALL)
    frame = film.frame
    monkeypatch.setattr(film, "frame", lambda k: frame(k) if k < 3 else 1 / 0)
    for name in ("hop.mp4", "hop"):
        with pytest.raises(ZeroDivisionError):
            write_film(film, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("render RUN --output ant.avi", 1, "no suffix that is known (.mp4, .webm, .gif; none for"),
        ("render RUN --width 65", 2, "width is 65, must be an even number"),
        ("render RUN --fps 0", 2, "fps is 0, must lie between 1 and 120"),
        ("render RUN --envs 0", 2, "envs is 0"),
        ("render RUN --envs 1e9", 2, "envs is 1000000000, must lie between 1 and 256"),
        ("render RUN --envs 256 --width 4096 --height 64", 2, "would have 65536 x 1024 pixels"),
        ("render RUN --seconds nan", 2, "seconds is nan, must lie between"),
        ("render RUN --skip -1", 2, "skip is -1.0, must lie between"),
        ("render RUN --start -1", 2, "start is -1, must lie between"),
        ("render RUN --skip 1", 2, "skip is 1.0, must lie between 0 and the 0.5 s played"),
        ("render RUN --seed 7", 2, "seeds [0, 1], not of 7"),
        ("render PENDULUM --output x.mp4 --task FILE", 1, "pendulum has no robot to show"),
        ("render PENDULUM --output x.mp4", 1, "give it as the task (a file is executed)"),
        ("render RUN --output missing/x.mp4", 1, "missing/x.tmp.mp4: No such file"),
        ("render nowhere", 1, "nowhere is no run directory, no policy file and no task"),
    ],
)
def test_mistakes_end_in_one_line(
    opengl: None, arguments: str, status: int, message: str, hopper_run, pendulum_file, capsys
) -> None:
    known = {"RUN": str(hopper_run), "PENDULUM": str(pendulum_file), "FILE": PENDULUM}
    assert cli.main([known.get(word, word) for word in arguments.split()]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_missing_opengl_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(scenes, "_loads", lambda *_: False)
    with pytest.raises(RunError, match="apt-get install libegl1 libgl1") as caught:
        scenes.choose_opengl()
    assert "\n" not in str(caught.value)


def test_osmesa_takes_over_where_egl_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from mujoco.rendering.classic import gl_context

    class Context:
        pass

    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(gl_context, "GLContext", gl_context.GLContext)
    monkeypatch.setattr(scenes, "_loads", lambda *_: True)
    monkeypatch.setattr(scenes, "_works", lambda backend: False)
    monkeypatch.setitem(sys.modules, "mujoco.osmesa", SimpleNamespace(GLContext=Context))
    scenes.choose_opengl()
    assert os.environ["MUJOCO_GL"] == "osmesa"
    assert gl_context.GLContext is Context


@pytest.mark.parametrize(("task", "rods"), [("ant", 0), ("hopper", 0), ("anymal", 12)])
def test_limbs_hang_together(task: str, rods: int) -> None:
    """Only the ANYmal's description has limbs without shapes; a rod weighs and hits nothing."""
    spec: Any = robot_of(envs.make(task))
    before = spec.compile()
    add_bones(spec)
    after = spec.compile()
    assert after.ngeom - before.ngeom == rods
    np.testing.assert_array_equal(after.body_mass, before.body_mass)
    assert not after.geom_contype[after.geom_rgba[:, 0] == np.float32(0.80)].any()


def test_ground_sky_and_light_of_a_description_give_way_to_ours() -> None:
    """Those of Gymnasium's robots would leave nothing of the ground but white."""
    spec = mujoco.MjSpec.from_string(
        """<mujoco><asset><texture type="skybox" builtin="flat" rgb1="0 1 0" width="8" height="8"/>
        </asset><worldbody><light name="theirs"/><geom type="plane" size="1 1 1" rgba="1 0 0 1"/>
        <body><freejoint/><geom size="0.1" rgba="0 0 1 1"/></body></worldbody></mujoco>"""
    )
    model = scenes.paint(spec, 64, 64)
    assert [model.light(k).active.item() for k in range(model.nlight)] == [0, 1]
    assert (model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX).sum() == 1
    pixels = model.tex_data[: 3 * 64].reshape(-1, 3).astype(int)
    assert (pixels[:, 2] > pixels[:, 1]).all()  # blue rather than green
    np.testing.assert_allclose(model.geom_rgba, [[0.5, 0.5, 0.5, 1], [0, 0, 1, 1]])


def test_frames_and_slides_away_from_a_limb_need_no_rod() -> None:
    """As in Gymnasium's walker: a rod from its root's slides would hide the legs."""
    spec = mujoco.MjSpec.from_string(
        """<mujoco><worldbody><body pos="0 0 1">
          <joint type="slide" axis="1 0 0" pos="0 0 -1"/><joint axis="0 1 0"/>
          <geom type="capsule" size="0.05" fromto="0 0 0.2 0 0 -0.2"/>
          <body pos="0.2 0 -0.3"><joint axis="0 1 0" pos="-0.2 0 0.1"/>
            <geom type="capsule" size="0.05" fromto="-0.2 0 0.1 0 0 0.1"/></body>
        </body></worldbody></mujoco>"""
    )
    add_bones(spec)
    assert spec.compile().ngeom == 2
