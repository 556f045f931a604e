"""Downloads pictures by URL: a bounded number at a time, with pauses, never from a private network, each once over all
runs.

Downloads are stored in segments below a folder, with an index (SQLite) that names a picture only after its bytes are
written: a run that was killed keeps what it had, and the next one downloads what is missing or failed. A site that says
noai or noimageai (X-Robots-Tag, as img2dataset honours it) is not downloaded from.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import sqlite3
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from bimo.core.errors import DataError
from bimo.curation.readers.formats import BEGINNING, format_of
from bimo.curation.readers.rows import Broken, Place, Row, Unusable

if TYPE_CHECKING:
    import httpx

INDEX = "fetched.sqlite"
LOCK = "lock"
SEGMENT_BYTES = 1 << 30
#: Larger pictures are held on disk until they are written to a segment.
HELD_BYTES = 1 << 20
REFUSED = {"noai", "noimageai"}
#: Directives with a value after a colon; any other word before a colon is the name of a crawler.
DIRECTIVES = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
AGENT = "bimo"
#: Statuses that are retried.
RETRIED = {408, 425, 429, 500, 502, 503, 504}
LONGEST_PAUSE_SECONDS = 60.0
ADDRESSES_TRIED = 3
#: IPv6 URLs that stand for IPv4 ones (RFC 6052).
TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of downloading. ``hosts`` are names or URLs that may lie in a private network (loopback, private).

    ``seconds`` is the time-out of one request from first to last byte; ``pause`` is the wait before the second attempt,
    doubled for each further one.
    """

    workers: int = 32
    per_host: int = 4
    bytes: int = 64 << 20
    seconds: float = 20.0
    redirects: int = 5
    tries: int = 3
    pause: float = 1.0
    hosts: frozenset[str] = frozenset()


class Retriable(Exception):
    """A failure that is retried; ``seconds`` is the wait that the site asks for."""

    def __init__(self, why: Unusable, seconds: float = 0.0) -> None:
        super().__init__(why)
        self.why = why
        self.seconds = seconds


def fetch(
    rows: Iterable[Row | Broken],
    folder: Path,
    limits: Limits | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Row | Broken]:
    """The rows in their order, those of a URL with their picture downloaded: its place is relative to ``folder``.

    A download that failed is Broken: "http 404" and the like, "no answer", "too slow", "too many bytes", "too many
    redirects", "not a picture", "opted out", "address not allowed". It is tried again by the next run. Raises DataError
    where another run downloads into the folder.
    """
    limits = limits or Limits()
    with ExitStack() as stack:
        store = stack.enter_context(_store(folder))
        client = stack.enter_context(_client(limits))
        pool = ThreadPoolExecutor(limits.workers, "fetch")
        downloader = _Downloader(client, limits, wait)
        window: deque[Row | Broken | tuple[Row, Future[IO[bytes]]]] = deque()
        under_way: dict[str, Future[IO[bytes]]] = {}
        stack.callback(_dropped, pool, under_way)
        for row in rows:
            if not isinstance(row, Row) or row.picture.form != "url":
                window.append(row)
            elif (place := store.place(row.picture.path)) is not None:
                window.append(replace(row, picture=place))
            else:
                url = row.picture.path
                coming = under_way.get(url) or under_way.setdefault(url, pool.submit(downloader.picture, url))
                window.append((row, coming))
            while window and (len(window) >= 2 * limits.workers or not isinstance(window[0], tuple)):
                yield _settled(window.popleft(), store, under_way)
        while window:
            yield _settled(window.popleft(), store, under_way)


def _dropped(pool: ThreadPoolExecutor, under_way: Mapping[str, Future[IO[bytes]]]) -> None:
    """Stops the threads and discards their downloads."""
    pool.shutdown(cancel_futures=True)
    for coming in under_way.values():
        if not coming.cancelled() and coming.exception() is None:
            coming.result().close()


def _settled(
    waiting: Row | Broken | tuple[Row, Future[IO[bytes]]], store: _Store, under_way: dict[str, Future[IO[bytes]]]
) -> Row | Broken:
    if not isinstance(waiting, tuple):
        return waiting
    row, coming = waiting
    url = row.picture.path
    if under_way.pop(url, None) is None and (place := store.place(url)) is not None:
        return replace(row, picture=place)  # an earlier row had the same URL
    try:
        with coming.result() as file:
            return replace(row, picture=store.add(url, file))
    except Unusable as error:
        return Broken(row.number, row.source, error.reason, error.detail)


