"""Laws of run folders: new or refused, and readable by whoever finds them."""

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tdmpc import checkpoint, runs
from tdmpc.agent import Agent
from tdmpc.config import ConfigError, to_json
from tdmpc.evaluation import Evaluation
from tdmpc.runs import RunError
from tdmpc.spec import EnvSpec
from tests.tdmpc.conftest import spec_of, tiny

# -------------------------------------------------------------------------------------------------------- new folders


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    """A folder that does not exist is made with its parents, an empty one is taken, and nothing is left in it."""
    for _ in range(2):
        folder = runs.create(tmp_path / "a" / "b")
        assert folder.is_dir() and not any(folder.iterdir())


def test_a_folder_is_one_process_s(tmp_path: Path) -> None:
    """Who holds a run folder holds it alone, and until the end only."""
    busy = pytest.raises(runs.RunError, match="another process is working on")
    with runs.locked(tmp_path), busy, runs.locked(tmp_path):
        pass
    with runs.locked(tmp_path):
        pass


def test_a_new_folder_is_one_process_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new folder that another process works on, or has worked on before this one came to lock it, is refused; one in
    which a run was refused before it began is taken.
    """
    folder = tmp_path / "run"
    with runs.new(folder), pytest.raises(RunError, match="another process is working on"), runs.new(folder):
        pass
    assert {path.name for path in folder.iterdir()} <= {runs.LOCK}
    create = runs.create

    def outrun(path: Path) -> Path:
        create(path)
        monkeypatch.setattr(runs, "create", create)
        (path / runs.CONFIG).touch()
        return path

    monkeypatch.setattr(runs, "create", outrun)
    with pytest.raises(RunError, match="exists and is never overwritten"), runs.new(folder):
        pass


@pytest.mark.parametrize(("made", "written"), [(True, False), (False, False), (False, True)])
def test_what_fails_before_it_writes_leaves_no_folder(tmp_path: Path, made: bool, written: bool) -> None:
    """A new folder goes again where what begins in it fails at once; one that was there stays, and what is in one."""
    folder = tmp_path / "run"
    if made:
        folder.mkdir()
    with pytest.raises(FileNotFoundError), runs.new(folder):
        (folder / (runs.CONFIG if written else "no/folder")).touch() or (folder / "no/folder").touch()
    assert folder.exists() == (made or written)


@pytest.mark.parametrize("content", ["checkpoint.safetensors", ".hidden", "notes.txt"])
def test_an_existing_folder_is_never_overwritten(tmp_path: Path, content: str) -> None:
    """A folder that holds anything is refused, with how to go on with it, and left as it is."""
    (tmp_path / content).write_text("precious")
    with pytest.raises(RunError, match=f"{tmp_path} exists .*--resume {tmp_path}; or choose another --run-dir"):
        runs.create(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "run"


def a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file"


def read_only(folder: Path) -> Path:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    folder.chmod(0o500)
    return folder / "run"


@pytest.mark.parametrize("make", [below_a_file, a_file, read_only])
def test_an_unwritable_folder_is_refused(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Where nothing can be written, one error names the folder, the reason and the option."""
    folder = make(tmp_path)
    with pytest.raises(RunError, match=f"cannot write into {folder}: .+ Choose another --run-dir") as caught:
        runs.create(folder)
    assert "\n" not in str(caught.value)


def test_unused_counts_up(tmp_path: Path) -> None:
    """The first name that is free: as asked, or with the next number from 2 on; nothing is made."""
    for name in ("Pendulum-v1-0", "Pendulum-v1-0-2", "Pendulum-v1-0-3"):
        assert runs.unused(tmp_path, "Pendulum-v1-0") == tmp_path / name
        assert not (tmp_path / name).exists()
        (tmp_path / name).mkdir()


# ------------------------------------------------------------------------------------------------------- what is in it


def test_settings_come_back(tmp_path: Path) -> None:
    """The settings and what the environment told are read back from config.json as they were, also where an older
    version wrote no hash of them.
    """
    config = tiny("Pendulum-v1", action_repeat=4)
    parts = {"config": to_json(config), "spec": to_json(spec_of(config))}
    for write in (runs.write_settings, lambda folder, parts: runs.write_json(folder / runs.CONFIG, parts)):
        write(tmp_path, parts)
        assert runs.config(tmp_path) == config
        assert runs.spec(tmp_path) == spec_of(config)


def test_a_setting_that_became_another_is_noticed(tmp_path: Path) -> None:
    """Where a digit of config.json is another one than was written, nothing is read from it, and the file is named."""
    config = tiny("Pendulum-v1")
    runs.write_settings(
        tmp_path, {"config": to_json(config), "spec": to_json(spec_of(config)), "prune": {"target": 0.5}}
    )
    path = tmp_path / runs.CONFIG
    path.write_text(path.read_text().replace('"target": 0.5', '"target": 0.7'))
    for read in (runs.config, runs.spec):
        with pytest.raises(RunError, match=f"^{path} is damaged, or was changed by hand"):
            read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *(
            None,
            "",
            "not JSON",
            "[1, 2]",
            '{"architectures": ["Llama"]}',
            '{"config": {"widths": 3}, "spec": {}}',
            b"\xff",
        ),
        '{"config": 3, "spec": "x"}',
    ],
    ids=["missing", "empty", "text", "list", "foreign", "foreign config", "bytes", "numbers"],
)
def test_what_is_no_run_folder_is_said(tmp_path: Path, content: str | bytes | None) -> None:
    """Whatever lies in a folder that is no run's, one error names the folder."""
    if content is not None:
        (tmp_path / runs.CONFIG).write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (runs.config, runs.spec):
        with pytest.raises(RunError, match=f"{tmp_path} is no run folder: config.json cannot be read"):
            read(tmp_path)


