"""Laws of the videos: what goes in comes out, in a file that browsers play, or nothing is written."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from tdmpc.video import write_video


def moving_square(count: int, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    """A grey picture with a red square that moves to the right."""
    for index in range(count):
        frame = np.full((height, width, 3), 128, np.uint8)
        frame[8:24, index : index + 16] = (200, 30, 30)
        yield frame


def read_video(path: Path) -> tuple[str, np.ndarray]:
    """How ffmpeg describes the stream in a file, and its frames."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, check=True)
    stream = next(line for line in result.stderr.decode().splitlines() if "Video: " in line)
    width, height = (int(side) for side in re.findall(r", (\d+)x(\d+)", stream)[0])
    return stream, np.frombuffer(result.stdout, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize("fps", [12.5, 30])
def test_what_is_written_is_read(tmp_path: Path, fps: float) -> None:
    """A generator of frames comes back with its count, size, rate and colours, and no other file stays."""
    path = tmp_path / "episode.mp4"
    write_video(path, moving_square(25), fps)
    stream, frames = read_video(path)
    assert "h264" in stream
    assert "yuv420p" in stream
    assert float(re.findall(r"([\d.]+) fps", stream)[0]) == fps
    expected = np.stack(list(moving_square(25)))
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean() < 5
    assert list(tmp_path.iterdir()) == [path]


def test_odd_sizes_are_padded(tmp_path: Path) -> None:
    """A picture with odd sides gets its last row and column once more, and no warning."""
    write_video(tmp_path / "odd.mp4", list(moving_square(3, height=47, width=63)), 10)
    _, frames = read_video(tmp_path / "odd.mp4")
    assert frames.shape == (3, 48, 64, 3)
    assert np.abs(frames[:, -1].astype(int) - 128).max() < 12


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    """A single frame is enough."""
    write_video(tmp_path / "one.mp4", moving_square(1), 10)
    assert len(read_video(tmp_path / "one.mp4")[1]) == 1


def test_the_index_comes_first(tmp_path: Path) -> None:
    """The index precedes the pictures, so that a browser starts playing before it has the whole file."""
    write_video(tmp_path / "fast.mp4", moving_square(3), 10)
    content = (tmp_path / "fast.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "at least one frame"),
        ([np.zeros((4, 4, 3))], r"uint8 \[H W 3\] was expected, got float64 \(4, 4, 3\)"),
        ([np.zeros((4, 4), np.uint8)], r"uint8 \[H W 3\] was expected, got uint8 \(4, 4\)"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)], r"uint8 \(16, 16, 3\) was expected"),
    ],
    ids=["none", "float", "grey", "changing size"],
)
def test_wrong_frames_are_named(tmp_path: Path, frames: list[np.ndarray], message: str) -> None:
    """Frames that cannot be a video are one error that says what came, and the old file stays as it was."""
    path = tmp_path / "episode.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        write_video(path, frames, 10)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_failing_environment_leaves_nothing(tmp_path: Path) -> None:
    """An error while frames are being made is passed on, and no half video stays."""

    def frames() -> Iterator[np.ndarray]:
        yield from moving_square(3)
        raise RuntimeError("renderer lost")

    with pytest.raises(RuntimeError, match="renderer lost"):
        write_video(tmp_path / "episode.mp4", frames(), 10)
    assert not list(tmp_path.iterdir())


def test_a_file_that_ffmpeg_could_not_finish_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that does not decode (a full disk) is one error and does not replace anything."""
    real = subprocess.Popen

    def truncating(command: list[str], *args: Any, **kwargs: Any) -> Any:
        if "libx264" in command:
            command = [*command[:-1], "-fs", "1", command[-1]]  # ffmpeg ends after the first byte
        return real(command, *args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", truncating)
    with pytest.raises(OSError, match=r"ffmpeg could not write .*episode\.mp4"):
        write_video(tmp_path / "episode.mp4", moving_square(30), 10)
    assert not list(tmp_path.iterdir())
