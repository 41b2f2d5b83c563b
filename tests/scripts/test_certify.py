"""Laws of ``tdmpc certify``: the protocol first, pairs, the ladder, the file that goes on, what is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tdmpc.config import PerturbConfig
from tdmpc.deploy import bundle
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.controller import Controller
from tdmpc.scripts import rungs
from tdmpc.scripts.main import main
from tdmpc.scripts.protocol import CERTIFICATE
from tdmpc.scripts.rungs import Rung, return_bounds
from tests.tdmpc.conftest import TOY

RETURNS = {"dense": 900.0, "p50": 899.0, "p75": 890.0, "p90": 500.0, "p97": 899.0}
FACTS: dict[str, Any] = {"sha256": "0", "task": {"environment": "cartpole", "delay": [0, 0]}, "bounds": (0.0, 1000.0)}
STOP: dict[str, int | None] = {"after": None}
"""Episodes of a command until somebody interrupts it."""
Ladder = Callable[..., dict[str, Any]]


@pytest.fixture
def ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ladder:
    """``ladder("dense", "p50")``: the file that a command leaves, on runs that always return the same."""
    macs = dict(zip(RETURNS, (1000, 500, 250, 100, 30), strict=True))
    played: list[tuple[str, int]] = []

    def load(path: Path, perturb: PerturbConfig, runtime: Runtime) -> Rung:
        path.mkdir(exist_ok=True)

        def play(seed: int) -> float:
            assert "protocol" in json.loads((tmp_path / "out.json").read_text())
            if len(played) == STOP["after"]:
                raise KeyboardInterrupt
            played.append((path.name, seed))
            return RETURNS[path.name]

        return Rung(path=path, macs=macs[path.name], play=play, **FACTS)

    monkeypatch.setattr(rungs, "load", load)

    def run(*names: str, options: tuple[str, ...] = (), status: int = 0) -> dict[str, Any]:
        played.clear()
        paths = [str(tmp_path / name) for name in names]
        assert main(["certify", *paths, f"--out={tmp_path / 'out.json'}", *options]) == status
        return {**json.loads((tmp_path / "out.json").read_text()), "played": list(played)}

    return run


def test_the_limit_is_the_last_rung_before_the_first_failure(
    ladder: Ladder, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ladder is gone down to the first rung that loses too much; a better one below it is not looked at."""
    found = ladder("dense", "p50", "p75", "p90", "p97")
    assert [row["verdict"] for row in found["result"]["rungs"]] == ["certified", "certified", "fails"]
    assert found["result"]["limit"] == (
        "75.0% of the multiply-adds may go: the mean loss is below 5 % with 95 % confidence; 100 pairs of episodes"
    )
    assert "p97" not in {name for name, _ in found["played"]}
    assert found["result"]["limit"] in capsys.readouterr().out
    passed, failed = found["result"]["rungs"][0], found["result"]["rungs"][2]
    assert passed["severe_upper"] == pytest.approx(1 - 0.05 ** (1 / 100)) and failed["pairs"] < 100
    assert passed["loss"] < passed["loss_upper"] <= 0.05 and failed["severe_upper"] is None


def test_pairs_are_the_same_fresh_episodes(ladder: Ladder, tmp_path: Path) -> None:
    """All rungs play the episodes of one seed, each once; without a seed, another command plays others."""
    found = ladder("dense", "p50", "p75")
    seeds = {name: [seed for each, seed in found["played"] if each == name] for name in ("dense", "p50", "p75")}
    assert seeds["p50"] == seeds["dense"][: len(seeds["p50"])] and seeds["p75"] == seeds["dense"]
    assert len(set(seeds["dense"])) == len(seeds["dense"])
    (tmp_path / "out.json").unlink()
    assert ladder("dense", "p50")["played"][0][1] != found["played"][0][1]


