"""What happens on the page's first tab: draw and stop, again and vary, a picture onto the canvas, a file's settings."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import fields
from typing import Any

import gradio as gr

from bimo.core.errors import BimoError, RequestError
from bimo.core.messages import Message, speaking
from bimo.core.picture import metadata_of
from bimo.core.request import checked
from bimo.serve.jobs import State
from bimo.serve.page import gallery, models
from bimo.serve.page.form import (
    Form,
    filled,
)
from bimo.serve.page.fragments import EXAMPLES
from bimo.serve.page.gallery import Named
from bimo.serve.page.models import RATIOS, Offer
from bimo.serve.page.parts import Parts
from bimo.serve.page.session import SHOWN, Page, Visitor

#: What a record says of pictures, which it does not hold.
_NOT_IN_A_FILE = {"image", "mask", "condition_images", "strength"}
#: How much is redrawn of a picture that is varied.
VARIED = 0.6


def on_drawing(page: Page, parts: Parts, actions: dict[str, Any], hidden: dict[str, Any]) -> None:
    """What the components of the first tab do; ``hidden`` are those that only scripts press."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
    ended = [parts.stage, parts.about, parts.cards, parts.picked, actions["row"]]

    async def draw(browser: gr.Request, *values: Any) -> AsyncGenerator[tuple[Any, ...]]:
        who = Visitor.of(browser)
        try:
            form = Form.read(values)
            job = await page.accept(form, who)
        except (BimoError, MemoryError) as error:
            raise who.toast(error) from None
        size = (form.width, form.height)
        preview, place, shown_at = None, -1, 0.0
        try:
            yield (
                gallery.working(who.language, 0, 1, 0, form.count, size, None),
                "",
                gr.skip(),
                "",
                gr.Row(visible=False),
            )
            async for event in page.service.events(job.id):
                if event.kind != "step":
                    continue
                preview = event.shown or (preview if event.place == place else None)
                place = event.place
                if event.shown is None and time.monotonic() - shown_at < 0.1:
                    continue
                shown_at = time.monotonic()
                stage = gallery.working(who.language, event.done, event.steps, event.place, form.count, size, preview)
                yield stage, gr.skip(), gr.skip(), gr.skip(), gr.skip()
            found = await asyncio.to_thread(page.service.job, job.id)
        finally:
            page.service.cancel(job.id)
            page.done(job, who)
        if found is None or (not gallery.shown(found) and found.failure is None and not found.pictures):
            yield gallery.empty(who.language), "", gr.skip(), "", gr.Row(visible=False)
            return
        refused = found.failure or next((p.flagged for p in found.pictures if p.flagged is not None), None)
        if refused is not None and not gallery.shown(found):
            kind = "note" if found.state is State.cancelled else "warning"
            sentence = Message("stopped") if found.state is State.cancelled else refused
            yield (
                gallery.empty(who.language),
                gallery.told(who.says(sentence), kind),
                gr.skip(),
                "",
                gr.Row(visible=False),
            )
            return
        first = gallery.shown(found)[0]
        cards = await page.history(who)
        about = gallery.about(found, first, who.language)
        yield gallery.finished(found), about, cards, str(Named(job.id, first.place)), gr.Row(visible=True)

    drawing: dict[str, Any] = {**quiet, "concurrency_limit": None}
    gr.on([parts.go.click, parts.form["text"].submit], draw, parts.inputs, ended, **drawing)

    def end(browser: gr.Request) -> None:
        page.stop(browser.session_hash or "")

    actions["stop"].click(end, None, None, concurrency_limit=None, **quiet)

    async def measured(browser: gr.Request, text: Any, model: Any) -> str:
        who = Visitor.of(browser)
        try:
            words = Form.words("text", text)
            engine = await models.loaded(page.pool, Form.words("model", model))
        except BimoError as error:
            return gallery.told(error.message.said(who.language), "warning")
        with speaking(who.language):
            return models.meter(engine, words)

    gr.on(
        [parts.form["text"].change, parts.form["model"].change],
        measured,
        [parts.form["text"], parts.form["model"]],
        parts.meter,
        trigger_mode="always_last",
        **quiet,
    )

    async def shaped(browser: gr.Request, ratio: Any, model: Any) -> tuple[int, int]:
        try:
            offer = await page.offer(Form.words("model", model))
        except BimoError as error:
            raise Visitor.of(browser).toast(error) from None
        return offer.shaped(ratio if ratio in RATIOS else "1:1")

    sides = [parts.form["width"], parts.form["height"]]
    parts.ratio.input(shaped, [parts.ratio, parts.form["model"]], sides, **quiet)

    changed = (
        "width",
        "height",
        "steps",
        "guidance",
        "guidance_rescale",
        "negative",
        "sampler",
        "clip_skip",
        "control",
    )

    async def chosen(browser: gr.Request, model: Any) -> list[Any]:
        who = Visitor.of(browser)
        try:
            engine = await models.loaded(page.pool, Form.words("model", model))
        except BimoError as error:
            raise who.toast(error) from None
        offer = Offer.of(engine)
        own = ("–", "")
        return [
            gr.Slider(minimum=offer.unit, maximum=offer.most, step=offer.unit, value=offer.width),
            gr.Slider(minimum=offer.unit, maximum=offer.most, step=offer.unit, value=offer.height),
            offer.steps,
            offer.guidance,
            gr.Slider(value=offer.rescale, visible=bool(offer.samplers)),
            offer.negative,
            gr.Dropdown(choices=[own, *offer.samplers], value="", visible=bool(offer.samplers)),
            gr.Slider(maximum=max(2, offer.clip_skip), value=1, visible=bool(offer.clip_skip)),
            gr.Dropdown(choices=[own, *offer.controls], value=""),
            models.licence(engine.recipe, who.language),
            gr.Radio(value=offer.ratio),
        ]

    outputs = [*(parts.form[name] for name in changed), parts.licence, parts.ratio]
    parts.form["model"].input(chosen, parts.form["model"], outputs, **quiet)

    # The history.
    async def searched(browser: gr.Request, text: Any) -> tuple[str, int]:
        words = text if isinstance(text, str) else ""
        return await page.history(Visitor.of(browser), words), SHOWN

    async def older(browser: gr.Request, text: Any, many: Any) -> tuple[str, int]:
        more = min(2000, SHOWN + (int(many) if isinstance(many, (int, float)) and 0 <= many < 2000 else 0))
        return await page.history(Visitor.of(browser), text if isinstance(text, str) else "", more), more

    gallery_parts = [parts.cards, parts.many]
    parts.search.change(searched, parts.search, gallery_parts, trigger_mode="always_last", **quiet)
    actions["older"].click(older, [parts.search, parts.many], gallery_parts, **quiet)

    async def show(browser: gr.Request, text: Any) -> tuple[Any, ...]:
        who = Visitor.of(browser)
        if not text:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        try:
            job, named = await page.picked(str(text).partition(" ")[0], who)
        except BimoError as error:
            raise who.toast(error) from None
        picture = next(p for p in job.pictures if p.place == named.place)
        about = gallery.about(job, picture, who.language)
        return gallery.finished(job, named.place), about, str(named), gr.Row(visible=True)

    shown = [parts.stage, parts.about, parts.picked, actions["row"]]
    hidden["pick"].change(show, hidden["pick"], shown, **quiet)

    async def forget(browser: gr.Request, text: Any, search: Any) -> tuple[Any, ...]:
        who = Visitor.of(browser)
        try:
            job, _ = await page.picked(text, who)
        except BimoError as error:
            raise who.toast(error) from None
        await asyncio.to_thread(page.service.store.forget, job.id)
        cards = await page.history(who, search if isinstance(search, str) else "")
        return gallery.empty(who.language), "", cards, "", gr.Row(visible=False)

    actions["forget"].click(forget, [parts.picked, parts.search], ended, **quiet)

    # Settings that come back: of a picture that was drawn here, or of a file.
    form_names = [each.name for each in fields(Form)]

    def updates(values: dict[str, Any]) -> list[Any]:
        # Sliders are given their value alone: one above a bound that the page shows is said when it is drawn.
        return [gr.update(value=values[name]) if name in values else gr.skip() for name in form_names]

    def data_url(png: bytes) -> str:
        return "data:image/png;base64," + base64.b64encode(png).decode()

    async def same(browser: gr.Request, text: Any) -> list[Any]:
        who = Visitor.of(browser)
        try:
            job, named = await page.picked(text, who)
        except BimoError as error:
            raise who.toast(error) from None
        picture = next(p for p in job.pictures if p.place == named.place)
        values = filled(job.order.values, job.order.model, job.order.loras)
        # What it was made of is not kept once it is drawn: without its image it would be another picture.
        made_of = "strength" in job.order.values
        if made_of:
            values |= {"image": "", "mask": ""}
            gr.Info(who.says(Message("The image it was drawn from is not kept; open it again for the same picture.")))
        return updates(values | {"seed": picture.seed, "count": 1})

    async def varied(browser: gr.Request, text: Any) -> list[Any]:
        who = Visitor.of(browser)
        try:
            job, named = await page.picked(text, who)
        except BimoError as error:
            raise who.toast(error) from None
        png = next(p for p in job.pictures if p.place == named.place).file.read_bytes()
        values = filled(job.order.values, job.order.model, job.order.loras)
        values |= {"seed": -1, "count": 1, "image": data_url(png), "mask": "", "strength": VARIED}
        return [*updates(values), _onto(job.id, named.place)]

    async def used(browser: gr.Request, text: Any) -> tuple[Any, ...]:
        who = Visitor.of(browser)
        try:
            job, named = await page.picked(text, who)
        except BimoError as error:
            raise who.toast(error) from None
        png = next(p for p in job.pictures if p.place == named.place).file.read_bytes()
        return data_url(png), "", _onto(job.id, named.place)

    actions["again"].click(same, parts.picked, parts.inputs, **quiet).success(draw, parts.inputs, ended, **drawing)
    actions["vary"].click(varied, parts.picked, [*parts.inputs, parts.onto], **quiet).success(
        draw, parts.inputs, ended, **drawing
    )
    image_parts = [parts.form["image"], parts.form["mask"], parts.onto]
    actions["use"].click(used, parts.picked, image_parts, **quiet)

    async def dropped(browser: gr.Request, text: Any) -> list[Any]:
        who = Visitor.of(browser)
        if not text:
            return updates({})
        try:
            values = _of_file(text, page)
        except BimoError as error:
            raise who.toast(error) from None
        gr.Info(who.says(Message("The settings of the picture are in the form.")))
        return updates(values)

    hidden["dropped"].change(dropped, hidden["dropped"], parts.inputs, **quiet)

    async def example(browser: gr.Request, text: Any) -> list[Any]:
        who = Visitor.of(browser)
        number = str(text).partition(" ")[0]
        if not (number.isascii() and number.isdecimal() and int(number) < len(EXAMPLES)):
            return updates({})
        zh, en, style = EXAMPLES[int(number)]
        return updates({"text": zh if who.language == "zh" else en, "style": style, "image": "", "mask": ""})

    hidden["example"].change(example, hidden["example"], parts.inputs, **quiet).success(
        draw, parts.inputs, ended, **drawing
    )


def _onto(job: str, place: int) -> str:
    """What has the browser put a picture onto the canvas."""
    return f'<i data-image="{gallery.PICTURES}/{job}/{place}.png" data-turn="{secrets.token_hex(4)}"></i>'


def _of_file(text: Any, page: Page) -> dict[str, Any]:
    """The form's values of a PNG in base64. Raises RequestError for one without a record."""
    if not isinstance(text, str) or not text.startswith("data:"):
        raise RequestError("that is no PNG of up to 12 MB; drop one that bimo drew")
    try:
        content = base64.b64decode(text.partition(",")[2].partition(" ")[0], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("that is no PNG of up to 12 MB; drop one that bimo drew") from None
    record = metadata_of(content)
    model = next((name for name, path in page.pool.models.items() if record["recipe"] in (name, path)), None)
    # A file may say anything; its pictures are named there by their hashes alone.
    said = {name: value for name, value in record["request"].items() if name not in _NOT_IN_A_FILE}
    return filled(checked(said).model_dump(exclude_defaults=True), model)
