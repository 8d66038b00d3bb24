"""Segment videos: a video of overlays, and the shares of the classes in every frame. PyAV reads and writes them."""

import csv
import importlib.util
import io
import logging
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..escaping import MAX_NAME, one_line
from ..extras import install_command
from ..files import new_file, open_regular, write_bytes
from ..images import UnfitImageError
from ..progress import progress_bar
from ..visualization import LegendEntry, add_legend
from .output_files import Writer, list_shares
from .segmentation import Segmentation
from .segmenter import Prepared, Segmenter

logger = logging.getLogger(__name__)

# The container of each kind of file. It is named, so that a file of another kind, such as a playlist that leads
# elsewhere, is not read under a video's name.
_CONTAINERS = {".avi": "avi", ".mkv": "matroska", ".webm": "matroska"}
_MP4 = "mov"


def check_av(video: Path) -> None:
    """Raise `ImportError` if PyAV, which reads videos, is not installed."""
    if importlib.util.find_spec("av") is None:
        raise ImportError(f"{video} is a video, which needs PyAV: {install_command('video')}")


def segment_video(segmenter: Segmenter, path: Path, writer: Writer, every: int, max_pixels: int) -> dict[str, Any]:
    """Segment a video: write `NAME_overlay.mp4`, and `NAME_frames.csv` with the shares of the classes in each frame.

    The overlays keep the times of their frames. Sound is left out.

    Args:
        segmenter (`Segmenter`): Model and image processor.
        path (`Path`): The video.
        writer (`Writer`): Where the files go, and how overlays are drawn.
        every (`int`): Every so many frames one is segmented and written.
        max_pixels (`int`): Videos with larger frames are not read.

    Returns:
        `dict`: the video's row in the summary.

    Raises:
        ValueError: if it cannot be read, or the model does not take its frames.
        OSError: if the results cannot be written.
    """
    overlay_file, table_file = writer.targets[path].paths
    frames = _Frames(path, every, max_pixels)
    names = [one_line(name, MAX_NAME) for _, name in sorted(segmenter.classes.names.items())]
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["frame", "seconds", *(f"{id_} {name}" for id_, name in enumerate(names))])
    sums = np.zeros(len(names))
    num_frames = 0
    with frames, new_file(overlay_file, writer.output_dir) as unfinished, _Overlays(unfinished, frames) as video:
        prepared = frames.prepare(segmenter)
        with progress_bar(total=frames.expected, desc=one_line(path.name, 30), unit="frame") as progress:
            for result in segmenter.segment(prepared):
                number, pts, seconds = frames.taken.popleft()
                if isinstance(result, Exception):
                    raise result
                video.write(_draw(result, writer), pts)
                shares = result.shares_by_id
                rows.writerow([number, f"{seconds:.3f}", *(f"{shares.get(id_, 0):.6f}" for id_ in range(len(names)))])
                sums += [shares.get(id_, 0) for id_ in range(len(names))]
                num_frames += 1
                progress.update()
        if not num_frames:
            raise ValueError("it has no frames; check that it plays")
    write_bytes(table_file, table.getvalue().encode(), writer.output_dir)
    if frames.has_sound:
        logger.info("%s: the overlay video has no sound", one_line(path))
    order = np.argsort(-sums, kind="stable")
    return {
        "file": str(path),
        "width": frames.size[0],
        "height": frames.size[1],
        "frames": num_frames,
        "every": every,
        "overlay": writer.relative(overlay_file),
        "shares_by_frame": writer.relative(table_file),
        "classes": list_shares(segmenter.classes, {int(id_): sums[id_] / num_frames for id_ in order if sums[id_]}),
    }


class _Frames:
    """The frames of a video, upright and as RGB."""

    def __init__(self, path: Path, every: int, max_pixels: int) -> None:
        self.taken: deque[tuple[int, int, float]] = deque()  # number, time in units of the stream, in seconds
        self.size = (0, 0)
        self._path, self._every, self._max_pixels = path, every, max_pixels

    def __enter__(self) -> "_Frames":
        import av

        self._file = open_regular(self._path)
        try:
            kind = _CONTAINERS.get(self._path.suffix.lower(), _MP4)
            self._container = av.open(self._file, format=kind)
            if not self._container.streams.video:
                raise ValueError("it has no pictures; name a video")
        except (av.FFmpegError, ValueError) as error:
            self._file.close()
            raise _unreadable(error) from error
        self.stream: Any = self._container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.has_sound = bool(self._container.streams.audio)
        self.expected = -(-self.stream.frames // self._every) or None
        self._check_size(self.stream.width, self.stream.height)
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()
        self._file.close()

    def prepare(self, segmenter: Segmenter) -> Iterator[Prepared]:
        """Yield the frames with their pixel values, and list their times in `taken`."""
        import av

        try:
            for number, frame in enumerate(self._container.decode(self.stream)):
                if number % self._every:
                    continue
                self._check_size(frame.width, frame.height)
                if frame.pts is None:
                    raise ValueError("its frames have no times; convert it to MP4")
                image = frame.to_image()
                if frame.rotation:
                    image = image.rotate(frame.rotation, expand=True)
                if self.size not in ((0, 0), image.size):
                    raise ValueError(f"its frames change from {self.size} to {image.size}; cut it there")
                self.size = image.size
                self.taken.append((number, frame.pts, float(frame.pts * frame.time_base)))
                yield segmenter.prepare(image)
        except av.FFmpegError as error:
            raise _unreadable(error) from error

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise UnfitImageError(
                f"has frames of {width} × {height} pixels, more than {self._max_pixels:,} pixels",
                "make it smaller",
                True,
            )


class _Overlays:
    """The video of overlays that is written."""

    def __init__(self, path: Path, frames: _Frames) -> None:
        import av

        self._container = av.open(str(path), "w", format="mp4")
        self._frames = frames
        self._stream: Any = None

    def __enter__(self) -> "_Overlays":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def write(self, picture: Image.Image, pts: int) -> None:
        """Add a picture at a time of the source."""
        import av

        if picture.width % 2 or picture.height % 2:  # which the format does not have
            whole = Image.new("RGB", (picture.width + picture.width % 2, picture.height + picture.height % 2), "white")
            whole.paste(picture)
            picture = whole
        if self._stream is None:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            source = self._frames.stream
            self._stream = self._container.add_stream(codec, rate=source.average_rate, time_base=source.time_base)
            self._stream.width, self._stream.height, self._stream.pix_fmt = *picture.size, "yuv420p"
        frame = av.VideoFrame.from_image(picture)
        frame.pts, frame.time_base = pts, self._frames.stream.time_base
        self._container.mux(self._stream.encode(frame))


def _draw(segmentation: Segmentation, writer: Writer) -> Image.Image:
    """Draw an overlay with a legend of all classes, which is the same in every frame."""
    classes = segmentation.classes
    clear = classes.find(writer.style.hide) | classes.background
    legend = [
        LegendEntry(name, None if id_ in clear else classes.palette[id_])
        for id_, name in sorted(classes.names.items())
    ]
    picture = segmentation.overlay(writer.style.alpha, writer.style.hide, legend=False)
    return add_legend(picture, legend, may_grow=False)


def _unreadable(error: Exception) -> ValueError:
    reason = one_line(getattr(error, "strerror", None) or error)
    return ValueError(f"it cannot be read as a video: {reason}; convert it to MP4 with H.264")
