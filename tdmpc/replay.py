"""Prioritised replay of windows: ``horizon`` consecutive transitions that never leave their episode.

Each environment stepped (a lane) has a ring of rows. A row is an observation and what happened there:
action, reward, whether that ended the episode for good. Behind the newest transition stands one more row
with only the observation it led to; the next step of the episode fills that row in, an episode that is
over keeps it (and so costs one row of the capacity). With horizon 2, an episode of three transitions
that terminates and the first of the next:

    row          0    1    2    3    4    5
    observation  o0   o1   o2   o3   o0'  o1'
    action       a0   a1   a2   0    a0'  0
    terminated   .    .    x    .    .    .
    window       yes  yes  yes  no   not yet

The window of row 2 runs past the termination: its second transition is masked, and reads row 3 again.
Had the episode been truncated instead, row 2 would start no window, for what came next is not known.

The rows of all lanes lie in one flat ring: row r of lane n has the id ``r * lanes + n``, one step in
time is ``lanes`` ids further, and a window is named by the id of its first row. Rows are overwritten
in order, so a window goes when its first row goes: nothing else has to be looked at.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import from_numpy

from tdmpc.config import ReplayConfig
from tdmpc.spec import Batch
from tdmpc.sum_tree import SumTree

EPSILON = 1e-6
"""Added to every priority, so that no window is lost for good."""
ROWS = ("rows", "terminated", "is_transition")
"""Parts of the state that have a row for each of the ring's, and change where something is added only."""


