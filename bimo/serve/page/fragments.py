"""What the page is dressed in: theme, thumbnails of styles, the canvas, pickers of files, choices by their labels."""

from __future__ import annotations

import base64
from pathlib import Path

import gradio as gr

from bimo.core.messages import Message
from bimo.prompts.styles import STYLES
from bimo.serve.page.comparison import AXIS_NAMES
from bimo.serve.page.gallery import escaped
from bimo.serve.page.models import Offer
from bimo.serve.page.session import Page, Visitor

HERE = Path(__file__).parent
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


def page_theme() -> gr.themes.Base:
    """Colours and fonts, light and dark."""
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


def thumbnail_css() -> str:
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


def canvas_html(language: str) -> str:
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


def file_picker(message: Message, kind: str, language: str, accept: str) -> str:
    """A picker of files that the browser reads itself: nothing is uploaded by it."""
    words = escaped(message.said(language))
    field = f'<input type="file" accept="{accept}" data-file="{kind}" aria-label="{words}">'
    return f'<label class="file">{words}{field}</label>'


def record_picker(language: str) -> str:
    """The picker of a PNG whose settings are to come back."""
    return file_picker(
        Message("Settings from a picture (or drop it on the page)"),
        "record",
        language,
        "image/png,image/jpeg,image/webp",
    )


def examples_html(language: str) -> str:
    """Prompts that are drawn by one click."""
    words = "".join(
        f'<button type="button" class="chip" data-example="{place}">{escaped(zh if language == "zh" else en)} · '
        f"{escaped(_style_name(style, language))}</button>"
        for place, (zh, en, style) in enumerate(EXAMPLES)
    )
    return f'<div class="chips">{words}</div>'


def _style_name(name: str, language: str) -> str:
    style = STYLES[name]
    return style.label_zh if language == "zh" else style.label_en


def style_choices(language: str) -> list[tuple[str, str]]:
    """(label, style) of every style, none first."""
    return [(Message("As it comes").said(language), ""), *((_style_name(name, language), name) for name in STYLES)]


def axis_choices(language: str) -> list[tuple[str, str]]:
    """(label, field) of what a table may go over."""
    return [("–", ""), *((names.said(language), name) for name, names in AXIS_NAMES.items())]


def writing_choices(language: str) -> list[tuple[str, str]]:
    """(label, way) of the ways in which text runs."""
    names = {
        "horizontal": Message("In a row"),
        "vertical": Message("In columns"),
        "couplet": Message("A couplet"),
        "seal": Message("A seal"),
    }
    return [("–", ""), *((names[name].said(language), name) for name in WRITINGS)]


def control_choices(offer: Offer, page: Page) -> list[tuple[str, str]]:
    """(label, name) of what a control picture may be for: conditions of the model's own, ControlNets of this server."""
    own = [(name, name) for name in offer.controls if name not in page.pool.controls]
    return [("–", ""), *own, *((name, name) for name in page.pool.controls)]


def title_html(language: str, page: Page, who: Visitor | None = None) -> str:
    """The head of the page; with keys it has the visitor's name and the way out."""
    tagline = escaped(Message("From a sentence to a picture").said(language))
    out = escaped(Message("Leave").said(language))
    leave = "" if page.keys is None or who is None else f'<a href="/logout">{escaped(who.user)} · {out}</a>'
    return f"<h1>笔墨 bimo <small>{tagline}</small></h1>{leave}"
