"""Event handlers of the page's first tab: draw, stop, and the actions on a picture: again, vary, upscale, use as image,
delete.
"""

# Parts of gradio's interface are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import fields
from typing import Any

import gradio as gr

from bimo.core.errors import BimoError
from bimo.core.messages import Message
from bimo.serve.jobs import Job, State
from bimo.serve.page import gallery
from bimo.serve.page.components import Components
from bimo.serve.page.form import Form, filled
from bimo.serve.page.gallery import PictureName
from bimo.serve.page.session import TIMES, Page, Visitor

#: The strength of variations.
VARIED = 0.6
#: Event settings: no progress display or API route of gradio's, and unprocessed values.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
#: For handlers that draw: no limit on concurrency.
DRAWING: dict[str, Any] = {**QUIET, "concurrency_limit": None}
#: Models with a smaller native size do not draw well at twice that: their pictures are only resampled.
LEAST_DRAWN_OVER = 256


class Drawing:
    """Event handlers of the first tab. Their outputs are, in this order: the stage, the text below it, the gallery, the
    name of the selected picture, the row of actions.
    """

    def __init__(self, page: Page, parts: Components, actions: dict[str, Any]) -> None:
        self.page, self.parts, self.actions = page, parts, actions
        self.ended = [parts.stage, parts.about, parts.cards, parts.picked, actions["row"]]

    def connect(self) -> None:
        """Registers the handlers."""
        parts, actions = self.parts, self.actions
        gr.on([parts.go.click, parts.form["text"].submit], self.draw, parts.inputs, self.ended, **DRAWING)
        actions["stop"].click(self.stop, None, None, **DRAWING)
        self.drawing_after(actions["again"].click(self.again, parts.picked, parts.inputs, **QUIET))
        self.drawing_after(actions["vary"].click(self.vary, parts.picked, [*parts.inputs, parts.onto], **QUIET))
        actions["upscale"].click(self.upscale, parts.picked, self.ended, **DRAWING)
        actions["use"].click(self.use, parts.picked, [parts.form["image"], parts.form["mask"], parts.onto], **QUIET)
        actions["forget"].click(self.forget, [parts.picked, parts.search], self.ended, **QUIET)

    def drawing_after(self, event: Any) -> None:
        """Draws after an event that has filled the form."""
        event.success(self.draw, self.parts.inputs, self.ended, **DRAWING)

    async def draw(self, browser: gr.Request, *values: Any) -> AsyncGenerator[tuple[Any, ...]]:
        """Draws the form."""
        who = Visitor.of(browser)
        try:
            form = Form.read(values)
            job = await self.page.accept(form, who)
        except (BimoError, MemoryError) as error:
            raise who.toast(error) from None
        async for outputs in self.follow(job, (form.width, form.height), who):
            yield outputs

    async def follow(self, job: Job, size: tuple[int, int], who: Visitor) -> AsyncGenerator[tuple[Any, ...]]:
        """The outputs while a job is drawn, and when it has ended. Where another was begun in the same tab, such as by
        an example, the stage is that one's, and this one's pictures go to the gallery alone.
        """
        unchanged, page, count = gr.skip(), self.page, job.order.count
        page.staged[who.session] = job.id
        preview, place, shown_at = None, -1, 0.0
        try:
            waiting = gallery.working(who.language, 0, 1, 0, count, size, None)
            yield waiting, "", unchanged, "", gr.Row(visible=False)
            async for event in page.service.events(job.id):
                if event.kind != "step" or page.staged.get(who.session) != job.id:
                    continue
                preview = event.preview or (preview if event.place == place else None)
                place = event.place
                if event.preview is None and time.monotonic() - shown_at < 0.1:
                    continue
                shown_at = time.monotonic()
                stage = gallery.working(who.language, event.done, event.steps, event.place, count, size, preview)
                yield stage, unchanged, unchanged, unchanged, unchanged
            ended_job = await asyncio.to_thread(page.service.job, job.id)
            outputs = await self._final_outputs(ended_job, who)
            if page.staged.get(who.session) != job.id:
                outputs = (unchanged, unchanged, outputs[2], unchanged, unchanged)
        finally:
            page.service.cancel(job.id)
            page.done(job.id, who)
            if page.staged.get(who.session) == job.id:
                del page.staged[who.session]
        yield outputs

    async def _final_outputs(self, job: Job | None, who: Visitor) -> tuple[Any, ...]:
        if job is not None and (pictures := gallery.visible_pictures(job)):
            first = pictures[0]
            about = gallery.about(job, first, who.language)
            cards = await self.page.history(who)
            return gallery.finished(job), about, cards, str(PictureName(job.id, first.place)), gr.Row(visible=True)
        notice = ""
        if job is not None and (refused := gallery.refusal(job)) is not None:
            kind = "note" if job.state is State.cancelled else "warning"
            notice = gallery.notice(who.says(refused), kind)
        return gallery.empty(who.language), notice, gr.skip(), "", gr.Row(visible=False)

    def stop(self, browser: gr.Request) -> None:
        """Cancels the jobs of this browser tab."""
        self.page.stop(browser.session_hash or "")

    async def again(self, browser: gr.Request, text: Any) -> list[Any]:
        """Fills the form with a picture's settings."""
        who = Visitor.of(browser)
        job, named = await self._picked(text, who)
        picture = next(p for p in job.pictures if p.place == named.place)
        values = filled(job.order.values, job.order.model, job.order.loras)
        # The initial image is deleted after drawing; without it the picture would be a different one.
        if "strength" in job.order.values:
            values |= {"image": "", "mask": ""}
            note = Message("The image it was drawn from is not kept; open it again for the same picture.")
            who.tell(who.says(note))
        return updates(values | {"seed": picture.seed, "count": 1})

    async def vary(self, browser: gr.Request, text: Any) -> list[Any]:
        """Fills the form for a variation: the picture as initial image, with another seed."""
        job, named = await self._picked(text, Visitor.of(browser))
        values = filled(job.order.values, job.order.model, job.order.loras)
        values |= {"seed": -1, "count": 1, "image": data_url(png_of(job, named)), "mask": "", "strength": VARIED}
        return [*updates(values), _onto(named)]

    async def upscale(self, browser: gr.Request, text: Any) -> AsyncGenerator[tuple[Any, ...]]:
        """Upscales a picture, with a second pass if the model can draw at that size."""
        who = Visitor.of(browser)
        job, named = await self._picked(text, who)
        picture = next(p for p in job.pictures if p.place == named.place)
        try:
            offer = await self.page.offer(job.order.model)
            if min(offer.width, offer.height) < LEAST_DRAWN_OVER:
                note = Message("enlarged by resampling: this model draws nothing larger well")
                about = gallery.about(job, picture, who.language, (who.says(note),), TIMES)
                stage = gallery.finished(job, named.place, TIMES)
                yield stage, about, gr.skip(), str(named), gr.Row(visible=True)
                return
            larger = await self.page.enlarge(job, picture, who)
        except (BimoError, MemoryError) as error:
            raise who.toast(error) from None
        async for outputs in self.follow(larger, (TIMES * picture.width, TIMES * picture.height), who):
            yield outputs

    async def use(self, browser: gr.Request, text: Any) -> tuple[Any, ...]:
        """Uses a picture as the initial image."""
        job, named = await self._picked(text, Visitor.of(browser))
        return data_url(png_of(job, named)), "", _onto(named, show=True)

    async def forget(self, browser: gr.Request, text: Any, search: Any) -> tuple[Any, ...]:
        """Deletes the job of a picture."""
        who = Visitor.of(browser)
        job, _ = await self._picked(text, who)
        await asyncio.to_thread(self.page.service.store.forget, job.id)
        cards = await self.page.history(who, search if isinstance(search, str) else "")
        return gallery.empty(who.language), "", cards, "", gr.Row(visible=False)

    async def _picked(self, text: Any, who: Visitor) -> tuple[Job, PictureName]:
        try:
            return await self.page.picked(text, who)
        except BimoError as error:
            raise who.toast(error) from None


def updates(values: dict[str, Any]) -> list[Any]:
    """Updates for the form's components; those without a value are unchanged."""
    # Bounds of sliders are not changed: a value outside of them is reported when drawing.
    names = [field.name for field in fields(Form)]
    return [gr.update(value=values[name]) if name in values else gr.skip() for name in names]


def png_of(job: Job, named: PictureName) -> bytes:
    """The file of a picture."""
    return next(p for p in job.pictures if p.place == named.place).file.read_bytes()


def data_url(png: bytes) -> str:
    """A PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _onto(named: PictureName, show: bool = False) -> str:
    """The element that makes the page's script load a picture onto the canvas, and ``show`` the canvas."""
    shown = ' data-show="1"' if show else ""
    return f'<i data-image="{gallery.PICTURES}/{named}.png" data-turn="{secrets.token_hex(4)}"{shown}></i>'
