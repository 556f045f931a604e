"""Builds the page from its components, tab by tab, and mounts it."""

# Parts of gradio's interface are untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from bimo.core.errors import BimoError
from bimo.core.messages import Message, speaking
from bimo.diffusion.sampler_names import SCHEDULES, SPACINGS
from bimo.serve.page import finetuning, gallery, models
from bimo.serve.page.access import OnlyThePage, identified, router
from bimo.serve.page.components import Components
from bimo.serve.page.drawing import QUIET, VARIED, Drawing
from bimo.serve.page.form import (
    MAXIMUM_COUNT,
    MAXIMUM_STEPS,
    MAXIMUM_TEXT,
    Form,
)
from bimo.serve.page.fragments import (
    HERE,
    axis_choices,
    canvas_html,
    control_choices,
    examples_html,
    file_picker,
    model_choices,
    page_theme,
    record_picker,
    style_choices,
    thumbnail_css,
    title_html,
    writing_choices,
)
from bimo.serve.page.judging_tab import judging_tab, on_judging
from bimo.serve.page.labels import label, texts
from bimo.serve.page.models import RATIOS, Offer
from bimo.serve.page.session import SHOWN, Page, Visitor
from bimo.serve.page.settings import Settings
from bimo.serve.page.tabs import comparing_tab, dueling_tab, on_comparing, on_dueling, on_table, tabling_tab
from bimo.serve.pool import EngineKey, weight_files

#: Hidden text fields, by which the page's scripts hand values to its events.
CARRIERS = ("pick", "picked", "example", "dropped", "finetuned", "image-data", "mask-data", "control-data")
#: How many events of the page may wait to be begun, beside those that wait for their pictures.
WAITING = 64
#: How many tabs' values gradio keeps; it needs none of them, and a value may be a picture.
KEPT_SESSIONS = 64


def mount(app: FastAPI, page: Page) -> FastAPI:
    """Mounts the page at the root of the application; with keys, behind a login."""
    identify = identified(page.keys)
    page.audit = app.state.audit
    app.include_router(router(page.service, identify, page.keys))
    if page.finetuner is not None:
        app.include_router(finetuning.router(page.finetuner, identify, page.keys))
    blocks = build(page)
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        auth_dependency=None if page.keys is None else identify,
        show_error=False,
        allowed_paths=[],
        blocked_paths=["/"],
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        footer_links=[],
        theme=page_theme(),
        css=(HERE / "page.css").read_text(encoding="utf-8") + thumbnail_css(),
        js=_script(),
        i18n=texts(),
    )
    events = {one["id"]: len(one["inputs"]) for one in blocks.get_config_file().get("dependencies", ())}
    mounted: Any = app.routes[-1]
    mounted.app = OnlyThePage(mounted.app, identify, events)
    return app


def _script() -> str:
    """The page's scripts as one function."""
    bodies = (f"({(HERE / name).read_text(encoding='utf-8').strip()})();" for name in ("page.js", "finetuning.js"))
    return f"() => {{ {' '.join(bodies)} }}"