class Replay:
    """The last ``capacity`` transitions of all lanes; see the module's text for how they are laid out."""

    def __init__(
        self,
        config: ReplayConfig,
        *,
        observation_dim: int,
        action_dim: int,
        horizon: int,
        lanes: int = 1,
        seed: int = 0,
    ) -> None:
        if config.capacity < lanes * horizon:
            raise ValueError(
                f"replay capacity must be at least {lanes * horizon} to hold one window of {horizon} transitions "
                f"for each of {lanes} lanes, got {config.capacity}"
            )
        self._config = config
        self._observation_dim = observation_dim
        self._action_dim = action_dim
        self._horizon = horizon
        self._lanes = lanes
        self._size = (-(-config.capacity // lanes) + 1) * lanes
        # Its state is one array of integers, and drawing doubles buffers nothing beside it.
        self._bits = np.random.SFC64(seed)
        self._rng = np.random.Generator(self._bits)
        self._clear()

    def _clear(self) -> None:
        """Reserve the rings; pages of zeros cost no memory until they are written."""
        # Observation, action and reward side by side: to read a row is then to wait for memory once.
        self._rows = np.zeros((self._size, self._observation_dim + self._action_dim + 1), dtype=np.float32)
        self._terminated = np.zeros(self._size, dtype=bool)
        self._is_transition = np.zeros(self._size, dtype=bool)
        self._tree = SumTree(self._size)
        self.changed = np.ones(self._size, dtype=bool)
        """Rows that were written to since whoever saves them has last cleared this."""
        self._cursor = np.arange(self._lanes)  # the row that the next transition of each lane goes to
        self._length = np.zeros(self._lanes, dtype=np.int64)  # transitions of the running episode
        self._filled = 0  # rows up to the last one ever written
        self._transitions = 0
        self._windows = 0
        self._max_priority = 1.0

    def __len__(self) -> int:
        """Transitions stored."""
        return self._transitions

    @property
    def windows(self) -> int:
        """Windows that can be sampled."""
        return self._windows

    def observation_range(self) -> tuple[Float[np.ndarray, "O"], Float[np.ndarray, "O"]]:
        """Least and largest value of each reading that is stored, in sensor units."""
        rows = self._rows[: self._filled, : self._observation_dim]
        stored = self._is_transition[: self._filled, None]
        return rows.min(0, initial=np.inf, where=stored), rows.max(0, initial=-np.inf, where=stored)

    def add(
        self,
        observations: Float[np.ndarray, "N O"],
        actions: Float[np.ndarray, "N A"],
        rewards: Float[np.ndarray, "N"],
        terminated: Bool[np.ndarray, "N"],
        truncated: Bool[np.ndarray, "N"],
        next_observations: Float[np.ndarray, "N O"],
        *,
        real: Bool[np.ndarray, "N"] | None = None,
    ) -> None:
        """Store one step of all lanes; ``next_observations`` are those before any reset.

        Of a lane that is not ``real`` nothing is stored; its episode may end all the same.
        """
        lanes = self._lanes
        real = np.ones(lanes, dtype=bool) if real is None else real
        _expect_shape("observations", observations, (lanes, self._observation_dim))
        _expect_shape("actions", actions, (lanes, self._action_dim))
        _expect_shape("rewards", rewards, (lanes,))
        _expect_shape("terminated", terminated, (lanes,))
        _expect_shape("truncated", truncated, (lanes,))
        _expect_shape("next_observations", next_observations, (lanes, self._observation_dim))

        row = self._cursor[real]
        next_row = (row + lanes) % self._size
        self._empty(np.concatenate((row, next_row)))
        self._rows[row] = np.column_stack((observations, actions, rewards))[real]
        self._rows[next_row, : self._observation_dim] = next_observations[real]
        self._rows[next_row, self._observation_dim :] = 0.0
        self._terminated[row] = terminated[real]
        self._is_transition[row] = True
        self._transitions += len(row)
        self._length += real
        self._admit(row, terminated[real], self._length[real])
        self._cursor[real] = next_row
        self.cut(np.logical_or(terminated, truncated))

    def cut(self, lanes: Bool[np.ndarray, "N"]) -> None:
        """End the running episodes of these lanes where they are, as if their last step had been truncated."""
        running = lanes & (self._length > 0)
        self._length[running] = 0
        self._cursor = np.where(running, (self._cursor + self._lanes) % self._size, self._cursor)

    def _empty(self, rows: Int[np.ndarray, "R"]) -> None:
        """Empty rows that are about to be written, and drop the windows that start there."""
        self._transitions -= int(np.count_nonzero(self._is_transition[rows]))
        self._windows -= int(np.count_nonzero(self._tree[rows]))
        self._is_transition[rows] = False
        self._tree[rows] = 0.0
        self.changed[rows] = True
        self._filled = max(self._filled, int(rows.max(initial=-1)) + 1)

    def _admit(
        self, row: Int[np.ndarray, "R"], terminated: Bool[np.ndarray, "R"], length: Int[np.ndarray, "R"]
    ) -> None:
        """Make the windows sampleable that the newest transitions, in ``row``, have completed.

        That is the window which ends there; after a termination also those which start later in the
        episode. With horizon 3 and a termination in row 7 of an episode begun in row 6: windows 6 and 7.
        """
        back = np.arange(self._horizon)[:, None]
        completed = (back < length) & ((back == self._horizon - 1) | terminated)
        starts = ((row - back * self._lanes) % self._size)[completed]
        self._tree[starts] = self._leaf(self._max_priority)
        self._windows += len(starts)

    def sample(self, batch_size: int, *, rng: np.random.Generator | None = None) -> Batch:
        """Draw windows in proportion to ``priority ** alpha``, with replacement.

        What lies behind a termination is masked: the last observation again, no action, no reward,
        ``terminated`` stays true. With an ``rng`` of the caller's, the replay's own stream stays where it is.
        """
        if not self._windows:
            raise ValueError(
                f"no window to sample yet: {len(self)} transitions are stored, a window takes {self._horizon} "
                f"of one episode, or fewer up to its termination"
            )
        starts = self._tree.draw((rng or self._rng).random(batch_size))
        leaves = self._tree[starts]
        steps = np.arange(self._horizon)[:, None] * self._lanes
        ended = np.logical_or.accumulate(self._terminated.take((starts + steps) % self._size))
        mask = np.ones(ended.shape, dtype=np.float32)
        mask[1:] -= ended[:-1]
        # mask 1 1 0 0 reads the rows 0 1 2 2 2: the row behind the termination stands for all that follow.
        rows = np.empty((self._horizon + 1, batch_size), dtype=np.int64)
        rows[0] = starts
        rows[1:] = (starts + mask.cumsum(axis=0, dtype=np.int64) * self._lanes) % self._size
        read = from_numpy(self._rows.take(rows, axis=0))
        return Batch(
            observations=read[..., : self._observation_dim],
            actions=read[:-1, :, self._observation_dim : -1],
            rewards=read[:-1, :, -1],
            terminated=from_numpy(ended),
            mask=from_numpy(mask),
            # (windows * probability) ** -beta over its maximum: all but the leaf cancels.
            weights=from_numpy(((leaves / leaves.min()) ** -self._config.beta).astype(np.float32)),
            indices=starts,
        )

    def transitions(
        self, most: int
    ) -> tuple[Float[np.ndarray, "N O"], Float[np.ndarray, "N A"], Float[np.ndarray, "N O"]]:
        """Observations, actions and next observations, spread evenly over what is stored: all, or ``most`` of them."""
        rows = np.flatnonzero(self._is_transition)
        rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
        after = (rows + self._lanes) % self._size
        now = self._rows[rows]
        return (
            now[:, : self._observation_dim],
            now[:, self._observation_dim : -1],
            self._rows[after, : self._observation_dim],
        )

    def update_priorities(self, indices: Int[np.ndarray, "B"], priorities: Float[np.ndarray, "B"]) -> None:
        """Give sampled windows new raw priorities; where an index is repeated, its last one counts.

        A window overwritten since it was sampled stays away. If another one starts in the same row by then,
        that one gets the priority: update before the ring has gone round, as every training loop does.
        """
        priorities = np.asarray(priorities, dtype=np.float64)
        _expect_shape("priorities", priorities, indices.shape)
        if not (np.isfinite(priorities) & (priorities >= 0)).all():
            raise ValueError(f"priorities must be finite and at least 0, got {priorities.min()} to {priorities.max()}")
        alive = self._tree[indices] > 0
        self._tree[indices[alive]] = self._leaf(priorities[alive])
        self._max_priority = float(priorities.max(initial=self._max_priority))

    def rescale_priorities(self, factor: float) -> None:
        """Multiply every raw priority: errors that were measured in other units are compared in today's."""
        if factor != 1.0:
            filled = np.arange(self._filled)
            self._tree[filled] = self._tree[filled] * factor**self._config.alpha
            self._max_priority *= factor

    def _leaf(self, priority: Float[np.ndarray, "B"] | float) -> Float[np.ndarray, "B"] | float:
        """What a raw priority weighs in the draw."""
        return (priority + EPSILON) ** self._config.alpha

    def episode_actions(self, lane: int) -> Float[np.ndarray, "T A"]:
        """The actions of the running episode of a lane so far, to bring its environment back on resume."""
        length = int(self._length[lane])
        if length >= self._size // self._lanes:
            raise ValueError(
                f"the running episode of lane {lane} has {length} transitions, the replay keeps only "
                f"{self._size // self._lanes - 1} of a lane: raise its capacity"
            )
        rows = (self._cursor[lane] - np.arange(length, 0, -1) * self._lanes) % self._size
        return self._rows[rows, self._observation_dim : -1]

    def state(self) -> dict[str, np.ndarray]:
        """All that sampling depends on; the rows are views, to be written out before the next ``add``."""
        filled = slice(self._filled)
        return {
            "layout": np.array(list(self._layout().values())),
            "rows": self._rows[filled],
            "terminated": self._terminated[filled],
            "is_transition": self._is_transition[filled],
            "leaves": self._tree[filled],
            "cursor": self._cursor.copy(),
            "length": self._length.copy(),
            "max_priority": np.array(self._max_priority),
            "rng": self._bits.state["state"]["state"].copy(),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Become the replay that ``state`` was taken from."""
        saved = dict(zip(self._layout(), state["layout"].tolist(), strict=True))
        here = self._layout()
        differing = [f"{name} was {saved[name]} and is {here[name]}" for name in here if saved[name] != here[name]]
        if differing:
            raise ValueError(f"the saved replay does not fit this one: {', '.join(differing)}")
        self._clear()
        self._filled = len(state["rows"])
        self._rows[: self._filled] = state["rows"]
        self._terminated[: self._filled] = state["terminated"]
        self._is_transition[: self._filled] = state["is_transition"]
        self._tree[np.arange(self._filled)] = state["leaves"]
        self._cursor = state["cursor"].copy()
        self._length = state["length"].copy()
        self._transitions = int(np.count_nonzero(state["is_transition"]))
        self._windows = int(np.count_nonzero(state["leaves"]))
        self._max_priority = float(state["max_priority"])
        self._bits.state = {**self._bits.state, "state": {"state": state["rng"]}}

    def _layout(self) -> dict[str, int]:
        return {
            "capacity": self._config.capacity,
            "lanes": self._lanes,
            "horizon": self._horizon,
            "observation_dim": self._observation_dim,
            "action_dim": self._action_dim,
        }


def _expect_shape(name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
    if np.shape(value) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {np.shape(value)}")