class _Store:
    """The segments of pictures and their index."""

    def __init__(self, folder: Path, database: sqlite3.Connection) -> None:
        self.folder, self.database = folder, database
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # survives a killed process, and spares the disk an fsync
        database.execute(
            "CREATE TABLE IF NOT EXISTS pictures (url TEXT PRIMARY KEY, segment INTEGER, start INTEGER, size INTEGER)"
            " WITHOUT ROWID"
        )
        query = "SELECT segment, max(start + size) FROM pictures GROUP BY segment ORDER BY segment DESC LIMIT 1"
        self.segment, self.end = database.execute(query).fetchone() or (0, 0)
        path = folder / _segment(self.segment)
        size = path.stat().st_size if path.exists() else 0
        if size < self.end:  # the machine crashed before the bytes were on disk
            with database:
                shorter = "DELETE FROM pictures WHERE segment = ? AND start + size > ?"
                database.execute(shorter, (self.segment, size))
            self.end = size
        self.file = self._opened()

    def _opened(self) -> int:
        """The segment that is written to; bytes that a killed run wrote and did not index are truncated."""
        file = os.open(self.folder / _segment(self.segment), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(file, self.end)
        return file

    def close(self) -> None:
        """Ends writing."""
        os.close(self.file)

    def place(self, url: str) -> Place | None:
        """The place of the picture of a URL; None where it is not stored yet."""
        query = "SELECT segment, start, size FROM pictures WHERE url = ?"
        row = self.database.execute(query, (_key(url),)).fetchone()
        return None if row is None else Place(_segment(row[0]), row[1], row[2])

    def add(self, url: str, picture: IO[bytes]) -> Place:
        """Writes a picture, then indexes it."""
        if self.end >= SEGMENT_BYTES:
            self.close()
            self.segment, self.end = self.segment + 1, 0
            self.file = self._opened()
        start = self.end
        picture.seek(0)
        try:
            while piece := picture.read(1 << 20):
                while piece:
                    written = os.pwrite(self.file, piece, self.end)
                    piece, self.end = piece[written:], self.end + written
        except OSError as error:
            self.end = start
            raise DataError("cannot write to {folder}: {error}", folder=self.folder, error=error.strerror) from None
        with self.database:
            values = (_key(url), self.segment, start, self.end - start)
            self.database.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)", values)
        return Place(_segment(self.segment), start, self.end - start)


def _segment(number: int) -> str:
    return f"fetched-{number:05d}.bin"


def _key(url: str) -> str:
    return url.encode("utf-8", "backslashreplace").decode()


@contextmanager
def _store(folder: Path) -> Generator[_Store]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError("another run fetches into {folder}", folder=folder) from None
        with closing(sqlite3.connect(folder / INDEX)) as database:
            store = _Store(folder, database)
            with closing(store):
                yield store


@contextmanager
def _client(limits: Limits) -> Generator[httpx.Client]:
    import httpx

    # Proxies of the environment are not used: through one, the check of addresses would be void.
    settings = httpx.Limits(max_connections=limits.workers, max_keepalive_connections=limits.workers)
    headers = {"User-Agent": f"{AGENT}/0.1", "Accept": "image/*", "Accept-Encoding": "identity"}
    with httpx.Client(limits=settings, headers=headers, timeout=limits.seconds, trust_env=False) as client:
        client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))  # none are kept
        yield client


