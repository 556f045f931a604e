"""Theme and HTML fragments of the page: style thumbnails, canvas, file pickers, choices with labels."""

# Parts of gradio's interface are untyped.
# pyright: reportUnknownMemberType=false, reportPrivateImportUsage=false

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
#: Example prompts in both languages with a style, which the bundled model draws well and without warnings.
EXAMPLES = (
    ("红苹果", "a red apple", "3d"),
    ("一只猫", "a cat", "flat"),
    ("一只熊猫", "a panda", "ink"),
    ("蝴蝶", "a butterfly", "papercut"),
    ("一颗草莓", "a strawberry", "pixel"),
    ("一朵向日葵", "a sunflower", "watercolour"),
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
        # On paper gradio's grey has half of the contrast that WCAG AA wants of text (4.5 to 1); the dark one has it.
        body_text_color_subdued="#6b645c",
        input_placeholder_color="#6f6860",
        input_placeholder_color_dark="#b8b2ad",
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
    """CSS rules for the thumbnails of styles."""
    rules: list[str] = []
    for place, name in enumerate(STYLES, 2):
        file = HERE / "styles" / f"{name}.webp"
        if not file.is_file():  # a new style has no thumbnail until tools/style_thumbnails.py has drawn it
            continue
        data = base64.b64encode(file.read_bytes()).decode()
        rules.append(
            f"#style label:nth-of-type({place})::before{{background-image:url(data:image/webp;base64,{data})}}"
        )
    return "\n".join(rules)


def canvas_html(language: str) -> str:
    """The canvas on which an image is opened, sketched on and masked."""
    labels = {
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
        f'<div class="tools"><label class="file">{labels["open"]}<input type="file" accept="image/*" data-file="image"'
        f' aria-label="{labels["open"]}"></label>'
        f'<button type="button" class="tool" data-tool="blank">{labels["blank"]}</button>'
        f'<span class="hint">{labels["hint"]}</span></div><div class="tools"><div class="needs">'
        f'<label><input type="radio" name="kind" value="mask" checked>{labels["mask"]}</label>'
        f'<label><input type="radio" name="kind" value="sketch">{labels["sketch"]}</label>'
        f'<label>{labels["brush"]}<input type="range" name="brush" min="1" max="40" value="12"></label>'
        f'<label>{labels["colour"]}<input type="color" name="colour" value="#b93a2b"></label>'
        f'<button type="button" class="tool" data-tool="undo">{labels["undo"]}</button>'
        f'<button type="button" class="tool" data-tool="clear">{labels["clear"]}</button>'
        f'<button type="button" class="tool" data-tool="remove">{labels["remove"]}</button></div></div>'
        f'<canvas aria-label="{labels["canvas"]}"></canvas>'
    )


def file_picker(message: Message, kind: str, language: str, accept: str) -> str:
    """A file picker whose file is read by the page's script; nothing is uploaded."""
    words = escaped(message.said(language))
    field = f'<input type="file" accept="{accept}" data-file="{kind}" aria-label="{words}">'
    return f'<label class="file">{words}{field}</label>'


def record_picker(language: str) -> str:
    """The picker of a picture whose settings are to be loaded."""
    return file_picker(
        Message("Settings from a picture (or drop it on the page)"),
        "record",
        language,
        "image/png,image/jpeg,image/webp",
    )


def examples_html(language: str) -> str:
    """Example prompts as buttons."""
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
    """(label, field) for the axes of a grid."""
    return [("–", ""), *((names.said(language), name) for name, names in AXIS_NAMES.items())]


def writing_choices(language: str) -> list[tuple[str, str]]:
    """(label, value) for the layouts of inscribed text."""
    names = {
        "horizontal": Message("In a row"),
        "vertical": Message("In columns"),
        "couplet": Message("A couplet"),
        "seal": Message("A seal"),
    }
    return [("–", ""), *((names[name].said(language), name) for name in WRITINGS)]


def control_choices(offer: Offer, page: Page) -> list[tuple[str, str]]:
    """(label, name) for the use of a control picture: the model's own conditions, and the server's ControlNets."""
    own_conditions = [(name, name) for name in offer.controls if name not in page.pool.controls]
    return [("–", ""), *own_conditions, *((name, name) for name in page.pool.controls)]


def model_choices(language: str, page: Page) -> list[tuple[str, str]]:
    """(label, name) of the models; with editions first the choice by what the prompt asks for."""
    by_prompt = [(Message("whichever learned it").said(language), "")] if page.pool.editions else []
    return [*by_prompt, *((name, name) for name in page.pool.models)]


def title_html(language: str, page: Page, who: Visitor | None = None) -> str:
    """The heading of the page, with the headings of what is shown over it; with keys also the visitor's name and a link
    to log out.
    """
    tagline = escaped(Message("From a sentence to a picture").said(language))
    leave_text = escaped(Message("Leave").said(language))
    leave_link = "" if page.keys is None or who is None else f'<a href="/logout">{escaped(who.user)} · {leave_text}</a>'
    over = {"error": Message("Cannot draw"), "warning": Message("Note"), "info": Message("Note")}
    heads = "".join(f' data-{kind}="{escaped(head.said(language))}"' for kind, head in over.items())
    return f"<h1{heads}>笔墨 bimo <small>{tagline}</small></h1>{leave_link}"
