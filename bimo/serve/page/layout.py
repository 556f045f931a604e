"""The page itself: its components, what each event does, and how it is mounted."""

from __future__ import annotations

import asyncio
import base64
import binascii
import html
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from bimo.core.errors import BimoError, RequestError
from bimo.core.messages import Message, Sayable, speaking
from bimo.core.picture import metadata_of
from bimo.core.request import checked
from bimo.diffusion.sampler_names import SCHEDULES, SPACINGS
from bimo.prompts.styles import STYLES
from bimo.serve.gate import spoken
from bimo.serve.jobs import LANGUAGE, Job, Order, State
from bimo.serve.keys import LOCAL, KeyStore
from bimo.serve.page import gallery, models
from bimo.serve.page.access import OnlyThePage, identified, router
from bimo.serve.page.comparison import AXIS_NAMES, Votes, rows, sheet
from bimo.serve.page.form import (
    MAXIMUM_COUNT,
    MAXIMUM_STEPS,
    MAXIMUM_TEXT,
    Form,
    filled,
)
from bimo.serve.page.gallery import Named, escaped
from bimo.serve.page.labels import label, texts
from bimo.serve.page.models import RATIOS, Offer
from bimo.serve.pool import EngineKey, weight_files
from bimo.serve.service import DrawingService, QueueFullError

HERE = Path(__file__).parent
#: Previews of a picture on the way.
PREVIEWS = 6
#: Jobs that the gallery shows at first, and how many more for each press.
SHOWN = 24
#: How often a table is shown anew while it is drawn, in seconds.
EVERY = 0.3
WAITING = 64
#: A prompt in each language and its style: what the bundled model draws well, and without a warning.
EXAMPLES = (
    ("红苹果", "a red apple", "3d"),
    ("一只猫", "a cat", "watercolour"),
    ("一只熊猫", "a panda", "ink"),
    ("一条鱼", "a fish", "papercut"),
    ("机器人", "a robot", "pixel"),
    ("绿色的汽车", "a green car", "flat"),
)
WRITINGS = ("horizontal", "vertical", "couplet", "seal")
FONTS = (
    *("system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei"),
    *("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "sans-serif"),
)
#: What a record says of pictures, which it does not hold.
_NOT_IN_A_FILE = {"image", "mask", "condition_images", "strength"}
#: How much is redrawn of a picture that is varied.
VARIED = 0.6


class Page:
    """The page of a service: what its browsers wait for, and what is done for them."""

    def __init__(self, service: DrawingService, keys: KeyStore | None = None) -> None:
        self.service = service
        self.pool = service.pool
        self.keys = keys
        self.votes = Votes(service.settings.folder / "preferences")
        #: Jobs that a browser's tab waits for.
        self._waiting: dict[str, set[str]] = {}

    def left(self, session: str) -> None:
        """A page was closed: what it waits for is not drawn."""
        self.stop(session)

    def stop(self, session: str) -> None:
        """What a page waits for is not drawn to its end."""
        for job in list(self._waiting.get(session, ())):
            self.service.cancel(job)

    async def offer(self, model: str) -> Offer:
        """What a model can be asked; it is loaded where it is not. Raises BimoError."""
        return Offer.of(await models.loaded(self.pool, model))

    async def accept(self, form: Form, who: Visitor) -> Job:
        """The job of a form, which a tab waits for. Raises RequestError."""
        if self.keys is not None and (seconds := self.keys.wait(who.user)):
            raise RequestError("this key asks too often; ask again in {seconds} seconds", seconds=seconds)
        engine = self.pool.resident(EngineKey(self.pool.named(form.model or None)))
        own = 0.0 if engine is None else engine.recipe.levels[-1].guidance.rescale

        def accepted() -> Job:
            order = self.order(form, who.user, own, who.language)
            return self.service.accept(order, form.pictures())

        job = await asyncio.to_thread(accepted)
        self._waiting.setdefault(who.session, set()).add(job.id)
        return job

    def order(self, form: Form, user: str, rescale: float = 0.0, language: str = "") -> Order:
        """The order of a form. Raises RequestError."""
        return self.service.order(
            form.values(rescale),
            key=user,
            client="page",
            model=form.model or None,
            loras=form.weighted_loras(),
            previews=PREVIEWS,
            note={LANGUAGE: language},
        )

    def done(self, job: Job, who: Visitor) -> None:
        """A tab waits for a job no more."""
        mine = self._waiting.get(who.session, set())
        mine.discard(job.id)
        if not mine:
            self._waiting.pop(who.session, None)

    async def history(self, who: Visitor, text: str = "", most: int = SHOWN) -> str:
        """The gallery of a visitor."""
        found = await asyncio.to_thread(self.service.store.jobs, who.user, State.done, text[:200], None, most)
        return gallery.history(found, who.language, text)

    async def picked(self, text: object, who: Visitor) -> tuple[Job, Named]:
        """The picture that a browser names, where it is the visitor's own. Raises RequestError."""
        named = Named.read(text)
        job = None if named is None else await asyncio.to_thread(self.service.job, named.job, who.user)
        if named is None or job is None or all(p.place != named.place for p in gallery.shown(job)):
            raise RequestError("that picture is gone; take another one")
        return job, named


@dataclass(frozen=True)
class Visitor:
    """Who looks at the page: the name of a key, the tab, the language of the browser."""

    user: str
    session: str
    language: str

    @classmethod
    def of(cls, browser: gr.Request) -> Visitor:
        """The one behind a request of gradio's."""
        language = spoken(browser.headers.get("accept-language"))
        return cls(browser.username or LOCAL.name, browser.session_hash or "", language)

    def says(self, message: Sayable) -> str:
        """A sentence in the visitor's language."""
        return message.said(self.language)

    def toast(self, error: BaseException) -> gr.Error:
        """An error over the page, which takes it for HTML."""
        if isinstance(error, MemoryError):
            sentence = self.says(Message("out of memory: draw a smaller picture"))
        else:
            assert isinstance(error, BimoError)
            sentence = error.message.said(self.language)
        title = self.says(Message("Cannot draw"))
        return gr.Error(html.escape(sentence, quote=False), duration=12, title=title, print_exception=False)


def mount(app: FastAPI, page: Page) -> FastAPI:
    """The application with the page at its root; where there are keys, behind a login by one."""
    identify = identified(page.keys)
    app.include_router(router(page.service, identify, page.keys))
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
        theme=_theme(),
        css=(HERE / "page.css").read_text(encoding="utf-8") + _thumbnails(),
        js=(HERE / "page.js").read_text(encoding="utf-8"),
        i18n=texts(),
    )
    events = {one["id"]: len(one["inputs"]) for one in blocks.get_config_file().get("dependencies", ())}
    mounted: Any = app.routes[-1]
    mounted.app = OnlyThePage(mounted.app, identify, events)
    return app


