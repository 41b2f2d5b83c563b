"""An autoencoder that can be pruned: its groups, its training, and how a smaller one is judged."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tdmpc.checkpoint import prefixed
from tdmpc.compression.absorb import Watch, absorbed
from tdmpc.compression.groups import Axis, Groups, Keep, Slice
from tdmpc.compression.prunable import Judgement
from tdmpc.compression.pruner import OnlinePruner
from tdmpc.compression.shrink import load_training_state, shrink, training_state
from tdmpc.config import ConfigError, Widths
from tdmpc.layers import mlp
from tdmpc.scripts.digits import Images


@dataclass(frozen=True)
class Shape:
    """Widths of an autoencoder."""

    encoder: Widths = (128, 64)
    latent: int = 32
    decoder: Widths = (64, 128)


class Autoencoder(nn.Module):
    """Encoder, latent, decoder; the outputs are squashed to the range of the pictures."""

    def __init__(self, shape: Shape, pixels: int) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = mlp(pixels, shape.encoder, shape.latent)
        self.decoder = mlp(shape.latent, shape.decoder, pixels)

    def forward(self, x: Float[Tensor, "N X"]) -> Float[Tensor, "N X"]:
        return torch.sigmoid(self.decoder(self.encoder(x)))

    @cached_property
    def groups(self) -> Groups:
        """Hidden units of both components, and the latent coordinates that couple them."""
        hidden = [
            Axis(name, layer, width, (*_rows(name, layer), Slice(f"{name}.{2 * layer + 2}.weight", 1)))
            for name in ("encoder", "decoder")
            for layer, width in enumerate(getattr(self.shape, name))
        ]
        last = len(self.shape.encoder)
        written = (piece._replace(component="encoder") for piece in _rows("encoder", last))
        read = Slice("decoder.0.weight", 1, component="decoder")
        latent = Axis("latent", None, self.shape.latent, (*written, read))
        shapes = {name: tuple(parameter.shape) for name, parameter in self.named_parameters()}
        return Groups((*hidden, latent), shapes, {name: 1 for name in shapes if name.endswith("weight")})


def _rows(component: str, layer: int) -> tuple[Slice, Slice]:
    """Linear layers have the even places, activations lie between them."""
    return Slice(f"{component}.{2 * layer}.weight", 0), Slice(f"{component}.{2 * layer}.bias", 0)


def with_widths(shape: Shape, widths: Mapping[str, int]) -> Shape:
    """A shape with other widths, by the names of axes."""

    def layers(name: str) -> Widths:
        return tuple(widths[f"{name}.{layer}"] for layer in range(len(getattr(shape, name))))

    return Shape(layers("encoder"), widths["latent"], layers("decoder"))


def psnr(model: nn.Module, pictures: Float[Tensor, "N X"]) -> float:
    """Peak signal-to-noise ratio of the reconstructions in dB; the peak is 1."""
    with torch.no_grad():
        return -10 * math.log10(F.mse_loss(model(pictures), pictures).item())


class Training:
    """An autoencoder with its optimiser: what is trained, and what the pruner sees."""

    def __init__(self, shape: Shape, images: Images, learning_rate: float) -> None:
        self.images, self.learning_rate = images, learning_rate
        self.model = Autoencoder(shape, images.train.shape[1])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate)

    @property
    def groups(self) -> Groups:
        """As the model is now."""
        return self.model.groups

    def parameters(self) -> dict[str, nn.Parameter]:
        """By name."""
        return dict(self.model.named_parameters())

    def shrunk(self, keep: Keep) -> Self:
        """A smaller one with the moments that belong to it."""
        state = shrink(training_state(self.model, self.optimizer), self.groups, keep)
        return self._holding(with_widths(self.model.shape, self.groups.kept(keep).widths), state)

    def _holding(self, shape: Shape, state: Mapping[str, Tensor]) -> Self:
        other = type(self)(shape, self.images, self.learning_rate)
        load_training_state(other.model, other.optimizer, state)
        return other

    @torch.no_grad()
    def absorbed(self, keep: Keep) -> Self:
        """The same size; on the training pictures, what will go is read from what stays."""
        with Watch(self.parameters()) as watch:
            self.model(self.images.train)
        state = absorbed(training_state(self.model, self.optimizer), self.groups, keep, watch.inputs())
        return self._holding(self.model.shape, state)

    def with_fresh_optimizer(self) -> Self:
        """The same autoencoder, Adam as at the beginning."""
        return self._holding(self.model.shape, prefixed("model", self.model.state_dict()))

    @torch.no_grad()
    def judge(self, before: Self, draw: int) -> Judgement:
        """On all held-out pictures; the error as a share of what the mean picture leaves."""
        pictures = self.images.held_out
        errors = [F.mse_loss(training.model(pictures), pictures).item() for training in (before, self)]
        ratios = [psnr(training.model, pictures) for training in (before, self)]
        constant = pictures.var(0, correction=0).mean().item()
        losses = [{"reconstruction": error, "psnr": ratio} for error, ratio in zip(errors, ratios, strict=True)]
        return Judgement(*losses, worsening={"reconstruction": (errors[1] - errors[0]) / constant})

    def update(self, pictures: Float[Tensor, "N X"], pruner: OnlinePruner | None) -> None:
        """One step of Adam."""
        self.optimizer.zero_grad()
        F.mse_loss(self.model(pictures), pictures).backward()
        if pruner:
            pruner.observe(self.parameters())
        self.optimizer.step()


def scratch_shape(dense: Shape, pixels: int, target: float) -> Shape:
    """The largest evenly narrowed shape with no more parameters than pruning to a target leaves."""
    most = (1 - target) * count(dense, pixels)
    for scale in np.linspace(1, 0, 400, endpoint=False):
        shape = _narrowed(dense, float(scale))
        if count(shape, pixels) <= most:
            return shape
    raise ConfigError(f"--targets: {target} leaves less than one unit in each layer")


def _narrowed(shape: Shape, scale: float) -> Shape:
    def narrow(width: int) -> int:
        return max(round(width * scale), 1)

    return Shape(tuple(map(narrow, shape.encoder)), narrow(shape.latent), tuple(map(narrow, shape.decoder)))


def count(shape: Shape, pixels: int) -> int:
    """Parameters of an autoencoder."""
    widths = (pixels, *shape.encoder, shape.latent, *shape.decoder, pixels)
    return sum((before + 1) * after for before, after in pairwise(widths))
