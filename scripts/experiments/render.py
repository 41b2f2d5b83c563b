"""The parts of the pages that results fill: ``<!-- results:WHAT FROM -->`` to ``<!-- /results -->``."""

import hashlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tdmpc.files import write_whole
from tdmpc.scripts.errors import ResultsError
from tdmpc.scripts.experiments import figures, papers, printed
from tdmpc.scripts.experiments.printed import SLOWDOWN
from tdmpc.scripts.experiments.tables import TABLES
from tdmpc.scripts.report import style, training

RESULTS = Path("results")
FIGURES = Path("docs/figures")
MADE_FROM = FIGURES / "made-from.json"
"""Of each figure the hashes of what it was made from and of the file itself: pictures of other machines differ."""
KINDS = figures.KINDS | papers.KINDS
PRINTED = {"bench": ("", printed.bench), "timings": ("", printed.timings), "slowdown": (SLOWDOWN, printed.slowdown)}
OPEN, CLOSE = "<!-- results:", "<!-- /results -->"
MARKER = re.compile(rf"^ *(?:{OPEN}(.+?) -->|{CLOSE})$", re.MULTILINE)
BLOCK = re.compile(rf"^ *({OPEN}(.+?) -->)$.*?^ *{CLOSE}$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Picture:
    """A figure that a page asks for."""

    kind: str
    source: Path
    """Its table."""
    tasks: tuple[str, ...]
    file: Path

    @property
    def state(self) -> dict[str, str]:
        """Hashes: of the data, of what is drawn of them and of the code that draws; and of the file."""
        table = self.source.read_bytes().replace(b"\r\n", b"\n")
        module = sys.modules[KINDS[self.kind].draw.__module__]
        drawing = "".join(inspect.getsource(part) for part in (module, style, training))
        made_from = "\0".join((self.kind, *self.tasks, drawing)).encode() + table
        return {"made_from": _hash(made_from), "picture": _hash(self.file.read_bytes()) if self.file.exists() else ""}


def render(root: Path, *, write: bool) -> list[Path]:
    """Bring pages and figures up to date.

    Args:
        root: the checkout.
        write: or only look.

    Returns:
        What was not up to date, from the checkout on.

    Raises:
        ResultsError: this is no checkout, a page has a block that cannot be filled, or a table cannot be read.
    """
    every = [root / "README.md", root / RESULTS / "README.md", *sorted((root / "docs").glob("*.md"))]
    before = {page.relative_to(root): page.read_text(encoding="utf-8") for page in every if page.exists()}
    if not before:
        raise ResultsError(f"{root.absolute()} is no checkout: there is no page to fill")
    pictures: dict[Path, Picture] = {}
    after = {page: filled(text, page, lambda *asked: _block(root, pictures, *asked)) for page, text in before.items()}
    known = _known(root / MADE_FROM)
    stale = [page for page in after if after[page] != before[page]]
    old = [path for path, picture in pictures.items() if known.get(path.name) != picture.state]
    if write:
        for page in stale:
            write_whole(root / page, after[page].encode())
        for picture in map(pictures.__getitem__, old):
            picture.file.parent.mkdir(parents=True, exist_ok=True)
            figures.write(KINDS[picture.kind], picture.source, picture.tasks, picture.file)
    state = {path.name: picture.state for path, picture in sorted(pictures.items())}
    if known.keys() == state.keys() and not (write and known != state):
        return stale + old
    if write:
        write_whole(root / MADE_FROM, (json.dumps(state, indent=1) + "\n").encode())
    return [*stale, *old, MADE_FROM]


def filled(text: str, page: Path, fill: Callable[[Path, str], str]) -> str:
    """A page with its blocks filled anew; raises ResultsError where one is not closed, or was not opened."""
    opened = ""
    for marker in MARKER.finditer(text):
        line = text.count("\n", 0, marker.start()) + 1
        if opened and marker[1]:
            raise ResultsError(f"{page}, line {line}: {opened} is not closed by {CLOSE}")
        if not opened and not marker[1]:
            raise ResultsError(f"{page}, line {line}: {CLOSE} closes nothing")
        opened = marker[0].strip() if marker[1] else ""
    if opened:
        raise ResultsError(f"{page}: {opened} is not closed by {CLOSE}")
    return BLOCK.sub(lambda block: f"{block[1]}\n\n{fill(page, block[2])}\n\n{CLOSE}", text)


def _block(root: Path, pictures: dict[Path, Picture], page: Path, asked: str) -> str:
    """What a marker asks for: a table, or a figure, which is noted."""
    what, *more = asked.split()
    tables = TABLES | papers.TABLES | PRINTED
    if what in tables and len(more) == 1:
        name, draw = tables[what]
        source = RESULTS / more[0] / name
        return draw(root / source) if (root / source).exists() else _not_run(source)
    if what == "figure" and len(more) >= 2 and more[0] in KINDS:
        kind, folder, *tasks = more
        source = RESULTS / folder / KINDS[kind].table
        if not (root / source).exists():
            return _not_run(source)
        path = FIGURES / f"{'-'.join(more)}.png"
        pictures[path] = Picture(kind, root / source, tuple(tasks), root / path)
        return f"![{KINDS[kind].caption}]({os.path.relpath(path, page.parent)})"
    raise ResultsError(
        f"{page}: no block 'results:{asked}'. There are TABLE FOLDER with {', '.join(tables)}; "
        f"and figure KIND FOLDER TASK... with {', '.join(KINDS)}"
    )


def _not_run(source: Path) -> str:
    return f"Not run yet: there is no `{source}`."


def _known(path: Path) -> dict[str, dict[str, str]]:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ResultsError(f"{path} cannot be read: {error}. Remove it, and: make results") from error


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