def _theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue="red",
        secondary_hue="stone",
        neutral_hue="stone",
        font=FONTS,
        font_mono=("ui-monospace", "monospace"),
    ).set(
        body_background_fill="#f7f4ee",
        body_background_fill_dark="#171412",
        block_background_fill_dark="#221e1b",
        block_radius="12px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        button_primary_background_fill="#b93a2b",
        button_primary_background_fill_dark="#b93a2b",
        button_primary_background_fill_hover="#a02f22",
        button_primary_background_fill_hover_dark="#cc4a3a",
        button_primary_text_color="white",
        button_large_radius="10px",
        input_radius="8px",
        slider_color="#b93a2b",
        slider_color_dark="#d2503f",
    )


def _thumbnails() -> str:
    """Rules that put a small picture before each style."""
    rules: list[str] = []
    for place, name in enumerate(STYLES, 2):
        file = HERE / "styles" / f"{name}.webp"
        if not file.is_file():  # a new style has its name alone until tools/style_thumbnails.py has drawn it
            continue
        data = base64.b64encode(file.read_bytes()).decode()
        rules.append(
            f"#style label:nth-of-type({place})::before{{background-image:url(data:image/webp;base64,{data})}}"
        )
    return "\n".join(rules)


def _canvas(language: str) -> str:
    """Where an image is opened, sketched on and masked."""
    s = {
        name: escaped(message.said(language))
        for name, message in {
            "open": Message("Open an image"),
            "blank": Message("Blank sheet"),
            "hint": Message("or drop one here"),
            "mask": Message("Mask: what is redrawn"),
            "sketch": Message("Sketch"),
            "brush": Message("Brush"),
            "colour": Message("Colour"),
            "undo": Message("Undo"),
            "clear": Message("Clear"),
            "remove": Message("Remove the image"),
            "canvas": Message("The image, to be painted on"),
        }.items()
    }
    return (
        f'<div class="tools"><label class="file">{s["open"]}<input type="file" accept="image/*" data-file="image"'
        f' aria-label="{s["open"]}"></label><button type="button" class="tool" data-tool="blank">{s["blank"]}</button>'
        f'<span class="hint">{s["hint"]}</span></div><div class="tools"><div class="needs">'
        f'<label><input type="radio" name="kind" value="mask" checked>{s["mask"]}</label>'
        f'<label><input type="radio" name="kind" value="sketch">{s["sketch"]}</label>'
        f'<label>{s["brush"]}<input type="range" name="brush" min="1" max="40" value="12"></label>'
        f'<label>{s["colour"]}<input type="color" name="colour" value="#b93a2b"></label>'
        f'<button type="button" class="tool" data-tool="undo">{s["undo"]}</button>'
        f'<button type="button" class="tool" data-tool="clear">{s["clear"]}</button>'
        f'<button type="button" class="tool" data-tool="remove">{s["remove"]}</button></div></div>'
        f'<canvas aria-label="{s["canvas"]}"></canvas>'
    )


