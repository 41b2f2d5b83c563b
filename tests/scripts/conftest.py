"""The command line on a toy environment, in this process; and one trained run to look at."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tdmpc.scripts.main import main
from tests.conftest import Shared
from tests.tdmpc.conftest import TOY, registered

WIDTHS = [f"--model.{name}=8" for name in ("encoder", "dynamics", "reward", "termination", "policy", "value")]
PLANNER = ["horizon=3", "samples=16", "policy-trajectories=4", "elites=4", "iterations=2"]
SMALL = [
    *WIDTHS,
    *(f"--planner.{setting}" for setting in PLANNER),
    *("--model.latent=8", "--loss.horizon=3", "--batch-size=16", "--precision=float32", "--threads=1"),
]
TINY = [
    *SMALL,
    "--env-steps=60",
    "--random-steps=20",
    "--pretrain-updates=8",
    "--eval-episodes=2",
    "--terminates=False",
]


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    """Register the toy environment for a test; those of other folders have toys of their own."""
    with registered():
        yield


@pytest.fixture
def pictures() -> None:
    """A test that asks for this has its trainings draw, as they do for users."""


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' trainings end without pictures, which take as long as all the rest; ``trained`` has them."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("tdmpc.scripts.train.write_report", lambda folder: [])


@pytest.fixture(scope="session")
def original(shared: Shared) -> Path:
    """The finished run of which each worker has a copy: a command that is refused may still lock it."""

    def make(folder: Path) -> None:
        with registered():
            assert main(["train", TOY, *TINY, f"--run-dir={folder / 'trained'}"]) == 0

    return shared("run", make) / "trained"


@pytest.fixture(scope="session")
def trained(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests read it only."""
    return Path(shutil.copytree(original, tmp_path_factory.mktemp("runs") / "trained"))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``fails("train", "Pendulun-v1")``: the one line on standard error with which a command exits 2."""

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
        return captured.err.removeprefix("error: ").rstrip()

    return run


@pytest.fixture(scope="session")
def exported(original: Path, shared: Shared) -> Path:
    """The bundle of the finished run; tests read it only."""

    def make(folder: Path) -> None:
        with registered():
            assert main(["export", str(original), f"--out={folder / 'trained'}"]) == 0

    return shared("bundle", make) / "trained"
