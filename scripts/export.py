"""``tdmpc export``: from a run to a controller that needs no PyTorch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from tdmpc.config import ConfigError
from tdmpc.config_checks import overridden
from tdmpc.deploy import export as bundles
from tdmpc.deploy.original import ExportConfig
from tdmpc.scripts import ranges


@dataclass(frozen=True)
class ExportArgs:
    """Write a controller bundle: the planner as ONNX graphs, and a manifest. Compare the graphs with the agent."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    out: Path
    """New folder for the bundle."""
    config: Annotated[ExportConfig, tyro.conf.arg(name="")] = field(default_factory=ExportConfig)


def main(arguments: list[str]) -> int:
    """Parse, export, tell what was compared."""
    args = tyro.cli(ExportArgs, args=arguments, prog="tdmpc export")
    _show(_exported(args.run, args.out, args.config), args.out)
    return 0


def export(run: Path | str, out: Path | str, **settings: Any) -> Path:
    """Write a controller bundle of a run, compared with its agent; what ``tdmpc export`` does.

    Args:
        run: a run folder.
        out: new folder for the bundle.
        settings: of ``ExportConfig``, by name: ``delay=1``, ``precision="int8"``.

    Returns:
        the bundle's folder.

    Raises:
        ConfigError: a setting does not exist, or cannot have its value.
        BundleError: the folder is not empty, or the graphs do not plan as the agent.
    """
    _exported(Path(run), Path(out), overridden(ExportConfig(), settings))
    return Path(out)


def _exported(run: Path, out: Path, config: ExportConfig) -> dict[str, Any]:
    ranges.check(config, ConfigError, positive=["opset"], not_negative=["seed"])
    return bundles.export(run, out, config)


def _show(manifest: dict[str, Any], out: Path) -> None:
    table = Table("figure", "value", title=str(out))
    found, loss = manifest["parity"], manifest["regret"]
    table.add_row("multiply-adds of a plan, pruned widths", f"{sum(manifest['macs'].values()):,}")
    table.add_row("multiply-adds that run, in tiles of 16", f"{sum(manifest['as_run']['macs'].values()):,}")
    table.add_row("parameters", f"{sum(manifest['parameters'].values()):,}")
    table.add_row("bytes", f"{sum(file['bytes'] for file in manifest['files'].values()):,}")
    table.add_row("plans compared with the agent", str(found["plans"]))
    table.add_row("largest difference of a plan", f"{found['mean']:.1e}")
    table.add_row("largest difference of a value", f"{found['values']:.1e}")
    table.add_row("plans in which elites tie", str(found["ties"]))
    table.add_row("lost, of what planning gains", f"{found['regret']:.1e} of {found['gain']:.3g}")
    if loss is not None:
        table.add_row("lost by eight bits, of a plan's value", f"{loss['mean']:.3g} of {loss['value']:.3g}")
        table.add_row("changed by another seed of the noise", f"{loss['other_noise']:.3g}")
        table.add_row("lost by the policy alone", f"{loss['policy']:.3g}")
    Console().print(table)
