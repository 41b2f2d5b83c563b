"""Laws of ``tdmpc train``: what a run leaves behind, how it is gone on with, what is refused."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import pytest
import torch
from matplotlib.image import imread

import tdmpc.scripts.train
from tdmpc import checkpoint, pages, runs
from tdmpc.compression.config import PruneConfig
from tdmpc.config import ConfigError, to_json
from tdmpc.metrics import read_rows
from tdmpc.scripts.main import main
from tdmpc.scripts.report.command import PAGE
from tdmpc.scripts.train import _revision, train
from tdmpc.scripts.train_args import CHANGEABLE, TrackArgs, parse
from tdmpc.spec import EnvSpec
from tdmpc.trainer import Trainer
from tests.scripts.conftest import SMALL, TINY
from tests.tdmpc.conftest import TOY, Toy, file_limit
from tests.tdmpc.outcomes import files_of
from tests.tdmpc.wandb_files import history_of, logs_of, run_of

ROOT = Path(__file__).resolve().parents[2]


def env_steps_in(folder: Path) -> int:
    return checkpoint.load(folder, prefixes=("none",)).meta["env_steps"]


# ---------------------------------------------------------------------------------------------------------- a new run


def test_a_run_leaves_its_record(trained: Path) -> None:
    """A finished run has its settings, metrics, checkpoint, summary, curves and page, and nothing temporary."""
    assert {path.name for path in trained.iterdir() if path.name != ".lock"} == {
        runs.CONFIG,
        runs.METRICS,
        runs.SUMMARY,
        runs.CURVE_TABLE,
        runs.CURVE,
        runs.PANELS,
        PAGE,
        checkpoint.CURRENT,
        checkpoint.PREVIOUS,
        *pages.FOLDERS,
    }
    summary = json.loads((trained / runs.SUMMARY).read_text())
    assert summary["env_steps"] == 60 and summary["wall_s"] > 0 and summary["episodes"] == 2
    rows = read_rows(trained / runs.METRICS)
    assert [(row["kind"], row["env_steps"]) for row in rows] == [
        *(("train", 9 * episode) for episode in range(1, 7)),
        ("eval", 60),
    ]
    assert rows[-1]["return_mean"] == summary["return_mean"] and rows[-1]["return_std"] == summary["return_std"]
    assert imread(trained / runs.CURVE).shape[:2] == (920, 1400)
    assert imread(trained / runs.PANELS).std() > 0


def test_a_run_tells_every_commit_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on with another commit tells both, in their order, and one with the same tells it once."""
    told: list[str | None] = [None]
    for revision in (None, "aaa", "aaa", "bbb", None, "bbb", "aaa"):
        monkeypatch.setattr(runs, "revision", lambda now=revision: now)
        told.append(_revision(told[-1]))
    assert told[1:] == [None, "aaa", "aaa", *["aaa, then bbb"] * 3, "aaa, then bbb, then aaa"]


def test_settings_are_written_resolved(trained: Path) -> None:
    """config.json tells every setting, what the environment told, and the program that the run began with."""
    written = json.loads((trained / runs.CONFIG).read_text())
    config, spec = runs.config(trained), runs.spec(trained)
    parts = {"config": to_json(config), "spec": to_json(spec), "prune": to_json(PruneConfig())}
    parts |= {"track": to_json(TrackArgs()), "preset": "default"}
    assert len(written.pop(runs.SEAL)) == 64
    assert written == json.loads(json.dumps({**parts, "revision": runs.revision()}))
    assert (config.env, config.seed, config.model.dynamics, config.loss.discount) == (TOY, 0, (8,), 0.995)
    assert (spec.observation_dim, spec.action_dim, spec.action_repeat, spec.terminates) == (2, 1, 1, False)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, EnvSpec, Path]]:
    """What a training would have been started with; nothing is trained."""
    calls: list[tuple[Any, EnvSpec, Path]] = []
    monkeypatch.setattr("tdmpc.scripts.train._train", lambda args, spec, folder: calls.append((args, spec, folder)))
    return calls


