"""``tdmpc results``: keep what suites found in results/, and show it in the pages."""

import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from compression import figures as pruning_figures
from scripts.experiments import pictures
from scripts.experiments.archive import ResultsError
from scripts.experiments.collect import collect
from scripts.experiments.pages import filled
from scripts.experiments.pictures import KINDS
from scripts.experiments.tables import TABLES
from scripts.suite import write_table
from tdmpc import figures as training_figures
from tdmpc.files import naming, write_whole

RESULTS = Path("results")
FIGURES = Path("docs/figures")
MADE_FROM = FIGURES / "made-from.json"
"""Of each figure the hashes of what it was made from and of the file itself: pictures of other machines differ."""
DRAWING = "".join(inspect.getsource(module) for module in (pictures, pruning_figures, training_figures))


@dataclass(frozen=True)
class Collect:
    """Make small CSV tables of what the runs of a suite left; those that are there for this suite are replaced."""

    suite: Annotated[Positional[Path], tyro.conf.arg(metavar="SUITE")]
    """Folder of the suite: runs/suites/NAME."""
    out: Path | None = None
    """Folder of the tables; results/NAME when not given."""
    revision: str = ""
    """Commit of the program that made the runs, for those that were not started from a checkout."""


@dataclass(frozen=True)
class Render:
    """Fill the blocks of README.md, results/README.md and docs/*.md, and draw their figures, from results/."""

    check: bool = False
    """Write nothing; name what is not up to date, and exit 1 where something is not."""
    root: Path = Path()
    """The checkout."""


def main(arguments: list[str]) -> int:
    """Parse, collect or render."""
    command = tyro.cli(
        Annotated[Collect, tyro.conf.subcommand("collect")] | Annotated[Render, tyro.conf.subcommand("render")],
        args=arguments,
        prog="tdmpc results",
    )
    return _collect(command) if isinstance(command, Collect) else _render(command)


def _collect(args: Collect) -> int:
    tables = collect(args.suite, revision=args.revision)
    out = args.out or RESULTS / args.suite.resolve().name
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        write_table(out / name, rows)
        print(out / name)
    return 0


def _render(args: Render) -> int:
    stale = render(args.root, write=not args.check)
    for path in stale:
        print(f"{path} is not up to date; mend it by: make results" if args.check else path)
    return 1 if args.check and stale else 0


@dataclass(frozen=True)
class Picture:
    """A figure that a page asks for."""

    kind: str
    source: Path
    """Its table."""
    tasks: tuple[str, ...]
    path: Path
    """From the checkout on."""

    @property
    def made_from(self) -> str:
        """Hash of the data, of what is drawn of them, and of the code that draws."""
        table = self.source.read_bytes().replace(b"\r\n", b"\n")
        return _hash("\0".join((self.kind, *self.tasks, DRAWING)).encode() + table)


@dataclass
class Book:
    """The pages of a checkout, and the figures that they turn out to ask for."""

    root: Path
    pictures: dict[Path, Picture] = field(default_factory=dict)

    @property
    def pages(self) -> list[Path]:
        """Those that there are, from the checkout on."""
        every = [self.root / "README.md", self.root / RESULTS / "README.md", *sorted((self.root / "docs").glob("*.md"))]
        return [page.relative_to(self.root) for page in every if page.exists()]

    def text(self, page: Path) -> str:
        """A page with its blocks filled."""
        words = (self.root / page).read_text(encoding="utf-8")
        return filled(words, lambda block: self._fill(page, block), name=str(page))

    def _fill(self, page: Path, words: Sequence[str]) -> str:
        what, *more = words
        if what == "figure" and len(more) >= 2 and more[0] in KINDS:
            return self._figure(page, *more)
        if what in TABLES and len(more) == 1:
            name, draw = TABLES[what]
            source = RESULTS / more[0] / name
            return draw(self.root / source) if (self.root / source).exists() else _not_run(source)
        raise ResultsError(
            f"{page}: no block 'results:{' '.join(words)}'. There are TABLE FOLDER with {', '.join(TABLES)}; "
            f"and figure KIND FOLDER TASK... with {', '.join(KINDS)}"
        )

    def _figure(self, page: Path, kind: str, folder: str, *tasks: str) -> str:
        source = RESULTS / folder / KINDS[kind].table
        if not (self.root / source).exists():
            return _not_run(source)
        path = FIGURES / f"{'-'.join((kind, folder, *tasks))}.png"
        self.pictures[path] = Picture(kind, self.root / source, tasks, path)
        return f"![{KINDS[kind].caption}]({os.path.relpath(path, page.parent)})"


def _not_run(source: Path) -> str:
    return f"Not run yet: there is no `{source}`."


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
    book = Book(root)
    if not book.pages:
        raise ResultsError(f"{root.absolute()} is no checkout: there is no page to fill")
    texts = {page: book.text(page) for page in book.pages}
    stale = [page for page, text in texts.items() if (root / page).read_text(encoding="utf-8") != text]
    known = _known(root / MADE_FROM)
    stale += [path for path, picture in book.pictures.items() if known.get(path.name) != _state(root, picture)]
    if write:
        for path in stale:
            if path in texts:
                write_whole(root / path, texts[path].encode())
            else:
                _draw(root, book.pictures[path])
    state = {path.name: _state(root, picture) for path, picture in sorted(book.pictures.items())}
    if known.keys() != state.keys() or (write and known != state):
        stale.append(MADE_FROM)
        if write:
            write_whole(root / MADE_FROM, (json.dumps(state, indent=1) + "\n").encode())
    return stale


def _draw(root: Path, picture: Picture) -> None:
    (root / FIGURES).mkdir(parents=True, exist_ok=True)
    with naming(root / picture.path):
        pictures.write(KINDS[picture.kind], picture.source, picture.tasks, root / picture.path)


def _state(root: Path, picture: Picture) -> dict[str, str]:
    file = root / picture.path
    return {"made_from": picture.made_from, "picture": _hash(file.read_bytes()) if file.exists() else ""}


def _known(path: Path) -> Mapping[str, dict[str, str]]:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ResultsError(f"{path} cannot be read: {error}. Remove it, and: make results") from error


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
