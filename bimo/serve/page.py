"""The web page: a prompt, a few settings, pictures. It asks no other host."""

from __future__ import annotations

import html
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from bimo.core.errors import BimoError, RequestError
from bimo.core.files import write_whole
from bimo.core.messages import Both, say, speaking
from bimo.core.output_path import SUFFIX, name_of
from bimo.core.request import Request, checked
from bimo.diffusion.guidance import heeds_empty
from bimo.diffusion.request_validation import fill_request
from bimo.diffusion.sampler_names import SCHEDULES, SPACINGS
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.hub import memory
from bimo.prompts.styles import STYLES
from bimo.serve import gate
from bimo.serve.jobs import Drawn
from bimo.serve.keys import LOCAL, KeyStore
from bimo.serve.service import DrawingService, Event

MAXIMUM_COUNT = 8
MAXIMUM_STEPS = 100
MAXIMUM_SIDE = 1024
MAXIMUM_TEXT = 1000
WAITING = 16
#: Pictures of the page are kept an hour, in the temporary folder of the page.
KEPT_SECONDS = 3600
#: Values of a form, which are those of ``Studio.draw``.
FIELDS = 16

EXAMPLES = [
    ["红苹果", "3d"],
    ["一只猫", "watercolour"],
    ["小桥流水人家", "ink"],
    ["金鱼", "papercut"],
    ["a robot", "pixel"],
    ["a green car", "flat"],
]