def test_folders_are_named_after_environment_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parsed: list[Any]
) -> None:
    """Without --run-dir a run goes to runs/ENV-SEED, a second one beside it."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["train", TOY, *TINY, "--seed=3"]) == 0
    assert main(["train", "cartpole-swingup", *TINY]) == 0
    assert [str(folder) for _, _, folder in parsed] == [
        "runs/Toy-v0-3",
        "runs/Toy-v0-3-2",
        "runs/cartpole-swingup-v0-0",
    ]
    args, spec, _ = parsed[-1]
    assert args.config.env == spec.id == "dm_control/cartpole-swingup-v0" and spec.action_repeat == 8


def test_a_preset_is_where_settings_start(tmp_path: Path, parsed: list[Any]) -> None:
    """A preset decides what is not given, and what is given counts."""
    base = ["train", "Pendulum-v1", "--terminates=False", "--batch-size=99"]
    for preset in ("default", "reference"):
        assert main([*base, "--preset", preset, f"--run-dir={tmp_path / preset}"]) == 0
    default, reference = (args.config for args, _, _ in parsed)
    assert reference.model.dynamics == (512, 512) and reference.random_steps == 5000
    assert default.model != reference.model
    assert default.batch_size == reference.batch_size == 99


def test_one_way_to_say_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parsed: list[Any], trained: Path
) -> None:
    """Options, a TOML file and keywords make the same run; options go before the file, the file before the preset."""
    monkeypatch.chdir(tmp_path)
    file, saved = tmp_path / "settings.toml", trained / runs.CONFIG
    file.write_text(
        'env = "Toy-v0"\nterminates = false\nbatch_size = 99\npreset = "reference"\n[planner]\nsamples = 77\n'
        "[prune]\ntarget = 0.5\n"
    )
    options = f"{TOY} --no-terminates --batch-size=99 --preset=reference --planner.samples=77 --prune.target=0.5"
    assert main(["train", *options.replace("--no-terminates", "--terminates=False").split(), "--run-dir=a"]) == 0
    assert main(["train", str(file), "--run-dir=b"]) == 0
    settings = {"batch_size": 99, "terminates": False, "preset": "reference"}
    train(TOY, **settings, planner={"samples": 77}, prune=PruneConfig(target=0.5), run_dir="c")
    train(file, run_dir=Path("d"))
    assert main(["train", str(file), "--batch-size=88", "--run-dir=e"]) == 0
    assert main(["train", str(saved), "--seed=4", "--run-dir=f"]) == 0
    train(runs.config(trained), seed=4, run_dir="g")
    first, *same, narrower, again, whole = (args for args, _, _ in parsed)
    assert (first.config.planner.samples, first.config.random_steps, first.prune.target) == (77, 5000, 0.5)
    assert all((args.config, args.prune) == (first.config, first.prune) for args in same) and len(same) == 3
    assert narrower.config == dataclasses.replace(first.config, batch_size=88)
    assert again.config == whole.config == dataclasses.replace(runs.config(trained), seed=4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"planer": {}}, "there is no setting planer: did you mean planner?"),
        ({"planner": {"sample": 3}}, "there is no setting planner.sample: did you mean planner.samples?"),
        ({"prune": {"total": 3}}, "there is no setting prune.total: there are target, "),
        ({"env_steps": 0}, "--env-steps must be at least 1, got 0"),
        ({"env_steps": "many"}, "--env-steps must be a valid integer, got 'many'"),
    ],
)
def test_settings_that_are_none(parsed: list[Any], settings: dict[str, Any], says: str) -> None:
    """A setting that does not exist is refused by name with the one that is meant, and so is a value it cannot have."""
    with pytest.raises(ConfigError, match=re.escape(says)):
        train(TOY, **settings)
    assert not parsed


def test_a_file_without_settings_is_one_line(tmp_path: Path, fails: Callable[..., str]) -> None:
    """A file of settings that is missing, or is another file, is named with what is expected."""
    (tmp_path / "config.json").write_text("[]")
    for name in ("missing.toml", "config.json"):
        assert f"{tmp_path / name} holds no settings" in fails("train", str(tmp_path / name))


def test_a_delay_makes_windows_longer(tmp_path: Path, parsed: list[Any]) -> None:
    """A model that predicts through a delay learns from windows as much longer, but for other ones asked for."""
    delays = [(), ("--delay=2",), ("--delay", "0", "3"), ("--delay=9",), ("--delay=2", "--loss.horizon=4")]
    for number, delay in enumerate(delays):
        assert main(["train", "Pendulum-v1", "--terminates=False", *delay, f"--run-dir={tmp_path / str(number)}"]) == 0
    assert [args.config.loss.horizon for args, _, _ in parsed] == [3, 5, 6, 8, 4]


@pytest.fixture
def endless() -> Iterator[None]:
    """Toys whose episodes never end."""

    class Endless(Toy):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return *super().step(action)[:3], False, {}

    gym.register("Endless-v0", entry_point=Endless)
    yield
    del gym.registry["Endless-v0"]


@pytest.mark.usefixtures("endless")
def test_an_environment_without_end_needs_a_limit(
    tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a time limit it is refused before a folder is made; with one, training, evaluation, a run that goes on
    and a later evaluation all cut episodes there.
    """
    folder = tmp_path / "run"
    command = ["train", "Endless-v0", *TINY, f"--run-dir={folder}"]
    assert "--max-episode-steps" in fails(*command) and not folder.exists()
    assert main([*command, "--max-episode-steps=7"]) == 0
    assert main(["train", "--resume", str(folder), "--env-steps=80"]) == 0
    assert {row["length"] for row in read_rows(folder / runs.METRICS) if row["kind"] == "train"} == {7}
    assert (runs.spec(folder).episode_steps, runs.config(folder).max_episode_steps) == (7, 7)
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--episodes=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["diverged"] == 0
    assert "max_episode_steps cannot change" in fails("train", "--resume", str(folder), "--max-episode-steps=9")


