"""Laws of ``tdmpc sparsity``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tdmpc import runs
from tdmpc.scripts.main import main

COMPONENTS = {"encoder": 2, "dynamics": 2, "reward": 2, "policy": 2, "value": 2}


@pytest.fixture
def judged(trained: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """What ``--json`` prints for the trained run."""

    def run(*options: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["sparsity", str(trained), "--json", "--windows=16", *options]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_every_layer_is_judged(judged: Callable[..., dict[str, Any]]) -> None:
    """Each layer of each component has its two indices and its numbers of weights, beside the dense ones."""
    components = judged()["components"]
    assert {name: len(component["layers"]) for name, component in components.items()} == COMPONENTS
    for component in components.values():
        for layer in component["layers"]:
            assert 0 <= layer["pq_index"] < 1 and 0 < layer["soft_sparsity"] <= 1
            assert 0 <= layer["weights_needed"] <= layer["weights_sufficient"] <= layer["weights"]
            assert (layer["weights"], layer["inputs"]) == (layer["weights_dense"], layer["inputs_dense"])


def test_a_larger_tolerance_needs_less(judged: Callable[..., dict[str, Any]]) -> None:
    """The more an output may be off, the fewer weights have to stay, down to none."""

    def needed(tolerance: str) -> int:
        components = judged(f"--tolerance={tolerance}")["components"].values()
        return sum(layer["weights_needed"] for component in components for layer in component["layers"])

    assert needed("1e-6") > needed("0.3") > needed("1000") == 0


def test_the_table_names_the_layers(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``--json`` a table has a row for each layer, in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["sparsity", str(trained), "--windows=16"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name} {number}" in printed for name, layers in COMPONENTS.items() for number in range(1, layers + 1))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--tolerance=0", "--tolerance must be positive, got 0.0"),
        ("--soft-q=1", "--soft-q must be between 0 and 1, got 1.0"),
        ("--windows=0", "--windows must be positive, got 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(trained: Path, fails: Callable[..., str], option: str, message: str) -> None:
    """A setting without a meaning is one clear line."""
    assert fails("sparsity", str(trained), option) == message


def test_powers_out_of_order_are_refused(trained: Path, fails: Callable[..., str]) -> None:
    """The powers of the PQ index have to be in order."""
    assert fails("sparsity", str(trained), "--pq", "2", "1") == "--pq must be two numbers with 0 < p < q, got 2 1"


def test_a_folder_without_a_run_is_refused(tmp_path: Path, fails: Callable[..., str]) -> None:
    """Where there is no checkpoint, the folder is named."""
    assert fails("sparsity", str(tmp_path)).startswith(f"{tmp_path} holds no checkpoint ({runs.checkpoint.CURRENT})")
