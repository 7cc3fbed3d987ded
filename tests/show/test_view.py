"""The page works in a real browser, and the panel does what its buttons say."""

from __future__ import annotations

import dataclasses
import io
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest
from PIL import Image, ImageChops

from rpo import cli
from rpo.show.page import save_page
from rpo.show.scenes import Scene
from rpo.show.viewer import Viewer, first_free_port
from rpo.training import RunError
from rpo.training.policy_file import read_policy_file, write_policy_file
from tests.marks import nightly
from tests.training.fakes import PENDULUM

NAMES = "chromium-headless-shell", "chromium", "chromium-browser"
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# Sockets of the browser and of viser's server are closed by other threads, a little later.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:os.fork"),
]


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def run(hopper_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that may be changed."""
    return shutil.copytree(hopper_run, tmp_path_factory.mktemp("view") / "run")


@pytest.fixture(scope="module")
def viewer(run: Path) -> Iterator[Viewer]:
    viewer = Viewer(run)
    yield viewer
    viewer.stop()


class Browser:
    """A page in Chromium, and what it complained about."""

    def __init__(self, chromium: Any, url: str) -> None:
        self.page = chromium.new_page(viewport={"width": 640, "height": 480})
        self.complaints: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("canvas", timeout=60_000)

    def _note(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def picture(self) -> Image.Image:
        """The left part, where the robot is; without what viser says about slow graphics."""
        data = self.page.screenshot(timeout=120_000)
        return Image.open(io.BytesIO(data)).convert("RGB").crop((0, 160, 300, 440))

    def moves(self, seconds: float = 60) -> bool:
        """Whether two pictures differ by more than specks."""
        first, deadline = self.picture(), time.monotonic() + seconds
        while time.monotonic() < deadline:
            difference = np.asarray(ImageChops.difference(first, self.picture()))
            if (difference.max(axis=-1) > 40).sum() > 60:
                return True
            time.sleep(0.2)
        return False


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@nightly  # the saved page plays in one every time
def test_the_page_plays_in_a_browser(viewer: Viewer, chromium: Any) -> None:
    browser = Browser(chromium, viewer.url)
    assert browser.moves()
    browser.page.get_by_role("button", name="Pause").click(timeout=60_000)
    browser.page.get_by_role("button", name="Play").wait_for(timeout=60_000)
    step = viewer.panel.step
    time.sleep(0.3)
    assert viewer.panel.step == step
    browser.page.get_by_role("button", name="Play").click(timeout=60_000)
    wait_for(lambda: viewer.panel.step != step)
    browser.page.get_by_label("contact forces").click(timeout=60_000)
    wait_for(lambda: not viewer.panel.view["forces"])
    for words in ("return", "checkpoint", "to the left", "forward (m/s)", "foot"):
        shown = browser.page.get_by_text(words, exact=False).count()
        assert (shown > 0) == (words != "to the left"), words  # the hopper lives in a plane
    assert browser.complaints == []
    browser.page.close()


def test_choosing_plays_another_episode(viewer: Viewer) -> None:
    before = viewer.episodes
    viewer.panel._seed.value = "1"
    wait_for(lambda: viewer.panel.loaded[0] is not before)
    wait_for(lambda: viewer.panel.loaded[0] is viewer.episodes)
    after = viewer.episodes
    np.testing.assert_array_equal(before.q[0], after.q[0])
    assert np.abs(before.action[0] - after.action[0]).max() > 1e-3
    forward, at = viewer.panel._pushing
    at.value = 0.2
    forward.value = 3.0
    wait_for(lambda: viewer.episodes.q[-1, 0, 0] > after.q[-1, 0, 0] + 0.3)
    assert {"last", "best", "after 32 steps", "after 96 steps"} <= set(
        viewer.panel._checkpoint.options
    )
    forward.value = 0.0


def test_time_goes_on_and_can_be_set(viewer: Viewer) -> None:
    panel = viewer.panel
    wait_for(lambda: panel.loaded[0] is viewer.episodes)
    panel._playing = False
    panel._seconds = 0.25
    assert panel.step == 15
    panel.advance(1.0)
    assert panel.step == 15
    panel._playing = True
    panel._speed.value = 2.0
    panel._seconds = 0.0
    panel.advance(0.05)
    assert panel._seconds >= 0.1
    panel._speed.value = 1.0


def test_a_training_is_followed(viewer: Viewer, run: Path) -> None:
    contents = read_policy_file(run / "policy.npz")
    facts = dataclasses.replace(contents.facts, iteration=9, total_iterations=9, env_steps=288)
    before = viewer.episodes
    other = eqx.tree_at(lambda a: a.policy, contents.last, _negated(contents.last.policy))
    write_policy_file(run / "policy.npz", dataclasses.replace(contents, facts=facts, last=other))
    wait_for(lambda: viewer.panel.loaded[0] is not before and viewer.policies.newest.facts == facts)
    wait_for(lambda: np.abs(viewer.episodes.action[0] + before.action[0]).max() < 1e-4)


def _negated(policy: Any) -> Any:
    """Acts the other way round."""
    head = policy.mean_head
    return eqx.tree_at(
        lambda p: (p.mean_head.weight, p.mean_head.bias), policy, (-head.weight, -head.bias)
    )


def test_a_saved_page_plays_without_a_server(
    hopper_run: Path, chromium: Any, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    frames = save_page(hopper_run, path, Scene(seconds=0.4))
    assert frames == 12
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_size < 3e6
    browser = Browser(chromium, path.as_uri())
    assert browser.moves()
    assert browser.complaints == []
    browser.page.close()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("view RUN --port PORT", 1, "Address already in use); choose another --port"),
        ("view RUN --host 203.0.113.1 --port 8080", 1, "choose another --port"),
        ("view PENDULUM --task FILE", 1, "pendulum has no robot to show"),
        ("view RUN --save missing/page.html", 1, "missing/page.tmp.html: No such file"),
        ("view RUN --envs 2", 2, "a page shows one environment"),
        ("view EMPTY", 1, "holds no checkpoint yet"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: str, status: int, message: str, hopper_run, pendulum_file, tmp_path, capsys
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(hopper_run / "config.json", empty)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        known = {
            "RUN": str(hopper_run),
            "PENDULUM": str(pendulum_file),
            "FILE": PENDULUM,
            "EMPTY": str(empty),
            "PORT": str(taken.getsockname()[1]),
        }
        assert cli.main([known.get(word, word) for word in arguments.split()]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_free_port_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert first_free_port("127.0.0.1", port) > port
    for host in ("203.0.113.1", "a..b", "a\0b"):
        with pytest.raises(RunError, match="choose another --host"):
            first_free_port(host)