def test_an_interrupted_test_goes_on(ladder: Ladder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interrupt the same command plays only what is missing, and ends as if nothing had been."""
    whole = ladder("dense", "p50", options=("--seed=3",))
    (tmp_path / "out.json").unlink()
    monkeypatch.setitem(STOP, "after", 55)
    begun = ladder("dense", "p50", status=130)
    monkeypatch.setitem(STOP, "after", None)
    assert "result" not in begun and sum(map(len, begun["returns"].values())) == len(begun["played"]) == 55
    rest = ladder("dense", "p50")
    assert [*begun["played"], *rest["played"]] != whole["played"]  # another seed, which the record keeps
    assert len(begun["played"]) + len(rest["played"]) == len(whole["played"])
    assert rest["returns"] == whole["returns"] and rest["result"] == whole["result"]
    assert len({seed for _, seed in [*begun["played"], *rest["played"]]}) == rest["result"]["rungs"][0]["pairs"]


def test_a_protocol_is_not_changed(
    ladder: Ladder, tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that was begun with another question, or that is no certificate, is refused and left as it is."""
    ladder("dense", "p50")
    capsys.readouterr()
    before = (tmp_path / "out.json").read_text()
    command = ("certify", str(tmp_path / "dense"), str(tmp_path / "p50"), f"--out={tmp_path / 'out.json'}")
    assert "begun with another loss" in fails(*command, "--loss=0.1")
    assert (tmp_path / "out.json").read_text() == before
    (tmp_path / "out.json").write_text("[]")
    assert "is no certificate" in fails(*command)


def test_what_is_no_ladder(ladder: Ladder, tmp_path: Path, fails: Callable[..., str], monkeypatch: Any) -> None:
    """One rung, a wrong order, another task, bounds that do not hold, a hopeless reference: one line each."""

    def refused(*names: str, options: tuple[str, ...] = ()) -> str:
        (tmp_path / "out.json").unlink(missing_ok=True)
        return fails("certify", *(str(tmp_path / name) for name in names), f"--out={tmp_path / 'out.json'}", *options)

    assert "at least one candidate" in refused("dense")
    assert "name the largest first" in refused("dense", "p75", "p50")
    assert "outside of the bounds" in refused("dense", "p50", options=("--bounds", "0", "800"))
    assert "the lowest return first" in refused("dense", "p50", options=("--bounds", "8", "2"))
    assert "--loss must be above 0" in refused("dense", "p50", options=("--loss=1.5",))
    assert "the least number first" in refused("dense", "p50", options=("--pairs", "9", "8"))
    monkeypatch.setitem(RETURNS, "dense", 20.0)
    assert "train the reference longer" in refused("dense", "p50")
    monkeypatch.setitem(FACTS, "bounds", None)
    assert "--bounds LOWEST HIGHEST" in refused("dense", "p50")
    assert not (tmp_path / "out.json").exists()
    dense, other = (Rung(tmp_path, macs=macs, play=lambda seed: 0.0, **FACTS) for macs in (2, 1))
    with pytest.raises(ValueError, match="has environment walker, and the reference"):
        rungs.check([dense, replace(other, task={**other.task, "environment": "walker"})])


def test_bounds_are_known_of_the_suite() -> None:
    """An episode of dm_control's suite returns at most its environment steps; of others nothing is known."""
    assert return_bounds("dm_control/cartpole-swingup-v0", 1000) == (0.0, 1000.0)
    assert return_bounds("dm_control/lqr-lqr_2_1-v0", 1000) is None
    assert return_bounds("Pendulum-v1", 200) is None and return_bounds("dm_control/cartpole-swingup-v0", 0) is None


def test_runs_and_bundles(trained: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run is compared with a bundle that plans less; the bundle keeps its certificate and still loads, the run's
    folder too, and a file of latencies bounds how often the bundle is late."""
    run, folder = shutil.copytree(trained, tmp_path / "run"), tmp_path / "bundle"
    assert main(["export", str(run), f"--out={folder}", "--samples=4", "--elites=2", "--iterations=1"]) == 0
    described = bundle.read(folder)
    timed = {"model": described.model_id, "backend": "onnxruntime", "threads": 1, "mode": "periodic"}
    latency = tmp_path / "latency.json"
    latency.write_text(json.dumps([{**timed, "period_ms": 20.0, "periods": 1000, "misses": 0}]))
    out = tmp_path / "out.json"
    options = ["--bounds", "-30", "0", "--pairs", "3", "12", "--loss=0.9", "--confidence=0.6", f"--latency={latency}"]
    noisy = ["--perturb.observation-noise=0.1", "--seed=1"]
    assert main(["certify", str(run), str(folder), f"--out={out}", *options, *noisy]) in (0, 1)
    found = json.loads(out.read_text())
    row = found["result"]["rungs"][0]
    assert found["protocol"]["disturbances"] == {"observation_noise": 0.1}
    assert row["deadlines"]["miss_upper"] == pytest.approx(1 - 0.4 ** (1 / 1000))
    assert bundle.read(folder).manifest["certificate"] == {"protocol": found["protocol"], **row}
    Controller.load(folder)
    assert TOY in json.dumps(found["protocol"]["task"])


def test_a_bundle_plays_the_agent_s_episodes(trained: Path, exported: Path) -> None:
    """The bundle of a run and the run itself meet the same start for the same seed; a disturbance reaches both."""
    plays = [rungs.load(path, PerturbConfig(), Runtime()).play for path in (trained, exported)]
    returns = np.array([[play(seed) for seed in range(8)] for play in plays])
    assert np.corrcoef(returns)[0, 1] > 0.9 > abs(np.corrcoef(returns[0], np.roll(returns[1], 1))[0, 1])
    noisy = [rungs.load(path, PerturbConfig(action_noise=0.5), Runtime()).play(0) for path in (trained, exported)]
    assert noisy[0] != returns[0, 0] and noisy[1] != returns[1, 0]


def test_latencies_of_other_controllers(ladder: Ladder, tmp_path: Path, fails: Callable[..., str]) -> None:
    """A file that holds no deadlines of a candidate, or no latencies at all, is refused before anything is played."""
    latency = tmp_path / "latency.json"
    latency.write_text("[]")
    command = ("certify", str(tmp_path / "dense"), str(tmp_path / "p50"), f"--latency={latency}")
    assert "holds no deadlines of" in fails(*command, f"--out={tmp_path / 'out.json'}")
    latency.write_text("[1]")
    assert "is not what tdmpc latency --json writes" in fails(*command, f"--out={tmp_path / 'out.json'}")
    assert not (tmp_path / "out.json").exists()


def test_a_report_shows_the_certificate(trained: Path, tmp_path: Path) -> None:
    """The page of a run that is a candidate says what was certified of it."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    row = {"candidate": "run", "verdict": "certified", "loss_upper": 0.041, "pairs": 112}
    protocol = {"reference": {"path": "runs/dense"}, "loss": 0.05, "confidence": 0.95}
    (run / f"{CERTIFICATE}.json").write_text(json.dumps({"protocol": protocol, **row}))
    assert main(["report", str(run)]) == 0
    assert (
        "certified: at most 4.1% below runs/dense on average, 95% confidence, 112 pairs"
        in (run / "report.html").read_text()
    )
