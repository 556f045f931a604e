"""Blind votes on pictures of `bimo eval`: chooses the pairs for each judge and stores the votes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bimo.core.errors import RequestError
from bimo.core.messages import Message
from bimo.serve.page.comparison import VOTES, Votes
from bimo.serve.page.gallery import escaped

if TYPE_CHECKING:
    from PIL import Image

    from bimo.evaluation.blind_pairs import BlindPair, Exhibit

#: The longer side of a picture that is judged, in pixels at the most.
SHOWN_SIDE = 768
CHOICES = ("a", "tie", "b")


class Judging:
    """Blind votes on the pictures of reports, stored in ``folder`` in the format of the page's other votes."""

    def __init__(self, reports: Sequence[Path], folder: Path) -> None:
        """Reads the reports and existing votes. Raises DataError for a folder without a report."""
        from bimo.evaluation.blind_pairs import BlindPairs

        self.votes = Votes(folder)
        self.pairs = BlindPairs(reports)
        self.pairs.recall(_rows(folder / VOTES))
        self._chance = random.Random(secrets.randbits(64))
        #: The pair that a tab shows, by session.
        self._shown: dict[str, BlindPair] = {}
        self._lock = threading.Lock()

    @property
    def table(self) -> Path:
        """The file of votes."""
        return self.votes.folder / VOTES

    def show(self, session: str, judge: str, language: str) -> str:
        """The next pair for a tab as HTML, "" if its judge has voted on all. Pictures that cannot be read are
        skipped.
        """
        from bimo.evaluation.suite_drawings import open_picture

        with self._lock:
            self.closed(session)
            while (pair := self.pairs.next_for(judge, self._chance)) is not None:
                images = [(one, open_picture(one.path)) for one in (pair.left, pair.right)]
                for one, image in images:
                    if image is None:
                        self.pairs.drop(one)
                readable = [image for _, image in images if image is not None]
                if len(readable) == 2:
                    self._shown[session] = pair
                    return _pair_html(pair.left.text, readable, language)
        return ""

    def vote(self, session: str, judge: str, choice: str) -> None:
        """Stores the vote on the pair that a tab shows: "a" (the left), "b" or "tie". Raises RequestError if it shows
        none.
        """
        from bimo.evaluation.blind_pairs import vote_of

        if choice not in CHOICES:
            raise RequestError("a vote is a, b or tie, and not {choice!r}", choice=choice[:20])
        with self._lock:
            pair = self._shown.pop(session, None)
            if pair is None:
                raise RequestError("there is no pair to vote on; show one first")
            pictures = [(_name(one), one.path) for one in (pair.left, pair.right)]
            self.votes.write(pictures, judge, vote_of(pair, choice))
            self.pairs.chosen(judge, pair)

    def closed(self, session: str) -> None:
        """To be called when a tab was closed."""
        self._shown.pop(session, None)

    def ratings(self, language: str) -> str:
        """The models' ratings as HTML. Raises DataError if the votes do not connect all models."""
        from bimo.evaluation.preference import ratings, read_votes

        if not self.table.is_file():
            return f"<p>{escaped(Message('no vote yet').said(language))}</p>"
        titles = (Message("model"), Message("points (95 %)"), Message("won"), Message("votes"))
        heads = [title.said(language) for title in titles]
        rows = [
            (
                one.model,
                f"{one.points.value:.0f} [{one.points.low:.0f}, {one.points.high:.0f}]",
                f"{one.won:.0%}",
                str(one.votes),
            )
            for one in ratings(read_votes(self.table)[0])
        ]
        body = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in rows)
        top = "".join(f'<th scope="col">{escaped(head)}</th>' for head in heads)
        return f'<table id="rated"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _pair_html(text: str, images: Sequence[Image.Image], language: str) -> str:
    """The prompt and its two pictures, re-encoded as data URLs, so that neither URLs nor metadata reveal the models."""
    sides = (Message("the left picture"), Message("the right picture"))
    figures = "".join(
        f'<figure><img alt="{escaped(side.said(language))}" src="data:image/webp;base64,{_encoded(image)}"></figure>'
        for side, image in zip(sides, images, strict=True)
    )
    return f'<p class="words">{escaped(text)}</p><div class="duel">{figures}</div>'


def _encoded(image: Image.Image) -> str:
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=92)
    return base64.b64encode(buffer.getvalue()).decode()


def _name(one: Exhibit) -> str:
    """A file name by content, as pictures of several reports have the same names."""
    return f"{hashlib.sha256(one.path.read_bytes()).hexdigest()[:32]}{one.path.suffix.lower()}"


def _rows(path: Path) -> list[object]:
    rows: list[object] = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:  # a truncated line of a killed server
            continue
    return rows
