"""``tdmpc bench``: what a plan and an update cost on this machine."""

import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from tdmpc import machine
from tdmpc.actor import Actor
from tdmpc.agent import Agent
from tdmpc.compression.observer import WATCHED_EVERY
from tdmpc.config import ConfigError, Linear, Precision, TrainConfig
from tdmpc.files import write_whole
from tdmpc.macs import planning_macs
from tdmpc.presets import PRESETS, preset
from tdmpc.scripts import ranges
from tdmpc.scripts.bench_limit import counted_macs, matmul_rate, milliseconds
from tdmpc.scripts.bench_pruning import PruningBench, Watch, pruned
from tdmpc.spec import Batch, EnvSpec

CARTPOLE = EnvSpec(
    id="dm_control/cartpole-swingup-v0",
    observation_dim=5,
    action_dim=1,
    action_low=(-1.0,),
    action_high=(1.0,),
    action_repeat=8,
    terminates=False,
    episode_steps=125,
    control_period_ms=80.0,
    observation_layout=(("position", (3,)), ("velocity", (2,))),
)


def _of_width(width: int) -> TrainConfig:
    widths = dict.fromkeys(("dynamics", "reward", "termination", "policy", "value"), (width, width))
    reference = preset("reference", CARTPOLE)
    return dataclasses.replace(reference, model=dataclasses.replace(reference.model, **widths))


SETTINGS: dict[str, Callable[[], TrainConfig]] = {
    "reference": lambda: preset("reference", CARTPOLE),
    "default": lambda: preset("default", CARTPOLE),
    "width-256": lambda: _of_width(256),
    "width-128": lambda: _of_width(128),
    "width-48": lambda: _of_width(48),
    **{
        f"{name}-{share}": lambda name=name, share=share: pruned(preset(name, CARTPOLE), CARTPOLE, share)
        for name in PRESETS
        for share in (0.75, 0.97)
    },
}
UPDATES: dict[Watch, str] = {"nothing": "update", "criterion": "watched", "all": "observed"}
"""What of an update is watched, and what such an update is called."""