def build(page: Page) -> gr.Blocks:
    """The page of a service, every label in the language of the browser."""
    engine = page.pool.resident(EngineKey(page.pool.default))
    if engine is None:
        engine = page.pool.load_now(EngineKey(page.pool.default))
    offer = Offer.of(engine)
    with gr.Blocks(title="笔墨 bimo", analytics_enabled=False, fill_width=True) as blocks:
        with gr.Row(elem_classes="visually-hidden", elem_id="carriers"):
            hidden = {name: gr.Textbox(elem_id=name, label=name, container=False) for name in CARRIERS}
            many = gr.Number(SHOWN, precision=0, container=False, elem_id="many")
            onto = gr.HTML(elem_id="onto")
        title = gr.HTML(title_html("en", page), elem_id="title")
        with gr.Tabs():
            with gr.Tab(label("tab_draw"), id="draw-tab"):
                draw = _draw_tab(page, offer, hidden, many, onto)
                parts, actions = draw.parts, draw.actions
            with gr.Tab(label("tab_compare")):
                compared = comparing_tab()
            with gr.Tab(label("tab_vote")):
                dueled = dueling_tab(page)
            with gr.Tab(label("tab_table")):
                tabled = tabling_tab()
            with gr.Tab(label("tab_words")):
                word_search = gr.Textbox(label=label("words_hint"), max_length=40, elem_id="word-search")
                word_list = gr.HTML(elem_id="words")
            with gr.Tab(label("tab_judge"), visible=page.judging is not None):
                judged = judging_tab()
            with gr.Tab(label("tab_finetune"), visible=page.finetuner is not None):
                finetune_room = gr.HTML(elem_id="finetuning")
        drawing = Drawing(page, parts, actions)
        drawing.connect()
        Settings(page, parts, actions, hidden).connect(drawing)
        on_comparing(page, parts, compared)
        on_dueling(page, parts, dueled)
        on_judging(page, judged)
        on_table(page, parts, tabled)
        on_words(page, parts, word_search, word_list)
        if page.finetuner is not None:
            finetuning.on_result(page, page.finetuner, parts, hidden["finetuned"])

        async def opened(browser: gr.Request) -> list[Any]:
            who = Visitor.of(browser)
            with speaking(who.language):
                all_words = models.words_of(engine, "")
            return [*await _opening(page, who), all_words]

        blocks.load(
            opened,
            None,
            [
                *(title, parts.form["style"], parts.form["writing"], compared.x, compared.y, draw.canvas, draw.record),
                *(draw.control_file, tabled.file, draw.examples, parts.stage, parts.cards, parts.licence),
                *(finetune_room, parts.form["loras"], parts.form["model"], word_list),
            ],
            **QUIET,
        )
        # gradio's client only opens a heartbeat connection, by which the gate notices closed pages, if this is used.
        blocks.unload(lambda: None)
    # An event that draws is under way until its pictures are done, and must not keep others from being begun.
    blocks.max_threads = page.service.settings.limits.waiting + WAITING
    blocks.state_session_capacity = KEPT_SESSIONS
    blocks.queue(max_size=WAITING, default_concurrency_limit=None)
    return blocks


async def _opening(page: Page, who: Visitor) -> list[Any]:
    """What a page shows that opens, in the language of its browser; its outputs are those of ``build``."""
    language = who.language
    recipe = models.recipe_of(page.pool, page.pool.default)
    loras = await run_in_threadpool(page.pool.loras_of, who.user)
    return [
        title_html(language, page, who),
        gr.Radio(choices=style_choices(language)),
        gr.Dropdown(choices=writing_choices(language)),
        gr.Dropdown(choices=axis_choices(language)),
        gr.Dropdown(choices=axis_choices(language)),
        canvas_html(language),
        record_picker(language),
        file_picker(Message("Open a control picture"), "control", language, "image/*"),
        file_picker(Message("Open a table (.csv, .tsv, .txt)"), "table", language, ".csv,.tsv,.txt,text/*"),
        examples_html(language),
        gallery.empty(language),
        await page.history(who),
        "" if recipe is None else models.licence(recipe, language),
        "" if page.finetuner is None else finetuning.form_html(language, page, page.finetuner),
        gr.Dropdown(choices=loras, visible=bool(loras)),
        gr.Dropdown(choices=model_choices(language, page)),
    ]


def on_words(page: Page, parts: Components, word_search: Any, word_list: Any) -> None:
    """Lists the words that the model knows like those that are searched for."""

    async def words(browser: gr.Request, text: Any, model: Any) -> str:
        who = Visitor.of(browser)
        try:
            loaded_engine = await models.loaded(page.pool, Form.words("model", model))
            query = Form.words("style", text)
        except BimoError as error:
            raise who.toast(error) from None
        with speaking(who.language):
            return models.words_of(loaded_engine, query)

    gr.on(
        [word_search.change, parts.form["model"].change],
        words,
        [word_search, parts.form["model"]],
        word_list,
        trigger_mode="always_last",
        **QUIET,
    )


