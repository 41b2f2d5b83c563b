"""Groups: what must fall together, and what each costs.

A *group* is one hidden unit of one layer, or one coordinate that several components share: its row, its bias and norm
parameters, and the columns that read it. Groups of a kind lie along an *axis*. The axes of a model are declared in one
table, ``Groups``; nothing is traced. Nothing here knows what the components are for.

    axis dynamics.0 of size 3:  dynamics.0.weight [3 6] rows, dynamics.0.bias [3], dynamics.2.weight [4 3] columns
    keep {"dynamics.0": [[0, 2]]}:       ... [2 6]            ... [2]              ...               [4 2]

Axes: ``E`` heads (1 where nothing is stacked), ``W`` units of an axis, ``K`` units kept, ``U`` all groups of a model,
axis by axis, head by head, unit by unit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Keep = Mapping[str, Tensor]
"""Units that stay, by axis: ``Int[E K]``, ascending in each head. Axes that are not named stay whole."""

Budget = Literal["macs", "parameters"]
"""What is to become smaller: the multiply-adds that ``Groups.calls`` counts (a plan), or the number of parameters."""


class Slice(NamedTuple):
    """Where an axis lies in a parameter: along ``dim``, from ``start`` on."""

    parameter: str
    dim: int
    start: int = 0
    component: str = ""
    """Whose parameter this is, where components share the axis; empty where it is the axis' own."""


@dataclass(frozen=True)
class Axis:
    """Groups of one kind: the units of a layer, or the coordinates that components share."""

    component: str
    """Whose units these are; shared coordinates have a name of their own, for example ``latent``."""
    layer: int | None
    """Hidden layer of the component, from 0 on; ``None`` for shared coordinates."""
    size: int
    slices: tuple[Slice, ...]
    heads: int = 1
    """Stacked networks: dimension 0 of each parameter is the head, and each head has units of its own."""

    @property
    def shared_by(self) -> int:
        """Components that the axis runs through: what shared coordinates lose, each of them loses."""
        return max(len(self.owners), 1)

    @property
    def owners(self) -> list[str]:
        """The components that share the axis, none where it belongs to one."""
        return list(dict.fromkeys(piece.component for piece in self.slices if piece.component))

    @property
    def parts(self) -> list["Axis"]:
        """A shared axis as each component has it, under the name of that component; none where nobody shares it."""
        return [
            replace(
                self,
                component=owner,
                slices=tuple(piece._replace(component="") for piece in self.slices if piece.component == owner),
            )
            for owner in self.owners
        ]

    @property
    def name(self) -> str:
        """``dynamics.0`` for the first hidden layer of the dynamics, ``latent`` for shared coordinates."""
        return self.component if self.layer is None else f"{self.component}.{self.layer}"


class Cost(NamedTuple):
    """A cost as a polynomial in the widths of all axes: a weight is a product of at most two of them."""

    form: Float[np.ndarray, "X X"]
    """The cost is ``x @ form @ x`` with x = (widths, 1)."""

    def __call__(self, widths: Float[np.ndarray, "W"]) -> float:
        """The cost of these widths."""
        x = np.append(widths, 1.0)
        return float(x @ self.form @ x)

    def of_a_unit(self, widths: Float[np.ndarray, "W"]) -> Float[np.ndarray, "W"]:
        """What one unit of each axis, in every head, costs at these widths."""
        slope = (self.form + self.form.T) @ np.append(widths, 1.0) - np.diag(self.form)  # w^2 - (w - 1)^2 = 2 w - 1
        return slope[:-1]