def _file(message: Message, kind: str, language: str, accept: str) -> str:
    words = escaped(message.said(language))
    field = f'<input type="file" accept="{accept}" data-file="{kind}" aria-label="{words}">'
    return f'<label class="file">{words}{field}</label>'


def _record_file(language: str) -> str:
    return _file(Message("Settings from a PNG (or drop it on the page)"), "record", language, "image/png")


def _examples(language: str) -> str:
    words = "".join(
        f'<button type="button" class="chip" data-example="{place}">{escaped(zh if language == "zh" else en)} · '
        f"{escaped(_style_name(style, language))}</button>"
        for place, (zh, en, style) in enumerate(EXAMPLES)
    )
    return f'<div class="chips">{words}</div>'


def _style_name(name: str, language: str) -> str:
    style = STYLES[name]
    return style.label_zh if language == "zh" else style.label_en


def _styles(language: str) -> list[tuple[str, str]]:
    return [(Message("As it comes").said(language), ""), *((_style_name(name, language), name) for name in STYLES)]


def _axes(language: str) -> list[tuple[str, str]]:
    return [("–", ""), *((names.said(language), name) for name, names in AXIS_NAMES.items())]


def _writings(language: str) -> list[tuple[str, str]]:
    names = {
        "horizontal": Message("In a row"),
        "vertical": Message("In columns"),
        "couplet": Message("A couplet"),
        "seal": Message("A seal"),
    }
    return [("–", ""), *((names[name].said(language), name) for name in WRITINGS)]


@dataclass(frozen=True)
class Parts:
    """The components of the page that events read and write: those of the form by the names of its fields."""

    form: dict[str, Any]
    ratio: Any
    licence: Any
    meter: Any
    stage: Any
    about: Any
    cards: Any
    search: Any
    many: Any
    picked: Any
    onto: Any
    go: Any

    @property
    def inputs(self) -> list[Any]:
        """The components in the order of the form's fields."""
        return [self.form[each.name] for each in fields(Form)]


