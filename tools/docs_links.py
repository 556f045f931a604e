"""Links of the pages to files outside docs/, such as a test or a module: in the site they are paths, since sources are
no part of it. A link to a file that is not there ends the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]*)\]\((?P<target>(?:\.\./)+[^)#\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """The page with every link that leaves docs/ written as the path of its file from the root of the project."""
    docs = Path(config.docs_dir).resolve()

    def as_path(link: re.Match[str]) -> str:
        target = (docs / page.file.src_uri).parent.joinpath(link["target"]).resolve()
        if target.is_relative_to(docs):
            return link[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri} links to {link['target']}, which is not there")
        inside = target.relative_to(docs.parent).as_posix()
        if link.string[link.string.rfind("\n", 0, link.start()) + 1] == "|":
            return f"`{link['text']}`"  # too long for a cell of a table
        return f"`{inside}`" if link["text"].strip("`") in inside else f"{link['text']} (`{inside}`)"

    return LINK.sub(as_path, markdown)
