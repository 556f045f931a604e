"""What happens on the page's first tab: draw and stop, and what is done with a picture: again, vary, upscale, use it as
image, delete it.
"""

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
from bimo.serve.page.form import Form, filled
from bimo.serve.page.gallery import Named
from bimo.serve.page.parts import Parts
from bimo.serve.page.session import TIMES, Page, Visitor

#: How much is redrawn of a picture that is varied.
VARIED = 0.6
#: Events are not shown by gradio's own means, have no address, and get values as the browser sends them.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
#: Beside those that draw none waits for another.
DRAWING: dict[str, Any] = {**QUIET, "concurrency_limit": None}
#: Models whose own side is shorter draw nothing larger well: theirs are enlarged by resampling alone.
LEAST_DRAWN_OVER = 256


class Drawing:
    """The events of the first tab that draw, or do something with the picture on the stage. What they answer is, in
    this order: the stage, what is said beneath it, the gallery, the picture that is picked, the row of actions.
    """

    def __init__(self, page: Page, parts: Parts, actions: dict[str, Any]) -> None:
        self.page, self.parts, self.actions = page, parts, actions
        self.ended = [parts.stage, parts.about, parts.cards, parts.picked, actions["row"]]

    def connect(self) -> None:
        """Has the components call these events."""
        parts, actions = self.parts, self.actions
        gr.on([parts.go.click, parts.form["text"].submit], self.draw, parts.inputs, self.ended, **DRAWING)
        actions["stop"].click(self.stop, None, None, **DRAWING)
        self.drawing_after(actions["again"].click(self.again, parts.picked, parts.inputs, **QUIET))
        self.drawing_after(actions["vary"].click(self.vary, parts.picked, [*parts.inputs, parts.onto], **QUIET))
        actions["upscale"].click(self.upscale, parts.picked, self.ended, **DRAWING)
        actions["use"].click(self.use, parts.picked, [parts.form["image"], parts.form["mask"], parts.onto], **QUIET)
        actions["forget"].click(self.forget, [parts.picked, parts.search], self.ended, **QUIET)

    def drawing_after(self, event: Any) -> None:
        """Draws the form after an event that filled it."""
        event.success(self.draw, self.parts.inputs, self.ended, **DRAWING)

    async def draw(self, browser: gr.Request, *values: Any) -> AsyncGenerator[tuple[Any, ...]]:
        """What the form asks for."""
        who = Visitor.of(browser)
        try:
            form = Form.read(values)
            job = await self.page.accept(form, who)
        except (BimoError, MemoryError) as error:
            raise who.toast(error) from None
        async for shown in self._shown(job, (form.width, form.height), who):
            yield shown

    async def _shown(self, job: Job, size: tuple[int, int], who: Visitor) -> AsyncGenerator[tuple[Any, ...]]:
        """A job as it is drawn, and as it ends."""
        same, page, count = gr.skip(), self.page, job.order.count
        preview, place, shown_at = None, -1, 0.0
        try:
            waiting = gallery.working(who.language, 0, 1, 0, count, size, None)
            yield waiting, "", same, "", gr.Row(visible=False)
            async for event in page.service.events(job.id):
                if event.kind != "step":
                    continue
                preview = event.shown or (preview if event.place == place else None)
                place = event.place
                if event.shown is None and time.monotonic() - shown_at < 0.1:
                    continue
                shown_at = time.monotonic()
                stage = gallery.working(who.language, event.done, event.steps, event.place, count, size, preview)
                yield stage, same, same, same, same
            found = await asyncio.to_thread(page.service.job, job.id)
        finally:
            page.service.cancel(job.id)
            page.done(job, who)
        yield await self._at_its_end(found, who)

    async def _at_its_end(self, found: Job | None, who: Visitor) -> tuple[Any, ...]:
        if found is not None and (pictures := gallery.shown(found)):
            first = pictures[0]
            about = gallery.about(found, first, who.language)
            cards = await self.page.history(who)
            return gallery.finished(found), about, cards, str(Named(found.id, first.place)), gr.Row(visible=True)
        told = ""
        if found is not None:
            refused = found.failure or next((p.flagged for p in found.pictures if p.flagged is not None), None)
            if found.state is State.cancelled:
                told = gallery.told(who.says(Message("stopped")))
            elif refused is not None:
                told = gallery.told(who.says(refused), "warning")
        return gallery.empty(who.language), told, gr.skip(), "", gr.Row(visible=False)

    def stop(self, browser: gr.Request) -> None:
        """What this tab waits for is not drawn to its end."""
        self.page.stop(browser.session_hash or "")

    async def again(self, browser: gr.Request, text: Any) -> list[Any]:
        """The form as the picture was drawn by."""
        who = Visitor.of(browser)
        job, named = await self._picked(text, who)
        picture = next(p for p in job.pictures if p.place == named.place)
        values = filled(job.order.values, job.order.model, job.order.loras)
        # What it was made of is not kept once it is drawn: without its image it would be another picture.
        if "strength" in job.order.values:
            values |= {"image": "", "mask": ""}
            gr.Info(who.says(Message("The image it was drawn from is not kept; open it again for the same picture.")))
        return updates(values | {"seed": picture.seed, "count": 1})

    async def vary(self, browser: gr.Request, text: Any) -> list[Any]:
        """The form with the picture as image, and another seed."""
        job, named = await self._picked(text, Visitor.of(browser))
        values = filled(job.order.values, job.order.model, job.order.loras)
        values |= {"seed": -1, "count": 1, "image": data_url(png_of(job, named)), "mask": "", "strength": VARIED}
        return [*updates(values), _onto(named)]

    async def upscale(self, browser: gr.Request, text: Any) -> AsyncGenerator[tuple[Any, ...]]:
        """The picture at twice its size: drawn over by its model, where that draws so large."""
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
        async for shown in self._shown(larger, (TIMES * picture.width, TIMES * picture.height), who):
            yield shown

    async def use(self, browser: gr.Request, text: Any) -> tuple[Any, ...]:
        """The picture as image of the form."""
        job, named = await self._picked(text, Visitor.of(browser))
        return data_url(png_of(job, named)), "", _onto(named)

    async def forget(self, browser: gr.Request, text: Any, search: Any) -> tuple[Any, ...]:
        """Takes the picture's job out of the history."""
        who = Visitor.of(browser)
        job, _ = await self._picked(text, who)
        await asyncio.to_thread(self.page.service.store.forget, job.id)
        cards = await self.page.history(who, search if isinstance(search, str) else "")
        return gallery.empty(who.language), "", cards, "", gr.Row(visible=False)

    async def _picked(self, text: Any, who: Visitor) -> tuple[Job, Named]:
        try:
            return await self.page.picked(text, who)
        except BimoError as error:
            raise who.toast(error) from None


def updates(values: dict[str, Any]) -> list[Any]:
    """What the components of the form are to show; those without a value stay."""
    # Sliders are given their value alone: one above a bound that the page shows is said when it is drawn.
    names = [each.name for each in fields(Form)]
    return [gr.update(value=values[name]) if name in values else gr.skip() for name in names]


def png_of(job: Job, named: Named) -> bytes:
    """The file of a picture."""
    return next(p for p in job.pictures if p.place == named.place).file.read_bytes()


def data_url(png: bytes) -> str:
    """A picture as a browser takes it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _onto(named: Named) -> str:
    """What has the browser put a picture onto the canvas."""
    return f'<i data-image="{gallery.PICTURES}/{named}.png" data-turn="{secrets.token_hex(4)}"></i>'
