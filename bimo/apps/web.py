"""The web page: a prompt, a few settings, pictures. It listens on this machine alone and asks no other host."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from bimo.apps import memory, models
from bimo.apps.cli_draw import SUFFIX, name_of
from bimo.core.errors import BimoError, RequestError, language, say
from bimo.core.types import Request, checked
from bimo.diffusion.drive import draw
from bimo.diffusion.guidance import heeds_empty
from bimo.diffusion.paint import filled
from bimo.diffusion.samplers import SCHEDULES, SPACINGS
from bimo.diffusion.system import System
from bimo.words.styles import STYLES

MAXIMUM_COUNT = 8
MAXIMUM_STEPS = 100
MAXIMUM_SIDE = 1024
MAXIMUM_TEXT = 1000
WAITING = 16
#: Pictures of the page are kept an hour, in the temporary folder of the page.
KEPT_SECONDS = 3600

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


class Studio:
    """One system behind the page. A drawing at a time: two would only slow each other."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.folder = tempfile.TemporaryDirectory(prefix="bimo-")
        self.turn = threading.Lock()

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
        told: Callable[[float, str], object] | None = None,
    ) -> tuple[list[Path], str, int]:
        """A form's values -> PNG files, what is to be said about them (Markdown), and the seed. Raises BimoError."""
        request = self.request(
            *(text, style, width, height, steps, guidance, seed, count, negative),
            *(sampler, schedule, spacing, eta, guidance_rescale, clip_skip, empty_negative),
        )
        memory.check(request.size or (0, 0))

        def progress(index: int, count: int, step: int, steps: int) -> None:
            if told is not None:
                share = (index + step / max(1, steps)) / count
                told(share, f"第 {index + 1}/{count} 张 · 步 step {step + 1}/{steps}")

        with self.turn:
            pictures = draw(self.system, request, progress=progress)
        self.forget()
        place = Path(tempfile.mkdtemp(dir=self.folder.name))
        stem = name_of(request.text, 200)
        files = [p.save(place / f"{stem}-{p.seed}{SUFFIX}") for p in pictures]
        warnings = dict.fromkeys(w for p in pictures for w in p.warnings)
        seconds = sum(p.seconds for p in pictures)
        notes = [f"⚠️ {_plain(w)}" for w in warnings]
        notes.append(
            say(f"用时 {seconds:.1f} 秒 · 种子 {request.seed}", f"{seconds:.1f} seconds · seed {request.seed}")
        )
        return files, "\n\n".join(notes), request.seed or 0

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
        if len(text) > MAXIMUM_TEXT or len(negative) > MAXIMUM_TEXT:
            raise RequestError(
                f"提示词超过 {MAXIMUM_TEXT} 个字", f"the prompt is longer than {MAXIMUM_TEXT} characters"
            )
        bounds = (
            ("宽", "width", width, 1, MAXIMUM_SIDE),
            ("高", "height", height, 1, MAXIMUM_SIDE),
            ("步数", "steps", steps, 1, MAXIMUM_STEPS),
            ("张数", "pictures", count, 1, MAXIMUM_COUNT),
        )
        for zh, en, value, low, high in bounds:
            if not isinstance(value, (int, float)) or not low <= value <= high:
                raise RequestError(
                    f"{zh}是 {value}，应在 {low} 到 {high} 之间", f"{en} is {value}; expected {low} to {high}"
                )
        own = self.system.recipe.levels[-1].guide.rescale
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
        return filled(self.system, request)


