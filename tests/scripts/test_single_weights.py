"""Laws of the study of single weights: what is dropped stays dropped, and how much that is, is what was asked for."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tdmpc.compression.single_weights import watched
from tdmpc.scripts.csv_tables import read_table
from tdmpc.scripts.experiments import single_weights as study
from tdmpc.scripts.experiments.subjects import Case, Dynamics, Subject, Transitions


def toy(seed: int) -> Dynamics:
    torch.manual_seed(0)
    x = torch.randn(300, 4)
    part = Transitions(x, torch.stack([x[:, 0] * x[:, 1], x[:, 2]], dim=1))
    return Dynamics(part, part, seed)


CASE = Case(toy, 20, 10, (0.5,), (0.8,), 3)


def zeros(subject: Subject) -> float:
    weights = [w for name, w in subject.components.named_parameters() if name.endswith("weight")]
    return sum((w == 0).sum().item() for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("name", ["global", "layer, least squares", "layer, iterative"])
def test_a_pruned_network_has_as_many_zeros(name: str) -> None:
    """After all rounds, and the training in them, the share that was asked for is zero."""
    subject = toy(0)
    share = study.prune(subject, study.METHODS[name], 0.8, 10)
    assert share == pytest.approx(0.8, abs=0.001) and zeros(subject) == pytest.approx(share, abs=1e-6)


def test_sap_goes_back_and_drops_more_each_round() -> None:
    """Each round has dropped more than the last, and trains from the first weights: one update away, they are near."""
    case = CASE._replace(updates=1)
    rounds = list(study.sap(case, 0, study.trained(case, 0)))
    shares = [share for share, _ in rounds]
    assert len(shares) == 3 and 0 < shares[0] < shares[1] < shares[2]
    first, last = toy(0).components["net"], rounds[-1][1].components["net"]
    assert isinstance(first, nn.Sequential) and isinstance(last, nn.Sequential)
    stays = last[0].weight != 0
    assert ((first[0].weight - last[0].weight).abs() * stays).max() < 0.002  # Adam's first step is its learning rate
    assert zeros(rounds[-1][1]) == pytest.approx(shares[-1], abs=1e-6)


def test_every_network_has_a_row() -> None:
    """The dense network, each method at each sparsity, and each round of SAP."""
    rows = list(study.weights("toy", CASE, 0))
    assert [row["method"] for row in rows].count("sap") == 3 and rows[0]["sparsity"] == 0
    assert {row["method"] for row in rows} == {"dense", "sap", *study.METHODS}
    slow = {row["method"] for row in study.weights("toy", CASE._replace(slow=True, sap_rounds=0), 0)}
    assert slow == {"dense", *study.METHODS} - set(study.SKIPPED)


def test_bounds_are_beside_what_is_measured() -> None:
    """Of every layer alone and of all of them, no error is larger than its bound."""
    rows = list(study.bounds("toy", CASE, 0))
    assert {row["layer"] for row in rows} == {"all", *(f"net.{place}.weight" for place in (0, 2, 4))}
    for row in rows:
        figures = {name: float(row[name]) for name in ("worst_case", "largest", "mean_square", "rms")}
        assert figures["largest"] <= figures["worst_case"] * 1.01
        assert figures["rms"] <= figures["mean_square"] * 1.01


def test_a_sparser_network_can_lose_more() -> None:
    """A network that reads one weight of each neuron is found softly sparser than a dense one, and loses more."""
    dense, sparse = toy(0), toy(0)
    with torch.no_grad():
        for weight in watched(sparse.components, sparse.run).weights():
            w = sparse.components.get_parameter(weight)
            w.copy_(torch.where(w.abs() < w.abs().amax(-1, keepdim=True), 1e-4 * w, w))
    (before,), (after,) = (list(study.compressibility("toy", each, 0, "0")) for each in (dense, sparse))
    assert float(after["soft_sparsity"]) > float(before["soft_sparsity"]) and after["cut"] > before["cut"]


def test_rows_of_other_tasks_stay(tmp_path: Path) -> None:
    """Rows of a task that is measured again replace its old ones alone."""
    path = tmp_path / "weights.csv"
    study.add_rows(path, [{"task": "a", "score": 1}, {"task": "b", "score": 2}])
    study.add_rows(path, [{"task": "a", "score": 3, "asked": 0.5}])
    table = read_table(path, "task", "score").to_dict("records")
    assert [(row["task"], row["score"]) for row in table] == [("b", "2"), ("a", "3")]
