"""Labels of the page, in the language of the browser."""

from __future__ import annotations

from functools import cache

import gradio as gr
from gradio.i18n import I18nData

from bimo.core.messages import Message

LABELS: dict[str, Message] = {
    "tagline": Message("From a sentence to a picture"),
    "tab_draw": Message("Draw"),
    "tab_compare": Message("Compare"),
    "tab_vote": Message("Side by side"),
    "tab_judge": Message("Vote"),
    "tab_table": Message("From a table"),
    "tab_words": Message("What it knows"),
    "tab_finetune": Message("Fine-tune"),
    "prompt": Message("Prompt"),
    "example": Message("a red apple, 3d style"),
    "style": Message("Style"),
    "draw": Message("Draw"),
    "stop": Message("Stop"),
    "ratio": Message("Shape"),
    "count": Message("Pictures"),
    "steps": Message("Steps"),
    "more": Message("More settings"),
    "width": Message("Width"),
    "height": Message("Height"),
    "guidance": Message("Guidance"),
    "negative": Message("Negative prompt"),
    "empty": Message("Left empty it is the empty negative prompt"),
    "sampler": Message("Sampler"),
    "schedule": Message("Schedule"),
    "spacing": Message("Spacing"),
    "rescale": Message("Guidance rescale"),
    "skip": Message("CLIP skip (1: none)"),
    "seed": Message("Seed (-1: random)"),
    "model": Message("Model"),
    "loras": Message("LoRA (name, name:0.8, or name:0.8@0.2-0.6 for some steps)"),
    "embeddings": Message("Learnt words"),
    "image": Message("Image, mask, sketch"),
    "strength": Message("How much of the image is redrawn"),
    "control": Message("The control picture is for"),
    "control_weight": Message("Weight of the control"),
    "inscription": Message("Text in the picture"),
    "inscribe": Message("Text, a line each"),
    "writing": Message("Writing"),
    "font": Message("Font (a family of this machine)"),
    "examples": Message("Examples"),
    "history": Message("Your pictures"),
    "search": Message("Search your pictures"),
    "again": Message("Again"),
    "vary": Message("Vary"),
    "upscale": Message("Upscale"),
    "use": Message("Use as image"),
    "forget": Message("Delete"),
    "older": Message("Older ones"),
    "axis_x": Message("Across"),
    "axis_y": Message("Down"),
    "axis_values": Message("Values, with commas between"),
    "compare": Message("Draw the table"),
    "compare_hint": Message("Everything else is as it stands under Draw."),
    "vote_hint": Message(
        "Both draw your prompt; which is which is said after your vote. Votes are kept for training by preference."
    ),
    "model_a": Message("One model"),
    "model_b": Message("The other"),
    "left": Message("Left is better"),
    "tie": Message("Alike"),
    "right": Message("Right is better"),
    "duel": Message("Draw both"),
    "judge_hint": Message(
        "Two models' pictures of one prompt, drawn before; which is whose is not said. Each pair is asked once."
    ),
    "judge": Message("Show a pair"),
    "ratings": Message("Ratings so far"),
    "table": Message("A prompt a line, or a table with a head: text, style, seed, steps ..."),
    "table_draw": Message("Draw them all"),
    "words_hint": Message("Search words that the model learned"),
}
#: Distinguishes these labels from gradio's own.
PREFIX = "bimo_"


def label(name: str) -> I18nData:
    """A label, which gradio shows in the browser's language."""
    return texts()(PREFIX + name)


@cache
def texts() -> gr.I18n:
    """The labels as gradio's translations."""
    en, zh = ({PREFIX + name: message.said(language) for name, message in LABELS.items()} for language in ("en", "zh"))
    return gr.I18n(en=en, zh=zh, **{"zh-CN": zh, "zh-TW": zh})
