"""The controls and plots of the viewer's page."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rpo.show.details import Details
from rpo.show.episode import Episodes, Push

COLORS = ("#1a6b94", "#d96b3d", "#5b8e3e", "#8a5a9e", "#b08d1e", "#5a6472", "#c0392b", "#16a085")
MOST_LINES = len(COLORS)
MOST_FIGURES = 4
PLOTS_PER_SECOND = 5.0
FORCES = "What each link feels where it touches; the weight of the robot would be 0.3 of its size."
GRADIENTS = "More return would come from more torque that way; the length is the derivative."
SAMPLED = "With the noise of training; without it the policy's mean acts."
START = "Seed of the episode's start and of the noise."
TRAINING = "Plays the newest policy as soon as the training has saved it."


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is to be played.

    Args:
        checkpoint: its label.
        seed: of the training.
        sampled: act with noise.
        start: seed of the start and of the noise.
        push: on the way.
    """

    checkpoint: str
    seed: int
    sampled: bool
    start: int
    push: Push


class Panel:
    """What the user has chosen, and what the page says about it."""

    def __init__(
        self,
        server: Any,
        *,
        labels: Sequence[str],
        seeds: Sequence[int],
        pushes: int,
        first: Choice,
        training: bool,
    ) -> None:
        """Adds the controls.

        Args:
            server: a viser server.
            labels: of the policies to choose from.
            seeds: of the trainings.
            pushes: in how many directions the robot can be pushed.
            first: what is played at first.
            training: whether newer policies may come.
        """
        self._gui = server.gui
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._pushes = pushes
        self._plots: dict[str, Any] = {}
        self._drawn = -1.0
        self.loaded: tuple[Episodes, Details]
        server.gui.configure_theme(control_layout="fixed", control_width="medium", show_logo=False)
        self._text = self._gui.add_markdown("")
        self._add_player()
        self._add_choices(labels, seeds, first, training)
        self._folder = self._gui.add_folder("Over time (s)")

    def _add_player(self) -> None:
        gui = self._gui
        with gui.add_folder("Play"):
            self._button = gui.add_button("Pause")
            self._time = gui.add_slider("time (s)", min=0.0, max=1.0, step=0.01, initial_value=0.0)
            self._speed = gui.add_slider("speed", min=0.1, max=3.0, step=0.1, initial_value=1.0)
            self._view = {
                "follow": gui.add_checkbox("camera goes along", True),
                "forces": gui.add_checkbox("contact forces (green)", True, hint=FORCES),
                "gradients": gui.add_checkbox("action gradients (red)", True, hint=GRADIENTS),
            }
        self._playing = True

        @self._button.on_click  # type: ignore[untyped-decorator]
        def _(_: Any) -> None:
            self._playing = not self._playing
            self._button.label = "Pause" if self._playing else "Play"

        @self._time.on_update  # type: ignore[untyped-decorator]
        def _(event: Any) -> None:
            if event.client is not None:  # a person, not the clock
                self._seconds = float(self._time.value)

    def _add_choices(
        self, labels: Sequence[str], seeds: Sequence[int], first: Choice, training: bool
    ) -> None:
        gui = self._gui
        with gui.add_folder("Policy"):
            self._checkpoint = gui.add_dropdown(
                "checkpoint", list(labels), initial_value=first.checkpoint
            )
            self._seed = gui.add_dropdown(
                "seed",
                [str(seed) for seed in seeds],
                initial_value=str(first.seed),
                visible=len(seeds) > 1,
            )
            self._sampled = gui.add_checkbox("sampled actions", first.sampled, hint=SAMPLED)
            self._start = gui.add_number("start", first.start, min=0, step=1, hint=START)
            self._training = gui.add_checkbox(
                "follow the training", training, hint=TRAINING, visible=training
            )
        self._pushing: list[Any] = []
        if self._pushes:
            with gui.add_folder("Push"):
                names = ("forward (m/s)", "to the left (m/s)")[: self._pushes]
                self._pushing = [
                    gui.add_slider(name, min=-5.0, max=5.0, step=0.25, initial_value=0.0)
                    for name in names
                ]
                self._pushing.append(
                    gui.add_slider("at (s)", min=0.0, max=10.0, step=0.1, initial_value=2.0)
                )

    def when_chosen(self, call: Callable[[], None]) -> None:
        """Calls when another episode is asked for."""
        chosen = [self._checkpoint, self._seed, self._sampled, self._start, *self._pushing]
        for control in chosen:
            control.on_update(lambda _: call())

    def choice(self) -> Choice:
        """What is asked for."""
        values = [float(control.value) for control in self._pushing]
        push = Push()
        if values:
            sideways = values[1] if self._pushes == 2 else 0.0
            push = Push(forward=values[0], sideways=sideways, at=values[-1])
        return Choice(
            checkpoint=str(self._checkpoint.value),
            seed=int(self._seed.value),
            sampled=bool(self._sampled.value),
            start=int(self._start.value),
            push=push,
        )

    def set_labels(self, labels: Sequence[str]) -> None:
        """Offers other policies, keeping the chosen one."""
        if list(labels) != list(self._checkpoint.options):
            self._checkpoint.options = list(labels)

    def busy(self, words: str) -> None:
        """Says what is going on."""
        self._text.content = f"*{words}*"

    def load(self, episodes: Episodes, details: Details) -> None:
        """Shows another episode, from its start."""
        with self._lock:
            self.loaded = (episodes, details)
            self._seconds, self._drawn = 0.0, -1.0
        length = int(episodes.length[0]) * episodes.control_dt
        self._time.max = max(round(length, 2), 0.01)
        self._draw_plots(int(episodes.length[0]) - 1)

    @property
    def step(self) -> int:
        """The step to show."""
        with self._lock:
            episodes, _ = self.loaded
            return episodes.step_at(self._seconds, 0)

    @property
    def view(self) -> dict[str, bool]:
        """What `stage3d.play` is to do: let the camera follow, show forces and gradients."""
        return {name: bool(box.value) for name, box in self._view.items()}

    @property
    def follows_training(self) -> bool:
        """Whether a newer policy takes the place of the last one."""
        return bool(self._training.value) and self._checkpoint.value in ("last", "best")

    def advance(self, seconds: float) -> None:
        """Lets time go on; after the end it starts again."""
        episodes, _ = self.loaded
        if not self._playing:
            return
        length = int(episodes.length[0]) * episodes.control_dt
        self._seconds = (self._seconds + seconds * float(self._speed.value)) % length
        if abs(self._seconds - float(self._time.value)) > 0.1:
            self._time.value = round(self._seconds, 2)

    def state(self) -> tuple[Any, ...]:
        """Everything that the picture depends on."""
        return (id(self.loaded), self.step, *self.view.values())

    def describe(self, step: int) -> None:
        """Says how far the episode is, and moves the plots' marks, now and then."""
        episodes, _ = self.loaded
        seconds = (step + 1) * episodes.control_dt
        if abs(seconds - self._drawn) < 1 / PLOTS_PER_SECOND and step + 1 < episodes.length[0]:
            return
        self._drawn = seconds
        first, *others = episodes.words(step, 0)
        self._text.content = " &nbsp; ".join([f"**{first}**", *others])
        self._draw_plots(step)

    def _draw_plots(self, step: int) -> None:
        """Everything up to this step."""
        episodes, details = self.loaded
        times = np.arange(len(details.action_gradient)) * episodes.control_dt
        self._plot("reward per step", times, details.terms, step)
        for name, values in list(episodes.figures.items())[:MOST_FIGURES]:
            line = values[: len(times), 0].astype(float)
            self._plot(name.replace("_", " "), times, {name: line}, step)
        loads = np.linalg.norm(details.contact_force, axis=2)
        self._plot("contact forces (N)", times, _largest(details.contact_names, loads), step)
        slopes = details.action_gradient
        self._plot("action gradients", times, _largest(details.action_names, slopes), step)

    def _plot(self, title: str, times: Any, lines: dict[str, Any], step: int) -> None:
        lines = dict(list(lines.items())[:MOST_LINES])
        past = np.arange(len(times)) <= step
        data = (times, *(np.where(past, line, np.nan) for line in lines.values()))
        old = self._plots.get(title)
        if old is not None and len(old.data) == len(data):
            old.data = data
            return
        if old is not None:
            old.remove()
        series: list[dict[str, Any]] = [{"label": "s"}]
        series += [
            {"label": name, "stroke": color, "width": 1.5}
            for name, color in zip(lines, COLORS, strict=False)
        ]
        with self._folder:
            self._plots[title] = self._gui.add_uplot(
                data,
                tuple(series),
                title=title,
                scales={"x": {"time": False, "auto": True}, "y": {"auto": True}},
                legend={"show": len(lines) > 1, "live": False},
                aspect=1.6,
            )


def _largest(names: Sequence[str], values: Float[np.ndarray, "steps n"]) -> dict[str, Any]:
    """As many as a plot can tell apart, those that are largest on the average, in their order."""
    order = np.argsort(-np.abs(values).mean(axis=0), kind="stable")
    found = {names[k]: values[:, k] for k in sorted(order[:MOST_LINES])}
    return found or {"none": np.zeros(len(values))}
