"""What is installed fits what is declared, and what is missing says how to mend it."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


def lock() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def declared() -> list[Requirement]:
    """The direct dependencies that set-up installs on this Python: base and all extras but those of other tools."""
    extras = [lines for name, lines in PROJECT["optional-dependencies"].items() if name not in ("docs", "leapp")]
    found = [Requirement(line) for line in [*PROJECT["dependencies"], *chain.from_iterable(extras)]]
    return [requirement for requirement in found if requirement.name != PROJECT["name"] and applies(requirement)]


def run_python(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def run_without(module: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code where a module looks as if it were not installed."""
    return run_python("-c", f"import sys; sys.modules[{module!r}] = None; {code}")


def test_lock_is_exact() -> None:
    """The lock pins each distribution once, to one public version, from no particular place."""
    pins = lock()
    assert len({canonicalize_name(pin.name) for pin in pins}) == len(pins)
    assert [str(pin) for pin in pins if not re.fullmatch(r"==[\w.]+", str(pin.specifier)) or pin.url] == []


def test_lock_fits_what_is_declared() -> None:
    """Every direct dependency is pinned, at a version within the range that pyproject.toml declares."""
    pins = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in lock() if applies(pin)}
    misfits = [
        str(requirement)
        for requirement in declared()
        if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]
    assert misfits == []


def test_lock_is_complete() -> None:
    """Set-up leaves no requirement open, but for labmaze, which has no wheel from Python 3.13 on."""
    complaints = run_python("-m", "pip", "--disable-pip-version-check", "check").stdout.splitlines()
    known = {"No broken requirements found."} if sys.version_info < (3, 13) else {"labmaze, which is not installed."}
    assert [line for line in complaints if not any(line.endswith(text) for text in known)] == []


@pytest.mark.parametrize("package", ["compression", "deploy", "scripts"])
def test_folders_of_one_s_own_do_no_harm(package: str, tmp_path: Path) -> None:
    """Beside folders that are called as ours are, the command and the controller are those of this checkout."""
    for name in ("compression", "deploy", "scripts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError('not this one')")
    code = f"import tdmpc.scripts.main, tdmpc.deploy.controller, tdmpc.{package} as ours; print(ours.__file__)"
    found = run_python("-c", code, folder=tmp_path)
    assert Path(found.stdout.strip()).resolve() == ROOT / package / "__init__.py", found.stderr


def test_tdmpc_without_its_extra_says_what_to_install() -> None:
    """Where PyTorch is missing, tdmpc can be imported, and a name of its training half ends with the pip line."""
    result = run_without("torch", "import tdmpc; assert tdmpc.__version__; tdmpc.train")
    last = result.stderr.strip().splitlines()[-1:]
    assert result.returncode == 1
    assert [line for line in last if line.startswith("ImportError") and "pip install 'tdmpc[train]'" in line], last


def test_the_interface_loads_what_is_used() -> None:
    """``import tdmpc`` loads no third-party package; each public name is where it says; others are refused."""
    light = "import sys, tdmpc; assert not {'torch', 'numpy', 'tyro'} & set(sys.modules)"
    assert run_python("-c", light).returncode == 0
    import tdmpc

    assert {name: getattr(tdmpc, name).__name__ for name in tdmpc.HOME} == {name: name for name in tdmpc.HOME}
    assert set(dir(tdmpc)) == {*tdmpc.HOME, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'tain': there are PruneConfig, "):
        _ = tdmpc.tain


def test_deploy_needs_no_torch() -> None:
    """Importing deploy works where PyTorch is missing."""
    result = run_without("torch", "import tdmpc.deploy")
    assert result.returncode == 0, result.stderr


def test_a_robot_draws_its_latencies() -> None:
    """The figure of latencies asks for neither PyTorch nor pandas."""
    result = run_without("torch", "sys.modules['pandas'] = None; import tdmpc.scripts.report.latency")
    assert result.returncode == 0, result.stderr


def test_shape_checks_reach_the_modules(pytestconfig: pytest.Config) -> None:
    """Where shape checks are asked for, the modules that state shapes are loaded by jaxtyping."""
    if not pytestconfig.getoption("shape_checks"):
        pytest.skip("asked for with --shape-checks")
    spec = find_spec("tdmpc.spec")
    assert spec is not None
    assert type(spec.loader).__module__.startswith("jaxtyping")


def test_one_console_command() -> None:
    """The project installs one command, `tdmpc`."""
    assert PROJECT["scripts"] == {"tdmpc": "tdmpc.scripts.main:main"}


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns(".*", "runs", "results", "build", "dist", "mutants", "__pycache__")
    return shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=ignored)


@pytest.mark.slow
def test_the_wheel_holds_what_it_needs(source: Path, tmp_path: Path) -> None:
    """A wheel, unpacked away from the checkout, imports and knows its commands. It brings no tests, results or
    experiments, and building it leaves nothing behind."""
    before = files(source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path / "wheel"))
    built = run_python("-m", "pip", "wheel", *options, str(source), folder=tmp_path)
    assert built.returncode == 0, built.stderr
    assert files(source) == before
    (wheel,) = (tmp_path / "wheel").glob("tdmpc-*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    found = run_python("-m", "tdmpc.scripts.main", "--help", folder=installed)
    assert found.returncode == 0 and "train" in found.stdout, found.stderr
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"tdmpc"}
    assert not list(installed.rglob("experiments"))
    for module in ("tdmpc.deploy", "tdmpc.compression.tdmpc_agent.hook"):
        found = run_python("-c", f"import {module} as module; print(module.__file__)", folder=installed)
        assert found.stdout.startswith(str(installed)), found.stderr


def test_a_source_distribution_needs_no_links(source: Path, tmp_path: Path) -> None:
    """A source distribution holds every module below ``tdmpc``, where the checkout has links."""
    built = run_python("-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path / "dist"), folder=source)
    assert built.returncode == 0, built.stderr
    (archive,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {Path(*Path(name).parts[1:]) for name in file.getnames()}
    linked = {
        Path("tdmpc", package, path)
        for package in ("compression", "deploy", "scripts")
        for path in files(source / package)
    }
    assert linked and linked <= held
