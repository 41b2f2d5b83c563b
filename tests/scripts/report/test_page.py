"""Laws of the page on a run."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tdmpc.scripts.report.page import Picture, data_uri, page
from tests.scripts.report.test_pruning import EVENTS


class Links(HTMLParser):
    """Collects whatever a browser would load, and the text it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "data", "poster", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """``written(events=[])``: the page with changes."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "a.mp4").write_bytes(b"mp4")

    def write(**changes: Any) -> Links:
        settings: dict[str, Any] = {
            "title": "a run",
            "lead": "10 steps",
            "results": {"run": {"return": "5"}},
            "pictures": [Picture(tmp_path / "a.png", "Picture", "What it shows.")],
            "events": EVENTS,
            "step": "updates",
            "unpruned": "nobody asked",
            "settings": "{}",
            "video": tmp_path / "a.mp4",
        }
        return Links(page(**settings | changes))

    return write


def test_nothing_is_loaded_from_elsewhere(written: Any) -> None:
    """All that a browser loads is inside the page: pictures and film are data."""
    found = written()
    assert [address.partition(",")[0] for address in found.loaded] == ["data:image/png;base64", "data:video/mp4;base64"]
    assert not {"script", "link", "iframe"} & set(found.tags)


def test_every_event_has_a_row(written: Any) -> None:
    """The table has a row for each event: decision, what is left, losses before and after, the cut and the reason."""
    text = written().text
    assert text.count("enc.0 3→2") == len(EVENTS)
    assert "0.1 → 0.9" in text and "60.0%" in text and "undone" in text
    assert "value worse by 0.40, more than 0.3" in text and "Nothing was pruned" not in text


def test_a_dense_run_says_so(written: Any) -> None:
    """Without events the page says that nothing was pruned, and why, and has no empty table of them."""
    found = written(events=[], video=None)
    assert "Nothing was pruned: nobody asked." in found.text
    assert "Table of events" not in found.text and "video" not in found.tags


def test_text_stays_text(written: Any) -> None:
    """What comes from a run is shown as it is and never becomes part of the page."""
    evil = "<script>alert(1)</script>"
    found = written(title=evil, lead=evil, results={evil: {evil: evil}}, settings=evil, unpruned=evil, events=[])
    assert "script" not in found.tags
    assert found.text.count(evil) == 7  # the title twice


def test_a_file_is_data(tmp_path: Path) -> None:
    """A file of three bytes is four letters."""
    (tmp_path / "x").write_bytes(b"abc")
    assert data_uri(tmp_path / "x", "image/png") == "data:image/png;base64,YWJj"
