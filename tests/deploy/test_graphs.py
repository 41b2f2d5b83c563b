"""Laws of what is exported: the same functions in shapes that runtimes like."""

import torch

from tdmpc.config import ModelConfig
from tdmpc.deploy.graphs import TILE, in_tiles
from tdmpc.spec import EnvSpec
from tdmpc.world_model import WorldModel
from tests.tdmpc.test_world_model import predictions

PRUNED = ModelConfig(
    latent=7, encoder=(5,), dynamics=(17, 9), reward=(20, 16), termination=(3, 33), policy=(50, 1), value=(13, 21, 6)
)
SPEC = EnvSpec(
    id="robot",
    observation_dim=3,
    action_dim=2,
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    action_repeat=1,
    terminates=True,
    episode_steps=None,
    control_period_ms=None,
    observation_layout=(("sensors", (3,)),),
)


def trained() -> WorldModel:
    """A model of which every number differs from its start."""
    model = WorldModel(PRUNED, SPEC)
    for values in model.state_dict().values():
        values.copy_(0.5 * torch.randn(values.shape))
    model.observation_std.abs_()
    return model


def test_whole_tiles_change_no_prediction() -> None:
    """A model in whole tiles predicts what it did, from the same observations, latents and actions."""
    model = trained()
    wide = in_tiles(model, SPEC)
    observation, z, action = torch.randn(64, 3), torch.randn(64, 7), torch.randn(64, 2)
    with torch.no_grad():
        torch.testing.assert_close(wide.encode(observation), model.encode(observation), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(predictions(wide, z, action), predictions(model, z, action), rtol=1e-5, atol=1e-4)


def test_only_layers_without_a_norm_are_widened() -> None:
    """Hidden layers have whole tiles, but for the value's first one, whose LayerNorm counts its units."""
    config = in_tiles(trained(), SPEC).config
    hidden = (*config.encoder, *config.dynamics, *config.reward, *config.termination, *config.policy)
    assert all(width % TILE == 0 for width in (*hidden, *config.value[1:]))
    assert (config.value[0], config.latent, config.dynamics) == (13, 7, (32, 16))


def test_whole_tiles_stay_as_they_are() -> None:
    """A model that has them already is the same model."""
    whole = in_tiles(trained(), SPEC)
    again = in_tiles(whole, SPEC)
    assert again.config == whole.config
    assert all(torch.equal(again.state_dict()[name], values) for name, values in whole.state_dict().items())