def build(page: Page) -> gr.Blocks:
    """The page of a service, every label in the language of the browser."""
    engine = page.pool.resident(EngineKey(page.pool.default))
    if engine is None:
        engine = page.pool.load_now(EngineKey(page.pool.default))
    offer = Offer.of(engine)
    with gr.Blocks(title="笔墨 bimo", analytics_enabled=False, fill_width=True) as blocks:
        with gr.Row(elem_classes="visually-hidden", elem_id="carriers"):
            hidden = {
                name: gr.Textbox(elem_id=name, label=name, container=False)
                for name in ("pick", "picked", "example", "dropped", "image-data", "mask-data", "control-data")
            }
            many = gr.Number(SHOWN, precision=0, container=False, elem_id="many")
            onto = gr.HTML(elem_id="onto")
        title = gr.HTML(_title("en", page), elem_id="title")
        with gr.Tabs():
            with gr.Tab(label("tab_draw"), id="draw-tab"):
                parts, actions, examples, canvas, record, control_file = _drawing(page, offer, hidden, many, onto)
            with gr.Tab(label("tab_compare")):
                compared = _comparing()
            with gr.Tab(label("tab_vote")):
                dueled = _dueling(page)
            with gr.Tab(label("tab_table")):
                tabled = _tabling()
            with gr.Tab(label("tab_words")):
                searched, found = (
                    gr.Textbox(label=label("words_hint"), max_length=40, elem_id="word-search"),
                    gr.HTML(elem_id="words"),
                )
        _on_drawing(page, parts, actions, hidden)
        _on_comparing(page, parts, compared)
        _on_dueling(page, parts, dueled)
        _on_table(page, parts, tabled)

        async def words(browser: gr.Request, text: Any, model: Any) -> str:
            who = Visitor.of(browser)
            try:
                loaded = await models.loaded(page.pool, Form.words("model", model))
                wanted = Form.words("style", text)
            except BimoError as error:
                raise who.toast(error) from None
            with speaking(who.language):
                return models.words_of(loaded, wanted)

        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
        asked = [searched, parts.form["model"]]
        gr.on([searched.change, parts.form["model"].change], words, asked, found, trigger_mode="always_last", **quiet)

        async def opened(browser: gr.Request) -> list[Any]:
            who = Visitor.of(browser)
            language = who.language
            recipe = models.recipe_of(page.pool, page.pool.default)
            with speaking(language):
                known = models.words_of(engine, "")
            return [
                _title(language, page, who),
                gr.Radio(choices=_styles(language)),
                gr.Dropdown(choices=_writings(language)),
                gr.Dropdown(choices=_axes(language)),
                gr.Dropdown(choices=_axes(language)),
                _canvas(language),
                _record_file(language),
                _file(Message("Open a control picture"), "control", language, "image/*"),
                _file(Message("Open a table (.csv, .tsv, .txt)"), "table", language, ".csv,.tsv,.txt,text/*"),
                _examples(language),
                gallery.empty(language),
                await page.history(who),
                "" if recipe is None else models.licence(recipe, language),
                known,
            ]

        blocks.load(
            opened,
            None,
            [
                *(title, parts.form["style"], parts.form["writing"], compared.x, compared.y, canvas, record),
                *(control_file, tabled.file, examples, parts.stage, parts.cards, parts.licence, found),
            ],
            **quiet,
        )
        # A browser keeps a heartbeat, by which the gate knows that its page is there, only where this is asked for.
        blocks.unload(lambda: None)
    blocks.queue(max_size=WAITING, default_concurrency_limit=None)
    return blocks


def _title(language: str, page: Page, who: Visitor | None = None) -> str:
    tagline = escaped(Message("From a sentence to a picture").said(language))
    out = escaped(Message("Leave").said(language))
    leave = "" if page.keys is None or who is None else f'<a href="/logout">{escaped(who.user)} · {out}</a>'
    return f"<h1>笔墨 bimo <small>{tagline}</small></h1>{leave}"


