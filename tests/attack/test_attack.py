"""Laws of the attack: at a small scale it finds nothing, it can be repeated, and it sees faults that are planted."""

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tdmpc import checkpoint
from tdmpc.deploy import bundle
from tdmpc.deploy.controller import Controller
from tests.attack import bits, controller, kills, processes
from tests.attack.__main__ import PARTS, attack, main
from tests.attack.cases import Case, spread
from tests.attack.processes import Ended
from tests.attack.subject import subject

SMALL = {"kills": 0.06, "environments": 0.02, "commands": 0.02, "bits": 0.03, "controller": 0.02, "connections": 0.02}


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_small_attack_finds_nothing(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A few cases of each part, of a seed of their own, break no law."""
    tally = attack(part, seed=1, scale=SMALL[part])
    assert tally.findings == 0, capsys.readouterr().out
    assert tally.tried >= 3


@pytest.mark.parametrize("part", PARTS)
def test_a_seed_is_an_attack(part: str) -> None:
    """The same seed and scale make the same cases, so that one of them can be repeated by its name alone."""
    cases = import_module(f"tests.attack.{part}").cases
    first, second = ([case.name for case in cases(0, 0.09)] for _ in range(2))
    assert first == second and len(set(first)) == len(first)


def test_a_finding_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A finding is a line with the command that repeats it, an attack that fails itself is one too, and both are
    counted; the exit status says that there is one.
    """

    def fail(folder: Path) -> list[str]:
        raise KeyError("no such file")

    cases = [Case("a", lambda folder: []), Case("b", lambda folder: ["a bolt is loose"], 5), Case("c", fail)]
    monkeypatch.setattr(bits, "cases", lambda seed, scale: iter(cases))
    assert main(["--only", "bits", "--seed=7"]) == 1
    out = capsys.readouterr().out
    assert "FINDING bits, b: a bolt is loose" in out
    assert "python -m tests.attack --seed 7 --scale 1 --only bits --case b\n" in out
    assert "FINDING bits, c: the attack itself failed: KeyError: 'no such file'" in out
    assert out.splitlines()[-1].split()[:3] == ["bits", "7", "2"]
    assert main(["--only", "bits", "--case=a"]) == 0


@pytest.mark.parametrize(("scale", "names"), [(1, "abcdefgh"), (0.5, "aceg"), (0.01, "a")])
def test_a_smaller_attack_is_spread_over_all(scale: float, names: str) -> None:
    """At a smaller scale cases are left out evenly, and one at least is left."""
    assert "".join(case.name for case in spread([Case(name, iter) for name in "abcdefgh"], scale)) == names


TRACE = "Traceback (most recent call last):\n  File\nKeyError: 'agent'\n"


@pytest.mark.parametrize(
    ("ended", "says"),
    [
        (Ended(0, "done", ""), None),
        (Ended(2, "", "restored\nerror: there is no run. Make one\n"), None),
        (Ended(2, "", "╭─ Required options ─╮\n│ --out │\n╰──╯\n"), None),
        (Ended(2, "", ""), "without one line of error"),
        (Ended(2, "", "error: one\nerror: two\n"), "without one line of error"),
        (Ended(2, "", "error: one\nand more\n"), "without one line of error"),
        (Ended(1, "", TRACE), "status is 1.*KeyError"),
        (Ended(0, "", TRACE), "traceback"),
        (Ended(None, "", "step 3"), "still running.*step 3"),
        (Ended(-11, "", ""), "SIGSEGV"),
    ],
)
def test_what_a_command_may_not_do(ended: Ended, says: str | None) -> None:
    """A command ends by itself, with an allowed status, without a traceback, and with one line where it fails."""
    found = "\n".join(processes.unlawful(ended))
    assert re.search(says, found) and "\n" not in found if says else not found


@pytest.mark.slow
def test_a_run_that_came_out_otherwise_is_found(tmp_path: Path) -> None:
    """One bit of a resumed run that is not that of the whole one, or a file that was left, is a finding."""
    run = subject().copied(tmp_path).run
    whole = object.__new__(kills.Whole)
    whole.outcome, whole.files = kills.outcome_in(run), kills.names_in(run)
    assert list(whole.differences(run)) == []
    saved = checkpoint.load(run)
    name = "agent/model/components.encoder.0.weight"
    name = name if name in saved.tensors else next(name for name in saved.tensors if name.startswith("agent/"))
    saved.tensors[name].view(-1)[0] += 1e-6
    checkpoint.save(run, saved.tensors, saved.meta)
    (run / ".config.json.tmp").touch()
    value, left = whole.differences(run)
    assert name in value and ".config.json.tmp" in left


@pytest.mark.slow
def test_a_flipped_bit_that_nobody_sees_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no hash is looked at, flips in the weights of a graph come out as findings."""
    monkeypatch.setattr(bundle.Bundle, "file", lambda described, name: described.folder / name)
    found = []
    for number in range(8):
        folder = tmp_path / str(number)
        folder.mkdir()
        found += bits.in_bundle(bundle.POLICY, ("planted", number), folder)
    assert found


@pytest.mark.slow
@pytest.mark.parametrize("way", ["no-deadline", "pipelined"])
def test_a_bad_action_is_found(way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where faults give NaN, or an exception of another kind, that is a finding."""
    monkeypatch.setattr(Controller, "_fallback_action", lambda self, held: self.bundle.low * np.nan)
    assert any("not finite" in what for what in controller.batch("hold", way, ("planted",), tmp_path))
    monkeypatch.setattr(Controller, "_fallback_action", lambda self, held: self.bundle.high * 2)
    assert any("is beyond" in what for what in controller.batch("hold", way, ("planted",), tmp_path))
    monkeypatch.setattr(Controller, "_fallback_action", lambda self, held: {}["action"])
    assert any("KeyError" in what for what in controller.batch("hold", way, ("planted",), tmp_path))
