"""The documentation builds without a warning, and no link in it is dead."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from harness.samples import ROOT

import fastserverstate
from fastserverstate import cluster, durable


class Page(HTMLParser):
    """What a page refers to, and what in it can be referred to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "src" in values:
            self.loaded.append(values["src"])
        elif tag == "link" and values.get("rel") in {"stylesheet", "preload", "icon"}:
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages by their files."""
    target = tmp_path_factory.mktemp("site")
    strict = ["--nitpicky", "--fail-on-warning", "--keep-going", "--quiet"]
    folders = ["--doctree-dir", str(target / "doctrees"), str(ROOT / "docs"), str(target / "html")]
    command = [sys.executable, "-m", "sphinx", *strict, *folders]
    result = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert result.returncode == 0, result.stderr
    return {path: Page(path) for path in (target / "html").rglob("*.html")}


def test_no_link_is_dead(site: dict[Path, Page]) -> None:
    """What leads out of the site is not looked up, but has to be an address."""
    dead = []
    for path, page in site.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if not re.fullmatch(r"https://(\w[\w-]*\.)+[a-z]{2,}(/[^\s<>()]*)?", link):
                    dead.append(f"{path.name}: {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = site[target].anchors if target in site else {parts.fragment}
            if not target.exists() or unquote(parts.fragment) not in anchors:
                dead.append(f"{path.name}: {link}")
    assert not dead
    assert sum(len(page.links) for page in site.values()) > 100


def test_pages_need_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    assert {link for page in site.values() for link in page.loaded if urlsplit(link).netloc} == set()


def test_every_public_name_is_in_the_reference(site: dict[Path, Page]) -> None:
    anchors = next(page.anchors for path, page in site.items() if path.name == "reference.html")
    names = [
        *fastserverstate.__all__,
        *(f"cluster.{name}" for name in cluster.__all__),
        *(f"durable.{name}" for name in durable.__all__),
    ]
    assert [name for name in names if f"fastserverstate.{name}" not in anchors] == []


def anchors_on_github(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md"])
def test_links_outside_of_the_site_have_their_anchors(document: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", (ROOT / document).read_text()):
        assert anchor in anchors_on_github(ROOT / (target or document)), f"{target}#{anchor}"


def test_pictures_are_shown_and_small(site: dict[Path, Page]) -> None:
    pictures = list((ROOT / "docs" / "images").iterdir())
    shown = {Path(link).name for page in site.values() for link in page.loaded}
    assert [picture.name for picture in pictures if picture.name not in shown] == []
    assert sum(picture.stat().st_size for picture in pictures) < 1_000_000
