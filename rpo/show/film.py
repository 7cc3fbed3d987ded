"""Films of episodes: panels side by side, captions, and files that are whole or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from rpo.errors import RunError, SettingsError
from rpo.show.episode import Episodes
from rpo.show.scene import Stage
from rpo.training.files import naming, replacing
from rpo.training.needs import need

Picture = UInt8[np.ndarray, "height width 3"]
Sink = Callable[[Picture], None]

MAX_PIXELS = 8192
"""Of a picture in each direction; encoders take little more."""
CAMERA_SECONDS = 0.5
"""The camera follows the mean position of so long a time."""
HOLD_SECONDS = 0.7
"""A film that ends with a fall shows its last picture for so long: else nobody could see it."""
INK = (28, 38, 48)


@dataclasses.dataclass(frozen=True)
class Panel:
    """What one part of the picture shows.

    Args:
        title: first line of its caption, may be empty.
        episodes: from which it shows one.
        env: which.
    """

    title: str
    episodes: Episodes
    env: int = 0


@dataclasses.dataclass(frozen=True)
class Format:
    """Of a film; by default of one with a single panel, see `usual_format`.

    Args:
        width, height: of each panel in pixels, even numbers.
        fps: frames per second.

    Raises:
        SettingsError: if a figure is out of range.
    """

    width: int = 640
    height: int = 480
    fps: int = 30

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value % 2 or not 64 <= value <= 4096:
                raise SettingsError(f"{name} is {value}, must be an even number from 64 to 4096")
        if not 1 <= self.fps <= 120:
            raise SettingsError(f"fps is {self.fps}, must lie between 1 and 120")


def usual_format(panels: int, output: Path, **asked: int) -> Format:
    """The format of a film where nothing else is asked for: several panels are smaller than one,
    and a GIF is slower.

    Args:
        panels: how many.
        output: file of the film, whose suffix counts.
        asked: fields of the format that are to be others.

    Raises:
        SettingsError: if a figure is out of range.
    """
    usual = {} if panels == 1 else {"width": 320, "height": 240}
    if output.suffix == ".gif":  # which counts in hundredths of a second
        usual["fps"] = 25
    return Format(**(usual | asked))


def arrangement(panels: int, form: Format) -> tuple[int, tuple[int, int]]:
    """Columns of so many panels, and the size of the picture in pixels (width, height).

    Raises:
        SettingsError: if it is too large.
    """
    columns = math.ceil(math.sqrt(panels))
    size = (columns * form.width, math.ceil(panels / columns) * form.height)
    if max(size) > MAX_PIXELS:
        raise SettingsError(
            f"the picture would have {size[0]} x {size[1]} pixels, may have {MAX_PIXELS} each way; "
            "lower envs, width or height"
        )
    return columns, size


class Film:
    """The frames of a film, in the order of time."""

    def __init__(
        self, spec: mujoco.MjSpec, panels: Sequence[Panel], form: Format, *, skip: float = 0.0
    ) -> None:
        """Opens the renderer.

        Args:
            spec: the robot's description; is changed.
            panels: at least one, shown in rows.
            form: sizes and speed.
            skip: seconds to leave out at the start.

        Raises:
            SettingsError: if all of the film would be left out, or its picture is too large.
            RunError: if there is no OpenGL to draw with.
        """
        seconds = max(panel.episodes.seconds for panel in panels)
        if not 0 <= skip < seconds:
            raise SettingsError(
                f"skip is {skip}, must lie between 0 and the {seconds:.1f} s played"
            )
        if any(_falls_at(panel, seconds) for panel in panels):
            seconds += HOLD_SECONDS
        self.count = max(round((seconds - skip) * form.fps), 1)
        self.form, self._panels, self._skip = form, panels, skip
        self._columns, self.size = arrangement(len(panels), form)
        self._stage = Stage(spec, form.width, form.height)
        self._font = ImageFont.load_default(size=max(round(form.height / 26), 10))
        self._targets = [self._path(panel) for panel in panels]

    def _path(self, panel: Panel) -> Float[np.ndarray, "frames 3"]:
        """Where the camera looks: the robot's way, smoothed, at an even height."""
        form, episodes = self.form, panel.episodes
        poses = [episodes.q_at(self._time(k), panel.env) for k in range(self.count)]
        way = np.stack([self._stage.look_at(q) for q in poses])
        half = min(round(CAMERA_SECONDS * form.fps / 2), len(way) - 1)
        # Beyond the ends the way goes on as it came, mirrored in a point: else the camera would
        # stop there, and a robot at full speed run out of the picture.
        before = 2 * way[0] - way[half:0:-1]
        after = 2 * way[-1] - way[-2 : -2 - half : -1]
        padded = np.concatenate([before, way, after])
        window = 2 * half + 1
        smooth = np.stack([padded[k : k + window].mean(axis=0) for k in range(len(way))])
        smooth[:, 2] = way[:, 2].mean()
        return smooth

    def _time(self, number: int) -> float:
        return self._skip + number / self.form.fps

    def frame(self, number: int) -> Picture:
        """One picture."""
        width, height = self.form.width, self.form.height
        canvas = np.full((self.size[1], self.size[0], 3), 255, np.uint8)
        for k, panel in enumerate(self._panels):
            step = panel.episodes.step_at(self._time(number), panel.env)
            q = panel.episodes.q_at(self._time(number), panel.env)
            markers = panel.episodes.markers_at(step, panel.env)
            picture = self._stage.draw(q, self._targets[k][number], markers.values())
            row, column = divmod(k, self._columns)
            part = slice(row * height, (row + 1) * height), slice(column * width, None)
            canvas[part][:, :width] = self._captioned(picture, caption(panel, step))
        return canvas

    def _captioned(self, picture: Picture, text: str) -> Picture:
        image = Image.fromarray(picture)
        margin = self.form.height // 40
        ImageDraw.Draw(image).multiline_text((margin, margin), text, fill=INK, font=self._font)
        return np.asarray(image)

    def close(self) -> None:
        """Closes the renderer."""
        self._stage.close()


