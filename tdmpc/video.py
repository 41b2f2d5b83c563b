"""Frames to a video file that browsers play: mp4, H.264, yuv420p."""

import errno
from collections.abc import Iterable
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np

from tdmpc.files import naming

try:
    import imageio_ffmpeg
except ImportError as error:
    raise ImportError("videos need imageio-ffmpeg: pip install 'tdmpc[train]'") from error

UNFINISHED = "ffmpeg could not write the film; the disk may be full"


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write uint8 frames of shape [H W 3], all of one size, as an mp4; nothing is left behind on failure.

    Frames are taken one by one, so a generator costs no memory. H.264 in yuv420p needs even sides:
    a last row or column is repeated where one is odd.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp.mp4")
    with naming(path):
        try:
            temporary.touch()  # fails with the reason, which ffmpeg does not tell
            _encode(temporary, frames, fps)
            try:  # the writer does not tell whether ffmpeg could finish the file
                imageio_ffmpeg.count_frames_and_secs(str(temporary))
            except RuntimeError as error:
                raise OSError(errno.EIO, UNFINISHED) from error
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _encode(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    frames = iter(frames)
    if (first := next(frames, None)) is None:
        raise ValueError("frames: at least one frame was expected, got none (does the environment render 'rgb_array'?)")
    _check(first, None)
    height, width = _even(first).shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,  # pyright: ignore[reportArgumentType]  (its types are guessed from defaults)
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=1,
        quality=None,  # pyright: ignore[reportArgumentType]
        output_params=["-crf", "20", "-preset", "veryfast", "-movflags", "+faststart"],
    )
    with closing(writer):
        writer.send(None)
        for frame in chain([first], frames):
            _check(frame, first.shape)
            try:
                writer.send(_even(frame).tobytes())
            except OSError as error:  # ffmpeg has ended already
                raise OSError(errno.EIO, UNFINISHED) from error


def _check(frame: np.ndarray, shape: tuple[int, ...] | None) -> None:
    """The first frame may have any size, the others have its shape."""
    fits = frame.shape == shape if shape else frame.ndim == 3 and frame.shape[2] == 3
    if frame.dtype != np.uint8 or not fits:
        raise ValueError(f"frames: uint8 {shape or '[H W 3]'} was expected, got {frame.dtype} {frame.shape}")


def _even(frame: np.ndarray) -> np.ndarray:
    """Repeat the last row and column where a side is odd: 5 x 4 becomes 6 x 4."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else frame
