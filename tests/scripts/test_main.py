"""Laws of the command: every option is explained, every mistake is one line, a stop tells how to go on."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tdmpc.scripts.main
from tdmpc.files import going_on
from tdmpc.scripts.main import COMMANDS, ELSEWHERE, main

ROOT = Path(__file__).resolve().parents[2]

OPTIONS = {
    "train": """--env-steps --seed --preset --device --threads --num-envs --wandb --run-dir --resume --video --precision
        --compile --eval-every --checkpoint-every --model.latent --planner.samples --loss.learning-rate
        --replay.capacity --planner.max-change --perturb.masses --wandb-group --wandb-tags --track --prune.target
        --prune.criterion""",
    "prune": "RUN --target --finetune-steps --criterion --events --keep --no-guard --run-dir --threads --video --wandb",
    "evaluate": "RUN --episodes --policy --seed --video --json --device --threads --precision",
    "robustness": "RUN --only --episodes --seed --out --device --threads",
    "envs": "PATTERN",
    "bench": "--setting --threads --precision --json --rounds --calls --compile --device --profile",
    "report": "RUN --dense --latency",
    "autoencoder": "--criteria --targets --seeds --steps --mnist --run-dir --threads --prune.guard --shape.latent",
    "sparsity": "RUN --tolerance --pq --soft-q --windows --json",
    "plot": "--out --env --title",
    "suite": "SPEC --address --workers --only --resume",
    "results": "collect render",
    "export": """RUN --out --horizon --samples --iterations --elites --policy-trajectories --delay --noise --precision
        --opset        --seed""",
    "validate": """DIR --run --episodes --seed --backend --precision --threads --real-time --latency
        --latency-ms --slowdown --policy --json""",
    "latency": """DIR --torch --torch-horizon --torch-precision --backend --precision --threads --cores --spinning
        --priority --awake --calls --seconds --period-ms --periods --deadline-ms --pipelined --json --plot""",
    "play": "RUN --decide --agents --seconds --seed --push --video",
    "replay": "FILE --bundle --backend --threads --precision --json",
    "native": "build run",
    "demo": "--run-dir --seed --threads",
}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_command_lists_its_parts(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a sub-command, or asked for help, it names each sub-command with what it does."""
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out and text in out for name, text in COMMANDS.items())


