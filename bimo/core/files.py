"""Files: which pictures are read, how a file is written whole, and the page that reports share. Needs none of the
types, which take a sixth of a second to import: every process of a curation begins with this.
"""

from __future__ import annotations

import html
import os
import stat
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from bimo.core.errors import BimoError, DataError, RequestError
from bimo.core.messages import Message

MAXIMUM_PICTURE_PIXELS = 1 << 26
#: A picture's file may be as large as this; what it unpacks to has the limit above.
MAXIMUM_PICTURE_BYTES = 1 << 28
#: Formats whose decoders read pixels and nothing else: others can call programs or open further files.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")


#: What a path may be that is no file, by the test of `stat` that finds it.
_KINDS = (
    (stat.S_ISDIR, Message("a folder")),
    (stat.S_ISFIFO, Message("a pipe")),
    (stat.S_ISCHR, Message("a device")),
    (stat.S_ISBLK, Message("a device")),
    (stat.S_ISSOCK, Message("a socket")),
)


def cache_folder() -> Path:
    """BIMO_CACHE, else ``bimo`` in XDG_CACHE_HOME, else in ~/.cache. It may be deleted at any time."""
    folder = os.environ.get("BIMO_CACHE")
    return Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bimo"


def demand_regular(path: Path, most: int | None = None) -> None:
    """Raises RequestError where a path is no regular file, or one of more than ``most`` bytes: before it is opened, as
    pipes wait for ever and devices never end.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise RequestError("cannot read {path}: {reason}", path=path, reason=reason) from None
    for test, kind in _KINDS:
        if test(found.st_mode):
            raise RequestError("{path} is {kind}; expected a file", path=path, kind=kind)
    if most is not None and found.st_size > most:
        raise RequestError(
            "{path} has {st_size:.0f} MB; at most {most:.0f} are read",
            path=path,
            st_size=found.st_size / 1000000.0,
            most=most / 1000000.0,
        )


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file, of which there may be ``most``. Raises RequestError for anything else."""
    demand_regular(path, most)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)  # it may have grown, or say 0 as those below /proc do
    except OSError as error:
        raise RequestError("cannot read {path}: {strerror}", path=path, strerror=error.strerror) from None
    if len(content) > most:
        raise RequestError("{path} has more than {most:.0f} MB, at most that is read", path=path, most=most / 1000000.0)
    return content


def write_whole(path: Path, content: bytes | Iterable[bytes | memoryview]) -> Path:
    """Writes a file, whole or piece by piece, under another name in its folder and renames it, so that no reader ever
    sees a part of it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    except OSError as error:
        raise RequestError("cannot write to {path}: {strerror}", path=path, strerror=error.strerror) from error
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in (content,) if isinstance(content, bytes) else content:
                file.write(piece)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError as error:
        Path(part).unlink(missing_ok=True)
        raise RequestError("cannot write to {path}: {strerror}", path=path, strerror=error.strerror) from error
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return path


@contextmanager
def alone(folder: Path, error: type[BimoError] = DataError) -> Generator[None]:
    """Holds a folder for one run at a time; a process that ends, however it ends, holds nothing any more. Raises
    ``error`` where another one has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error(Message("another run is at work in {folder}; wait until it ends", folder=folder)) from None
        except ImportError:
            # Windows has no such locks; there it is up to the user.
            pass
        yield


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
