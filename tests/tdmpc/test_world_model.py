"""Laws of the world model: its sizes and start, its units, and what its verbs mean."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tdmpc.config import ModelConfig
from tdmpc.presets import preset
from tdmpc.spec import EnvSpec
from tdmpc.world_model import OBSERVATION_CLIP, WorldModel

MakeModel = Callable[..., WorldModel]
MakeSpec = Callable[..., EnvSpec]


def sizes(model: WorldModel) -> dict[str, int]:
    return {name: sum(p.numel() for p in part.parameters()) for name, part in model.components.items()}


def predictions(model: WorldModel, z: Tensor, action: Tensor) -> dict[str, Tensor]:
    """Everything the model says, rewards and values in environment units."""
    scale = model.reward_scale
    return {
        "reward": scale * model.reward(z, action),
        "q": scale * model.q(z, action),
        "value": scale * model.value(z, action),
        "next": model.next(z, action),
        "pi": model.pi(z),
        "terminates": model.terminates(z),
    }


# ------------------------------------------------------------------------------------------------ sizes and start


def test_published_sizes(make_spec: MakeSpec) -> None:
    """On cartpole the reference has the published 1.49 M parameters, component by component."""
    model = WorldModel(preset("reference").model, make_spec(5, 1))
    assert {name: round(size / 1000) for name, size in sizes(model).items()} == {
        "encoder": 14,
        "dynamics": 315,
        "reward": 290,
        "policy": 289,
        "value": 2 * 291,
    }
    assert round(sum(sizes(model).values()) / 1e6, 2) == 1.49


def test_widths_are_those_of_the_config(make_spec: MakeSpec) -> None:
    """Every layer has the width that its component's setting says, whatever the others have."""
    config = ModelConfig(
        latent=4, encoder=(5, 6), dynamics=(7,), reward=(), termination=(8, 9), policy=(10, 11, 12), value=(13, 14)
    )
    model = WorldModel(config, make_spec(3, 2, terminates=True))
    found = {name: [tuple(p.shape) for p in part.parameters() if p.ndim > 1] for name, part in model.components.items()}
    value = model.components["value"]
    assert found == {
        "encoder": [(5, 3), (6, 5), (4, 6)],
        "dynamics": [(7, 6), (4, 7)],
        "reward": [(1, 6)],
        "termination": [(8, 4), (9, 8), (1, 9)],
        "policy": [(10, 4), (11, 10), (12, 11), (2, 12)],
        "value": [tuple(p.shape) for p in value.parameters() if p.ndim > 1],
    }
    assert [tuple(weight.shape) for weight in value.weights] == [(2, 13, 6), (2, 14, 13), (2, 1, 14)]


@pytest.mark.parametrize("terminates", [False, True])
def test_termination_head_only_where_episodes_end(make_spec: MakeSpec, terminates: bool) -> None:
    """A model has a termination head exactly if its environment can terminate."""
    model = WorldModel(ModelConfig(), make_spec(terminates=terminates))
    assert model.can_terminate == ("termination" in sizes(model)) == terminates


def test_a_new_model_expects_nothing(make_spec: MakeSpec) -> None:
    """Rewards, values and termination logits of a new model are zero everywhere; its other layers are orthogonal."""
    model = WorldModel(ModelConfig(latent=6), make_spec(terminates=True))
    z, action = torch.randn(9, 6), torch.randn(9, 2)
    said = predictions(model, z, action)
    assert not any(said[name].any() for name in ("reward", "q", "value", "terminates"))
    for name in ("encoder", "dynamics", "policy"):
        for layer in (layer for layer in model.components[name] if isinstance(layer, nn.Linear)):
            rows, columns = layer.weight.shape
            wide = layer.weight if rows <= columns else layer.weight.T
            torch.testing.assert_close(wide @ wide.T, torch.eye(len(wide)), atol=1e-5, rtol=0)
            assert not layer.bias.any()