class _Downloader:
    """Downloads pictures, from many threads."""

    def __init__(self, client: httpx.Client, limits: Limits, wait: Callable[[float], None]) -> None:
        self.client, self.limits, self.wait = client, limits, wait
        self.semaphores: dict[str, threading.BoundedSemaphore] = {}
        self.lock = threading.Lock()

    def picture(self, url: str) -> IO[bytes]:
        """A picture's bytes as a file. Raises Unusable."""
        pause = self.limits.pause
        for tried in range(1, self.limits.tries + 1):
            try:
                return self._follow_redirects(url)
            except Retriable as failure:
                if tried == self.limits.tries:
                    raise failure.why from None
                self.wait(min(max(pause, failure.seconds), LONGEST_PAUSE_SECONDS))
                pause *= 2
        raise AssertionError("at least one try")

    def _follow_redirects(self, url: str) -> IO[bytes]:
        import httpx

        for _ in range(self.limits.redirects + 1):
            parts, addresses = self._resolve(url)
            with self._semaphore(parts.host):
                try:
                    response = self._try_addresses(parts, addresses)
                except httpx.TimeoutException as error:
                    raise Retriable(Unusable("too slow", type(error).__name__)) from None
                except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                    raise Retriable(Unusable("no answer", f"{type(error).__name__}: {error}"[:200])) from None
            if not isinstance(response, str):
                return response
            url = urljoin(url, response)
        raise Unusable("too many redirects", url[:200])

    def _semaphore(self, host: str) -> threading.BoundedSemaphore:
        with self.lock:
            return self.semaphores.setdefault(host, threading.BoundedSemaphore(self.limits.per_host))

    def _try_addresses(self, parts: httpx.URL, addresses: Sequence[str]) -> IO[bytes] | str:
        import httpx

        for address in addresses[:-1]:
            try:
                return self._request(parts, address)
            except httpx.ConnectError:
                continue  # a host with several addresses may not answer at all of them; the last error is reported
        return self._request(parts, addresses[-1])

    def _resolve(self, url: str) -> tuple[httpx.URL, list[str]]:
        """A URL and the IP addresses of its host, resolved once, so that the address that is checked is the one
        connected to.

        Raises Unusable "address not allowed" for schemes other than http and https, and for private networks.
        """
        import httpx

        try:
            parts = httpx.URL(url.strip())
            port = urlsplit(str(parts)).port or (443 if parts.scheme == "https" else 80)
        except (httpx.InvalidURL, ValueError, UnicodeError) as error:
            raise Unusable("address not allowed", str(error)[:200]) from None
        if parts.scheme not in ("http", "https") or not parts.host:
            raise Unusable("address not allowed", f"{parts.scheme or 'no scheme'}: http and https are fetched")
        try:
            addresses = socket.getaddrinfo(parts.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Retriable(Unusable("no answer", f"{parts.host}: {error}"[:200])) from None
        numbers = list(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in addresses))
        if parts.host not in self.limits.hosts:
            for number in numbers:
                if not is_public(number):
                    raise Unusable("address not allowed", f"{parts.host} is {number}, inside the house")
        return parts, sorted(numbers, key=lambda number: ":" in number)[:ADDRESSES_TRIED]

    def _request(self, parts: httpx.URL, address: str) -> IO[bytes] | str:
        """The picture, or the URL that it is redirected to."""
        until = time.monotonic() + self.limits.seconds
        target = parts.copy_with(host=address, fragment=None)
        headers = {"Host": parts.netloc.decode("ascii")}
        extensions = {"sni_hostname": parts.raw_host.decode("ascii")}
        with self.client.stream("GET", target, headers=headers, extensions=extensions) as answer:
            if answer.status_code in (301, 302, 303, 307, 308) and "location" in answer.headers:
                return answer.headers["location"]
            if answer.status_code != 200:
                why = Unusable(f"http {answer.status_code}", answer.reason_phrase[:200])
                if answer.status_code in RETRIED:
                    raise Retriable(why, _seconds(answer.headers.get("retry-after", "")))
                raise why
            if forbids_training(answer.headers.get_list("x-robots-tag")):
                raise Unusable("opted out", answer.headers["x-robots-tag"][:200])
            announced = answer.headers.get("content-length", "")
            if announced.isdigit() and int(announced) > self.limits.bytes:
                raise Unusable("too many bytes", f"{announced[:20]}; at most {self.limits.bytes}")
            return self._receive(answer, until)

    def _receive(self, answer: httpx.Response, until: float) -> IO[bytes]:
        file = tempfile.SpooledTemporaryFile(HELD_BYTES)  # noqa: SIM115
        try:
            start, size = b"", 0
            for piece in answer.iter_bytes():
                size += len(piece)
                if size > self.limits.bytes:
                    raise Unusable("too many bytes", f"more than {self.limits.bytes}")
                if time.monotonic() > until:
                    raise Retriable(Unusable("too slow", f"{size} bytes in {self.limits.seconds:g} s"))
                if len(start) < BEGINNING:
                    start = (start + piece)[:BEGINNING]
                    if len(start) == BEGINNING and not format_of(start):
                        break
                file.write(piece)
            if not format_of(start):
                description = f"{answer.headers.get('content-type', 'no type')[:80]}; begins with {start[:8].hex(' ')}"
                raise Unusable("not a picture" if size else "empty", description)
        except BaseException:
            file.close()
            raise
        return file


def is_public(address: str) -> bool:
    """Whether an IP address is public: not loopback, private, link-local, shared, multicast or mapped."""
    number = ipaddress.ip_address(address)
    if isinstance(number, ipaddress.IPv6Address):
        inner = number.ipv4_mapped or number.sixtofour or (number.teredo[1] if number.teredo else None)
        if number in TRANSLATED:
            inner = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        if inner is not None and not is_public(str(inner)):
            return False
    return number.is_global and not number.is_multicast


def forbids_training(tags: Iterable[str]) -> bool:
    """Whether X-Robots-Tag forbids training: for all crawlers, or for this one by name."""
    for tag in tags:
        agent = ""
        for word in tag.lower().split(","):
            name, colon, rest = word.strip().partition(":")
            if colon and name.strip() not in DIRECTIVES:
                agent, word = name.strip(), rest
            if word.strip() in REFUSED and agent in ("", AGENT):
                return True
    return False


def _seconds(value: str) -> float:
    return float(value) if value.isdigit() and len(value) < 6 else 0.0
