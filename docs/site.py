"""Assemble what the site is built from: the pages of the repository, and one page for each package from its docstrings.

    python docs/site.py FOLDER

Links between pages are rewritten to where the pages lie in FOLDER. A link to a file that is no page is left as it is,
and the strict build of `make docs` refuses it.
"""

import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tdmpc", "compression", "deploy")
FIGURES = "docs/figures"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
"""The target of a Markdown link or picture inside the repository, without its anchor."""


def pages() -> dict[str, str]:
    """Where each page of the repository goes."""
    named = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "results/README.md": "results.md"}
    return named | {path.relative_to(ROOT).as_posix(): path.name for path in sorted((ROOT / "docs").glob("*.md"))}


def relinked(text: str, source: str) -> str:
    """A page with its links as they are in the site: ``../results/README.md`` in docs/ is ``results.md``."""
    places = pages()

    def target(match: re.Match[str]) -> str:
        path = os.path.normpath(os.path.join(os.path.dirname(source), match[1]))
        if path.startswith(f"{FIGURES}/"):
            return path.removeprefix("docs/")
        return places.get(path, match[1])

    return LINK.sub(target, text)


def reference(package: str) -> str:
    """The page of a package: its modules, one after the other."""
    files = sorted((ROOT / package).rglob("*.py"))
    paths = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    modules = [path if path.split(".")[0] == "tdmpc" else f"tdmpc.{path}" for path in paths]
    return "\n\n".join([f"# `{modules[0]}`", *(f"::: {module}" for module in modules)]) + "\n"


def assemble(folder: Path) -> None:
    """Write all pages and copy the figures."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / FIGURES, folder / "figures", ignore=shutil.ignore_patterns("*.json"))
    for source, place in pages().items():
        (folder / place).write_text(relinked((ROOT / source).read_text(), source))
    (folder / "api").mkdir()
    for package in PACKAGES:
        (folder / "api" / f"{package}.md").write_text(reference(package))


if __name__ == "__main__":
    assemble(Path(sys.argv[1]))