# ---------------------------------------------------------------------------------------------------------- verbs


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_value_is_the_least_of_the_ensemble(make_model: MakeModel, heads: int) -> None:
    """The value of an action is the minimum over all heads, one number for each latent."""
    model = make_model(value_heads=heads)
    z, action = torch.randn(4, 5, 6), torch.randn(4, 5, 2)
    q = model.q(z, action)
    assert q.shape == (heads, 4, 5)
    assert torch.equal(model.value(z, action), q.min(0).values)


def test_verbs_take_any_leading_axes(make_model: MakeModel) -> None:
    """A verb says of each latent in a stack what it says of that latent alone."""
    model = make_model(terminates=True)
    z, action = torch.randn(2, 3, 6), torch.randn(2, 3, 2)
    together = predictions(model, z, action)
    alone = predictions(model, z[1, 2], action[1, 2])
    assert together["q"].shape == (2, 2, 3)
    for name, value in alone.items():
        stacked = together[name][:, 1, 2] if name == "q" else together[name][1, 2]
        torch.testing.assert_close(stacked, value)


def test_next_and_reward_depend_on_the_action(make_model: MakeModel) -> None:
    """Dynamics, reward and value read the latent first and then the action, and both matter."""
    model = make_model()
    z, action = torch.randn(4, 6), torch.randn(4, 2)
    joined = torch.cat([z, action], dim=-1)
    for verb, component in ((model.next, "dynamics"), (model.reward, "reward"), (model.q, "value")):
        assert torch.equal(verb(z, action).flatten(), model.components[component](joined).flatten())
        assert not torch.allclose(verb(z, action), verb(z, -action))
        assert not torch.allclose(verb(z, action), verb(-z, action))


def test_policy_is_bounded(make_model: MakeModel) -> None:
    """The policy's actions lie in [-1, 1] for latents of any size."""
    model = make_model()
    actions = model.pi(1000 * torch.randn(64, 6))
    assert actions.abs().max() == 1


def test_scalars_are_single_precision(make_model: MakeModel) -> None:
    """In bfloat16 rewards, values and termination logits are read in single precision, where planning adds them up."""
    model = make_model(terminates=True)
    model.components.to(torch.bfloat16)
    z, action = torch.randn(4, 6).bfloat16(), torch.randn(4, 2)
    assert model.dtype == model.next(z, action).dtype == model.encode(torch.randn(4, 3)).dtype == torch.bfloat16
    scalars = (model.reward(z, action), model.value(z, action), model.terminates(z))
    assert all(scalar.dtype == torch.float32 for scalar in scalars)


def test_scalars_keep_their_digits(make_model: MakeModel) -> None:
    """Under bfloat16 autocast a return of 100.3 is not rounded to 100.5, what bfloat16 has nearest."""
    model, z, action = make_model(terminates=True), torch.randn(4, 6), torch.randn(4, 2)
    outputs = [*model.scaled_parameters(), *model.components["termination"][-1].parameters()]
    with torch.no_grad():
        for parameter in outputs:
            parameter.fill_(100.3 if parameter.shape[-1] == 1 else 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        scalars = (model.reward(z, action), model.value(z, action), model.terminates(z))
        assert model.next(z, action).dtype == torch.bfloat16
    for scalar in scalars:
        torch.testing.assert_close(scalar, torch.full((4,), 100.3))


# ---------------------------------------------------------------------------------------------------------- units


@settings(max_examples=25)
@given(
    scale=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3),
    shift=st.lists(st.floats(-10, 10), min_size=3, max_size=3),
)
def test_latents_do_not_depend_on_sensor_units(make_model: MakeModel, scale: list[float], shift: list[float]) -> None:
    """Once the moments are taken, sensors in other units and with other zeros give the same latent."""
    torch.manual_seed(0)
    model = make_model()
    observations = torch.randn(64, 3, dtype=torch.float64)
    other = observations * torch.tensor(scale, dtype=torch.float64) + torch.tensor(shift, dtype=torch.float64)

    def encode(sensed: Tensor) -> Tensor:
        model.observation_mean.copy_(sensed.mean(0))
        model.observation_std.copy_(sensed.std(0))
        return model.encode(sensed)

    # The moments are kept in single precision: a zero 10,000 deviations away costs 4 of its 7 digits.
    torch.testing.assert_close(encode(other), encode(observations), atol=5e-3, rtol=0)