def page(studio: Studio) -> gr.Blocks:
    """The page of a system, every label in Chinese and English."""
    recipe = studio.system.recipe
    last = recipe.levels[-1]
    factor = studio.system.space(last.name).factor
    width, height = recipe.request.size
    guidance = last.guide.scale if recipe.request.guidance is None else recipe.request.guidance
    unit = factor * max(1, 32 // factor)
    styles = [("不加 none", "")] + [
        (s.label_zh if s.label_zh == s.label_en else f"{s.label_zh} {s.label_en}", name) for name, s in STYLES.items()
    ]
    with gr.Blocks(title="笔墨 bimo", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as blocks:
        gr.Markdown(
            "# 笔墨 bimo\n一句话变成一张画 · From a sentence to a picture · 模型 model: "
            f"**{_plain(recipe.title or recipe.name)}**",
            elem_id="title",
        )
        with gr.Row():
            with gr.Column(scale=6, min_width=340):
                text = gr.Textbox(
                    label="要画什么 Prompt",
                    placeholder="红苹果，3D风格 · a red apple, 3d style",
                    lines=2,
                    max_length=MAXIMUM_TEXT,
                    autofocus=True,
                    elem_id="prompt",
                )
                style = gr.Dropdown(styles, value="", label="风格 Style", elem_id="style")
                go = gr.Button("画 Draw", variant="primary", elem_id="draw")
                with gr.Row():
                    count = gr.Slider(1, MAXIMUM_COUNT, 1, step=1, label="张数 Pictures")
                    steps = gr.Slider(1, MAXIMUM_STEPS, recipe.request.steps or last.steps, step=1, label="步数 Steps")
                with gr.Accordion("更多 More", open=False):
                    with gr.Row():
                        wide = gr.Slider(unit, MAXIMUM_SIDE, width, step=unit, label="宽 Width")
                        high = gr.Slider(unit, MAXIMUM_SIDE, height, step=unit, label="高 Height")
                    scale = gr.Slider(0, 20, guidance, step=0.1, label="听从提示词 Guidance")
                    negative = gr.Textbox(
                        label="不要画 Negative", value=recipe.request.negative, max_length=MAXIMUM_TEXT
                    )
                    empty = gr.Checkbox(
                        False,
                        label="空着也算一句反向提示词 Left empty it is the empty negative prompt",
                        visible=any(heeds_empty(level.guide) for level in recipe.levels),
                    )
                    sampling = _sampling(studio.system)
                    with gr.Row(equal_height=True):
                        seed = gr.Number(-1, label="种子 Seed（-1：随机 random）", precision=0, elem_id="seed")
                        dice = gr.Button("🎲 随机 Random", elem_id="random")
                gr.Examples(EXAMPLES, [text, style], label="例子 Examples", examples_per_page=len(EXAMPLES))
            with gr.Column(scale=6, min_width=340):
                gallery = gr.Gallery(
                    label="图片 Pictures",
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
                files = gr.Files(
                    label="下载 PNG（内含重画记录）Download",
                    visible=False,
                    interactive=False,
                    elem_id="files",
                )

        def run(*values: Any, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
            try:
                drawn, said, _ = studio.draw(*values, told=lambda share, words: progress(share, desc=words))
            except BimoError as error:
                both = str(error) if error.zh == error.en else "\n".join(_both(error))
                raise gr.Error(_plain(both), duration=12, title="画不了 Cannot draw", print_exception=False) from None
            except MemoryError:
                sentence = "内存不够，请画小一点 Out of memory: draw a smaller picture"
                raise gr.Error(sentence, print_exception=False) from None
            paths = [str(path) for path in drawn]
            return gr.Gallery(paths, columns=min(2, len(paths))), said, gr.Files(paths, visible=True)

        inputs = [text, style, wide, high, steps, scale, seed, count, negative, *sampling, empty]
        gr.on(
            [go.click, text.submit],
            run,
            inputs,
            [gallery, notes, files],
            concurrency_limit=1,
            show_progress="full",
            show_progress_on=[gallery],
            api_name="draw",
        )
        dice.click(lambda: secrets.randbelow(2**32), outputs=seed, api_visibility="private", queue=False)
    blocks.queue(max_size=WAITING, default_concurrency_limit=1)
    return blocks


def _sampling(system: System) -> list[Any]:
    """The fields of the sampler: those that the system has no use for are there, and not shown."""
    last = system.level(system.recipe.levels[-1].name)
    samplers = last.schedule.names()
    schedules = [name for name in SCHEDULES if samplers]
    depths = [depth for tower in system.towers if (depth := int(getattr(tower, "skippable", 0)))]
    own = ("模型自己的 the model's own", "")
    with gr.Row():
        fields: list[Any] = [
            gr.Dropdown([own, *samplers], value="", label="采样器 Sampler", visible=bool(samplers)),
            gr.Dropdown([own, *schedules], value="", label="噪声曲线 Schedule", visible=bool(samplers)),
            gr.Dropdown([own, *SPACINGS], value="", label="时间分布 Spacing", visible=bool(samplers)),
        ]
    with gr.Row():
        fields += [
            gr.Slider(0, 1, 0, step=0.05, label="eta（DDIM, TCD）", visible=bool(samplers)),
            gr.Slider(
                *(0, 1, last.recipe.guide.rescale),
                step=0.05,
                label="引导后拉回 Guidance rescale",
                visible=bool(samplers),
            ),
            gr.Slider(*(1, min(depths, default=2), 1), step=1, label="CLIP skip（1：不跳 none）", visible=bool(depths)),
        ]
    return fields


def launch(studio: Studio, host: str, port: int, wait: bool = True) -> str:
    """Serves the page and answers its address; with ``wait`` until Ctrl-C. Raises RequestError where it cannot."""
    theme = gr.themes.Base(
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
    try:
        _, local, _ = page(studio).launch(
            server_name=host,
            server_port=port or None,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            allowed_paths=[studio.folder.name],
            max_file_size="1mb",
            enable_monitoring=False,
            ssr_mode=False,
            footer_links=[],
            theme=theme,
            css=CSS,
        )
    except OSError as error:
        raise RequestError(
            f"不能在 {host}:{port} 上服务（{error}）；请换一个 --port",
            f"cannot serve on {host}:{port} ({error}); try another --port",
        ) from None
    if wait:
        print(say(f"网页：{local}（Ctrl-C 停止）", f"the page: {local} (Ctrl-C stops it)"), flush=True)
        threading.Event().wait()
    return local


def serve(model: str, *, host: str, port: int) -> None:
    """Loads a model and serves its page until Ctrl-C."""
    if host not in ("127.0.0.1", "localhost", "::1"):
        print(
            say(f"注意：{host} 上别的机器也能访问", f"Note: on {host} other machines can use the page, too"),
            flush=True,
        )
    launch(Studio(models.load(model)), host, port)


def _both(error: BimoError) -> tuple[str, str]:
    return (error.zh, error.en) if language() == "zh" else (error.en, error.zh)


def _plain(text: str) -> str:
    """Text from a prompt, shown as it is: neither HTML nor Markdown."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]#|!" else c for c in escaped)
