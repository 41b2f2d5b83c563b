"""``tdmpc native``: build and run the controller in C++."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from tdmpc import deploy
from tdmpc.deploy.bundle import BundleError, read
from tdmpc.deploy.timing import Row, Times, row
from tdmpc.scripts import ranges
from tdmpc.scripts.latency import TimingArgs

SOURCES = Path(deploy.__file__).parent / "native"
PROGRAM = "tdmpc_controller"


@dataclass(frozen=True)
class Build:
    """Compile the C++ controller against the installed wheels of OpenVINO and nlohmann-json."""

    build_dir: Path = Path("build/native")
    """Where the program is built."""


@dataclass(frozen=True, kw_only=True)
class Run(TimingArgs):
    """Check a bundle's golden plans and time its decisions as ``tdmpc latency`` does. Print JSON."""

    bundle: Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
    build_dir: Path = Path("build/native")
    """Where the program is built."""
    check: bool = False
    """Check the golden plans and time nothing."""


@dataclass(frozen=True)
class Rows:
    """Print the rows of ``tdmpc latency`` for measurements of the C++ controller on a board without Python."""

    samples: Annotated[Positional[Path], tyro.conf.arg(metavar="FILE")]
    """What the controller printed on the board."""


def main(arguments: list[str]) -> int:
    """Parse, build or run."""
    command = tyro.cli(
        Annotated[Build, tyro.conf.subcommand("build")]
        | Annotated[Run, tyro.conf.subcommand("run")]
        | Annotated[Rows, tyro.conf.subcommand("rows")],
        args=arguments,
        prog="tdmpc native",
    )
    if isinstance(command, Rows):
        return _print(command.samples.read_text(), str(command.samples))
    return _build(command) if isinstance(command, Build) else _run(command)


def _build(command: Build) -> int:
    if shutil.which("cmake") is None:
        raise ImportError("building needs CMake and a C++ compiler: pip install cmake; apt-get install g++")
    for step in steps(SOURCES, command.build_dir):
        if subprocess.run(step).returncode != 0:
            raise BundleError(f"the controller in {SOURCES} does not build; what failed is said above")
    print(command.build_dir / PROGRAM)
    return 0


def steps(sources: Path, build_dir: Path) -> list[Sequence[str | Path]]:
    """The commands that configure and build a program of the controller's parts.

    Raises:
        ImportError: OpenVINO is not installed; the message says how to.
    """
    try:
        from openvino.utils import get_cmake_path
    except ImportError as error:
        raise ImportError("building needs OpenVINO: pip install 'tdmpc[native]'") from error
    wheel = find_spec("nlohmann_json")  # without it CMake looks where Debian has it
    headers = [f"-DCMAKE_INCLUDE_PATH={Path(wheel.origin).parent / 'include'}"] if wheel and wheel.origin else []
    configure = ["cmake", "-S", sources, "-B", build_dir, f"-DOpenVINO_DIR={get_cmake_path()}", *headers]
    return [configure, ["cmake", "--build", build_dir]]


def rows(measured: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of ``tdmpc latency`` for what the program measured."""
    return [
        row(each["facts"], Times(**each["times"]), period_ms=each["period_ms"], machine=each["machine"])
        for each in measured
    ]


def _print(output: str, name: str) -> int:
    try:
        print(json.dumps(rows(json.loads(output)), indent=1))
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{name} is not what the program printed ({type(error).__name__}: {error})") from error
    return 0


def _run(command: Run) -> int:
    ranges.check(
        command,
        BundleError,
        positive=["threads", "calls", "periods", "deadline_ms"],
        not_negative=["seconds", "period_ms", "cores"],
    )
    read(command.bundle)
    program = command.build_dir / PROGRAM
    if not program.exists():
        raise BundleError(f"there is no {program}; make it first by: tdmpc native build")
    names = ("threads", "precision", "priority", "calls", "seconds", "period_ms", "periods", "deadline_ms")
    options = {name: getattr(command, name) for name in names} | {"cores": ",".join(map(str, command.cores)) or None}
    given = {name.replace("_", "-"): str(value) for name, value in options.items() if value is not None}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    words += [f"--{name}" for name in ("check", "awake", "pipelined") if getattr(command, name)]
    done = subprocess.run([program, command.bundle, *words], stdout=subprocess.PIPE, text=True)
    if done.returncode == 0 and not command.check:
        return _print(done.stdout, str(program))
    print(done.stdout, end="")
    return done.returncode