@dataclass(frozen=True)
class DrawTab:
    """The components of the first tab: those that its events read and write, the buttons of a picture, and those that
    are filled in the browser's language when the page opens.
    """

    parts: Components
    actions: dict[str, Any]
    examples: Any
    canvas: Any
    record: Any
    control_file: Any


def _draw_tab(page: Page, offer: Offer, hidden: dict[str, Any], many: Any, onto: Any) -> DrawTab:
    form = dict[str, Any]()
    with gr.Row(elem_id="studio"):
        # Two independent columns; below each other on a phone, by the style sheet.
        with gr.Column(elem_id="left", min_width=0, scale=5):
            with gr.Column(elem_id="ask", min_width=0):
                go, stop, meter, examples = _prompt(form)
            with gr.Column(elem_id="settings", min_width=0):
                ratio, canvas, record, control_file = _settings(page, offer, form)
                licence = gr.HTML(elem_id="licence")
        with gr.Column(elem_id="right", min_width=0, scale=6):
            with gr.Column(elem_id="show", min_width=0):
                stage = gr.HTML(gallery.empty("en"), elem_id="stage")
                actions = _actions()
                about = gr.HTML(elem_id="about")
            with gr.Column(elem_id="history", min_width=0):
                search = gr.Textbox(label=label("search"), max_length=200, elem_id="search")
                cards = gr.HTML(elem_id="cards")
                older = gr.Button(label("older"), size="sm", elem_id="older")
    form |= {"image": hidden["image-data"], "mask": hidden["mask-data"], "control_image": hidden["control-data"]}
    parts = Components(form, ratio, licence, meter, stage, about, cards, search, many, hidden["picked"], onto, go)
    return DrawTab(parts, {**actions, "stop": stop, "older": older}, examples, canvas, record, control_file)


