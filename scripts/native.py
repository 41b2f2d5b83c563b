"""``tdmpc native``: build and run the controller in C++."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

import deploy
from deploy.bundle import BundleError, read
from scripts import ranges

SOURCES = Path(deploy.__file__).parent / "native"
PROGRAM = "tdmpc_controller"


@dataclass(frozen=True)
class Build:
    """Compile it against the OpenVINO that is installed: headers and libraries are in its wheel."""

    build_dir: Path = Path("build/native")


@dataclass(frozen=True)
class Run:
    """Check a bundle's golden plans and time its decisions as ``tdmpc latency`` does; prints JSON."""

    bundle: Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
    build_dir: Path = Path("build/native")
    check: bool = False
    """Only check the golden plans."""
    threads: int = 1
    precision: Literal["fp32", "auto"] = "fp32"
    """``auto``: bfloat16 where the processor has it."""
    cores: tuple[int, ...] = ()
    """Cores to stay on."""
    priority: int | None = None
    """Real-time priority, 2 to 99 (Linux; needs the right to it)."""
    awake: bool = False
    """Keep the cores out of idle states (Linux; needs the right to it)."""
    calls: int = 1000
    """Timed decisions, at least."""
    seconds: float = 10.0
    """Time spent on them, at least."""
    period_ms: float = 0.0
    """Decide at this period too."""
    periods: int = 3000


def main(arguments: list[str]) -> int:
    """Parse, build or run."""
    command = tyro.cli(
        Annotated[Build, tyro.conf.subcommand("build")] | Annotated[Run, tyro.conf.subcommand("run")],
        args=arguments,
        prog="tdmpc native",
    )
    return _build(command) if isinstance(command, Build) else _run(command)


def _build(command: Build) -> int:
    if shutil.which("cmake") is None:
        raise ImportError("building needs CMake and a C++ compiler: pip install cmake; apt-get install g++")
    try:
        from openvino.utils import get_cmake_path
    except ImportError as error:
        raise ImportError("building needs OpenVINO: pip install 'tdmpc[openvino]'") from error
    configure = ["cmake", "-S", SOURCES, "-B", command.build_dir, f"-DOpenVINO_DIR={get_cmake_path()}"]
    for step in (configure, ["cmake", "--build", command.build_dir]):
        if subprocess.run(step).returncode != 0:
            raise BundleError(f"the controller in {SOURCES} does not build; what failed is said above")
    print(command.build_dir / PROGRAM)
    return 0


def _run(command: Run) -> int:
    ranges.check(
        command, BundleError, positive=["threads", "calls", "periods"], not_negative=["seconds", "period_ms", "cores"]
    )
    read(command.bundle)
    program = command.build_dir / PROGRAM
    if not program.exists():
        raise BundleError(f"there is no {program}; make it first by: tdmpc native build")
    options = {
        "threads": command.threads,
        "precision": command.precision,
        "calls": command.calls,
        "seconds": command.seconds,
        "periods": command.periods,
    }
    if command.period_ms:
        options["period-ms"] = command.period_ms
    if command.priority is not None:
        options["priority"] = command.priority
    if command.cores:
        options["cores"] = ",".join(map(str, command.cores))
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [f"--{name}" for name in ("check", "awake") if getattr(command, name)]
    return subprocess.run([program, command.bundle, *words]).returncode