def test_a_run_has_a_checkpoint_or_not(tmp_path: Path) -> None:
    """A run came as far as its first checkpoint if there is one, be it the previous one."""
    assert not runs.has_checkpoint(tmp_path)
    checkpoint.save(tmp_path, {}, {})
    assert runs.has_checkpoint(tmp_path)
    (tmp_path / checkpoint.CURRENT).rename(tmp_path / checkpoint.PREVIOUS)
    assert runs.has_checkpoint(tmp_path)


def test_a_curve_is_a_small_table(tmp_path: Path) -> None:
    """The returns of training episodes and of evaluations are a table of three columns; other rows are left out."""
    rows = [
        {"kind": "train", "env_steps": 8, "return": 1.004, "length": 3},
        {"kind": "prune", "env_steps": 9, "sparsity": 0.5},
        {"kind": "train", "env_steps": 16, "return": None},
        {"kind": "eval", "env_steps": 16, "return_mean": -2.5, "return_std": 0.1},
    ]
    runs.write_curve(tmp_path / runs.CURVE_TABLE, rows)
    assert (tmp_path / runs.CURVE_TABLE).read_text() == "kind,env_steps,return\ntrain,8,1.00\neval,16,-2.50\n"


def test_json_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is written beside and then renamed: a kill in between leaves the old one."""
    path = tmp_path / "summary.json"
    runs.write_json(path, {"return_mean": 1.5})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            runs.write_json(path, {"return_mean": 2.5})
    assert json.loads(path.read_text()) == {"return_mean": 1.5}
    runs.write_json(path, {"return_mean": 2.5})
    assert json.loads(path.read_text()) == {"return_mean": 2.5}
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_a_summary_tells_the_figures() -> None:
    """A summary has what was reached and what it cost, with the machine it was timed on, in plain JSON."""
    config = tiny("Pendulum-v1", seed=3)
    agent = Agent(config, spec_of(config))
    evaluation = Evaluation(returns=(1.0, 3.0), lengths=(2, 2), decision_ms=(1.0, 2.0, 9.0, 1.5), diverged=1)
    meta = {"env_steps": 90, "agent_steps": 45, "wall_s": 12.34, "cpu_s": 45.67, "other": None}
    summary = json.loads(json.dumps(runs.summary(agent, evaluation, meta=meta, dense=config.model)))
    told = {
        "env": "Pendulum-v1",
        "seed": 3,
        "return_mean": 2.0,
        "return_std": 1.0,
        "episodes": 2,
        "diverged": 1,
        "env_steps": 90,
        "agent_steps": 45,
        "wall_s": 12.3,
        "cpu_s": 45.7,
        "ms_per_plan_p50": 1.75,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
    }
    assert {name: summary[name] for name in told} == told
    # Observations 3, actions 1, latent 8; encoder (8,), dynamics (12,), reward (8,), policy (8,), 2 x value (8, 8).
    dense = [(3, 8), (8, 8), (9, 12), (12, 8), (9, 8), (8, 1), (8, 8), (8, 1)]
    heads = 2 * [(9, 8), (8, 8), (8, 1)]
    norms = 2 * 2 * 8
    assert summary["parameters"] == sum((inputs + 1) * outputs for inputs, outputs in dense + heads) + norms
    assert summary["planning_macs"] > 0
    assert all(summary[f"{name}_dense"] == summary[name] for name in ("parameters", "planning_macs"))
    assert {"processor", "load_average", "torch"} <= summary.keys()


def test_the_revision_is_the_checkout_s(tmp_path: Path) -> None:
    """A program in a checkout has its commit as revision, marked when changed; one that is only inside it has none."""

    def git(*words: str) -> str:
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *author, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    assert runs.revision(package) is None
    git("init")
    assert runs.revision(package) is None
    git("add", "package")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert commit.startswith(found := runs.revision(package) or "-") and len(found) >= 7
    (package / "__init__.py").write_text("changed = True")
    assert runs.revision(package) == f"{found}-dirty"


def test_agents_go_by_the_names_of_their_runs(
    monkeypatch: pytest.MonkeyPatch, make_spec: Callable[..., EnvSpec]
) -> None:
    """Runs of one name go by their paths, a run that is named twice counts once, and agents that cannot play the same
    episodes are refused."""
    specs = {
        "slow": dataclasses.replace(make_spec(), action_repeat=4),
        "other": dataclasses.replace(make_spec(), id="b"),
    }

    def load(folder: Path, **_: object) -> tuple[SimpleNamespace, dict[str, int]]:
        return SimpleNamespace(spec=specs.get(folder.name, make_spec())), {"agent_steps": len(folder.parts)}

    monkeypatch.setattr(runs, "load_agent", load)
    found = runs.load_agents([Path("a/x"), Path("y"), Path("b/x"), Path("a/x")], example="tdmpc tune x")
    assert {name: (folder, step) for name, (folder, _, step) in found.items()} == {
        "a/x": (Path("a/x"), 2),
        "y": (Path("y"), 1),
        "b/x": (Path("b/x"), 2),
    }
    for folders, says in ([], "which agents.*tdmpc tune x"), (["y", "slow"], "x 1.*x 4"), (["y", "other"], "b x 1"):
        with pytest.raises(ConfigError, match=says):
            runs.load_agents([Path(folder) for folder in folders], example="tdmpc tune x")
