"""Files: which pictures are read, how a file is written whole, and the page that reports share. Needs none of the
types, which take a sixth of a second to import: every process of a curation begins with this.
"""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bimo.core.errors import RequestError

MAXIMUM_PICTURE_PIXELS = 1 << 26
#: Formats whose decoders read pixels and nothing else: others can call programs or open further files.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")


def write_whole(path: Path, content: bytes | Iterable[bytes | memoryview]) -> Path:
    """Writes a file, whole or piece by piece, under another name in its folder and renames it, so that no reader ever
    sees a part of it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    except OSError as error:
        raise RequestError(f"写不到 {path}：{error.strerror}", f"cannot write to {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in (content,) if isinstance(content, bytes) else content:
                file.write(piece)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError as error:
        Path(part).unlink(missing_ok=True)
        raise RequestError(f"写不到 {path}：{error.strerror}", f"cannot write to {path}: {error.strerror}") from error
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return path


#: What every page of ours looks like.
STYLE = """body{font:15px/1.5 system-ui,"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif;max-width:1100px;
margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse;margin:.6em 0 1.6em}td,th{border:1px solid #ccc;
padding:.25em .7em;text-align:left;vertical-align:top}th{background:#f3f3f0}img{max-width:100%}
code,pre{font-size:13px;white-space:pre-wrap;overflow-wrap:anywhere}small{color:#666;font-weight:normal}"""
POLICY = "default-src 'none'; img-src data:{own}; style-src 'unsafe-inline'"


def page(title: str, body: str, style: str = "", *, beside: bool = False) -> str:
    """A whole document that stands alone: nothing is fetched and nothing runs, whatever a caption on it says.

    ``title`` is text, ``body`` is HTML; ``style`` is what a page has of its own; with ``beside`` pictures may lie
    beside the page in place of within it.
    """
    policy = POLICY.format(own=" 'self' file:" if beside else "")
    return (
        '<!doctype html><html lang="zh"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style>{body}</html>\n"
    )