def _drawing(
    page: Page, offer: Offer, hidden: dict[str, Any], many: Any, onto: Any
) -> tuple[Parts, dict[str, Any], Any, Any, Any, Any]:
    form = dict[str, Any]()
    with gr.Row(elem_id="studio"):
        # Two columns, each by itself; one below the other on a phone, by the style sheet.
        with gr.Column(elem_id="left", min_width=0, scale=5):
            with gr.Column(elem_id="ask", min_width=0):
                # Of one line: Enter draws, and Shift+Enter begins another.
                form["text"] = gr.Textbox(
                    label=label("prompt"),
                    placeholder=label("example"),
                    lines=1,
                    max_lines=6,
                    max_length=MAXIMUM_TEXT,
                    autofocus=True,
                    elem_id="prompt",
                )
                meter = gr.HTML(elem_id="meter")
                with gr.Row(elem_id="buttons"):
                    go = gr.Button(label("draw"), variant="primary", elem_id="draw", min_width=80, scale=3)
                    stop = gr.Button(label("stop"), elem_id="stop", min_width=60, scale=1)
                examples = gr.HTML(_examples("en"), elem_id="examples")
            with gr.Column(elem_id="settings", min_width=0):
                form["style"] = gr.Radio(_styles("en"), value="", label=label("style"), elem_id="style")
                shape = _near_ratio(offer)
                ratio = gr.Radio(list(RATIOS), value=shape, label=label("ratio"), elem_id="ratio")
                with gr.Row():
                    form["count"] = gr.Slider(1, MAXIMUM_COUNT, 1, step=1, label=label("count"), elem_id="count")
                    form["steps"] = gr.Slider(
                        1, MAXIMUM_STEPS, offer.steps, step=1, label=label("steps"), elem_id="steps"
                    )
                with gr.Accordion(label("image"), open=False, elem_id="image-room"):
                    canvas = gr.HTML(_canvas("en"), elem_id="canvas")
                    form["strength"] = gr.Slider(
                        0.05, 1, VARIED, step=0.05, label=label("strength"), elem_id="strength"
                    )
                    with gr.Row(visible=bool(offer.controls)):
                        form["control"] = gr.Dropdown(
                            [("–", ""), *offer.controls], value="", label=label("control"), elem_id="control"
                        )
                        control_file = gr.HTML()
                with gr.Accordion(label("inscription"), open=False):
                    form["inscribe"] = gr.Textbox(label=label("inscribe"), lines=2, max_length=200, elem_id="inscribe")
                    with gr.Row():
                        form["writing"] = gr.Dropdown(_writings("en"), value="", label=label("writing"))
                        form["font"] = gr.Textbox(label=label("font"), max_length=200)
                with gr.Accordion(label("more"), open=False, elem_id="more"):
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
                    record = gr.HTML(_record_file("en"))
                several = list(page.pool.models)
                form["model"] = gr.Dropdown(
                    several, value=page.pool.default, label=label("model"), visible=len(several) > 1, elem_id="model"
                )
                licence = gr.HTML(elem_id="licence")
        with gr.Column(elem_id="right", min_width=0, scale=6):
            with gr.Column(elem_id="show", min_width=0):
                stage = gr.HTML(gallery.empty("en"), elem_id="stage")
                with gr.Row(elem_id="actions", visible=False) as row:
                    again = gr.Button(label("again"), size="sm", elem_id="again")
                    vary = gr.Button(label("vary"), size="sm", elem_id="vary")
                    use = gr.Button(label("use"), size="sm", elem_id="use")
                    forget = gr.Button(label("forget"), size="sm", elem_id="forget")
                about = gr.HTML(elem_id="about")
            with gr.Column(elem_id="history", min_width=0):
                search = gr.Textbox(label=label("search"), max_length=200, elem_id="search")
                cards = gr.HTML(elem_id="cards")
                older = gr.Button(label("older"), size="sm", elem_id="older")
    form |= {"image": hidden["image-data"], "mask": hidden["mask-data"], "control_image": hidden["control-data"]}
    parts = Parts(form, ratio, licence, meter, stage, about, cards, search, many, hidden["picked"], onto, go)
    actions = {
        "stop": stop,
        "again": again,
        "vary": vary,
        "use": use,
        "forget": forget,
        "older": older,
        "row": row,
    }
    return parts, actions, examples, canvas, record, control_file


def _near_ratio(offer: Offer) -> str | None:
    own = (offer.width, offer.height)
    return next((ratio for ratio in RATIOS if offer.shaped(ratio) == own), None)


def _sampling(offer: Offer) -> dict[str, Any]:
    """The fields of the sampler: those that the system has no use for are there, and not shown."""
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


def _on_drawing(page: Page, parts: Parts, actions: dict[str, Any], hidden: dict[str, Any]) -> None:
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
            gr.Radio(value=_near_ratio(offer)),
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


@dataclass(frozen=True)
class Comparing:
    """The components of the table over two settings."""

    x: Any
    x_values: Any
    y: Any
    y_values: Any
    go: Any
    stop: Any
    table: Any


def _comparing() -> Comparing:
    with gr.Row():
        x = gr.Dropdown(_axes("en"), value="steps", label=label("axis_x"), elem_id="axis-x")
        x_values = gr.Textbox("4, 8, 16", label=label("axis_values"), max_length=4000, elem_id="x-values")
    with gr.Row():
        y = gr.Dropdown(_axes("en"), value="style", label=label("axis_y"), elem_id="axis-y")
        y_values = gr.Textbox("3d, ink", label=label("axis_values"), max_length=4000, elem_id="y-values")
    gr.Markdown(label("compare_hint"), elem_classes="hint")
    with gr.Row():
        go = gr.Button(label("compare"), variant="primary", elem_id="compare", scale=3)
        stop = gr.Button(label("stop"), scale=1, min_width=60)
    return Comparing(x, x_values, y, y_values, go, stop, gr.HTML(elem_id="compared"))