@dataclass(frozen=True)
class BenchArgs:
    """Time plans and updates on synthetic data, with the planner at its full horizon. Times are medians over rounds.

    Beside each time stands its rate of multiply-adds, as a share of the device's fastest large matrix product.
    """

    setting: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ("reference", "default")
    """What to time. ``reference`` has the published sizes on cartpole-swingup, and ``default`` is the default preset.
    width-256, width-128 and width-48 are the reference with narrower hidden layers. In reference-0.75, reference-0.97,
    default-0.75 and default-0.97 this share of a plan's multiply-adds is pruned."""
    threads: int = 0
    """Threads of the tensor library; 0 for all cores."""
    precision: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Precisions to measure."""
    compile: bool = False
    """Compile the planner and the update first."""
    rounds: int = 5
    """Rounds in which the settings take turns."""
    calls: int = 5
    """Plans and updates of each setting in a round."""
    device: str = "cpu"
    """Torch device, for example ``cpu`` or ``cuda``."""
    profile: Path | None = None
    """Text file that tells where the time goes, operator by operator and kernel by kernel; none when not given."""
    json: bool = False
    """Print a list of JSON objects instead of a table."""


class Bench:
    """One agent of a setting, with something to plan from and to learn from."""

    def __init__(self, setting: str, precision: Precision, args: BenchArgs) -> None:
        config = SETTINGS[setting]()
        # The full horizon from the first step on: what a trained agent pays.
        planner = dataclasses.replace(
            config.planner, horizon_schedule=Linear(config.planner.horizon, config.planner.horizon, 0)
        )
        config = dataclasses.replace(
            config, env=CARTPOLE.id, planner=planner, precision=precision, device=args.device, compile=args.compile
        )
        torch.manual_seed(0)
        self.setting, self.config = setting, config
        self.agent = Agent(config, CARTPOLE)
        self.actor = Actor(self.agent, lanes=1, seed=0)
        self.batch = synthetic_batch(config).to(self.agent.device)
        # Of an agent that is dropped again: counting does not go with compilation.
        counted = Agent(dataclasses.replace(config, compile=False), CARTPOLE)
        self.update_macs = counted_macs(lambda: counted.update(self.batch))
        self.observation = torch.randn(1, CARTPOLE.observation_dim)
        self.pruning = PruningBench(self.agent)
        self.times: dict[str, list[float]] = defaultdict(list)
        """Milliseconds, by what took them."""

    def round(self, calls: int) -> None:
        """Time some plans, as many updates without and with their gradients watched, and a pruning event."""
        self.times["plan"] += [self._time(self._plan) for _ in range(calls)]
        for _ in range(calls):
            for what, name in UPDATES.items():
                self.pruning.watch(what)
                self.times[name].append(self._time(self._update))
        self.times["event"].append(self._time(self.pruning.event))

    def warm_up(self) -> None:
        """First calls compile, allocate and are not counted."""
        for _ in range(3):
            self._update()
            self._plan()

    def _plan(self) -> None:
        self.actor.act(self.observation, step=0, explore=True)

    def _update(self) -> None:
        self.agent.update(self.batch)

    def _time(self, call: Callable[[], None]) -> float:
        return milliseconds(call, self.agent.device)

    def profile(self, calls: int) -> str:
        """Operators and compiled kernels of plans and of updates, by the time that each takes itself."""
        self.pruning.watch("nothing")
        return "\n".join(
            f"{self.setting}, {self.agent.precision}: {calls} calls of {name}\n"
            + _profiled(call, calls, self.agent.device)
            for name, call in (("plan", self._plan), ("update", self._update))
        )

    def row(self, rates: Mapping[str, float]) -> dict[str, Any]:
        """The figures; ``rates`` are the multiply-adds a second that the device is able to."""
        p50, p90 = (
            {name: float(np.percentile(times, point)) for name, times in self.times.items()} for point in (50, 90)
        )
        macs = sum(planning_macs(self.config.model, CARTPOLE, self.config.planner).values())
        per_ms = rates[self.agent.precision] / 1000
        return {
            "setting": self.setting,
            "precision": self.agent.precision,
            "compiled": self.config.compile,
            "threads": torch.get_num_threads(),
            "plan_ms_p50": round(p50["plan"], 2),
            "plan_ms_p90": round(p90["plan"], 2),
            "update_ms_p50": round(p50["update"], 2),
            "update_ms_p90": round(p90["update"], 2),
            "watched_update_ms_p50": round(p50["watched"], 2),
            "watching_share": round(self._more("watched"), 4),
            "observed_update_ms_p50": round(p50["observed"], 2),
            "observing_share": round(self._more("observed") / WATCHED_EVERY, 4),
            "event_ms_p50": round(p50["event"], 1),
            "decisions_per_s": round(1000 / (p50["plan"] + p50["update"]), 2),
            "planning_macs": macs,
            "update_macs": self.update_macs,
            "matmul_macs_per_s": round(rates[self.agent.precision]),
            "plan_share_of_matmul": round(macs / p50["plan"] / per_ms, 4),
            "update_share_of_matmul": round(self.update_macs / p50["update"] / per_ms, 4),
            "parameters": sum(parameter.numel() for parameter in self.agent.model.parameters()),
            "horizon": self.config.planner.horizon,
            "batch_size": self.config.batch_size,
        }

    def _more(self, name: str) -> float:
        """What a watched update takes more than the bare one before it, as a share: the median."""
        return float(np.median(np.divide(self.times[name], self.times["update"]))) - 1


def _profiled(call: Callable[[], None], calls: int, device: torch.device) -> str:
    with torch.profiler.profile() as profile:
        for _ in range(calls):
            call()
    return profile.key_averages().table(
        sort_by=f"self_{device.type}_time_total", row_limit=-1, max_name_column_width=100
    )


def synthetic_batch(config: TrainConfig) -> Batch:
    """A batch of the right shapes; times do not depend on what is in it."""
    steps, batch = config.loss.horizon, config.batch_size
    return Batch(
        observations=torch.randn(steps + 1, batch, CARTPOLE.observation_dim),
        actions=torch.rand(steps, batch, CARTPOLE.action_dim) * 2 - 1,
        rewards=torch.rand(steps, batch),
        terminated=torch.zeros(steps, batch, dtype=torch.bool),
        mask=torch.ones(steps, batch),
        weights=torch.ones(batch),
        indices=np.arange(batch),
    )


def main(arguments: list[str]) -> int:
    """Parse, measure, print."""
    args = tyro.cli(BenchArgs, args=arguments, prog="tdmpc bench")
    ranges.check(args, ConfigError, positive=["rounds", "calls"], not_negative=["threads"])
    unknown = sorted(set(args.setting) - SETTINGS.keys())
    if unknown:
        raise ConfigError(f"there is no setting {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    if args.profile and not args.profile.absolute().parent.is_dir():
        raise ConfigError(f"--profile {args.profile}: its folder is not there, make it first")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.profile and args.compile:
        from torch._inductor import config

        config.cpp.enable_kernel_profile = True
    before = os.getloadavg()[0]
    benches = [Bench(setting, precision, args) for setting in args.setting for precision in args.precision]
    for bench in benches:
        bench.warm_up()
    for _ in range(args.rounds):
        for bench in benches:
            bench.round(args.calls)
    device = benches[0].agent.device
    rates = {name: matmul_rate(device, getattr(torch, name)) for name in args.precision}
    conditions = {
        "device": args.device,
        **({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        "processor": machine.processor(),
        "torch": torch.__version__,
        "load_before": round(before, 2),
        "load_after": round(os.getloadavg()[0], 2),
    }
    rows = [{**bench.row(rates), **conditions} for bench in benches]
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        _show(rows, conditions)
    if args.profile:
        write_whole(args.profile, "\n".join(bench.profile(args.calls) for bench in benches).encode())
    return 0


def _show(rows: list[dict[str, Any]], conditions: dict[str, Any]) -> None:
    columns = {
        "setting": "setting",
        "precision": "precision",
        "plan ms": "plan_ms_p50",
        "update ms": "update_ms_p50",
        "watched": "watched_update_ms_p50",
        "event ms": "event_ms_p50",
        "plan of matmul": "plan_share_of_matmul",
        "update of matmul": "update_share_of_matmul",
    }
    table = Table(
        *columns,
        title=", ".join(f"{name} {value}" for name, value in {**conditions, "threads": rows[0]["threads"]}.items()),
    )
    for row in rows:
        table.add_row(*(str(row[name]) for name in columns.values()))
    Console().print(table)
