"""Event handlers of the page's form and gallery: token meter, aspect ratios, model changes, history, dropped files,
examples.
"""

# Parts of gradio's interface are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from typing import Any, cast

import gradio as gr

from bimo.core.errors import BimoError
from bimo.core.messages import speaking
from bimo.engine.engine import Engine
from bimo.serve.page import gallery, models
from bimo.serve.page.components import Components
from bimo.serve.page.drawing import QUIET, Drawing, updates
from bimo.serve.page.dropped import settings_of
from bimo.serve.page.form import Form
from bimo.serve.page.fragments import EXAMPLES, control_choices
from bimo.serve.page.models import RATIOS, Offer
from bimo.serve.page.session import SHOWN, Page, Visitor

#: The fields that change with the model.
CHANGED = (
    *("width", "height", "steps", "guidance", "guidance_rescale", "negative", "sampler", "clip_skip", "control"),
)


class Settings:
    """Event handlers of the form and the gallery; ``hidden`` are components that only the page's script triggers."""

    def __init__(self, page: Page, parts: Components, actions: dict[str, Any], hidden: dict[str, Any]) -> None:
        self.page, self.parts, self.actions, self.hidden = page, parts, actions, hidden

    def connect(self, drawing: Drawing) -> None:
        """Registers the handlers."""
        parts, hidden, latest_only = (
            self.parts,
            self.hidden,
            cast("dict[str, Any]", {**QUIET, "trigger_mode": "always_last"}),
        )
        form, cards = parts.form, [parts.cards, parts.many]
        words = [form["text"], form["model"]]
        gr.on([form["text"].change, form["model"].change], self.measured, words, parts.meter, **latest_only)
        parts.ratio.input(self.shaped, [parts.ratio, form["model"]], [form["width"], form["height"]], **QUIET)
        model_dependent = [*(form[name] for name in CHANGED), parts.licence, parts.ratio]
        form["model"].input(self.chosen, form["model"], model_dependent, **QUIET)
        parts.search.change(self.searched, parts.search, cards, **latest_only)
        self.actions["older"].click(self.older, [parts.search, parts.many], cards, **QUIET)
        stage = [parts.stage, parts.about, parts.picked, self.actions["row"]]
        hidden["pick"].change(self.show, hidden["pick"], stage, **QUIET)
        hidden["dropped"].change(self.dropped, [hidden["dropped"], form["model"]], parts.inputs, **QUIET)
        drawing.drawing_after(hidden["example"].change(self.example, hidden["example"], parts.inputs, **QUIET))

    async def _engine(self, model: Any) -> Engine:
        return await models.loaded(self.page.pool, Form.words("model", model))

    async def measured(self, browser: gr.Request, text: Any, model: Any) -> str:
        """The token meter of the prompt."""
        who = Visitor.of(browser)
        try:
            words = Form.words("text", text)
            engine = await self._engine(self.page.pool.model_for(Form.words("model", model), words))
        except BimoError as error:
            return gallery.notice(error.message.said(who.language), "warning")
        with speaking(who.language):
            return models.meter(engine, words)

    async def shaped(self, browser: gr.Request, ratio: Any, model: Any) -> tuple[int, int]:
        """(width, height) for an aspect ratio."""
        try:
            offer = await self.page.offer(Form.words("model", model))
        except BimoError as error:
            raise Visitor.of(browser).toast(error) from None
        return offer.shaped(ratio if ratio in RATIOS else "1:1")

    async def chosen(self, browser: gr.Request, model: Any) -> list[Any]:
        """Updates the form for another model."""
        who = Visitor.of(browser)
        try:
            engine = await self._engine(model)
        except BimoError as error:
            raise who.toast(error) from None
        offer = Offer.of(engine)
        return [
            gr.Slider(minimum=offer.unit, maximum=offer.most, step=offer.unit, value=offer.width),
            gr.Slider(minimum=offer.unit, maximum=offer.most, step=offer.unit, value=offer.height),
            offer.steps,
            offer.guidance,
            gr.Slider(value=offer.rescale, visible=bool(offer.samplers)),
            offer.negative,
            gr.Dropdown(choices=[("–", ""), *offer.samplers], value="", visible=bool(offer.samplers)),
            gr.Slider(maximum=max(2, offer.clip_skip), value=1, visible=bool(offer.clip_skip)),
            gr.Dropdown(choices=control_choices(offer, self.page), value=""),
            models.licence(engine.recipe, who.language),
            gr.Radio(value=offer.ratio),
        ]

    async def searched(self, browser: gr.Request, text: Any) -> tuple[str, int]:
        """Filters the gallery by a text."""
        return await self.page.history(Visitor.of(browser), text if isinstance(text, str) else ""), SHOWN

    async def older(self, browser: gr.Request, text: Any, many: Any) -> tuple[str, int]:
        """Shows more of the gallery."""
        more = min(2000, SHOWN + (int(many) if isinstance(many, (int, float)) and 0 <= many < 2000 else 0))
        return await self.page.history(Visitor.of(browser), text if isinstance(text, str) else "", more), more

    async def show(self, browser: gr.Request, text: Any) -> tuple[Any, ...]:
        """Shows a picture of the gallery on the stage."""
        who = Visitor.of(browser)
        if not text:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        try:
            job, named = await self.page.picked(str(text).partition(" ")[0], who)
        except BimoError as error:
            raise who.toast(error) from None
        picture = next(p for p in job.pictures if p.place == named.place)
        about = gallery.about(job, picture, who.language)
        return gallery.finished(job, named.place), about, str(named), gr.Row(visible=True)

    async def dropped(self, browser: gr.Request, text: Any, model: Any) -> list[Any]:
        """Fills the form with the settings of a dropped file."""
        who = Visitor.of(browser)
        if not text:
            return updates({})
        try:
            engine = await self._engine(model)
            with speaking(who.language):
                dropped = await asyncio.to_thread(settings_of, text, self.page.pool, engine, who.user)
        except BimoError as error:
            raise who.toast(error) from None
        for note in dropped.notes:
            who.tell(note)
        return updates(dropped.values)

    async def example(self, browser: gr.Request, text: Any) -> list[Any]:
        """Fills the form with an example's prompt and style."""
        who = Visitor.of(browser)
        number = str(text).partition(" ")[0]
        if not (number.isascii() and number.isdecimal() and int(number) < len(EXAMPLES)):
            return updates({})
        zh, en, style = EXAMPLES[int(number)]
        return updates({"text": zh if who.language == "zh" else en, "style": style, "image": "", "mask": ""})
