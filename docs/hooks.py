"""For mkdocs: documents that stand elsewhere in the checkout are pages too, and links that leave the site are text."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
ELSEWHERE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "examples/README.md": "examples.md"}
_PAGES = {page: source for source, page in ELSEWHERE.items()}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds them."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of files in the checkout become links of pages, or the text that they stand on."""
    source = PurePosixPath(_PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def linked(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups()
        if "://" in target:
            return match[0]
        place = normpath(str(source.parent / target))
        inside = ELSEWHERE.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        if inside is None:
            return text
        return (
            f"{mark}[{text}]({relpath(inside, str(PurePosixPath(page.file.src_uri).parent))}{anchor or ''})"
        )

    return _LINK.sub(linked, markdown)
