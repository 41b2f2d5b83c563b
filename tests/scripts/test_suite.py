"""Laws of ``tdmpc suite``: all runs are brought to their end, whatever happens to some of them."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tdmpc import checkpoint, runs
from tdmpc.scripts.csv_tables import write_table
from tdmpc.scripts.suite import SUMMARY, summary_row
from tdmpc.scripts.suite_spec import Run
from tdmpc.scripts.suite_worker import carry_out
from tests.scripts.conftest import SMALL
from tests.tdmpc.conftest import file_limit

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--random-steps=20", "--pretrain-updates=8", "--eval-episodes=1", "--max-episode-steps=40"]
TRAIN = " ".join([*SMALL, *SHORT, "--terminates=False"])


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / SUMMARY).open(newline="") as file:
        return list(csv.DictReader(file))


def write_suite(path: Path, *, env_steps: int) -> Path:
    path.write_text(
        f"""
        name = "try"
        seeds = [0]
        output = "{path.parent / "out"}"
        options = "{TRAIN} --checkpoint-every=20"
        cpus = 1.5
        [tasks]
        Pendulum-v1 = ""
        [methods]
        bad = "--model.value-heads=0"
        good = "--env-steps={env_steps}"
        [then]
        figures = "evaluate {{run}} --episodes=1 --threads=1 --json"
        timing = {{ options = "evaluate {{run}} --episodes=1 --threads=1 --json", alone = true }}
        """
    )
    return path


def workers() -> list[int]:
    """Processes in which runs go on; Ray gives them the run's name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"Pendulum-v1/good" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # gone meanwhile
            continue
    return found


@pytest.mark.slow
def test_a_suite_survives_a_killed_worker_and_a_failing_run(tmp_path: Path, fails: Callable[..., str]) -> None:
    """A worker killed in mid-run costs nothing, a failing run stops no other, and resuming makes nothing again."""
    spec = write_suite(tmp_path / "try.toml", env_steps=240)
    command = [sys.executable, "-m", "tdmpc.scripts.main", "suite", str(spec), "--workers=1"]
    folder = tmp_path / "out" / "Pendulum-v1" / "good-0"
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not runs.has_checkpoint(folder) or checkpoint.load(folder, prefixes=("none",)).meta["env_steps"] < 40:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        assert not (folder / runs.SUMMARY).exists(), "the run is to be killed in its middle"
        (pid,) = workers()
        os.kill(pid, signal.SIGKILL)
        said = process.communicate()[1]
    assert process.returncode == 1, said
    assert "bad-0 failed: 'tdmpc train Pendulum-v1" in said and "--model.value-heads must be at least 1" in said
    assert "restored checkpoint" in (folder.parent / "good-0.log").read_text()
    rows = rows_of(tmp_path / "out")
    assert [(row["method"], row["seed"], row["status"]) for row in rows] == [
        *[("bad", "0", "failed"), ("good", "0", "finished")],
    ]
    assert float(rows[1]["env_steps"]) == 240
    assert rows[1]["figures.return_mean"] == rows[1]["timing.return_mean"] != ""

    assert "--resume" in fails("suite", str(spec))
    ends = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    part = subprocess.run([*command, "--resume", "--only", "*/good-0"], cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert part.returncode == 0, part.stderr
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == ends
    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["failed", "finished"]
    assert "no run is called so" in fails("suite", str(spec), "--resume", "--only", "*/better-*")


def test_a_gpu_that_is_not_there_is_asked_for_in_vain(tmp_path: Path, fails: Callable[..., str]) -> None:
    """A suite whose runs take more GPUs than the machine has says so, rather than waiting for them."""
    spec = write_suite(tmp_path / "try.toml", env_steps=400)
    spec.write_text(spec.read_text().replace("cpus = 1.5", "gpus = 64"))
    assert "takes 64 GPUs" in fails("suite", str(spec))


def run_in(folder: Path, *start: str) -> Run:
    return Run(task="toy", method="good", seed=0, folder=folder, start=start)


def test_a_step_s_output_is_whole_or_not_there(trained: Path, tmp_path: Path) -> None:
    """A failing step leaves no output behind, and is taken again the next time; one that is done is not."""
    folder = tmp_path / "run"
    folder.symlink_to(trained)
    run = run_in(folder, "train")
    assert "ended with status 2" in carry_out(run, {"broken": ["evaluate", "{run}", "--episodes=0"]}, None)
    assert not list(folder.glob("broken.*"))
    assert carry_out(run, {"whole": ["envs", "Pendulum"]}, None) == ""
    (folder / "whole.json").write_text("as it was")
    assert carry_out(run, {"whole": ["envs", "Pendulum"]}, None) == ""
    assert (folder / "whole.json").read_text() == "as it was"
    (folder / "whole.json").unlink()


def test_a_suite_that_finds_no_room_is_one_line(tmp_path: Path, fails: Callable[..., str]) -> None:
    """A summary that cannot be written stops a suite with the path; a run's log fails that run alone."""
    spec = write_suite(tmp_path / "try.toml", env_steps=400)
    with file_limit(50):
        assert fails("suite", str(spec)).startswith(f"{tmp_path / 'out' / SUMMARY}: File too large. ")
    (tmp_path / "run.log").mkdir()
    assert f"Is a directory: '{tmp_path / 'run.log'}'" in carry_out(run_in(tmp_path / "run", "train"), {}, None)


def test_what_has_no_source_is_not_pruned(tmp_path: Path) -> None:
    """A run that prunes one that failed, or is not finished, fails without being begun."""
    run = run_in(tmp_path / "run", "prune").model_copy(update={"source": tmp_path / "source"})
    (tmp_path / "source").mkdir()
    runs.write_json(tmp_path / "source" / runs.SUMMARY, {})
    assert f"{tmp_path / 'source'} is not there to be pruned" in carry_out(run, {}, "it failed")
    (tmp_path / "source" / runs.SUMMARY).unlink()
    assert f"{tmp_path / 'source'} is not there to be pruned" in carry_out(run, {}, None)
    assert not run.folder.exists()


def test_a_row_has_the_figures_of_all_steps(tmp_path: Path) -> None:
    """A row tells the summary's figures by their names, those of steps behind the step's name, lists by number."""
    runs.write_json(tmp_path / runs.SUMMARY, {"return_mean": 3.5, "layers": [1]})
    runs.write_json(tmp_path / "latency.json", [{"p50_ms": 1.5}, {"p50_ms": 2.5}])
    row = summary_row(run_in(tmp_path, "train", "a b"), "finished")
    assert row == {
        **{"task": "toy", "method": "good", "seed": 0, "status": "finished", "command": "tdmpc train 'a b'"},
        **{"return_mean": 3.5, "latency.0.p50_ms": 1.5, "latency.1.p50_ms": 2.5},
    }


def test_a_table_has_every_column(tmp_path: Path) -> None:
    """Rows may differ in what they know."""
    write_table(tmp_path / SUMMARY, [{"a": 1}, {"a": 2, "b": 3}])
    assert rows_of(tmp_path) == [{"a": "1", "b": ""}, {"a": "2", "b": "3"}]
