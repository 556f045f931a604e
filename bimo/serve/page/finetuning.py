"""The page's tab for fine-tuning: its routes, its form and the list of runs as HTML, and drawing with a result.

The script `finetuning.js` sends the photos with the form to a route of the page, and polls the runs every few seconds
while one is in progress. All state is in the server's folder, so that a reload of the page loses nothing.
"""

# Parts of gradio's interface are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import io
import re
from typing import Annotated, Any

import gradio as gr
import pydantic
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse

from bimo.core.errors import BimoError, RequestError
from bimo.core.label import marked
from bimo.core.messages import Message
from bimo.serve.dependencies import shot
from bimo.serve.finetuning.finetuner import (
    NAME_LENGTH,
    NO_SUCH_RUN,
    TEXT_LENGTH,
    Finetuner,
    FinetuneRequest,
    Photo,
)
from bimo.serve.finetuning.record import Record, State, progress
from bimo.serve.gate import spoken
from bimo.serve.keys import KeyStore
from bimo.serve.page.access import NO_KEY, Identify
from bimo.serve.page.components import Components
from bimo.serve.page.drawing import QUIET, updates
from bimo.serve.page.gallery import escaped
from bimo.serve.page.session import Page, Visitor
from bimo.serve.problems import ApiError
from bimo.serve.uploads import decoded

#: The path of the tab's routes.
RUNS = "/page/finetunings"
#: The longest side of a sheet of samples on the page, in pixels.
SHEET_SIDE = 1280
#: The texts of the script, which are attributes of the form.
TEXTS = ("caption", "remove", "unreadable", "many", "none", "sending")
_ID = re.compile(r"[0-9a-f]{32}")
_Text = Annotated[str, pydantic.Field(max_length=TEXT_LENGTH)]


class PhotoBody(pydantic.BaseModel):
    """A photo in base64, the name of its file, and its caption."""

    model_config = pydantic.ConfigDict(extra="forbid")

    data: str
    name: _Text = ""
    caption: _Text = ""


class RunBody(pydantic.BaseModel):
    """The body that the tab's form sends."""

    model_config = pydantic.ConfigDict(extra="forbid")

    model: _Text = ""
    name: _Text
    word: _Text = ""
    subject: _Text = ""
    steps: int = 0
    photos: list[PhotoBody]

    def request(self, language: str) -> FinetuneRequest:
        """The request, with decoded photos. Raises RequestError."""
        photos = [
            Photo(decoded(photo.data, photo.name or str(number)), photo.name, photo.caption)
            for number, photo in enumerate(self.photos, 1)
        ]
        return FinetuneRequest(self.model, self.name, photos, self.word, self.subject, self.steps, language)


def router(finetuner: Finetuner, identify: Identify, keys: KeyStore | None) -> APIRouter:
    """The tab's routes: list the runs of a visitor as HTML, their sheets; start, stop, resume and delete runs."""
    routes = APIRouter(prefix=RUNS, include_in_schema=False)
    label = finetuner.settings.label

    def visitor(request: Request) -> str:
        if (user := identify(request)) is None:
            raise ApiError(401, NO_KEY)
        return user

    async def listed(request: Request) -> Response:
        records = await run_in_threadpool(finetuner.of, visitor(request))
        content = await run_in_threadpool(runs_html, records, spoken(request.headers.get("accept-language")))
        return HTMLResponse(content, headers={"Cache-Control": "no-store"})

    @routes.get("")
    async def runs(request: Request) -> Response:
        return await listed(request)

    @routes.post("")
    async def begin(body: RunBody, request: Request) -> Response:
        user = visitor(request)
        if keys is not None and (seconds := keys.wait(user)):
            raise RequestError("this key asks too often; ask again in {seconds} seconds", seconds=seconds)
        language = spoken(request.headers.get("accept-language"))
        await run_in_threadpool(lambda: finetuner.begin(body.request(language), user))
        return await listed(request)

    @routes.post("/{name}/{action}")
    async def act(name: str, action: str, request: Request) -> Response:
        actions = {"stop": finetuner.halt, "resume": finetuner.resume, "forget": finetuner.forget}
        if action not in actions or _ID.fullmatch(name) is None:
            raise ApiError(404, NO_SUCH_RUN)
        await run_in_threadpool(actions[action], name, visitor(request))
        return await listed(request)

    @routes.get("/{name}/sheet.jpeg")
    async def sheet(name: str, request: Request) -> Response:
        try:
            record = await run_in_threadpool(finetuner.one, name, visitor(request))
        except RequestError:
            raise ApiError(404, NO_SUCH_RUN) from None
        if record.sheet is None:
            raise ApiError(404, NO_SUCH_RUN)
        content = await run_in_threadpool(_sheet, record, label is not None)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    return routes


