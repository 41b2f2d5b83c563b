"""Laws of the check of logs: wrong connections are named, right ones are not, and what cannot be told is said."""

import json
from pathlib import Path

import numpy as np
import pytest

from tdmpc.deploy import bundle, logs, plausibility
from tdmpc.deploy.bundle import Bundle, BundleError
from tdmpc.scripts import check
from tests.deploy.conftest import HIGH, LOW, MANIFEST

NAMES = ["joint/0", "joint/1", "body/height", "action/0", "action/1"]


def played(steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A pendulum's angle and speed, a height that drifts with the second action, and actions in [-1, 1]."""
    random = np.random.default_rng(seed)
    state, drift, rows, actions = np.zeros(3), np.zeros(2), [], []
    for _ in range(steps):
        drift = 0.8 * drift + 0.4 * random.normal(size=2)
        action = np.clip(drift, -1, 1)
        rows.append(state.copy()), actions.append(action)
        angle, speed, height = state
        speed += 0.1 * (3 * action[0] - 2 * np.sin(angle) - 0.3 * speed)
        state = np.array([angle + 0.1 * speed, speed, 0.98 * height + 0.05 * action[1]])
    return np.array(rows), np.array(actions)


@pytest.fixture(scope="module")
def law() -> plausibility.Arrays:
    rows, actions = played(4_000, 0)
    return plausibility.learn(np.concatenate([rows, actions], 1)[:-1], rows[1:])


def wrong(law: plausibility.Arrays, factors: list[float], order: list[int], shift: list[float]) -> list[str]:
    """What is said of a log with its columns multiplied, put in another order, and shifted."""
    rows, actions = played(600, 1)
    table = (np.concatenate([rows, actions], 1) * factors)[:, order] + shift
    verdict = plausibility.examine(law, table[:-1], table[1:, :3], [(0, 1), (2,), (3, 4)])
    return plausibility.told(verdict, NAMES, law)[0]


ONES, ORDER, NONE = [1.0] * 5, [0, 1, 2, 3, 4], [0.0] * 5


def test_a_right_log_is_left_alone(law: plausibility.Arrays) -> None:
    """Nothing is said of a robot that is connected rightly."""
    assert wrong(law, ONES, ORDER, NONE) == []


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("factor", [-1.0, 57.3, 1 / 57.3, 1000.0, 0.001])
def test_a_factor_is_named_with_its_column(law: plausibility.Arrays, column: int, factor: float) -> None:
    """A sensor or actuator that is negated or in another unit is the one that is named."""
    said = wrong(law, [factor if number == column else 1.0 for number in range(5)], ORDER, NONE)
    assert any(line.startswith(f"'{NAMES[column]}'") for line in said)
    expected = "opposite" if factor < 0 else f"about {factor:.3g} times"
    assert any(expected in line for line in said)


@pytest.mark.parametrize(
    ("order", "pair"), [([1, 0, 2, 3, 4], (0, 1)), ([0, 1, 2, 4, 3], (3, 4)), ([0, 2, 1, 3, 4], (1, 2))]
)
def test_exchanged_columns_are_named(law: plausibility.Arrays, order: list[int], pair: tuple[int, int]) -> None:
    """Two columns that stand for each other are named as such."""
    one, other = (repr(NAMES[number]) for number in pair)
    assert f"{one} and {other}: exchanged with each other" in wrong(law, ONES, order, NONE)


def test_a_shift_is_named(law: plausibility.Arrays) -> None:
    """A reading with an offset is named, and so are columns that belong together and all have one."""
    assert any("'joint/1': shifted by about" in line for line in wrong(law, ONES, ORDER, [0.0, 2.0, 0.0, 0.0, 0.0]))
    both = [0.0, 0.0, 0.0, *law["spread"][3:]]
    assert any("'action/0' and 'action/1': shifted by about" in line for line in wrong(law, ONES, ORDER, both))


def test_a_log_says_which_shifts_it_would_show(law: plausibility.Arrays) -> None:
    """A right log tells of each column the least shift that it would show: one of that size makes it worse either way,
    as all larger ones do, and the next smaller one does not.
    """
    rows, actions = played(600, 1)
    now, after = np.concatenate([rows, actions], 1)[:-1], rows[1:]
    verdict, fit = plausibility.examine(law, now, after), plausibility._Fit(law, now, after)
    least = {each.columns: each.amount for each in verdict.undecided if each.kind == "shifted"}
    sizes = [size for size in plausibility.SHIFTS if size <= plausibility.STEADY]
    for column in range(5):
        undone = [[plausibility.Wrong("shifted", (column,), sign * size) for sign in (-1, 1)] for size in sizes]
        worse = [min(fit.score(fit.undone(each)) for each in both) - fit.score(()) for both in undone]
        shown = [each > plausibility.SHIFT_GAIN for each in worse]
        first = next((number for number in range(len(sizes)) if all(shown[number:])), None)
        expected = np.inf if first is None else sizes[first] if first else 0.0
        assert least.get((column,), 0.0) == expected
    hidden = plausibility.told(verdict, NAMES, law)[1]
    assert f"'action/0': shifted by less than {least[3,] * law['spread'][3]:.3g}" in hidden
    assert "'joint/0': shifted" in hidden


def test_what_training_never_saw_is_named(law: plausibility.Arrays) -> None:
    """A reading far outside of what training saw is named."""
    assert any("'body/height' lies far outside" in line for line in wrong(law, ONES, ORDER, [0.0, 0.0, 9.0, 0.0, 0.0]))


def test_undoing_is_as_if_connected_so(law: plausibility.Arrays) -> None:
    """What is left unexplained once a wrong is undone is that of the log whose columns are changed so, one or two."""
    rows, actions = played(300, 3)
    now, after = np.concatenate([rows, actions], 1)[:-1], rows[1:]
    fit = plausibility._Fit(law, now, after)
    for wrong in plausibility._wrongs(5, 3, [(0, 1), (3, 4)]):
        other = [now.copy(), after.copy()]
        for column, before, later in fit.undone(wrong):
            other[0][:, column] = before
            if later is not None:
                other[1][:, column] = later
        assert fit.unexplained(fit.undone(wrong)) == pytest.approx(plausibility._Fit(law, *other).unexplained()), wrong


def test_what_stands_still_tells_nothing(law: plausibility.Arrays) -> None:
    """Of a robot at rest nothing is named, and the log is said to tell nothing of its sensors."""
    rest = np.zeros((200, 5))
    verdict = plausibility.examine(law, rest[:-1], rest[1:, :3])
    assert verdict.wrong == () and {0, 1, 2} <= {number for each in verdict.undecided for number in each.columns}


@pytest.fixture
def folder(tmp_path: Path, law: plausibility.Arrays) -> Path:
    plausibility.write(tmp_path / bundle.LAW, law)
    content = (tmp_path / bundle.LAW).read_bytes()
    files = {bundle.LAW: {"sha256": bundle.sha256(tmp_path / bundle.LAW), "bytes": len(content)}}
    (tmp_path / bundle.MANIFEST).write_text(json.dumps({**MANIFEST, "files": files}))
    return tmp_path


def test_the_command_reads_logs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log in CSV or NPZ is read by the names of its columns, ten rows to a decision too; what is wrong fails."""
    rows, actions = played(300, 2)
    applied = bundle.actuate(actions, np.array(LOW), np.array(HIGH))
    table, time = np.concatenate([rows, applied], 1), np.arange(300) * 0.02
    np.savetxt(tmp_path / "run.csv", np.c_[time, table], delimiter=",", header=",".join(["time", *NAMES]), comments="")
    often = {"joint": rows[:, :2].repeat(10, 0), "body/height": rows[:, 2].repeat(10, 0)}
    np.savez(tmp_path / "run.npz", time=np.arange(3000) * 0.002, action=applied.repeat(10, 0), **often)
    for name in ("run.csv", "run.npz"):
        assert check.main([str(folder), "--log", str(tmp_path / name)]) == 0, capsys.readouterr().out
    table[:, 1] *= -1
    np.savez(tmp_path / "run.npz", **dict(zip(NAMES, table.T, strict=True)))
    assert check.main([str(folder), "--log", str(tmp_path / "run.npz")]) == 1
    assert "Wrong: 'joint/1': the sign is the opposite of training's." in capsys.readouterr().out


def test_a_log_that_cannot_be_used_says_why(described: Bundle, tmp_path: Path) -> None:
    """A sensor that is missing, rows too few or too far apart, and no table at all are one line each."""
    columns = {name: np.linspace(0, 1, 200) for name in NAMES}
    renamed = {**columns, "body/heigt": columns["body/height"]}
    del renamed["body/height"]
    with pytest.raises(BundleError, match=r"no 'body/height'; it has 'body/heigt'"):
        logs.transitions(described, renamed)
    with pytest.raises(BundleError, match="at least 100"):
        logs.transitions(described, {name: values[:50] for name, values in columns.items()})
    with pytest.raises(BundleError, match="a row every 100 ms, the bundle decides every 20 ms"):
        logs.transitions(described, {**columns, "time": np.arange(200) / 10})
    (tmp_path / "run.csv").write_text("a,b\n1,x\n")
    with pytest.raises(BundleError, match="no log, a table of numbers"):
        logs.read(tmp_path / "run.csv", described)