def test_a_run_of_an_older_version_goes_on(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run folder and a checkpoint that know neither time limits nor divergences go on, and that is said."""
    written = json.loads((copied / runs.CONFIG).read_text())
    del written["config"]["max_episode_steps"], written["spec"]["max_episode_steps"], written[runs.SEAL]
    written["spec"]["episode_steps"] = None
    runs.write_json(copied / runs.CONFIG, written)
    saved = checkpoint.load(copied)
    meta = {name: value for name, value in saved.meta.items() if not name.startswith("diverged")}
    checkpoint.save(copied, saved.tensors, {**meta, "spec": written["spec"], "config": written["config"]})
    assert main(["train", "--resume", str(copied), "--env-steps=80"]) == 0
    assert "no time limit of Toy-v0 is known" in caplog.text
    assert main(["evaluate", str(copied), "--episodes=1"]) == 0


def test_a_fault_of_the_environment_is_one_line(
    tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an environment's program raises is one line on standard error, in training and in evaluation."""
    folder = tmp_path / "run"
    assert main(["train", TOY, *TINY, f"--run-dir={folder}"]) == 0
    monkeypatch.setattr(Toy, "step", lambda *_: [][0])
    says = "Toy-v0 failed in decision 1 of an episode: IndexError: list index out of range ("
    assert fails("evaluate", str(folder)).startswith(says)
    assert fails("train", TOY, *TINY, f"--run-dir={tmp_path / 'another'}").startswith(says)


def test_an_existing_folder_is_refused(trained: Path, fails: Callable[..., str]) -> None:
    """A folder with a run in it is never overwritten; the error says how to go on with it."""
    before = files_of(trained)
    said = fails("train", TOY, *TINY, f"--run-dir={trained}")
    assert f"tdmpc train --resume {trained}" in said
    assert files_of(trained) == before


def test_an_unwritable_folder_is_refused(tmp_path: Path, fails: Callable[..., str]) -> None:
    """A folder that cannot be made is one line, before anything is trained."""
    (tmp_path / "file").touch()
    assert "cannot write into" in fails("train", TOY, *TINY, f"--run-dir={tmp_path / 'file' / 'run'}")


# ------------------------------------------------------------------------------------------------------------- resume


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to go on with."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_can_be_made_longer(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    """--resume with a longer run goes on from the last checkpoint, says what was restored, and keeps its record."""
    caplog.set_level("INFO")
    assert main(["train", "--resume", str(copied), "--env-steps=80"]) == 0
    assert "restored checkpoint.safetensors: step 60 of 80, 48 updates, 60 transitions, both optimisers" in caplog.text
    assert json.loads((copied / runs.SUMMARY).read_text())["env_steps"] == env_steps_in(copied) == 80
    rows = [(row["kind"], row["env_steps"]) for row in read_rows(copied / runs.METRICS)]
    assert rows[-4:] == [("eval", 60), ("train", 63), ("train", 72), ("eval", 80)]


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training does nothing, once it has begun."""
    for name in (
        "tdmpc.scripts.train.Trainer.run",
        "tdmpc.scripts.train.Trainer.evaluate",
        "tdmpc.scripts.train._conclude",
    ):
        monkeypatch.setattr(name, lambda *_, **__: None)


@pytest.mark.usefixtures("untrained")
def test_a_changed_length_is_kept(copied: Path) -> None:
    """What was changed with --resume holds for the next --resume too, which the message of a stop asks for."""
    assert main(["train", "--resume", str(copied), "--env-steps=80"]) == 0
    assert runs.config(copied).env_steps == 80


@pytest.mark.usefixtures("untrained")
def test_a_short_name_is_the_same_environment(tmp_path: Path) -> None:
    """--resume beside the name that the run was started with is no change."""
    assert main(["train", "cartpole-swingup", *TINY, f"--run-dir={tmp_path / 'run'}"]) == 0
    assert main(["train", "cartpole-swingup", "--resume", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [(["--seed=5"], "seed"), (["--batch-size=9", "--loss.rho=0.1"], "batch_size, loss"), (["Pendulum-v1"], "env")],
)
def test_what_a_run_has_learned_with_cannot_change(
    copied: Path, fails: Callable[..., str], change: list[str], named: str
) -> None:
    """Settings that are part of what a run learned are refused by name; those that may change are named."""
    said = fails("train", *change, "--resume", str(copied))
    assert said.startswith(f"{named} cannot change when a run goes on; only checkpoint_every, ")
    assert all(name in said for name in CHANGEABLE)
    assert env_steps_in(copied) == 60


def test_what_is_no_run_is_refused(tmp_path: Path, fails: Callable[..., str]) -> None:
    """--resume of a folder of another program is one line."""
    (tmp_path / runs.CONFIG).write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert f"{tmp_path} is no run folder" in fails("train", "--resume", str(tmp_path))


class Spoilt(NamedTuple):
    """A run that cannot be gone on with."""

    spoil: Callable[[Path], Any]
    says: str


def cut_checkpoints(folder: Path) -> None:
    for name in (checkpoint.CURRENT, checkpoint.PREVIOUS):
        (folder / name).write_bytes((folder / name).read_bytes()[:100])


def break_metrics(folder: Path) -> None:
    lines = (folder / runs.METRICS).read_text().splitlines(keepends=True)
    (folder / runs.METRICS).write_text("".join([*lines[:2], "torn\n", *lines[2:]]))


def lose_pages(folder: Path) -> None:
    for name in pages.FOLDERS:
        shutil.rmtree(folder / name)


SPOILT = {
    "no checkpoint": Spoilt(cut_checkpoints, "no checkpoint in"),
    "no rows": Spoilt(lose_pages, "No such file or directory"),
    "a broken line": Spoilt(break_metrics, "metrics.jsonl, line 3: this is no row of metrics"),
}


@pytest.mark.parametrize("case", SPOILT.values(), ids=SPOILT.keys())
def test_a_run_that_cannot_go_on_stays_as_it_is(copied: Path, fails: Callable[..., str], case: Spoilt) -> None:
    """What --resume refuses is one line, and nothing of the run is changed: all is read before anything is written."""
    case.spoil(copied)
    before = files_of(copied)
    assert case.says in fails("train", "--resume", str(copied), "--env-steps=80")
    assert files_of(copied) == before


def test_a_run_of_another_process_stays_as_it_is(copied: Path, fails: Callable[..., str]) -> None:
    """While a process works on a run, --resume by another one is refused and changes nothing, its settings neither."""
    before = files_of(copied)
    with runs.locked(copied):
        said = fails("train", "--resume", str(copied), "--env-steps=80")
    assert said.startswith(f"another process is working on {copied}")
    assert files_of(copied) == before


def test_a_run_is_not_made_shorter_than_it_is(copied: Path, fails: Callable[..., str]) -> None:
    """Fewer --env-steps than were made are refused with their number; as many are taken, as is the run's own length."""
    before = files_of(copied)
    assert "--env-steps must be at least the 60 that" in fails("train", "--resume", str(copied), "--env-steps=59")
    assert files_of(copied) == before
    assert main(["train", "--resume", str(copied), "--env-steps=61"]) == 0
    overshot = json.loads((copied / runs.CONFIG).read_text())
    overshot["config"]["env_steps"] = 55  # as where the decisions of several environments go beyond the end
    runs.write_settings(copied, {name: part for name, part in overshot.items() if name != runs.SEAL})
    assert main(["train", "--resume", str(copied)]) == 0


def evaluations(folder: Path) -> list[int]:
    return [row["env_steps"] for row in read_rows(folder / runs.METRICS) if row["kind"] == "eval"]


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


def die(*_: Any, **__: Any) -> None:
    raise Killed


def die_at_the_summary(path: Path, value: Any) -> None:
    if path.name == runs.SUMMARY:
        raise Killed
    write_json(path, value)


write_json = runs.write_json
SEAMS = {
    "write_curve": (runs, die),
    "write_json": (runs, die_at_the_summary),
    "write_report": (tdmpc.scripts.train, die),
}


@pytest.mark.parametrize("seam", SEAMS)
def test_the_last_evaluation_stands_once(copied: Path, monkeypatch: pytest.MonkeyPatch, seam: str) -> None:
    """Wherever a run is killed between its last evaluation and its end, going on leaves one row; so does going on with
    a finished one, longer or not, with the row that the summary tells. The summary comes last: with it, a run is done.
    """
    (copied / runs.SUMMARY).unlink()
    with monkeypatch.context() as patch:
        owner, dying = SEAMS[seam]
        patch.setattr(owner, seam, dying)
        with pytest.raises(Killed):
            main(["train", "--resume", str(copied), "--env-steps=70", "--eval-every=20"])
    assert evaluations(copied) == [60, 70]
    assert (copied / runs.SUMMARY).exists() == (seam == "write_report")
    for options in ([], ["--eval-episodes=1"], ["--env-steps=90"]):
        assert main(["train", "--resume", str(copied), *options]) == 0
        assert evaluations(copied) == [60, 70, *([80, 90] if "--env-steps=90" in options else [])]
        summary = json.loads((copied / runs.SUMMARY).read_text())
        row = read_rows(copied / runs.METRICS)[-1]
        assert (row["return_mean"], row["episodes"]) == (summary["return_mean"], summary["episodes"])


def test_a_run_killed_at_its_very_start_starts_again(
    copied: Path, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that has its settings but no checkpoint yet starts from step 0, and ends like any other."""
    caplog.set_level("INFO")
    for name in files_of(copied):
        if name != runs.CONFIG:
            (copied / name).unlink()
    assert main(["train", "--resume", str(copied)]) == 0
    assert "stopped before its first checkpoint; it starts again from step 0" in caplog.text
    assert same_agent(copied, trained)


def same_agent(left: Path, right: Path) -> bool:
    one, other = checkpoint.load(left).tensors, checkpoint.load(right).tensors
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --------------------------------------------------------------------------------------------------------- a full disk


def test_a_row_that_finds_no_room_costs_nothing(copied: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """A disk that fills up at a row of metrics stops the run with the path and the command that goes on; with room
    again, the run ends as one that never stopped.
    """
    longer = ["--env-steps=80", "--checkpoint-every=65"]
    rows = (copied / runs.METRICS).read_text().rstrip("\n")
    (copied / runs.METRICS).write_text(f"{rows}{' ' * 8192}\n")  # the settings, which come first, are the shorter file
    whole = shutil.copytree(copied, tmp_path / "whole")
    assert main(["train", "--resume", str(whole), *longer]) == 0
    with file_limit((copied / runs.METRICS).stat().st_size + 10):
        said = fails("train", "--resume", str(copied), *longer)
    remedy = "the disk is full. Free some space, then go on with: tdmpc train --resume"
    assert said == f"{copied / runs.METRICS}: a row was written only in part: {remedy} {copied}"
    assert env_steps_in(copied) == 60
    assert main(["train", "--resume", str(copied), *longer]) == 0
    assert same_agent(copied, whole)
    returns = [
        [row.get("return", row.get("return_mean")) for row in read_rows(run / runs.METRICS)] for run in (copied, whole)
    ]
    assert returns[0] == returns[1]


def test_a_lock_that_cannot_be_taken_is_one_line(copied: Path, fails: Callable[..., str]) -> None:
    """A run folder in which nothing can be written is named, and how to go on."""
    (copied / runs.LOCK).unlink(missing_ok=True)
    (copied / runs.LOCK).mkdir()
    assert fails("train", "--resume", str(copied)).startswith(f"{copied / runs.LOCK}: ")


# ------------------------------------------------------------------------------------------------------------- Ctrl-C


def command(*arguments: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "tdmpc.scripts.main", "train", *arguments]
    return subprocess.Popen(program, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for_steps(process: subprocess.Popen[str], folder: Path) -> None:
    """Until the run has saved its first checkpoint and goes on."""
    while process.poll() is None and not runs.has_checkpoint(folder):
        time.sleep(0.02)
    time.sleep(0.2)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    """After SIGINT a run saves, says how to go on and exits with 130; gone on with, it equals one left alone."""
    folder, alone = tmp_path / "run", tmp_path / "alone"
    settings = ["Pendulum-v1", *SMALL, "--terminates=False", "--random-steps=30", "--eval-episodes=1"]
    process = command(*settings, f"--run-dir={folder}", "--env-steps=9000")
    wait_for_steps(process, folder)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err
    assert err.splitlines()[-1] == f"stopped and saved. Go on with: tdmpc train --resume {folder}"
    longer = f"--env-steps={env_steps_in(folder) + 25}"
    assert main(["train", "--resume", str(folder), longer]) == 0
    assert main(["train", *settings, f"--run-dir={alone}", longer]) == 0
    assert same_agent(folder, alone)


def test_stopping_the_last_evaluation_costs_no_training(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C while the finished run is evaluated says how to go on too, and puts the signal handlers back."""
    caplog.set_level("INFO")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    evaluate = Trainer.evaluate

    def interrupted(self: Trainer, *args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self, *args, **options)

    monkeypatch.setattr(Trainer, "evaluate", interrupted)
    assert main(["train", "--resume", str(copied), "--env-steps=65"]) == 130
    assert f"Go on with: tdmpc train --resume {copied}" in caplog.text + capsys.readouterr().err
    assert env_steps_in(copied) == 65
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


# --------------------------------------------------------------------------------------------------- Weights & Biases


@pytest.mark.usefixtures("offline_wandb")
def test_an_offline_run_has_the_returns(copied: Path) -> None:
    """With --wandb offline the record has settings, group, tags, every return and the checkpoint."""
    options = ["--wandb=offline", "--wandb-group=toys", "--wandb-tags", "a", "b"]
    assert main(["train", "--resume", str(copied), "--env-steps=80", *options]) == 0
    (records,) = logs_of(copied)
    run = run_of(records)
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert settings["env"] == TOY and settings["model"]["latent"] == 8 and settings["prune"]["target"] == 0
    assert (settings["preset"], settings["revision"]) == ("default", runs.revision()) and settings["processor"]
    assert (run.run_group, list(run.tags), run.display_name) == ("toys", ["a", "b"], "run")
    history, rows = history_of(records), read_rows(copied / runs.METRICS)
    returns = [(row["env_steps"], row["train/return"]) for row in history if "train/return" in row]
    assert returns == [(row["env_steps"], row["return"]) for row in rows[-3:-1]]
    (mean,) = [row["eval/return_mean"] for row in history if "eval/return_mean" in row]
    assert mean == rows[-1]["return_mean"]
    artifacts = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    assert "step-80" in artifacts[-1].aliases


@pytest.mark.usefixtures("offline_wandb")
def test_going_on_goes_on_in_the_same_record(copied: Path) -> None:
    """A run that was logged is logged when it goes on, without being asked again, in the same run of W&B."""
    for options in (["--env-steps=62", "--wandb=offline"], ["--env-steps=64"]):
        assert main(["train", "--resume", str(copied), *options]) == 0
    first, second = map(run_of, logs_of(copied))
    assert first.run_id == second.run_id and second.resume


def test_a_long_run_has_a_curve(tmp_path: Path, parsed: list[Any]) -> None:
    """A run of 20,000 steps has ten evaluations of one episode; a short one, or one asked for others, has its own."""
    for number, options in enumerate((["--env-steps=40000"], ["--env-steps=900"], ["--eval-every=700"])):
        assert main(["train", TOY, "--terminates=False", *options, f"--run-dir={tmp_path / str(number)}"]) == 0
    found = [(args.config.eval_every, args.config.curve_episodes) for args, _, _ in parsed]
    assert found == [(4000, 1), (0, None), (700, None)]


def test_an_environment_without_a_period_is_told(
    tmp_path: Path, parsed: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Where the environment tells no dt, training says what the controller will lack, and how to mend it."""
    assert main(["train", TOY, *TINY, f"--run-dir={tmp_path / 'run'}"]) == 0
    assert "Toy-v0 tells no control period" in caplog.text and "attribute dt" in caplog.text


def test_a_failing_wandb_stops_nothing(
    copied: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where W&B fails, the run warns and ends as it would have without."""

    def fail(**_: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("wandb.init", fail)
    assert main(["train", "--resume", str(copied), "--env-steps=62", "--wandb=offline"]) == 0
    assert "W&B could not start, the run goes on without it: ConnectionError: no network" in caplog.text
    assert env_steps_in(copied) == 62


@pytest.mark.parametrize("option", ["--run-dir=elsewhere", "--preset=reference"])
def test_resuming_takes_no_other_start(copied: Path, fails: Callable[..., str], option: str) -> None:
    """What would be ignored beside --resume is refused."""
    assert "leave out --run-dir and --preset" in fails("train", "--resume", str(copied), option)


def test_a_delay_is_shorter_than_an_episode(trained: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """A delay after which an episode is over is refused in training and in evaluation, before a folder is made."""
    steps = str(runs.spec(trained).episode_steps)
    says = f"--delay must be less than the {steps} decisions of an episode, got {steps}"
    assert says in fails("train", TOY, *TINY, "--delay", steps, f"--run-dir={tmp_path / 'run'}")
    assert says in fails("evaluate", str(trained), "--delay", "0", steps)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("device", "says"), [("abacus", "cannot be used"), ("meta", "holds no numbers")])
def test_an_unknown_device_leaves_nothing(tmp_path: Path, fails: Callable[..., str], device: str, says: str) -> None:
    """A device that this machine lacks, or that cannot compute, is one error before a folder is made."""
    folder = tmp_path / "run"
    said = fails("train", "Pendulum-v1", f"--device={device}", f"--run-dir={folder}")
    assert f"--device {device} {says}" in said and not folder.exists()


def test_help_shows_the_defaults_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    """--preset reference --help shows published settings, --help those of the default."""
    shown = []
    for options in ([], ["--preset=reference"]):
        with pytest.raises(SystemExit):
            parse([*options, "--help"])
        shown.append(capsys.readouterr().out)
    assert "default: 500)" in shown[0] and "default: 5000)" in shown[1]


# -------------------------------------------------------------------------------------------------------------- films


def test_a_film_of_the_final_evaluation(copied: Path) -> None:
    """--video leaves a film of the first episode of the final evaluation."""
    assert main(["train", "--resume", str(copied), "--video"]) == 0
    assert (copied / runs.VIDEO).read_bytes()[4:8] == b"ftyp"


def test_a_smooth_run(tmp_path: Path) -> None:
    """A run with a limit of change trains, and tells how much its actions change."""
    run = tmp_path / "run"
    assert main(["train", TOY, *TINY, "--planner.max-change=0.1", f"--run-dir={run}"]) == 0
    assert 0 < json.loads((run / runs.SUMMARY).read_text())["action_variation"] <= 0.1 + 1e-6


def test_a_body_without_a_model_is_refused_at_once(
    tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A perturbation that the environment cannot have is refused before random play and before a folder is made."""
    monkeypatch.setattr("tdmpc.scripts.train_args.describe", None)
    says = fails("train", TOY, *TINY, "--perturb.masses=0.1", f"--run-dir={tmp_path / 'run'}")
    assert says == f"{TOY} has no MuJoCo model, which --perturb.masses would change: leave that out"
    assert not (tmp_path / "run").exists()
