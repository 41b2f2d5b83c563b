"""Markdown: tables, and pages whose blocks results fill: ``<!-- results:WHAT FROM -->`` to ``<!-- /results -->``."""

import re
from collections.abc import Callable, Iterable, Sequence

from scripts.experiments.archive import ResultsError

OPEN = re.compile(r"<!-- results:(.+?) -->")
CLOSE = "<!-- /results -->"


def filled(page: str, fill: Callable[[list[str]], str], *, name: str) -> str:
    """A page with its blocks filled anew.

    Args:
        page: its text; markers stand alone on their lines.
        fill: the words of a marker -> the text of its block.
        name: of the page, for messages.

    Raises:
        ResultsError: a block is not closed, or closed without having been opened.
    """
    lines: list[str] = []
    opened = ""
    for count, line in enumerate(page.splitlines(), start=1):
        marker = OPEN.fullmatch(line.strip())
        if marker and opened:
            raise ResultsError(f"{name}, line {count}: {opened} is not closed by {CLOSE}")
        if marker:
            opened = line.strip()
            lines += [line, "", fill(marker[1].split()), ""]
        elif line.strip() == CLOSE:
            if not opened:
                raise ResultsError(f"{name}, line {count}: {CLOSE} closes nothing")
            opened = ""
            lines.append(line)
        elif not opened:
            lines.append(line)
    if opened:
        raise ResultsError(f"{name}: {opened} is not closed by {CLOSE}")
    return "\n".join(lines) + "\n"


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; a bar in a cell is escaped."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def without_empty(header: Sequence[str], lines: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Header and lines without the columns in which no line says anything."""
    told = [place for place in range(len(header)) if any(line[place] for line in lines)]
    return [header[place] for place in told], [[line[place] for place in told] for line in lines]
