"""Law of the description for other runtimes: the package that reads it takes it, and plans as the bundle does."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tdmpc.deploy import backends, bundle, leapp
from tdmpc.deploy.backends import Runtime
from tests.deploy.conftest import Exported


@pytest.mark.filterwarnings("ignore")  # what that package says of itself
@pytest.mark.parametrize("case", ["default", "reference-terminates"])
def test_leapp_reads_a_bundle(export_case: Callable[[str], Exported], case: str) -> None:
    """LEAPP's own reader validates names, shapes, hashes and connections; what it plans, and plans next with the plan
    fed back, is what the planner plans.
    """
    manager = pytest.importorskip("leapp.inference_manager", reason="pip install 'tdmpc[leapp]'")
    folder = export_case(case).folder
    read = manager.InferenceManager(str(folder / leapp.FILE))
    planner = backends.load(folder / bundle.PLANNER, Runtime())
    inputs = {name: np.full(shape, 0.1, np.float32) for name, shape in planner.shapes.items()}
    inputs["previous_mean"] *= 0
    given = {f"planner/{name.replace('/', '.')}": torch.from_numpy(each) for name, each in inputs.items()}
    del given["planner/previous_mean"]
    for _ in range(2):
        expected = planner(inputs)
        made = read.run_policy(given)
        assert made["planner/action"].numpy() == pytest.approx(expected["action"], abs=1e-3)
        inputs["previous_mean"] = expected["new_mean"]
