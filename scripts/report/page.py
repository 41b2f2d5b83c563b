"""One self-contained page on a run, pruned or not: result, pictures, events, film. It opens from the disk."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
except ImportError as error:
    raise ImportError("reports need jinja2: pip install 'tdmpc[train]'") from error

from tdmpc.scripts.report.style import Figure, save

TEMPLATE = "report.html.jinja"


class Picture(NamedTuple):
    """A PNG with what is to be said about it."""

    path: Path
    title: str
    caption: str


def saved(folder: Path, name: str, figure: Figure, title: str, caption: str) -> Picture:
    """A figure as a PNG in a folder, with what is to be said about it."""
    path = folder / f"{name}.png"
    save(figure, path)
    return Picture(path, title, caption)


def page(
    *,
    title: str,
    lead: str,
    results: Mapping[str, Mapping[str, str]],
    pictures: Sequence[Picture],
    events: Sequence[Mapping[str, Any]],
    step: str,
    unpruned: str,
    settings: str,
    sensors: Mapping[str, Sequence[Sequence[float]]] = MappingProxyType({}),
    latency: Sequence[Mapping[str, str]] = (),
    video: Path | None = None,
) -> str:
    """The page as HTML; pictures and film are inside it, nothing is loaded from elsewhere.

    Args:
        title: of the page.
        lead: one line below it.
        results: what came out, by name; this run first, then those beside it.
        pictures: in order.
        events: as recorded; empty where nothing was pruned.
        step: what the steps of the records are called.
        unpruned: why there are no events, after "Nothing was pruned: ".
        settings: the run's, as text.
        sensors: least and largest value of each reading, in sensor units.
        latency: a row for each controller that was timed.
        video: an mp4.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(
        title=title,
        lead=lead,
        results=results,
        sensors=sensors,
        latency=latency,
        pictures=[{**picture._asdict(), "data": data_uri(picture.path, "image/png")} for picture in pictures],
        events=events,
        step=step,
        unpruned=unpruned,
        settings=settings,
        video=data_uri(video, "video/mp4") if video else None,
    )


def data_uri(path: Path, kind: str) -> str:
    """A file as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
