"""Laws of ``tdmpc autoencoder``: the compression code serves a second user."""

import csv
import gzip
import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tdmpc.compression.records import EVENTS, IMPORTANCE, read
from tdmpc.config import ConfigError
from tdmpc.scripts.autoencoder import TABLE
from tdmpc.scripts.autoencoder_model import Autoencoder, Shape, Training, count, psnr, scratch_shape
from tdmpc.scripts.digits import Images, digits, mnist
from tdmpc.scripts.main import main

SHAPE = Shape(encoder=(12, 8), latent=6, decoder=(8, 12))
SMALL = ["--shape.encoder=12", "--shape.latent=6", "--shape.decoder=12", "--steps=30", "--prune.events=3"]


def idx(folder: Path, name: str, pictures: int, *, magic: int = 0x803, side: int = 4) -> Path:
    path = folder / name
    content = struct.pack(">4I", magic, pictures, side, side) + bytes(range(pictures * side * side % 256)).ljust(
        pictures * side * side, b"\xff"
    )
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def toy(pixels: int = 16) -> Images:
    pictures = torch.rand(60, pixels)
    return Images(pictures[:40], pictures[40:50], pictures[50:], side=4)


def test_digits_are_pictures() -> None:
    """scikit-learn's 1,797 digits come in three parts, always the same, with values from 0 to 1."""
    images = digits()
    assert sum(len(part) for part in images[:3]) == 1797
    assert all(part.min() == 0 and part.max() == 1 for part in images[:3])
    assert torch.equal(images.test, digits().test)


def test_mnist_is_read_packed_or_not(tmp_path: Path) -> None:
    """IDX files are read as they are or packed, bytes as shares of 255, the first 1,000 pictures held out."""
    idx(tmp_path, "train-images-idx3-ubyte.gz", 1003)
    idx(tmp_path, "t10k-images-idx3-ubyte", 2)
    images = mnist(tmp_path)
    assert [len(part) for part in images[:3]] == [3, 1000, 2] and images.side == 4
    torch.testing.assert_close(images.test[0, :3], torch.tensor([0.0, 1 / 255, 2 / 255]))


def test_what_is_no_mnist_is_refused(tmp_path: Path) -> None:
    """A missing file, a file of something else and one cut short are each named."""
    with pytest.raises(ConfigError, match="has no train-images-idx3-ubyte"):
        mnist(tmp_path)
    path = idx(tmp_path, "train-images-idx3-ubyte", 3, magic=0x801)
    with pytest.raises(ConfigError, match="is no IDX file of pictures"):
        mnist(tmp_path)
    idx(tmp_path, path.name, 3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="or is cut short"):
        mnist(tmp_path)


def test_every_unit_is_in_the_table() -> None:
    """The groups' costs are the model's parameters, and each hidden unit and latent coordinate is on an axis."""
    groups = Autoencoder(SHAPE, 16).groups
    assert groups.widths == {"encoder.0": 12, "encoder.1": 8, "decoder.0": 8, "decoder.1": 12, "latent": 6}
    assert groups.cost("parameters") == count(SHAPE, 16)
    assert groups["latent"].owners == ["encoder", "decoder"] and groups["encoder.0"].shared_by == 1


def test_a_dense_training_can_be_watched(tmp_path: Path) -> None:
    """With --prune.observe the dense training, too, leaves the scores by all criteria, and loses nothing."""
    folder = tmp_path / "out"
    options = ["--criteria", "l2", "--targets", "0.5", "--prune.observe", f"--run-dir={folder}"]
    assert main(["autoencoder", *SMALL, *options]) == 0
    for run in ("dense-0-0", "l2-0.5-0"):
        assert all("taylor" in shot["criteria"] for shot in read(folder / run / IMPORTANCE))
    assert read(folder / "dense-0-0" / EVENTS) == [] != read(folder / "l2-0.5-0" / EVENTS)