def _prompt(form: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """The prompt, the buttons that draw and stop, the meter of its length, and examples."""
    # One line, so that Enter submits; Shift+Enter adds a line.
    form["text"] = gr.Textbox(
        label=label("prompt"),
        placeholder=label("example"),
        lines=1,
        max_lines=6,
        max_length=MAXIMUM_TEXT,
        autofocus=True,
        elem_id="prompt",
    )
    with gr.Row(elem_id="buttons"):
        go = gr.Button(label("draw"), variant="primary", elem_id="draw", min_width=80, scale=3)
        stop = gr.Button(label("stop"), elem_id="stop", min_width=60, scale=1)
    # Below the buttons, which would move under the finger when it gets its first lines.
    meter = gr.HTML(elem_id="meter")
    examples = gr.HTML(examples_html("en"), elem_id="examples")
    return go, stop, meter, examples


def _settings(page: Page, offer: Offer, form: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """The settings: the choice of the ratio, the canvas, the pickers of a record and of a control picture."""
    form["style"] = gr.Radio(style_choices("en"), value="", label=label("style"), elem_id="style")
    ratio = gr.Radio(list(RATIOS), value=offer.ratio, label=label("ratio"), elem_id="ratio")
    with gr.Row():
        form["count"] = gr.Slider(1, MAXIMUM_COUNT, 1, step=1, label=label("count"), elem_id="count")
        form["steps"] = gr.Slider(1, MAXIMUM_STEPS, offer.steps, step=1, label=label("steps"), elem_id="steps")
    with gr.Accordion(label("image"), open=False, elem_id="image-room"):
        canvas, control_file = _image(page, offer, form)
    with gr.Accordion(label("inscription"), open=False):
        form["inscribe"] = gr.Textbox(label=label("inscribe"), lines=2, max_length=200, elem_id="inscribe")
        with gr.Row():
            form["writing"] = gr.Dropdown(writing_choices("en"), value="", label=label("writing"))
            form["font"] = gr.Textbox(label=label("font"), max_length=200)
    with gr.Accordion(label("more"), open=False, elem_id="more"):
        record = _more(page, offer, form)
    form["model"] = gr.Dropdown(
        model_choices("en", page),
        value="" if page.pool.editions else page.pool.default,
        label=label("model"),
        visible=len(page.pool.models) > 1,
        elem_id="model",
    )
    return ratio, canvas, record, control_file


def _image(page: Page, offer: Offer, form: dict[str, Any]) -> tuple[Any, Any]:
    """Pictures to draw from: the canvas, and the picker of a control picture."""
    canvas = gr.HTML(canvas_html("en"), elem_id="canvas")
    form["strength"] = gr.Slider(0.05, 1, VARIED, step=0.05, label=label("strength"), elem_id="strength")
    with gr.Row(visible=bool(offer.controls or page.pool.controls), elem_id="control-row"):
        form["control"] = gr.Dropdown(control_choices(offer, page), value="", label=label("control"), elem_id="control")
        form["control_weight"] = gr.Slider(0, 2, 1, step=0.05, label=label("control_weight"))
        control_file = gr.HTML(elem_id="control-file")
    return canvas, control_file


def _more(page: Page, offer: Offer, form: dict[str, Any]) -> Any:
    """The settings that are folded away; returns the picker of a record."""
    form["negative"] = gr.Textbox(
        label=label("negative"), value=offer.negative, max_length=MAXIMUM_TEXT, elem_id="negative"
    )
    form["empty_negative"] = gr.Checkbox(False, label=label("empty"), visible=offer.heeds_empty)
    with gr.Row():
        form["seed"] = gr.Number(-1, label=label("seed"), precision=0, elem_id="seed")
        form["guidance"] = gr.Slider(0, 20, offer.guidance, step=0.1, label=label("guidance"))
    with gr.Row():
        form["width"] = gr.Slider(
            *(offer.unit, offer.most, offer.width),
            step=offer.unit,
            label=label("width"),
            elem_id="width",
        )
        form["height"] = gr.Slider(
            *(offer.unit, offer.most, offer.height),
            step=offer.unit,
            label=label("height"),
            elem_id="height",
        )
    form |= _sampling(offer)
    form |= _added(page)
    return gr.HTML(record_picker("en"))


def _actions() -> dict[str, Any]:
    """The buttons of a picture, and the row that they are in."""
    with gr.Row(elem_id="actions", visible=False) as row:
        again = gr.Button(label("again"), size="sm", elem_id="again")
        vary = gr.Button(label("vary"), size="sm", elem_id="vary")
        upscale = gr.Button(label("upscale"), size="sm", elem_id="upscale")
        use = gr.Button(label("use"), size="sm", elem_id="use")
        forget = gr.Button(label("forget"), size="sm", elem_id="forget")
    return {"again": again, "vary": vary, "upscale": upscale, "use": use, "forget": forget, "row": row}


def _sampling(offer: Offer) -> dict[str, Any]:
    """The sampler's fields; those without a use for the model are hidden."""
    own, has = ("–", ""), bool(offer.samplers)
    form: dict[str, Any] = {}
    with gr.Row():
        form["sampler"] = gr.Dropdown([own, *offer.samplers], value="", label=label("sampler"), visible=has)
        form["schedule"] = gr.Dropdown([own, *SCHEDULES], value="", label=label("schedule"), visible=has)
        form["spacing"] = gr.Dropdown([own, *SPACINGS], value="", label=label("spacing"), visible=has)
    with gr.Row():
        form["eta"] = gr.Slider(0, 1, 0, step=0.05, label="eta (DDIM, TCD)", visible=has)
        form["guidance_rescale"] = gr.Slider(0, 1, offer.rescale, step=0.05, label=label("rescale"), visible=has)
        skips = offer.clip_skip
        form["clip_skip"] = gr.Slider(1, max(2, skips), 1, step=1, label=label("skip"), visible=bool(skips))
    return form


def _added(page: Page) -> dict[str, Any]:
    """LoRAs and learnt words of this server."""
    loras, words = list(page.pool.loras), list(weight_files(page.service.settings.embeddings))
    with gr.Row():
        return {
            "loras": gr.Dropdown(
                loras,
                value=[],
                multiselect=True,
                allow_custom_value=True,
                label=label("loras"),
                visible=bool(loras),
                elem_id="loras",
            ),
            "embeddings": gr.Dropdown(
                words, value=[], multiselect=True, label=label("embeddings"), visible=bool(words)
            ),
        }
