"""HTML of the page's pictures: the stage with the current one, the gallery, tables."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bimo.core.messages import Message, Sayable
from bimo.serve.dependencies import shot
from bimo.serve.jobs import Job, State, StoredPicture

if TYPE_CHECKING:
    from PIL import Image

#: The path of the page's pictures; gradio serves no files.
PICTURES = "/page/pictures"
#: The name of a picture on the page: job id and index.
_NAME = re.compile(r"([0-9a-f]{32})/(\d{1,3})")


@dataclass(frozen=True)
class PictureName:
    """The name of a picture: its job and index."""

    job: str
    place: int

    @classmethod
    def read(cls, text: object) -> PictureName | None:
        """Parses a name, None if it is none."""
        match = _NAME.fullmatch(text) if isinstance(text, str) else None
        return None if match is None else cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.job}/{self.place}"


def escaped(text: object) -> str:
    """Escapes text for HTML."""
    return html.escape(str(text), quote=True)


def visible_pictures(job: Job) -> list[StoredPicture]:
    """The pictures of a job that are not withheld."""
    return [picture for picture in job.pictures if picture.flagged is None]


def empty(language: str) -> str:
    """The stage before the first drawing."""
    hint = Message("Write what you want to see and press Draw, or take one of the examples.").said(language)
    return f'<div class="stage empty"><span class="brush" aria-hidden="true">笔墨</span><p>{escaped(hint)}</p></div>'


def working(
    language: str,
    done: int,
    steps: int,
    place: int,
    count: int,
    size: tuple[int, int],
    preview: Image.Image | None,
) -> str:
    """The stage while a picture is drawn: preview and progress."""
    share = round(100 * (place + done / max(1, steps)) / max(1, count))
    if done == 0 and place == 0:
        words = Message("waiting for its turn").said(language)
    else:
        words = Message(
            "picture {place} of {count}, step {done} of {steps}", place=place + 1, count=count, done=done, steps=steps
        ).said(language)
    picture = '<div class="blank"></div>'
    if preview is not None:
        data = base64.b64encode(shot(preview)).decode()
        alt = Message("the picture so far").said(language)
        picture = f'<img class="preview" alt="{escaped(alt)}" src="data:image/jpeg;base64,{data}">'
    return (
        f'<div class="stage working"><div class="frame" style="aspect-ratio:{size[0]}/{size[1]}">{picture}</div>'
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share}"'
        f' aria-label="{escaped(words)}"><i style="width:{share}%"></i></div><p aria-live="polite">{escaped(words)}</p>'
        "</div>"
    )


def finished(job: Job, place: int | None = None, times: int = 1) -> str:
    """The stage with the pictures of a job, or one of them, as buttons, enlarged ``times``."""
    pictures = [picture for picture in visible_pictures(job) if place in (None, picture.place)]
    text = escaped(job.order.values.get("text", ""))
    query = "" if times == 1 else f"?times={times}"
    frames = "".join(
        f'<button type="button" class="frame" style="aspect-ratio:{p.width}/{p.height}" data-pick="{job.id}/{p.place}"'
        f' aria-label="{text}"><img src="{PICTURES}/{job.id}/{p.place}.png{query}" alt="{text}"'
        f' width="{times * p.width}" height="{times * p.height}"></button>'
        for p in pictures
    )
    several = " several" if len(pictures) > 1 else ""
    return f'<div class="stage done{several}">{frames}</div>'


def about(job: Job, picture: StoredPicture, language: str, warnings: Sequence[str] = (), times: int = 1) -> str:
    """The text below the stage: warnings, prompt, settings, and a link to the file, enlarged ``times``."""
    values, model = job.order.values, job.order.model
    seed = Message("seed {seed}", seed=picture.seed).said(language)
    seconds = Message("{seconds:.1f} seconds", seconds=picture.seconds).said(language)
    name = Message("Save the PNG").said(language)
    notes = "".join(f'<p class="warning">{escaped(warning)}</p>' for warning in (*warnings, *picture.warnings))
    size = f"{times * picture.width} × {times * picture.height}"
    larger = "" if times == 1 else f"&amp;times={times}"
    return (
        f'<div class="about">{notes}<p class="words">{escaped(values.get("text", ""))}</p><p class="facts">'
        f"{escaped(' · '.join((model, size, seed, seconds)))}</p>"
        f'<a class="save" href="{PICTURES}/{job.id}/{picture.place}.png?save=1{larger}" download>{escaped(name)}</a>'
        "</div>"
    )


def notice(sentence: str, kind: str = "note") -> str:
    """A sentence below the stage."""
    return f'<div class="about"><p class="{kind}">{escaped(sentence)}</p></div>'


def history(jobs: Sequence[Job], language: str, text: str = "") -> str:
    """The gallery: thumbnails as buttons, the newest first."""
    cards: list[str] = []
    for job in jobs:
        words = escaped(job.order.values.get("text", ""))
        for picture in visible_pictures(job):
            cards.append(
                f'<button type="button" class="card" data-pick="{job.id}/{picture.place}" title="{words}"'
                f' aria-label="{words}"><img loading="lazy" alt=""'
                f' src="{PICTURES}/{job.id}/{picture.place}.webp"></button>'
            )
    if not cards:
        none = Message("nothing found for “{text}”", text=text) if text else Message("What you draw stays here.")
        return f'<p class="nothing">{escaped(none.said(language))}</p>'
    return f'<div class="cards">{"".join(cards)}</div>'


def refusal(job: Job) -> Sayable | None:
    """Why a job that has ended shows no picture: stopped, a filter's reason, or its failure."""
    if job.state is State.cancelled:
        return Message("stopped")
    return job.failure or next((p.flagged for p in job.pictures if p.flagged is not None), None)


def cell(job: Job | None, language: str, sentence: str = "", blind: bool = False) -> str:
    """A table cell: a picture with its warnings, or the reason for there being none. ``blind``, as for a vote, is
    without warnings, which could tell the model.
    """
    if job is not None and (pictures := visible_pictures(job)):
        picture = pictures[0]
        words = escaped(job.order.values.get("text", ""))
        # Which model was chosen is the same for all cells.
        warnings = () if blind else [warning for warning in picture.warnings if warning not in job.order.notes]
        notes = "".join(f'<span class="why">{escaped(warning)}</span>' for warning in warnings)
        return (
            f'<button type="button" data-pick="{job.id}/{picture.place}" aria-label="{words}"><img alt="{words}"'
            f' src="{PICTURES}/{job.id}/{picture.place}.webp"></button>{notes}'
        )
    if job is not None and (refused := refusal(job)) is not None:
        sentence = refused.said(language)
    return f'<span class="why">{escaped(sentence or "…")}</span>'


def table(
    language: str,
    heads: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
) -> str:
    """A table of cells, which scrolls if it is too wide."""
    top = "".join(f'<th scope="col">{escaped(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{escaped(head)}</th>{"".join(f"<td>{each}</td>" for each in cells)}</tr>'
        for head, cells in rows
    )
    return f'<div class="grid"><table><thead><tr><th></th>{top}</tr></thead><tbody>{body}</tbody></table></div>'