def test_dead_units_go_unnoticed() -> None:
    """Removing units whose outputs nobody reads leaves the reconstructions as they are, in any component."""
    training = Training(SHAPE, toy(), 1e-3)
    keep = {"encoder.1": [0, 2, 3, 4, 6, 7], "latent": [1, 2, 3, 5], "decoder.0": [0, 1, 2, 3, 5, 6, 7]}
    with torch.no_grad():
        for reader, name in ((training.model.encoder[4], "encoder.1"), (training.model.decoder[0], "latent")):
            dead = [unit for unit in range(training.groups.widths[name]) if unit not in keep[name]]
            reader.weight[:, dead] = 0
        training.model.decoder[2].weight[:, 4] = 0
        smaller = training.shrunk({name: torch.tensor([units]) for name, units in keep.items()})
        pictures = training.images.test
        torch.testing.assert_close(smaller.model(pictures), training.model(pictures), atol=1e-6, rtol=0)
    assert smaller.model.shape == Shape((12, 6), 4, (7, 12))


def test_training_goes_on_with_its_moments() -> None:
    """After a cut the optimiser holds the moments of what stayed, and the larger training is as it was."""
    training = Training(SHAPE, toy(), 1e-3)
    training.update(training.images.train, None)
    before = [parameter.clone() for parameter in training.model.parameters()]
    smaller = training.shrunk({"decoder.1": torch.tensor([[0, 5, 11]])})
    moment, cut = (one.optimizer.state[one.parameters()["decoder.2.weight"]]["exp_avg"] for one in (training, smaller))
    torch.testing.assert_close(cut, moment[[0, 5, 11]])
    smaller.update(smaller.images.train, None)
    assert all(torch.equal(old, new) for old, new in zip(before, training.model.parameters(), strict=True))


def test_psnr_by_hand() -> None:
    """Pictures that are off by 0.1 everywhere have 20 dB."""

    class Off(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.1

    assert psnr(Off(), torch.rand(5, 9)) == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("target", [0.3, 0.9])
def test_the_reference_is_no_larger(target: float) -> None:
    """The model that is small from the start has at most what pruning leaves, and is not much smaller."""
    dense, pixels = Shape(), 64
    most = (1 - target) * count(dense, pixels)
    assert 0.9 * most < count(scratch_shape(dense, pixels, target), pixels) <= most


def test_all_criteria_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each training has a row, reaches its target within a few units, and is in the pictures and on the page."""
    folder = tmp_path / "out"
    options = ["--criteria", "fisher", "l2", "--targets", "0.5", "0.8", "--seeds", "0", "1", f"--run-dir={folder}"]
    assert main(["autoencoder", *SMALL, *options]) == 0
    with (folder / TABLE).open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 * (1 + 3 * 2)
    for row in table:
        assert math.isfinite(float(row["psnr"]))
        assert float(row["parameters_left"]) == pytest.approx(1 - float(row["target"]), abs=0.06)
    names = {path.name for path in folder.glob("*.png")}
    always = {"psnr", "reconstructions", "units", "widths", "outcome", "events", "importance-fisher", "importance-l2"}
    assert names == {f"{name}.png" for name in always}
    assert "fisher" in (folder / "report.html").read_text() and str(folder / "report.html") in capsys.readouterr().out
    snapshots = read(folder / "fisher-0.8-1" / IMPORTANCE)
    assert snapshots[0]["axes"].keys() == {"encoder.0", "decoder.0", "latent"}
    assert read(folder / "l2-0.5-0" / EVENTS)[-1]["decision"] == "kept"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--steps=0", "--steps must be positive, got 0"),
        ("--targets=1.2", "--prune.target must be at least 0 and below 1, got 1.2"),
        ("--targets=0.999", "--prune.target 0.999 cannot be reached"),
        ("--mnist=/nowhere", "--mnist: /nowhere has no train-images-idx3-ubyte"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, fails: Callable[..., str], option: str, message: str) -> None:
    """Settings that cannot work are one clear line before any training."""
    assert message in fails("autoencoder", *SMALL, f"--run-dir={tmp_path / 'out'}", option)
    assert not (tmp_path / "out").exists()


def test_without_scikit_learn_it_says_what_to_install(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where scikit-learn is missing, the line that installs it is told."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    told = fails("autoencoder", f"--run-dir={tmp_path / 'out'}")
    assert told == "the digits come with scikit-learn: pip install 'tdmpc[train]'"