def _tab(page: Page, stop: Any) -> None:
    def end(browser: gr.Request) -> None:
        page.stop(browser.session_hash or "")

    stop.click(end, None, None, concurrency_limit=None, api_visibility="private", show_progress="hidden")


async def _all(page: Page, who: Visitor, forms: Sequence[Form]) -> AsyncGenerator[dict[int, Job | str]]:
    """The jobs of some forms as they end, by their place; a sentence where one was refused. Whoever listens no more
    ends those that are left.
    """
    jobs: dict[int, Job] = {}
    found: dict[int, Job | str] = {}
    try:
        for place, form in enumerate(forms):
            try:
                jobs[place] = await page.accept(form, who)
            except QueueFullError as error:
                found[place] = error.message.said(who.language)
            except BimoError as error:
                found[place] = error.message.said(who.language)
        waiting = {asyncio.ensure_future(page.service.wait(job.id)): place for place, job in jobs.items()}
        yield dict(found)
        while waiting:
            ended, _ = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                found[waiting.pop(task)] = task.result()
            yield dict(found)
    finally:
        for job in jobs.values():
            page.service.cancel(job.id)
            page.done(job, who)


def _cell(found: Job | str | None, language: str) -> str:
    return gallery.cell(None, language, found) if isinstance(found, str) else gallery.cell(found, language)


def _on_comparing(page: Page, parts: Parts, compared: Comparing) -> None:
    async def compare(browser: gr.Request, *values: Any) -> AsyncGenerator[Any]:
        who = Visitor.of(browser)
        *axes, rest = values[:4], values[4:]
        words = [value if isinstance(value, str) else "" for value in axes[0]]
        try:
            form = Form.read(rest)
            wanted = sheet(form, (words[0], words[1]), (words[2], words[3]))
        except BimoError as error:
            raise who.toast(error) from None
        width = len(wanted.across)
        flat = [form for row in wanted.cells for form in row]
        async for found in _all(page, who, flat):
            table = [
                (head, [_cell(found.get(r * width + c), who.language) for c in range(width)])
                for r, head in enumerate(wanted.down)
            ]
            yield gallery.table(who.language, wanted.across, table)

    inputs = [compared.x, compared.x_values, compared.y, compared.y_values, *parts.inputs]
    compared.go.click(
        compare,
        inputs,
        compared.table,
        preprocess=False,
        show_progress="hidden",
        api_visibility="private",
        concurrency_limit=None,
    )
    _tab(page, compared.stop)


@dataclass(frozen=True)
class Dueling:
    """The components of two models side by side."""

    first: Any
    second: Any
    go: Any
    shown: Any
    votes: dict[str, Any]
    row: Any
    said: Any
    pair: Any


def _dueling(page: Page) -> Dueling:
    names = list(page.pool.models)
    gr.Markdown(label("vote_hint"), elem_classes="hint")
    with gr.Row():
        first = gr.Dropdown(names, value=names[0], label=label("model_a"), elem_id="model-a")
        second = gr.Dropdown(names, value=names[-1], label=label("model_b"), elem_id="model-b")
    go = gr.Button(label("duel"), variant="primary", elem_id="duel")
    shown = gr.HTML(elem_id="dueled")
    with gr.Row(visible=False) as row:
        votes = {
            "a": gr.Button(label("left"), elem_id="vote-a"),
            "tie": gr.Button(label("tie"), elem_id="vote-tie"),
            "b": gr.Button(label("right"), elem_id="vote-b"),
        }
    return Dueling(first, second, go, shown, votes, row, gr.HTML(elem_id="voted"), gr.Textbox(visible=False))