def _sheet(record: Record, is_labelled: bool) -> bytes:
    """The newest sheet of samples as JPEG, bounded in size."""
    from PIL import Image

    assert record.sheet is not None
    with Image.open(io.BytesIO(record.sheet.read_bytes())) as opened:
        image = opened.convert("RGB")
    image.thumbnail((SHEET_SIDE, SHEET_SIDE))
    return shot(marked(image) if is_labelled else image, quality=88)


def form_html(language: str, page: Page, finetuner: Finetuner) -> str:
    """The tab's form, and the container of the runs."""
    limits = finetuner.settings.limits
    said = {
        name: escaped(message.said(language))
        for name, message in {
            "hint": Message("Five to twenty photos of one kind of thing, or of one subject; drop them anywhere here."),
            "open": Message("Choose photos"),
            "clear": Message("Remove all"),
            "model": Message("Model"),
            "name": Message("Name of the result"),
            "name_hint": Message("lanterns"),
            "word": Message("What the photos show (for those without a caption)"),
            "word_hint": Message("a lantern"),
            "subject": Message("All of one and the same? What it is to be called"),
            "subject_hint": Message("a <my> cat, or empty"),
            "steps": Message("Steps (0: by the number of photos)"),
            "begin": Message("Fine-tune"),
            "caption": Message("Caption"),
            "remove": Message("Remove"),
            "unreadable": Message("this browser cannot read it; save it as JPEG or PNG"),
            "many": Message("at most {most} photos", most=limits.photos),
            "none": Message("choose photos first"),
            "sending": Message("sending ..."),
        }.items()
    }
    models = "".join(f'<option value="{escaped(name)}">{escaped(name)}</option>' for name in page.pool.models)
    texts = "".join(f' data-{name}="{said[name]}"' for name in TEXTS)

    def field(name: str, attributes: str) -> str:
        place = f' placeholder="{said[f"{name}_hint"]}"' if f"{name}_hint" in said else ""
        return f"<label>{said[name]}<input name={name}{place} {attributes}></label>"

    words = f'maxlength="{TEXT_LENGTH}"'
    return (
        f'<form id="finetune-form" data-most="{limits.photos}"{texts}>'
        f'<p class="hint">{said["hint"]}</p><div class="tools"><label class="file">{said["open"]}<input type="file"'
        f' accept="image/*" multiple data-photos aria-label="{said["open"]}"></label>'
        f'<button type="button" class="tool" data-photos-clear hidden>{said["clear"]}</button></div>'
        f'<div class="photos"></div><div class="fields">'
        f'<label>{said["model"]}<select name="model">{models}</select></label>'
        + field("name", f'maxlength="{NAME_LENGTH}" required')
        + field("word", words)
        + field("subject", words)
        + field("steps", f'type="number" min="0" max="{limits.finetune_steps}" value="0"')
        + f'</div><p class="warning" role="alert" hidden></p><button class="go">{said["begin"]}</button></form>'
        + '<div id="finetune-runs"></div>'
    )


def runs_html(records: list[Record], language: str) -> str:
    """The runs, the newest first; the one in progress with its progress bar."""
    if not records:
        sentence = Message("What you fine-tune stays here; nobody else can draw with it.").said(language)
        return f'<p class="nothing">{escaped(sentence)}</p>'
    return "".join(_run_html(record, language) for record in records)


