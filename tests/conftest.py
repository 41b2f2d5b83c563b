"""Every test starts alike: one thread, the same random numbers, no screen, no network.

``--shape-checks`` has the shapes in signatures checked, once for each kind of call.
"""

import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from ctypes.util import find_library
from pathlib import Path

# Before anything reads them; processes that a test starts inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than free cores spin at barriers
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "offline")
if sys.platform == "linux" and find_library("EGL"):  # named but missing, it would break even the import of dm_control
    os.environ.setdefault("MUJOCO_GL", "egl")

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch
from filelock import FileLock

from tests import shapes, stand_in

# No deadline: a neighbour on the same cores is no failure. Derandomised: the same commit gives the same result.
hypothesis.settings.register_profile("tdmpc", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tdmpc")
# In a mutation run, a failing example is enough: it is neither made smaller nor explained.
FOUND = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
hypothesis.settings.register_profile("mutation", parent=hypothesis.settings.get_profile("tdmpc"), phases=FOUND)


ROOT = Path(__file__).resolve().parents[1]
CHECKER = "tests.shapes.by_beartype"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shape-checks", action="store_true", help="check the shapes in signatures, for each kind of call"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the modules that state shapes; none of them is imported yet."""
    if config.getoption("shape_checks"):
        files = [file for package in ("tdmpc", "compression", "deploy") for file in (ROOT / package).rglob("*.py")]
        stating = [file for file in files if "from jaxtyping import" in file.read_text()]
        modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in stating]
        modules = [name if name.startswith("tdmpc.") else f"tdmpc.{name}" for name in modules]
        early = [module for module in modules if module in sys.modules]
        if early:
            raise pytest.UsageError(
                f"{', '.join(early)} imported before their shapes could be checked: name no path below tests/, use -k"
            )
        jaxtyping.jaxtyped = shapes.jaxtyped  # by this name the hook asks for it
        jaxtyping.install_import_hook(modules, CHECKER)


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Give each test the same random numbers and one thread, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that draw from the global generator
    torch.manual_seed(0)
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and start slow tests first, half of them in each half.

    Work stealing hands each of two workers one half. Neighbours stay together: they have what they need in common.
    """
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    first, middle = len(slow) // 2, len(quick) // 2
    items[:] = [*slow[:first], *quick[:middle], *slow[first:], *quick[middle:]]


Shared = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """``shared("bundle", make)``: a folder that the first worker to ask for it makes, and all of them read."""
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    place.mkdir(exist_ok=True)

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        made, done = place / name, place / f"{name}.done"
        with FileLock(place / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(made, ignore_errors=True)  # what a worker left that failed
                made.mkdir()
                make(made)
                done.touch()
        return made

    return folder


@pytest.fixture(params=[stand_in.NAME, pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a test computes: on a GPU, and in any case on the device that stands in for one."""
    with stand_in.in_use() if request.param == stand_in.NAME else nullcontext():
        yield request.param


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the stand-in known, where tests need it, before any of them runs."""
    if any("device" in getattr(item, "fixturenames", ()) for item in session.items):
        stand_in.register()


@pytest.fixture(scope="module")
def offline_wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """W&B silent, without a network, and with its caches away from the home folder."""
    home = tmp_path_factory.mktemp("wandb-home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
            patch.setenv(f"WANDB_{name}_DIR", str(home))
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_MODE", "offline")
        yield
        import wandb

        wandb.teardown()