def test_every_command_is_tested_for_help() -> None:
    """The law below knows all sub-commands."""
    assert OPTIONS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` of a sub-command exits 0 and names its options."""
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert f"tdmpc {command}" in out
    assert [option for option in OPTIONS[command].split() if option not in out] == []


@pytest.mark.parametrize("command", OPTIONS)
def test_help_ends_with_examples_that_can_be(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` ends with calls of the command, whose options exist."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out, _, examples = capsys.readouterr().out.partition("examples:\n")
    assert examples.startswith(f"  tdmpc {command} ")
    assert [word for word in examples.split() if word.startswith("--") and word not in out] == []


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """``tdmpc --version`` tells the version that is installed."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tdmpc {version('tdmpc')}\n"


@pytest.mark.parametrize(
    ("option", "ours"), [("--total-timesteps=9", "--env-steps"), ("--n_envs", "--num-envs"), ("--gamma", "discount")]
)
def test_options_of_other_projects_are_known(fails: Callable[..., str], option: str, ours: str) -> None:
    """An option that other projects have is refused with the name that it has here."""
    said = fails("train", "Pendulum-v1", option, "9")
    assert said.startswith(option.replace("_", "-").partition("=")[0]) and ours in said


def test_the_names_here_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Every option that a foreign name leads to is one of ``tdmpc train``."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    assert [ours for ours in ELSEWHERE.values() if ours.startswith("--") and ours.split()[0] not in out] == []


@pytest.mark.parametrize("command", ["validate", "train", "play"])
def test_a_robot_is_told_what_it_lacks(command: str) -> None:
    """Where PyTorch is missing, a command that needs it is one line: what it needs, and what a robot can run."""
    program = (
        "import sys; sys.modules['torch'] = sys.modules['gymnasium'] = None; from tdmpc.scripts.main import main; "
    )
    found = subprocess.run(
        [sys.executable, "-c", f"{program}sys.exit(main(['{command}', 'bundle']))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 2 and found.stderr.count("\n") == 1, found.stderr
    assert "pip install 'tdmpc[train,export]'. On a robot there are latency, replay, native" in found.stderr


def test_an_unknown_command_is_one_line(fails: Callable[..., str]) -> None:
    """A command that does not exist is refused, with the one that is meant and where to read on."""
    assert fails("trian") == "there is no command 'trian'. Did you mean 'train'? See: tdmpc --help"
    assert fails("--seed=1", "train") == "there is no command '--seed=1'. See: tdmpc --help"


def test_an_unknown_option_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    """An option that does not exist is named, and the exit status is that of an error."""
    with pytest.raises(SystemExit) as left:
        main(["train", "Pendulum-v1", "--env-stepps=3"])
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert "--env-stepps" in captured.out + captured.err and "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train", "which environment? For example: tdmpc train cartpole-swingup"),
        ("train Pendulun-v1", "unknown environment 'Pendulun-v1'. Did you mean Pendulum-v1"),
        ("train cartpole-swingpu", "Did you mean cartpole-swingup"),
        ("train CartPole-v1", "CartPole-v1: the actions must be a Box"),
        ("train no_such_module:Mine-v0", "cannot import module 'no_such_module'"),
        ("train Pendulum-v1 --env-steps=0", "--env-steps must be at least 1, got 0"),
        ("train Pendulum-v1 --action-repeat=0", "--action-repeat must be at least 1, got 0"),
        ("train --resume=nowhere", "nowhere is no run folder"),
        ("evaluate nowhere", "nowhere holds no checkpoint"),
        ("evaluate nowhere --episodes=0", "--episodes must be positive, got 0"),
        ("evaluate nowhere --seed=-1", "--seed must be 0 or more, got -1"),
        ("evaluate nowhere --threads=-3", "--threads must be 0 or more, got -3"),
        ("bench --rounds=0", "--rounds must be positive, got 0"),
        ("bench --threads=2000", "--threads must be at most 1024, got 2000"),
        ("train Pendulum-v1 --model.latent=1000000000000", "--model.latent must be at most 65536, got 1000000000000"),
        ("envs no-such-thing", "no environment matches 'no-such-thing'"),
        ("bench --setting gigantic", "there is no setting gigantic; there are reference, default"),
    ],
    ids=str.split(
        "none misspelt short discrete module steps repeat resume evaluate episodes seed threads rounds many wide envs "
        "bench"
    ),
)
def test_a_mistake_is_one_line(
    fails: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, says: str
) -> None:
    """What a user can get wrong is one line on standard error with the remedy, exit status 2, and leaves nothing."""
    monkeypatch.chdir(tmp_path)
    assert says in fails(*arguments.split())
    assert not any(tmp_path.iterdir())


def test_all_bad_settings_are_named_at_once(fails: Callable[..., str]) -> None:
    """Several settings that cannot work are refused together."""
    said = fails("train", "Pendulum-v1", "--batch-size=0", "--loss.discount=1.5", "--planner.elites=9999")
    assert "--batch-size must be at least 1, got 0" in said
    assert "--loss.discount must be less than 1, got 1.5" in said
    assert "--planner.elites must be at most the 153 candidates" in said


def command_that_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(_: list[str]) -> int:
        raise error

    monkeypatch.setattr(tdmpc.scripts.main.importlib, "import_module", lambda _: SimpleNamespace(main=fail))


@pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["numpy", "torch"])
@pytest.mark.parametrize("shape", [10**16, (2**40, 2**40)], ids=["large", "beyond counting"])
def test_too_little_memory_is_one_line(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch, make: Callable[..., object], shape: Any
) -> None:
    """What does not fit into memory is one line that names what can be chosen smaller."""
    monkeypatch.setattr(
        tdmpc.scripts.main.importlib, "import_module", lambda _: SimpleNamespace(main=lambda _: make(shape))
    )
    said = fails("train")
    assert said.startswith("there is not enough memory") and "--replay.capacity" in said


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device. Free some space"),
        (errno.EDQUOT, "Disk quota exceeded. Free some space"),
        (errno.EROFS, "Read-only file system. Make it writable or choose another place"),
        (errno.EACCES, "Permission denied. Make it writable or choose another place"),
        (errno.EIO, "Input/output error. Look after the disk"),
        (errno.EISDIR, "Is a directory. Choose another place"),
    ],
)
def test_a_fault_of_the_disk_is_one_line(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    """What a disk refuses is told with path and remedy, and with the command that goes on where it is another one."""
    error = OSError(number, os.strerror(number), "runs/a/metrics.jsonl")
    command_that_raises(monkeypatch, error)
    assert fails("report") == f"runs/a/metrics.jsonl: {remedy}, then run the command again"
    with pytest.raises(OSError, match="metrics"), going_on("tdmpc train --resume runs/a"):
        raise error
    assert fails("train") == f"runs/a/metrics.jsonl: {remedy}, then go on with: tdmpc train --resume runs/a"


def test_a_missing_extra_is_one_line(fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is not installed is told with the line that installs it."""
    command_that_raises(monkeypatch, ImportError("figures need matplotlib: pip install 'tdmpc[train]'"))
    assert fails("train") == "figures need matplotlib: pip install 'tdmpc[train]'"