def _run_html(record: Record, language: str) -> str:
    """One run: name, state, progress, newest samples, buttons, output of its process."""
    current = progress(record)
    facts = [record.model, Message("{count} photos", count=record.photos).said(language)]
    parts = [f"<h3>{escaped(record.name)} <small>{escaped(' · '.join(facts))}</small></h3>"]
    if record.state is State.running:
        share = round(100 * current.done / max(1, current.steps))
        words = escaped(_progress_words(current.done, current.steps, current.loss, current.seconds, language))
        parts.append(
            f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share}"'
            f' aria-label="{words}"><i style="width:{share}%"></i></div><p class="facts" aria-live="polite">{words}</p>'
        )
    elif record.state is State.failed:
        parts.append(f'<p class="warning">{escaped(record.failure)}</p>')
    else:
        done = Message("done: its name is {name} among the LoRAs", name=record.name)
        stopped = Message("stopped after step {done} of {steps}", done=current.done, steps=current.steps)
        sentence = (done if record.state is State.done else stopped).said(language)
        parts.append(f'<p class="facts">{escaped(sentence)}</p>')
    if (sheet := record.sheet) is not None:
        caption = Message("before, above; after, below") if record.state is State.done else Message("samples so far")
        source = f"{RUNS}/{record.id}/sheet.jpeg?at={sheet.stem}"
        alt = escaped(caption.said(language))
        parts.append(f'<figure><img src="{source}" alt="{alt}"><figcaption>{alt}</figcaption></figure>')
    buttons = {
        State.running: (("stop", Message("Stop")),),
        State.stopped: (("resume", Message("Go on")), ("forget", Message("Delete"))),
        State.failed: (("resume", Message("Go on")), ("forget", Message("Delete"))),
        State.done: (("draw", Message("Draw with it")), ("forget", Message("Delete"))),
    }[record.state]
    sure = escaped(Message("Delete {name} for good?", name=record.name).said(language))
    parts.append(
        '<div class="tools">'
        + "".join(
            f'<button type="button" class="tool" data-run="{record.id}" data-action="{action}"'
            + (f' data-sure="{sure}"' if action == "forget" else "")
            + f">{escaped(title.said(language))}</button>"
            for action, title in buttons
        )
        + "</div>"
    )
    if current.lines:
        title = escaped(Message("What it says").said(language))
        printed = escaped("\n".join(current.lines))
        parts.append(f'<details data-key="{record.id}"><summary>{title}</summary><pre>{printed}</pre></details>')
    return f'<article class="run" data-state="{record.state.value}">{"".join(parts)}</article>'


def _progress_words(done: int, steps: int, loss: float | None, seconds: float | None, language: str) -> str:
    if not done:
        return Message("getting ready ...").said(language)
    words = [Message("step {done} of {steps}", done=done, steps=steps)]
    words += [] if loss is None else [Message("loss {loss:.3f}", loss=loss)]
    if seconds is not None:
        minutes = Message("about {minutes} minutes left", minutes=round(seconds / 60))
        words.append(minutes if seconds >= 90 else Message("about {seconds} seconds left", seconds=round(seconds)))
    return " · ".join(message.said(language) for message in words)


def on_result(page: Page, finetuner: Finetuner, parts: Components, chosen: Any) -> None:
    """Registers the handler that enters a resulting LoRA into the form of the first tab; ``chosen`` is set by the
    script.
    """

    async def use(browser: gr.Request, text: Any) -> list[Any]:
        who = Visitor.of(browser)
        if not text:
            return updates({})
        try:
            record = await run_in_threadpool(finetuner.one, str(text).partition(" ")[0], who.user)
            offer = await page.offer(record.model)
        except BimoError as error:
            raise who.toast(error) from None
        values = {"model": record.model, "text": record.subject or record.word, "loras": [record.name]}
        values |= {"width": offer.width, "height": offer.height, "steps": offer.steps, "guidance": offer.guidance}
        filled = updates({name: value for name, value in values.items() if value})
        names = await run_in_threadpool(page.pool.loras_of, who.user)
        filled[parts.inputs.index(parts.form["loras"])] = gr.Dropdown(choices=names, value=[record.name], visible=True)
        return filled

    chosen.change(use, chosen, parts.inputs, **QUIET)