@dataclass(frozen=True)
class Groups:
    """The table of axes of a model.

    Args:
        axes: all that may be cut.
        shapes: of every parameter, by name.
        calls: how many rows each weight multiplies in what is to become cheaper, for example in one plan; parameters
            that are not named cost no multiply-adds.
    """

    axes: tuple[Axis, ...]
    shapes: Mapping[str, tuple[int, ...]]
    calls: Mapping[str, int]

    def __getitem__(self, name: str) -> Axis:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Axis]:
        return {axis.name: axis for axis in self.axes}

    @property
    def widths(self) -> dict[str, int]:
        """Units of each axis."""
        return {axis.name: axis.size for axis in self.axes}

    @property
    def components(self) -> list[str]:
        """Everything that has axes, in the table's order."""
        return list(dict.fromkeys(axis.component for axis in self.axes))

    @cached_property
    def total(self) -> int:
        """``U``: groups of all axes."""
        return sum(axis.heads * axis.size for axis in self.axes)

    def _calls(self, budget: Budget) -> Mapping[str, int]:
        return self.calls if budget == "macs" else dict.fromkeys(self.shapes, 1)

    def cost(self, budget: Budget) -> int:
        """What the model costs."""
        return sum(calls * math.prod(self.shapes[name]) for name, calls in self._calls(budget).items())

    def polynomial(self, budget: Budget) -> Cost:
        """The cost as a function of the widths, in the order of ``axes``."""
        number = {axis.name: index for index, axis in enumerate(self.axes)}
        form = np.zeros((len(self.axes) + 1, len(self.axes) + 1))
        for name, calls in self._calls(budget).items():
            sides = np.zeros((2, len(self.axes) + 1))  # each dimension that an axis runs along: width + what is fixed
            sides[:, -1] = 1.0
            shape = list(self.shapes[name])
            for side, (piece, axis) in zip(sides, self.cuts(name), strict=False):
                side[number[axis.name]], side[-1] = 1.0, shape[piece.dim] - axis.size
                shape[piece.dim] = 1
            form += calls * math.prod(shape) * np.outer(*sides)
        return Cost(form)

    def cuts(self, name: str) -> list[tuple[Slice, Axis]]:
        """The axes that run through a parameter, at most two and each along its own dimension, with where they lie."""
        return self._cuts[name]

    @cached_property
    def _cuts(self) -> dict[str, list[tuple[Slice, Axis]]]:
        found: dict[str, list[tuple[Slice, Axis]]] = {name: [] for name in self.shapes}
        for axis in self.axes:
            for piece in axis.slices:
                found[piece.parameter].append((piece, axis))
        return found

    def kept(self, keep: Keep) -> "Groups":
        """The table after a cut."""
        return self.resized({name: units.shape[1] for name, units in keep.items()})

    def resized(self, widths: Mapping[str, int]) -> "Groups":
        """The table of a model of other widths; axes that are not named stay as they are."""
        axes = tuple(replace(axis, size=widths.get(axis.name, axis.size)) for axis in self.axes)
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        for before, after in zip(self.axes, axes, strict=True):
            for piece in before.slices:
                shapes[piece.parameter][piece.dim] += after.size - before.size
        return Groups(axes, {name: tuple(shape) for name, shape in shapes.items()}, self.calls)

    def with_parts(self) -> "Groups":
        """The table to observe by: behind the axes stand the parts of the shared ones. It is not one to cut by."""
        return replace(self, axes=(*self.axes, *(part for axis in self.axes for part in axis.parts)))

    def flat(self, units: Keep) -> Int[Tensor, "K"]:
        """The places of units among all groups; axes that are not named are there whole."""
        return torch.cat([self.places(axis, units.get(axis.name)).flatten() for axis in self.axes])

    def split(self, values: Tensor) -> dict[str, Tensor]:
        """One number for each group ``[U]`` as one ``[E W]`` for each axis."""
        parts = values.split([axis.heads * axis.size for axis in self.axes])
        return {axis.name: part.view(axis.heads, axis.size) for axis, part in zip(self.axes, parts, strict=True)}

    def places(self, axis: Axis, units: Int[Tensor, "E K"] | None = None) -> Int[Tensor, "E K"]:
        """The places of an axis' units, all of them when none are given, among all groups."""
        units = all_units(axis) if units is None else units
        return self._start[axis.name] + axis.size * torch.arange(axis.heads)[:, None] + units

    @cached_property
    def _start(self) -> dict[str, int]:
        sizes = [axis.heads * axis.size for axis in self.axes]
        return {axis.name: sum(sizes[:index]) for index, axis in enumerate(self.axes)}


def all_units(axis: Axis) -> Int[Tensor, "E W"]:
    """Every unit of an axis, by its number."""
    return torch.arange(axis.size).expand(axis.heads, -1)
