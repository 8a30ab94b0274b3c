"""A hook of MkDocs: pages of the site that lie outside docs/, and links to them.

On GitHub a page links to `../CONTRIBUTING.md`; the site has it as a page of its own, and this leads
the link there. So each page is written once, and links work in both places.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "conf/published/README.md": "published-format.md",
    "README.md": "index.md",
}
"""Files by their path in the repository, and the page of the site."""
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(\))")


def site_links(text: str, page: str) -> str:
    """`text`, with its links as they are on the site.

    Args:
        text: Markdown of a page.
        page: its path in the repository; links are relative to its folder.
    """
    here = posixpath.dirname(page)

    def led(match: re.Match[str]) -> str:
        before, link, anchor, after = match.groups()
        target = posixpath.normpath(posixpath.join(here, link))
        if target in PAGES:
            link = PAGES[target]
        elif target.startswith("docs/"):
            link = target.removeprefix("docs/")
        return f"{before}{link}{anchor or ''}{after}"

    return _LINK.sub(led, text)


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """MkDocs asks which files there are: add those outside docs/ that have no page there."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs gives the text of a page before it becomes HTML."""
    sources = {name: path for path, name in PAGES.items() if name != "index.md"}
    source = sources.get(page.file.src_uri, posixpath.join("docs", page.file.src_uri))
    return site_links(markdown, source)