CSS = """
.gradio-container { width: 100% !important; max-width: 1120px !important; margin: 0 auto !important; }
#title h1 { font-size: 2.1rem; font-weight: 700; letter-spacing: .06em; margin: .6rem 0 0; }
#studio { display: grid; grid-template: "ask pictures" auto "settings pictures" 1fr / 1fr 1fr; gap: 16px; }
#ask { grid-area: ask; } #show { grid-area: pictures; } #settings { grid-area: settings; }
@media (max-width: 720px) {
  #studio { grid-template: "ask" "pictures" "settings" / minmax(0, 1fr); gap: 8px; }
  #title h1 { font-size: 1.3rem; margin: 0; } #title p { display: none; } #pictures { min-height: 240px !important; }
  .gradio-container { padding: 4px !important; }
}
#title p { opacity: .7; margin: .2rem 0 .6rem; }
#draw { font-size: 1.15rem; letter-spacing: .1em; min-height: 3.1rem; }
#pictures { min-height: 420px; }
#pictures .grid-wrap { overflow: visible; max-height: none; }
#pictures .thumbnail-item { border-radius: 10px; box-shadow: none; border-color: var(--border-color-primary); }
#notes p { margin: .15rem 0; }
"""
FONTS = (
    *("system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei"),
    *("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "sans-serif"),
)


#: What the page says, by the language of the browser.
LABELS = {
    "en": {
        "title": "From a sentence to a picture",
        "prompt": "Prompt",
        "example": "a red apple, 3d style",
        "style": "Style",
        "draw": "Draw",
        "stop": "Stop",
        "count": "Pictures",
        "steps": "Steps",
        "more": "More",
        "width": "Width",
        "height": "Height",
        "guidance": "Guidance",
        "negative": "Negative prompt",
        "empty": "Left empty it is the empty negative prompt",
        "sampler": "Sampler",
        "schedule": "Schedule",
        "spacing": "Spacing",
        "rescale": "Guidance rescale",
        "skip": "CLIP skip (1: none)",
        "seed": "Seed (-1: random)",
        "random": "🎲 Random",
        "examples": "Examples",
        "pictures": "Pictures",
        "files": "Download PNG (each carries how to draw it again)",
    },
    "zh": {
        "title": "一句话变成一张画",
        "prompt": "要画什么",
        "example": "红苹果，3D风格",
        "style": "风格",
        "draw": "画",
        "stop": "停",
        "count": "张数",
        "steps": "步数",
        "more": "更多",
        "width": "宽",
        "height": "高",
        "guidance": "听从提示词",
        "negative": "不要画",
        "empty": "空着也算一句反向提示词",
        "sampler": "采样器",
        "schedule": "噪声曲线",
        "spacing": "时间分布",
        "rescale": "引导后拉回",
        "skip": "CLIP skip（1：不跳）",
        "seed": "种子（-1：随机）",
        "random": "🎲 随机",
        "examples": "例子",
        "pictures": "图片",
        "files": "下载 PNG（内含重画记录）",
    },
}
TEXTS = gr.I18n(**LABELS, **{"zh-CN": LABELS["zh"], "zh-TW": LABELS["zh"]})
#: Sessions that left are remembered while a drawing of theirs may still wait.
REMEMBERED = 1000


class StoppedError(Exception):
    """Whoever asked for a drawing wants it no more."""


class Studio:
    """One engine behind the page. Where there is a service that draws for others too, it draws for the page; else
    one request is drawn at a time.
    """

    def __init__(self, engine: Engine, service: DrawingService | None = None) -> None:
        self.engine = engine
        self.service = service
        self.system = engine.system
        self.folder = tempfile.TemporaryDirectory(prefix="bimo-")
        self.turn = threading.Lock()
        #: Sessions whose drawing is to end, and those that are gone.
        self.stopped: set[str] = set()
        self.gone: dict[str, None] = {}

    def came(self, session: str) -> None:
        """A page was opened."""
        self.gone.pop(session, None)

    def left(self, session: str) -> None:
        """A page was closed: what it waits for is not drawn."""
        self.gone[session] = None
        for forgotten in list(self.gone)[:-REMEMBERED]:
            del self.gone[forgotten]

    def stop(self, session: str) -> None:
        """What a page waits for is not drawn to its end."""
        self.stopped.add(session)

    def wanted(self, session: str) -> None:
        """Raises StoppedError where nobody waits for a session's drawing any more."""
        if session in self.stopped or session in self.gone:
            raise StoppedError

    def draw(
        self,
        text: str,
        style: str,
        width: float,
        height: float,
        steps: float,
        guidance: float,
        seed: float | None,
        count: float,
        negative: str,
        sampler: str = "",
        schedule: str = "",
        spacing: str = "",
        eta: float = 0.0,
        guidance_rescale: float | None = None,
        clip_skip: float = 1,
        empty_negative: bool = False,
        on_progress: Callable[[float, str], object] | None = None,
        user: str = LOCAL.name,
    ) -> tuple[list[Path], str, int]:
        """A form's values -> PNG files, what is to be said about them (Markdown), and the seed. Raises BimoError."""
        request = self.request(
            *(text, style, width, height, steps, guidance, seed, count, negative),
            *(sampler, schedule, spacing, eta, guidance_rescale, clip_skip, empty_negative),
        )
        memory.check_engine(self.engine, request.size or (0, 0))

        def progress(index: int, count: int, step: int, steps: int) -> None:
            if on_progress is not None:
                share = (index + step / max(1, steps)) / count
                words = f"{index + 1}/{count} · {step + 1}/{steps}"
                on_progress(share, say("picture · step: {words}", words=words))

        self.forget()
        place = Path(tempfile.mkdtemp(dir=self.folder.name))
        stem = name_of(request.text, 200)
        if self.service is None:
            with self.turn:
                pictures = self.engine.draw(request, progress=progress)
            files = [p.save(place / f"{stem}-{p.seed}{SUFFIX}") for p in pictures]
        else:
            pictures = self._drawn(self.service, request, user, progress)
            files = [write_whole(place / f"{stem}-{p.seed}{SUFFIX}", p.file.read_bytes()) for p in pictures]
        warnings = dict.fromkeys(w for p in pictures for w in p.warnings)
        seconds = sum(p.seconds for p in pictures)
        notes = [f"⚠️ {_plain(w)}" for w in warnings]
        notes.append(say("{seconds:.1f} seconds · seed {seed}", seconds=seconds, seed=request.seed))
        return files, "\n\n".join(notes), request.seed or 0

    def _drawn(
        self, service: DrawingService, request: Request, user: str, progress: Callable[[int, int, int, int], None]
    ) -> tuple[Drawn, ...]:
        """The pictures of a request, drawn beside those of others. Raises BimoError."""

        def on_event(event: Event) -> None:
            if event.kind == "step":
                progress(event.place, request.count, event.done - 1, event.steps)

        values = request.model_dump(exclude_none=True, exclude_defaults=True)
        job = service.accept(service.order(values, key=user, client="page"), {})
        ended = service.wait_here(job.id, on_event)
        refused = ended.failure or next((p.flagged for p in ended.pictures if p.flagged is not None), None)
        if refused is not None:
            raise RequestError("{sentence}", sentence=refused)
        return ended.pictures

    def forget(self) -> None:
        """Deletes what was drawn more than ``KEPT_SECONDS`` ago."""
        for folder in Path(self.folder.name).iterdir():
            if folder.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def request(
        self,
        text: str,
        style: str,
        width: float,
        height: float,
        steps: float,
        guidance: float,
        seed: float | None,
        count: float,
        negative: str,
        sampler: str = "",
        schedule: str = "",
        spacing: str = "",
        eta: float = 0.0,
        guidance_rescale: float | None = None,
        clip_skip: float = 1,
        empty_negative: bool = False,
    ) -> Request:
        """The request of a form, every bound checked here again: a form's bounds bind only who uses the form.

        A field of words left empty says nothing; with ``empty_negative`` an empty negative prompt is the empty prompt.
        """
        for zh, en, words in (("提示词", "the prompt", text), ("反向提示词", "the negative prompt", negative)):
            if not isinstance(words, str):
                raise RequestError("{near} is {words!r}; expected text", near=Both(zh, en), words=words)
        if not isinstance(style, (str, type(None))):
            raise RequestError("the style is {style!r}; expected a name", style=style)
        if len(text) > MAXIMUM_TEXT or len(negative) > MAXIMUM_TEXT:
            raise RequestError("the prompt is longer than {maximum_text} characters", maximum_text=MAXIMUM_TEXT)
        bounds = (
            ("宽", "width", width, 1, MAXIMUM_SIDE),
            ("高", "height", height, 1, MAXIMUM_SIDE),
            ("步数", "steps", steps, 1, MAXIMUM_STEPS),
            ("张数", "pictures", count, 1, MAXIMUM_COUNT),
            ("听从提示词", "guidance", guidance, 0, 100),
            ("种子", "seed", -1 if seed is None else seed, -1, 2**63 - 1),
        )
        for zh, en, value, low, high in bounds:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise RequestError(
                    "{near} is {value!r}; expected {low} to {high}", near=Both(zh, en), value=value, low=low, high=high
                )
            if en != "guidance" and value != int(value):
                raise RequestError("{near} is {value!r}; expected a whole number", near=Both(zh, en), value=value)
        own = self.system.recipe.levels[-1].guidance.rescale
        request = checked(
            {
                "text": text,
                "negative": negative or ("" if empty_negative else None),
                "sampler": sampler or None,
                "schedule": schedule or None,
                "spacing": spacing or None,
                "eta": eta or None,
                "guidance_rescale": None if guidance_rescale == own else guidance_rescale,
                "clip_skip": None if clip_skip == 1 else clip_skip,
                "size": (int(width), int(height)),
                "steps": int(steps),
                "guidance": float(guidance),
                "seed": secrets.randbelow(2**32) if seed is None or seed < 0 else int(seed),
                "count": int(count),
                "style": style or None,
            }
        )
        return fill_request(self.system, request)


def page(studio: Studio) -> gr.Blocks:
    """The page of a system, every label in the language of the browser."""
    recipe = studio.system.recipe
    last = recipe.levels[-1]
    factor = studio.system.space(last.name).factor
    width, height = recipe.request.size
    guidance = last.guidance.scale if recipe.request.guidance is None else recipe.request.guidance
    unit = factor * max(1, 32 // factor)
    styles = [("–", ""), *((_both_names(name), name) for name in STYLES)]
    label = TEXTS
    with gr.Blocks(title="笔墨 bimo", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as blocks:
        with gr.Column(elem_id="title"):
            gr.Markdown(f"# 笔墨 bimo · {_plain(recipe.title or recipe.name)}")
            gr.Markdown(label("title"))
        with gr.Row(elem_id="studio"):
            with gr.Column(elem_id="ask", min_width=0):
                # Of one line: Enter draws, and Shift+Enter begins another.
                text = gr.Textbox(
                    label=label("prompt"),
                    placeholder=label("example"),
                    lines=1,
                    max_lines=6,
                    max_length=MAXIMUM_TEXT,
                    autofocus=True,
                    elem_id="prompt",
                )
                with gr.Row():
                    go = gr.Button(label("draw"), variant="primary", elem_id="draw", min_width=80, scale=3)
                    stop = gr.Button(label("stop"), elem_id="stop", min_width=60, scale=1)
            with gr.Column(elem_id="show", min_width=0):
                gallery = gr.Gallery(
                    label=label("pictures"),
                    show_label=False,
                    columns=1,
                    height="auto",
                    object_fit="contain",
                    format="png",
                    elem_id="pictures",
                    buttons=["download", "fullscreen"],
                    interactive=False,
                )
                notes = gr.Markdown(elem_id="notes")
                files = gr.Files(label=label("files"), visible=False, interactive=False, elem_id="files")
            with gr.Column(elem_id="settings", min_width=0):
                style = gr.Dropdown(styles, value="", label=label("style"), elem_id="style")
                with gr.Row():
                    count = gr.Slider(1, MAXIMUM_COUNT, 1, step=1, label=label("count"))
                    steps = gr.Slider(
                        1, MAXIMUM_STEPS, recipe.request.steps or last.steps, step=1, label=label("steps")
                    )
                with gr.Accordion(label("more"), open=False):
                    with gr.Row():
                        wide = gr.Slider(unit, MAXIMUM_SIDE, width, step=unit, label=label("width"))
                        high = gr.Slider(unit, MAXIMUM_SIDE, height, step=unit, label=label("height"))
                    scale = gr.Slider(0, 20, guidance, step=0.1, label=label("guidance"))
                    negative = gr.Textbox(
                        label=label("negative"), value=recipe.request.negative, max_length=MAXIMUM_TEXT
                    )
                    heeded = any(heeds_empty(level.guidance) for level in recipe.levels)
                    empty = gr.Checkbox(False, label=label("empty"), visible=heeded)
                    sampling = _sampling(studio.system)
                    with gr.Row(equal_height=True):
                        seed = gr.Number(-1, label=label("seed"), precision=0, elem_id="seed")
                        dice = gr.Button(label("random"), elem_id="random")
                # With names of their own: a table's heads, which are labels, are not put into words.
                shown = [f"{words} · {_both_names(name)}" for words, name in EXAMPLES]
                gr.Examples(EXAMPLES, [text, style], label=label("examples"), example_labels=shown)

        def run(
            browser: gr.Request,
            text: Any,
            style: Any,
            width: Any,
            height: Any,
            steps: Any,
            guidance: Any,
            seed: Any,
            count: Any,
            negative: Any,
            sampler: Any,
            schedule: Any,
            spacing: Any,
            eta: Any,
            rescale: Any,
            clip_skip: Any,
            empty_negative: Any,
            progress: gr.Progress = gr.Progress(),  # noqa: B008
        ) -> tuple[Any, ...]:
            values = (text, style, width, height, steps, guidance, seed, count, negative)
            values += (sampler, schedule, spacing, eta, rescale, clip_skip, empty_negative)
            session = browser.session_hash or ""
            with speaking(gate.spoken(browser.headers.get("accept-language"))):
                studio.stopped.discard(session)

                def on_progress(share: float, words: str) -> None:
                    studio.wanted(session)
                    progress(share, desc=words)

                try:
                    studio.wanted(session)
                    user = browser.username or LOCAL.name
                    files, note, _ = studio.draw(*values, on_progress=on_progress, user=user)
                except StoppedError:
                    return gr.skip(), say("stopped"), gr.skip()
                except BimoError as error:
                    raise _toast(str(error)) from None
                except MemoryError:
                    raise _toast(say("out of memory: draw a smaller picture")) from None
            paths = [str(path) for path in files]
            return gr.Gallery(paths, columns=min(2, len(paths))), note, gr.Files(paths, visible=True)

        inputs = [text, style, wide, high, steps, scale, seed, count, negative, *sampling, empty]
        drawing = gr.on(
            [go.click, text.submit],
            run,
            inputs,
            [gallery, notes, files],
            concurrency_limit=1,
            # What comes is looked at here: the library's own look raises whatever it likes, in English.
            preprocess=False,
            show_progress="full",
            show_progress_on=[gallery],
            api_name="draw",
        )

        def end(browser: gr.Request) -> None:
            studio.stop(browser.session_hash or "")

        # A browser keeps a heartbeat, by which the gate knows that its page is there, only where this is asked for.
        blocks.unload(lambda: None)
        stop.click(end, cancels=[drawing], queue=False, api_visibility="private")
        dice.click(lambda: secrets.randbelow(2**32), outputs=seed, api_visibility="private", queue=False)
    blocks.queue(max_size=WAITING, default_concurrency_limit=1)
    return blocks


def _sampling(system: System) -> list[Any]:
    """The fields of the sampler: those that the system has no use for are there, and not shown."""
    last = system.level(system.recipe.levels[-1].name)
    samplers = last.schedule.names()
    schedules = [name for name in SCHEDULES if samplers]
    depths = [encoder.skippable for encoder in system.text_encoders if encoder.skippable]
    own = ("–", "")
    with gr.Row():
        fields: list[Any] = [
            gr.Dropdown([own, *samplers], value="", label=TEXTS("sampler"), visible=bool(samplers)),
            gr.Dropdown([own, *schedules], value="", label=TEXTS("schedule"), visible=bool(samplers)),
            gr.Dropdown([own, *SPACINGS], value="", label=TEXTS("spacing"), visible=bool(samplers)),
        ]
    with gr.Row():
        fields += [
            gr.Slider(0, 1, 0, step=0.05, label="eta (DDIM, TCD)", visible=bool(samplers)),
            gr.Slider(
                *(0, 1, last.recipe.guidance.rescale),
                step=0.05,
                label=TEXTS("rescale"),
                visible=bool(samplers),
            ),
            gr.Slider(*(1, min(depths, default=2), 1), step=1, label=TEXTS("skip"), visible=bool(depths)),
        ]
    return fields


def _both_names(style: str) -> str:
    zh, en = STYLES[style].label_zh, STYLES[style].label_en
    return zh if zh == en else f"{zh} {en}"


def _toast(sentence: str) -> gr.Error:
    """A sentence over the page, which takes it for HTML."""
    title = say("Cannot draw")
    return gr.Error(html.escape(sentence, quote=False), duration=12, title=title, print_exception=False)


def _theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue="red",
        secondary_hue="stone",
        neutral_hue="stone",
        font=FONTS,
        font_mono=("ui-monospace", "monospace"),
    ).set(
        body_background_fill="#f7f4ee",
        block_radius="12px",
        block_label_background_fill="transparent",
        block_label_border_width="0px",
        button_primary_background_fill="#b93a2b",
        button_primary_background_fill_hover="#a02f22",
        button_primary_text_color="white",
        button_large_radius="10px",
        input_radius="8px",
        slider_color="#b93a2b",
    )


def mount(app: FastAPI, studio: Studio, keys: KeyStore | None = None) -> FastAPI:
    """The application with the page at its root; with ``keys`` behind a login whose password is a key."""
    # What the library copies goes when our folder goes.
    os.environ["GRADIO_TEMP_DIR"] = str(Path(studio.folder.name) / "shown")
    login = None if keys is None else (lambda user, password: keys.caller(password) is not None)
    return gr.mount_gradio_app(
        app,
        page(studio),
        "/",
        auth=login,
        show_error=False,
        allowed_paths=[studio.folder.name],
        max_file_size="1mb",
        enable_monitoring=False,
        ssr_mode=False,
        footer_links=[],
        theme=_theme(),
        css=CSS,
        i18n=TEXTS,
    )


def _plain(text: str) -> str:
    """Text from a prompt, shown as it is: neither HTML nor Markdown."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]#|!" else c for c in escaped)