def test_far_observations_are_clipped(make_model: MakeModel) -> None:
    """A sensor counts no more than a fixed number of deviations from its mean."""
    model = make_model()
    model.observation_mean.fill_(5.0)
    model.observation_std.fill_(2.0)
    edge = 5.0 + 2.0 * OBSERVATION_CLIP
    assert torch.equal(model.encode(torch.full((3,), 1e9)), model.encode(torch.full((3,), edge)))
    assert not torch.equal(model.encode(torch.full((3,), edge)), model.encode(torch.full((3,), edge - 2.0)))


def test_normalisation_can_be_off(make_model: MakeModel) -> None:
    """Without normalisation the encoder reads the sensors as they are, however far out."""
    model = make_model(normalize_observations=False)
    model.observation_mean.fill_(5.0)
    model.observation_std.fill_(2.0)
    observation = torch.tensor([100.0, -3.0, 0.5])
    assert torch.equal(model.encode(observation), model.components["encoder"](observation))


@settings(max_examples=25)
@given(exponents=st.lists(st.integers(-20, 20), min_size=1, max_size=3))
def test_growing_the_scale_changes_no_prediction(make_model: MakeModel, exponents: list[int]) -> None:
    """Whatever powers of two the reward scale is multiplied by, no prediction in environment units changes by a bit."""
    torch.manual_seed(0)
    model = make_model(terminates=True)
    z, action = torch.randn(16, 6), torch.randn(16, 2)
    before = predictions(model, z, action)
    units = model.reward(z, action)
    for exponent in exponents:
        model.grow_reward_scale(2.0**exponent)
    after = predictions(model, z, action)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert model.reward_scale == 2.0 ** sum(exponents)
    assert torch.equal(model.reward(z, action) * 2.0 ** sum(exponents), units)


def test_scaled_parameters_are_the_output_layers(make_model: MakeModel) -> None:
    """Exactly the parameters that rewards and values are linear in are in model units."""
    model = make_model(terminates=True)
    z, action = torch.randn(4, 6), torch.randn(4, 2)
    scaled = {id(parameter) for parameter in model.scaled_parameters()}
    said = predictions(model, z, action)
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) in scaled:
                parameter *= 3
    assert len(scaled) == 4
    tripled = predictions(model, z, action)
    for name, value in said.items():
        factor = 3 if name in ("reward", "q", "value") else 1
        torch.testing.assert_close(tripled[name], factor * value)


def test_units_travel_with_the_weights(make_model: MakeModel) -> None:
    """A model's state carries its observation statistics and its reward scale."""
    model, other = make_model(terminates=True), make_model(terminates=True)
    model.observation_mean.normal_()
    model.observation_std.fill_(3.0)
    model.grow_reward_scale(8.0)
    other.load_state_dict(model.state_dict())
    observation, z, action = torch.randn(5, 3), torch.randn(5, 6), torch.randn(5, 2)
    assert torch.equal(other.encode(observation), model.encode(observation))
    assert other.reward_scale == 8.0
    mine, theirs = predictions(model, z, action), predictions(other, z, action)
    assert all(torch.equal(theirs[name], mine[name]) for name in mine)


def test_a_config_of_other_widths_is_another_model(make_spec: MakeSpec) -> None:
    """Weights of one width do not load into a model of another: nothing is broadcast or dropped."""
    config = ModelConfig(latent=6, encoder=(8,))
    model, wider = (WorldModel(c, make_spec()) for c in (config, dataclasses.replace(config, encoder=(9,))))
    with pytest.raises(RuntimeError, match="size mismatch"):
        wider.load_state_dict(model.state_dict())
