"""Laws of the pages and of the site that is made of them; no network is asked."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The assembled pages."""
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("site") / "pages"
    module.assemble(folder)
    return folder


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links: ``## Words, again`` is ``words-again``."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for path, anchor in LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(f"{page.name}: {path}#{anchor}")
    return found


def test_links_between_pages_lead_somewhere() -> None:
    """A link in a page of the repository leads to a file, and where it names a heading, to one that is there."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results/README.md", *(ROOT / "docs").glob("*.md")]
    assert [link for page in pages for link in broken(page)] == []


def test_links_in_the_site_lead_somewhere(site: Path) -> None:
    """The pages of the site link to one another, and to figures that were copied with them."""
    assert [link for page in site.rglob("*.md") for link in broken(page)] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """A link to a missing file, and one to a missing heading, are each named."""
    (tmp_path / "a.md").write_text("# One, two\n[good](a.md#one-two) [no file](b.md) [no heading](#three)")
    assert broken(tmp_path / "a.md") == ["a.md: b.md#", "a.md: #three"]


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """mkdocs.yml names every page once."""
    named = re.findall(r"^ +- (?:\w+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(page.relative_to(site).as_posix() for page in site.rglob("*.md"))
