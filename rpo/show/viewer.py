"""A page in the browser that plays a policy's episodes, changes them and looks into them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rpo.envs.base import Env
from rpo.errors import RunError, SettingsError
from rpo.show.details import Details, look_into
from rpo.show.episode import Episodes, Push, can_be_pushed, record_episodes, robot_of
from rpo.show.page import place_camera, start_server, stop_server
from rpo.show.panel import Choice, Panel
from rpo.show.scenes import Scene
from rpo.show.stage3d import Robot3D, play
from rpo.training.needs import need
from rpo.training.policies import Policy, Source, env_of, open_moments, open_policies
from rpo.training.policy_file import PolicyFile
from rpo.training.run import Run

FRAMES_PER_SECOND = 30
LOADING = "playing the episode and differentiating it ..."
LOOK_FOR_NEWER = 2.0
"""Seconds between two looks at whether a training has written a newer policy."""


class Policies:
    """The policies of a source by label, as they are on disk now."""

    def __init__(self, source: Source, env: Env | str | None = None) -> None:
        """Opens the source.

        Args:
            source: a run, its directory, a policy file (.npz), or the name of a shipped task.
            env: the environment, if it is a user's own: an instance or `FILE.py:CLASS`.

        Raises:
            RunError: if there is no such policy.
        """
        self._source = source
        self.newest = open_policies(source, env)
        self.env = env_of(source, self.newest, env)
        self.moments: dict[str, PolicyFile] = {}
        self.refresh()

    @property
    def may_change(self) -> bool:
        """Whether a training may write newer policies here: not those that come with rpo."""
        return isinstance(self._source, Run) or Path(self._source).exists()

    def refresh(self) -> bool:
        """Looks for newer policies; whether the newest one has changed."""
        before = self.newest.facts.iteration
        try:
            self.newest = open_policies(self._source)
            files = open_moments(self._source)
        except RunError:  # no moments, or a file that is just being replaced
            files = list(self.moments.values())
        self.moments = {f"after {file.facts.env_steps:,} steps": file for file in files}
        return self.newest.facts.iteration != before

    @property
    def labels(self) -> list[str]:
        """What can be chosen."""
        best = ["best"] if self.newest.best is not None else []
        return ["last", *best, *self.moments]

    def policy(self, label: str, seed: int) -> Policy:
        """The policy with this label."""
        file = self.moments.get(label, self.newest)
        actors = file.actors("best" if label == "best" else "last")
        return Policy(actors[file.index(seed)], self.env)


class Viewer:
    """Serves the page until it is stopped."""

    def __init__(
        self,
        source: Source,
        scene: Scene | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        env: Env | str | None = None,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        """Plays the first episode and starts serving.

        Args:
            source: a run, its directory, a policy file (.npz), or the name of a shipped task.
            scene: what to show first.
            host: address to listen at.
            port: to listen at, 0 for any that is free.
            env: the environment, if it is a user's own: an instance or `FILE.py:CLASS`.
            say: is told what takes long.

        Raises:
            RunError: if there is no such policy, no robot to show, the extra `view` is missing, or
                the port is in use.
        """
        viser = need("viser", "view")
        scene = scene or Scene()
        require_free_port(host, port)  # before the long work
        self.policies = Policies(source, env)
        task = self.policies.env
        robot = robot_of(task)
        seeds = list(self.policies.newest.facts.seeds)
        first = Choice(
            checkpoint="best" if scene.checkpoint == "best" else "last",
            seed=seeds[self.policies.newest.index(scene.seed)],
            sampled=scene.sampled,
            start=scene.start,
            push=Push(),
        )
        self._steps = scene.steps(task)
        self.episodes: Episodes
        self.details: Details
        say(LOADING)
        self._load(first)
        self.server = start_server(viser, host, port)
        self._robot = Robot3D(self.server, robot, self.episodes.markers)
        place_camera(self.server, self._robot)
        self.panel = Panel(
            self.server,
            labels=self.policies.labels,
            seeds=seeds,
            pushes=can_be_pushed(task),
            first=first,
            training=self.policies.may_change,
        )
        self._changed, self._stopped = threading.Event(), threading.Event()
        self.panel.when_chosen(self._changed.set)
        self.panel.load(self.episodes, self.details)
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._play, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    def wait(self) -> None:
        """Until Ctrl-C."""
        while not self._stopped.wait(0.5):
            pass

    def stop(self) -> None:
        """Ends the page."""
        self._stopped.set()
        self._changed.set()
        for thread in self._threads:
            thread.join()
        stop_server(self.server)

    def _load(self, choice: Choice) -> None:
        policy = self.policies.policy(choice.checkpoint, choice.seed)
        self.episodes = record_episodes(
            policy,
            deterministic=not choice.sampled,
            seed=choice.start,
            steps=self._steps,
            push=choice.push,
        )
        self.details = look_into(policy, self.episodes)

    def _play(self) -> None:
        """Moves on in time and shows where it is."""
        shown, at = None, time.monotonic()
        while not self._stopped.wait(1 / FRAMES_PER_SECOND):
            now = time.monotonic()
            self.panel.advance(now - at)
            at = now
            state = self.panel.state()
            if state != shown:
                shown = state
                self._show()

    def _show(self) -> None:
        panel = self.panel
        episodes, details = panel.loaded
        step = panel.step
        with self.server.atomic():
            play(self._robot, episodes, details, step, **panel.view)
        panel.describe(step)

    def _listen(self) -> None:
        """Plays again when something else is chosen, or a training has a newer policy."""
        look = time.monotonic() + LOOK_FOR_NEWER
        while not self._stopped.is_set():
            chosen = self._changed.wait(0.2)
            if self._stopped.is_set():
                return
            newer = False
            if time.monotonic() >= look:
                newer = self.policies.refresh() and self.panel.follows_training
                self.panel.set_labels(self.policies.labels)
                look = time.monotonic() + LOOK_FOR_NEWER
            if not (chosen or newer):
                continue
            self._changed.clear()
            self.panel.busy(LOADING)
            try:
                self._load(self.panel.choice())
                self.panel.load(self.episodes, self.details)
            except (RunError, SettingsError) as error:
                self.panel.busy(f"error: {error}")


def require_free_port(host: str, port: int) -> None:
    """Refuses a port that somebody listens at.

    Raises:
        RunError: in one line.
    """
    if port != 0:
        _bind(host, port, "--port")


def _bind(host: str, port: int, remedy: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            words = f"cannot listen at {host}:{port} ({reason}); choose another {remedy}"
            raise RunError(words) from error


def first_free_port(host: str, first: int = 8080) -> int:
    """The first port from 8080 on that nobody listens at.

    Raises:
        RunError: if a hundred of them are taken, or the host is not one of this machine's.
    """
    _bind(host, 0, "--host")  # once, and not for every port: a name may take long to be found
    for port in range(first, first + 99):
        with contextlib.suppress(RunError):
            require_free_port(host, port)
            return port
    require_free_port(host, first + 99)
    return first + 99