def test_a_robot_is_told_what_its_command_line_needs(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the controller is installed, a command says what it needs besides."""
    command_that_raises(monkeypatch, ModuleNotFoundError("No module named 'tyro'", name="tyro"))
    assert "on a robot 'tdmpc[deploy,latency]'" in fails("latency")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("agent"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.EBADF, "Bad file"),
        OSError(errno.EPERM, "No right"),
        ImportError("no module x"),
    ],
)
def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """What no user can cause is not dressed up as a mistake of theirs."""
    command_that_raises(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["train"])


@pytest.mark.parametrize("message", ["", "stopped and saved. Go on with: tdmpc train --resume runs/a"])
def test_a_stop_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], message: str) -> None:
    """Ctrl-C is no error: exit status 130, and where something was saved how to go on, in every sub-command."""
    command_that_raises(monkeypatch, KeyboardInterrupt(message))
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == (message + "\n" if message else "")


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, **options
    )


def test_help_needs_no_torch() -> None:
    """The overview and an unknown command answer at once: nothing heavy is imported for them."""
    program = (
        "import sys; from tdmpc.scripts.main import main; main(['--help']); main(['trian'])\n"
        "assert not {'torch', 'gymnasium', 'numpy', 'tyro'} & set(sys.modules), sorted(sys.modules)"
    )
    done = run("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_output_that_finds_no_room_is_one_line() -> None:
    """What is printed to a full disk fails with one line and an exit status, never silently."""
    with Path("/dev/full").open("w") as full:
        program = [sys.executable, "-m", "tdmpc.scripts.main", "envs"]
        done = subprocess.run(program, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    said = "error: standard output: No space left on device. Free some space, then run the command again\n"
    assert done.stderr == said


def test_a_reader_that_leaves_is_no_fault() -> None:
    """``tdmpc envs | head -1`` says nothing on standard error."""
    program = f"{sys.executable} -m tdmpc.scripts.main envs | head -1"
    done = subprocess.run(["sh", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_the_exit_status_leaves_the_process() -> None:
    """As a program of its own, the command gives its status and its one line to the shell."""
    done = run("-m", "tdmpc.scripts.main", "trian", env={**os.environ, "GLIBC_TUNABLES": ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no command 'trian'. Did you mean 'train'? See: tdmpc --help\n"