def _on_dueling(page: Page, parts: Parts, dueled: Dueling) -> None:
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}

    async def duel(browser: gr.Request, *values: Any) -> AsyncGenerator[tuple[Any, ...]]:
        who = Visitor.of(browser)
        try:
            form = Form.read(values[2:])
            seed = secrets.randbelow(2**31) if form.seed < 0 else form.seed
            names = [Form.words("model", value) for value in values[:2]]
            # One model against itself: two seeds.
            seeds = (seed, seed + (names[0] == names[1]))
            forms = [replace(form, model=name, count=1, seed=s) for name, s in zip(names, seeds, strict=True)]
            # A form is that of one model: another's size, steps and guidance are its own.
            forms = [await _own(page, each, form.model) for each in forms]
        except BimoError as error:
            raise who.toast(error) from None
        # Which is left and which right is chance, so that a vote is for a picture and not for a place.
        if secrets.randbelow(2):
            forms.reverse()
        async for found in _all(page, who, forms):
            cells = [found.get(place) for place in (0, 1)]
            figures = "".join(f"<figure>{_large(cell, who.language)}</figure>" for cell in cells)
            both = [cell.id for cell in cells if isinstance(cell, Job) and gallery.shown(cell)]
            ready = len(both) == 2
            yield f'<div class="duel">{figures}</div>', gr.Row(visible=ready), "", " ".join(both) if ready else ""

    outputs = [dueled.shown, dueled.row, dueled.said, dueled.pair]
    dueled.go.click(duel, [dueled.first, dueled.second, *parts.inputs], outputs, **quiet, concurrency_limit=None)

    def voting(choice: str) -> Any:
        async def vote(browser: gr.Request, pair: Any) -> tuple[Any, ...]:
            who = Visitor.of(browser)
            try:
                names = [Named.read(f"{name}/0") for name in str(pair).split(" ")]
                if len(names) != 2:
                    raise RequestError("there is no picture to vote on; draw both first")
                (left, _), (right, _) = [await page.picked(str(name), who) for name in names]
                path = await asyncio.to_thread(page.votes.keep, left, right, choice, who.user)
            except BimoError as error:
                raise who.toast(error) from None
            kept = Message(
                "Left: {left}, right: {right}. Kept; train with: bimo data feedback {path} PAIRS",
                left=left.order.model,
                right=right.order.model,
                path=path,
            )
            return gr.Row(visible=False), gallery.told(who.says(kept)), ""

        return vote

    for choice, button in dueled.votes.items():
        button.click(voting(choice), dueled.pair, [dueled.row, dueled.said, dueled.pair], **quiet)


async def _own(page: Page, form: Form, chosen: str) -> Form:
    if form.model in ("", chosen):
        return form
    offer = await page.offer(form.model)
    return replace(
        form,
        width=offer.width,
        height=offer.height,
        steps=offer.steps,
        guidance=offer.guidance,
        guidance_rescale=offer.rescale,
        sampler="",
        schedule="",
        spacing="",
        eta=0.0,
        clip_skip=1,
        loras=(),
        control="",
    )


def _large(found: Job | str | None, language: str) -> str:
    shown = _cell(found, language)
    return shown.replace(".webp", ".png")


@dataclass(frozen=True)
class Tabling:
    """The components of pictures from a table."""

    text: Any
    file: Any
    go: Any
    stop: Any
    table: Any


def _tabling() -> Tabling:
    text = gr.Textbox(label=label("table"), lines=6, max_lines=16, max_length=100_000, elem_id="table")
    file = gr.HTML()
    with gr.Row():
        go = gr.Button(label("table_draw"), variant="primary", elem_id="table-draw", scale=3)
        stop = gr.Button(label("stop"), scale=1, min_width=60)
    return Tabling(text, file, go, stop, gr.HTML(elem_id="tabled"))


def _on_table(page: Page, parts: Parts, tabled: Tabling) -> None:
    async def draw_all(browser: gr.Request, *values: Any) -> AsyncGenerator[Any]:
        who = Visitor.of(browser)
        try:
            text = values[0] if isinstance(values[0], str) else ""
            if len(text) > 100_000:
                raise RequestError("the table is longer than {most} characters", most=100_000)
            # The prompt of the form is none of the table's.
            forms = rows(Form.read(values[1:]), text)
        except BimoError as error:
            raise who.toast(error) from None
        async for found in _all(page, who, forms):
            table = [
                (form.text if len(form.text) < 80 else form.text[:79] + "…", [_cell(found.get(n), who.language)])
                for n, form in enumerate(forms)
            ]
            yield gallery.table(who.language, [""], table)

    tabled.go.click(
        draw_all,
        [tabled.text, *parts.inputs],
        tabled.table,
        preprocess=False,
        show_progress="hidden",
        api_visibility="private",
        concurrency_limit=None,
    )
    _tab(page, tabled.stop)
