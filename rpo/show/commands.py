"""The commands that show a policy or take it away: their arguments, and what they print."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import track

from rpo.errors import SettingsError
from rpo.show.scenes import Scene

RunOrTask = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class ExportArguments:
    """Writes a policy as ONNX, checked on 1,000 observations before it is called written.

    Args:
        run: run directory, policy file, or the name of a task whose policy comes with rpo.
        output: ONNX file; by default policy.onnx in the run directory, or TASK.onnx here.
        seed: which of the run's seeds, the first by default.
        checkpoint: the newest policy, or the one with the best training return.
    """

    run: RunOrTask
    output: Path | None = None
    seed: int | None = None
    checkpoint: Literal["last", "best"] = "last"


def export(given: ExportArguments) -> int:
    """Runs `rpo export`."""
    from rpo.show.export import CHECKED_OBSERVATIONS, export_policy

    output = given.output or default_output(given.run, "policy", ".onnx")
    difference = export_policy(given.run, output, seed=given.seed, checkpoint=given.checkpoint)
    print(
        f"{output} (actions differ by at most {difference:.1e} over "
        f"{CHECKED_OBSERVATIONS:,} observations)"
    )
    return 0


def default_output(run: str, name: str, suffix: str) -> Path:
    """`name` in a run directory; elsewhere a file called like the source, where we are."""
    path = Path(run)
    return path / f"{name}{suffix}" if path.is_dir() else Path(f"{path.stem}{suffix}")


@dataclasses.dataclass(frozen=True)
class RenderArguments:
    """Films an episode of a trained policy. Needs the extra `render`, and EGL or OSMesa.

    Args:
        run: run directory, policy file, or the name of a task whose policy comes with rpo.
        output: .mp4, .gif or .webm, or a name without suffix for a directory of PNG pictures; by
            default episode.mp4 in the run directory, or TASK.mp4 here.
        task: FILE.py:CLASS of an environment of your own; it is executed.
        trust: execute the file that the run itself names as its task.
        width: of each panel in pixels; 640, or 320 if there are several.
        height: of each panel in pixels; 480, or 240 if there are several.
        fps: frames per second; 30, or 25 in a GIF.
    """

    run: RunOrTask
    output: Path | None = None
    task: str | None = None
    trust: bool = False
    scene: Scene = dataclasses.field(default_factory=Scene)
    width: int | None = None
    height: int | None = None
    fps: int | None = None


def render(given: RenderArguments) -> int:
    """Runs `rpo render`."""
    from rpo.show import render as rendering

    output = given.output or default_output(given.run, "episode", ".mp4")
    sizes = {"width": given.width, "height": given.height, "fps": given.fps}
    asked = {name: value for name, value in sizes.items() if value is not None}
    started = time.monotonic()
    frames = rendering.render(given.run, output, given.scene, asked, env=given.task, progress=_bar)
    print(f"{output} ({frames} frames in {time.monotonic() - started:.0f} s)")
    return 0


def _bar(count: int) -> Iterator[int]:
    """Numbers below `count`, with a progress bar on a terminal."""
    console = Console(stderr=True)
    numbers = range(count)
    return iter(track(numbers, "drawing", console=console, disable=not console.is_terminal))


@dataclasses.dataclass(frozen=True)
class ViewArguments:
    """Plays a policy in the browser: look into it, push it, follow its training. Extra `view`.

    Args:
        run: run directory, policy file, or the name of a task whose policy comes with rpo.
        save: instead of serving, write one HTML file that plays without a server.
        task: FILE.py:CLASS of an environment of your own; it is executed.
        trust: execute the file that the run itself names as its task.
        host: address to listen at; 0.0.0.0 lets other machines look, too.
        port: to listen at, up to 65535; by default the first free one from 8080 on, 0 for any.
        open: open the page in a browser.
    """

    run: RunOrTask
    save: Path | None = None
    task: str | None = None
    trust: bool = False
    scene: Scene = dataclasses.field(default_factory=Scene)
    host: str = "127.0.0.1"
    port: int | None = None
    open: bool = True


def view(given: ViewArguments) -> int:
    """Runs `rpo view`."""
    if given.scene.envs != 1 or given.scene.checkpoint == "all":
        raise SettingsError("a page shows one environment; leave out --envs and --checkpoint all")
    if given.port is not None and not 0 <= given.port <= 65535:
        raise SettingsError(f"port is {given.port}, must lie between 0 and 65535")
    if given.save is not None:
        if given.port is not None or given.host != ViewArguments.host:
            raise SettingsError("a page that is saved needs no server; leave out --host and --port")
        from rpo.show.page import save_page

        frames = save_page(given.run, given.save, given.scene, env=given.task)
        print(f"{given.save} ({frames} frames; open it in any browser)")
        return 0
    from rpo.show.viewer import Viewer, first_free_port

    port = first_free_port(given.host) if given.port is None else given.port
    viewer = Viewer(
        given.run,
        given.scene,
        host=given.host,
        port=port,
        env=given.task,
        say=lambda words: print(words, flush=True),
    )
    shown = given.open and _open_browser(viewer.url)
    print(f"{viewer.url} {'is open in your browser' if shown else '- open it in a browser'}")
    print("Ctrl-C ends", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # which is how it ends
        viewer.wait()
    viewer.stop()
    return 0


def _open_browser(url: str) -> bool:
    """Opens a page where there is a display; without one, a browser of texts would take over."""
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    display = sys.platform != "linux" or any(os.environ.get(name) for name in displays)
    return display and webbrowser.open(url)
