"""Laws of suites: which runs a file stands for, and what in it is refused."""

from pathlib import Path

import pytest

from tdmpc.config import ConfigError
from tdmpc.scripts.suite_spec import read, runs_of

SPECS = Path(__file__).resolve().parents[2] / "scripts" / "experiments"

SUITE = """
name = "try"
seeds = [3, 5]
options = "--threads 1"
wandb = "offline"

[tasks]
one = "--env-steps 10"
two = { env = "Two-v0", seeds = [7] }

[methods]
cut = { options = "--target 0.9", prunes = "dense", tasks = ["one"] }
dense = ""
small = "--model.reward 8 'a b'"
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "try.toml"
    path.write_text(SUITE)
    return path


def test_a_suite_is_tasks_x_methods_x_seeds(spec: Path) -> None:
    """Every method runs on each of its tasks with each of the task's seeds; what prunes comes after what it prunes."""
    found = [(run.task, run.method, run.seed) for run in runs_of(read(spec))]
    assert found == [
        *[("one", "dense", 3), ("one", "small", 3), ("one", "cut", 3), ("two", "dense", 7), ("two", "small", 7)],
        *[("one", "dense", 5), ("one", "small", 5), ("one", "cut", 5)],
    ]


def test_a_run_is_a_command(spec: Path) -> None:
    """A run is begun by tdmpc train with the options of suite, task and method, or by tdmpc prune; both are tracked."""
    suite = read(spec)
    runs = {run.name: run for run in runs_of(suite)}
    tracked = ("--wandb", "offline", "--wandb-group", "try", "--wandb-tags")
    small = runs["two/small-7"]
    assert small.folder == suite.folder / "two" / "small-7"
    assert small.start == (
        *("train", "Two-v0", "--seed", "7", "--threads", "1", "--model.reward", "8", "a b"),
        *("--run-dir", str(small.folder), *tracked, "two", "small"),
    )
    cut, dense = runs["one/cut-5"], runs["one/dense-5"]
    assert (dense.source, cut.source) == (None, dense.folder)
    assert cut.start == (
        *("prune", str(dense.folder), "--target", "0.9", "--run-dir", str(cut.folder)),
        *(*tracked, "one", "cut"),
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("seeds = [3, 5]", "seeds = []"), "seeds: "),
        (("seeds = [3, 5]", "seeds = [-1]"), "seeds.0: "),
        (("seeds = [3, 5]", "sedes = [1]"), "sedes: Extra inputs are not permitted"),
        (("[methods]", "[methods]\n'a/b' = ''"), "methods.a/b"),
        (('tasks = ["one"]', 'tasks = ["tow"]'), "methods.cut.tasks: there is no task tow"),
        (('prunes = "dense"', 'prunes = "dance"'), "methods.cut.prunes: 'dance' is no method that trains"),
        (('prunes = "dense"', 'prunes = "cut"'), "methods.cut.prunes: 'cut' is no method that trains"),
        (('dense = ""', 'dense = { tasks = ["two"] }'), "methods.cut.prunes: 'dense' is not run on all of its tasks"),
        (("[methods]", "[then]\nsummary = 'envs'\n[methods]"), "then.summary: a run has a summary.json of its own"),
        (('name = "try"', "name = "), "cannot be read: "),
    ],
    ids=lambda change: change if isinstance(change, str) else change[1],
)
def test_a_wrong_suite_is_refused(spec: Path, change: tuple[str, str], fault: str) -> None:
    """What is wrong in a suite is said with its place in the file."""
    assert change[0] in SUITE
    spec.write_text(SUITE.replace(*change))
    with pytest.raises(ConfigError, match=r"try\.toml") as error:
        read(spec)
    assert fault in str(error.value)


def test_a_missing_suite_is_refused(tmp_path: Path) -> None:
    """A file that is not there is said to be unreadable."""
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        read(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_suites_of_the_house_can_be_read(path: Path) -> None:
    """Every suite that comes with the project stands for runs, in a folder named after it."""
    suite = read(path)
    assert suite.name == path.stem
    assert runs_of(suite)
