"""One self-contained page on a run, pruned or not: result, pictures, events, film. It opens from the disk."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
except ImportError as error:
    raise ImportError("reports need jinja2: pip install 'tdmpc[train]'") from error

TEMPLATE = "report.html.jinja"


class Picture(NamedTuple):
    """A PNG with what is to be said about it."""

    path: Path
    title: str
    caption: str


def page(
    *,
    title: str,
    lead: str,
    result: Mapping[str, str],
    pictures: Sequence[Picture],
    events: Sequence[Mapping[str, Any]],
    step: str,
    unpruned: str,
    settings: str,
    video: Path | None = None,
) -> str:
    """The page as HTML; pictures and film are inside it, nothing is loaded from elsewhere.

    Args:
        title: of the page.
        lead: one line below it.
        result: what came out, by name.
        pictures: in order.
        events: as recorded; empty where nothing was pruned.
        step: what the steps of the records are called.
        unpruned: why there are no events, after "Nothing was pruned: ".
        settings: the run's, as text.
        video: an mp4.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(
        title=title,
        lead=lead,
        result=result,
        pictures=[{**picture._asdict(), "data": data_uri(picture.path, "image/png")} for picture in pictures],
        events=event_table(events, step) if events else None,
        unpruned=unpruned,
        settings=settings,
        video=data_uri(video, "video/mp4") if video else None,
    )


def data_uri(path: Path, kind: str) -> str:
    """A file as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


class Cell(NamedTuple):
    """A place in a table of the page."""

    text: str
    kind: str = ""
    """Its CSS class."""


def event_table(events: Sequence[Mapping[str, Any]], step: str) -> dict[str, Any]:
    """Columns and rows of the table of events."""
    losses = list(events[0]["losses"]["before"])
    named = [name.replace("_", " ") for name in losses]
    return {
        "columns": ["event", step, "decision", "multiply-adds left", "parameters left", *named, "cut"],
        "rows": [
            [
                Cell(str(event["event"])),
                Cell(f"{event['env_steps']:,}"),
                Cell(event["decision"], "" if event["decision"] == "kept" else "undone"),
                *(Cell(f"{_left(event, budget):.1%}") for budget in ("macs", "parameters")),
                *(Cell(" → ".join(f"{event['losses'][when][name]:.3g}" for when in WHEN)) for name in losses),
                Cell(_cut(event)),
            ]
            for event in events
        ],
    }


WHEN = ("before", "after")


def _left(event: Mapping[str, Any], budget: str) -> float:
    return event["cost"][budget]["after"] / event["cost"][budget]["dense"]


def _cut(event: Mapping[str, Any]) -> str:
    cut = ", ".join(f"{name} {axis['before']}→{axis['after']}" for name, axis in event["axes"].items())
    return f"{cut}; {event['reason']}" if event["reason"] else cut
