"""``tdmpc envs``: what can be trained."""

from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional

from tdmpc.env_names import UnsupportedEnvironment, available


@dataclass(frozen=True)
class EnvsArgs:
    """List environments by id, each with its short name if it has one."""

    pattern: Annotated[Positional[str], tyro.conf.arg(metavar="PATTERN")] = ""
    """Part of a name, or a glob such as ``*walker*``."""


def main(arguments: list[str]) -> int:
    """Print one environment a line."""
    args = tyro.cli(EnvsArgs, args=arguments, prog="tdmpc envs")
    names = available(args.pattern)
    if not names:
        raise UnsupportedEnvironment(f"no environment matches {args.pattern!r}; 'tdmpc envs' lists all")
    # In one piece, so that `tdmpc envs | head` may stop reading.
    print("\n".join(f"{name.id:<48} {name.short or ''}".rstrip() for name in names))
    return 0