def _falls_at(panel: Panel, seconds: float) -> bool:
    """Whether its episode ends by itself, and not before."""
    episodes, env = panel.episodes, panel.env
    last = episodes.length[env] * episodes.control_dt >= seconds - 1e-6
    return bool(episodes.terminated[env] and last)


def caption(panel: Panel, step: int) -> str:
    """Title; return, speed, the task's figures and time so far."""
    words = "   ".join(panel.episodes.words(step, panel.env))
    return "\n".join([panel.title] * bool(panel.title) + [words])


def write_film(
    film: Film, output: Path, progress: Callable[[int], Iterator[int]] | None = None
) -> None:
    """Draws a film into a file, which is complete or absent.

    Args:
        film: what to draw; its format has the frames per second.
        output: .mp4, .gif or .webm; a name without suffix is a directory of PNG pictures.
        progress: gives the numbers of the frames, and tells somebody.

    Raises:
        RunError: if the suffix is unknown, or the extra `render` is not installed.
        OSError: if the film cannot be written.
    """
    require_possible(output)
    numbers = progress(film.count) if progress else iter(range(film.count))
    with _encoder(output, film) if output.suffix else _pictures(output) as write:
        for number in numbers:
            write(film.frame(number))


_ENCODERS: dict[str, dict[str, Any]] = {
    # half the time of the encoder's default preset, for a tenth more bytes
    ".mp4": {"codec": "libx264", "quality": 7, "output_params": ["-preset", "veryfast"]},
    ".webm": {"codec": "libvpx-vp9", "quality": None, "output_params": ["-crf", "32"]},
    ".gif": {
        "codec": "gif",
        "quality": None,
        "pix_fmt_out": "pal8",
        "output_params": ["-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse"],
    },
}


def require_possible(output: Path) -> None:
    """Refuses a film of a format that nobody writes here, and pictures among others.

    Raises:
        RunError: naming the formats that are known, or what is in the way.
    """
    if output.suffix and output.suffix not in _ENCODERS:
        known = ", ".join(_ENCODERS)
        raise RunError(
            f"{output} has no suffix that is known ({known}; none for a directory of PNG pictures)"
        )
    if not output.suffix and output.exists():
        raise RunError(f"{output} exists; choose another --output")


@contextmanager
def _encoder(output: Path, film: Film) -> Iterator[Sink]:
    ffmpeg = need("imageio_ffmpeg", "render")
    with replacing(output) as temporary:
        temporary.touch()  # says now if the directory cannot be written to
        stream = ffmpeg.write_frames(
            temporary,
            film.size,
            fps=film.form.fps,
            macro_block_size=1,
            ffmpeg_log_level="quiet",
            **_ENCODERS[output.suffix],
        )
        with _forking():
            stream.send(None)
        written = 0

        def write(picture: Picture) -> None:
            nonlocal written
            try:
                stream.send(np.ascontiguousarray(picture))
            except OSError:
                raise _stopped(output, written) from None
            written += 1

        try:
            yield write
        finally:
            with contextlib.suppress(OSError):
                stream.close()
        if _count_frames(ffmpeg, temporary) != written:  # the encoder fails in silence at the end
            raise _stopped(output, written)


def _count_frames(ffmpeg: Any, path: Path) -> int:
    try:
        with _forking():
            frames, _ = ffmpeg.count_frames_and_secs(path)
    except (RuntimeError, ValueError):
        return -1
    return int(frames)


@contextmanager
def _forking() -> Iterator[None]:
    """JAX warns of forks; these only start the encoder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def _stopped(output: Path, written: int) -> OSError:
    free = shutil.disk_usage(output.parent or Path()).free / 2**20
    return OSError(
        f"cannot write {output}: the encoder stopped after {written} frames "
        f"({free:,.0f} MiB are free there)"
    )


@contextmanager
def _pictures(output: Path) -> Iterator[Sink]:
    temporary = output.with_name(f"{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    count = 0

    def write(picture: Picture) -> None:
        nonlocal count
        Image.fromarray(picture).save(temporary / f"frame_{count:05d}.png")
        count += 1

    try:
        with naming(output):
            yield write
            os.replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
