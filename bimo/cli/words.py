"""Rewrites a prompt before drawing: verses of a poem, expansion, translation; each change is reported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.recipe import Recipe
from bimo.prompts.expansion import expanded, is_chinese, rewritten

KEY_VARIABLE = "BIMO_LANGUAGE_MODEL_KEY"
_ASK_ENGLISH = (
    "Translate the prompt of a picture below into English. Answer with the translation alone. Text in quotation marks "
    "stays letter by letter, with its marks."
)
#: The default style of verses.
POEM_STYLE = "ink"


def poem_fields(query: str, settings: Mapping[str, Any], inscribed: bool) -> tuple[dict[str, Any], list[str]]:
    """The fields of a request for the verse of a poem, and notes for the user. Raises RequestError."""
    from bimo.prompts.poems import find_verse
    from bimo.xiaomo.captions.expansion import lexicons

    verse = find_verse(query)
    full = expanded(verse.verse, lexicons())
    fields: dict[str, Any] = {"text": full.text, "original_text": query, "style": settings.get("style") or POEM_STYLE}
    notes = [say("the verse is of {poem}: {verse}", poem=str(verse.poem), verse=verse.verse)]
    notes += full.notes() if full.added else ()
    if not verse.exact:
        notes.insert(0, say("no poem here has {query}; the nearest is drawn", query=query))
    if inscribed:
        fields |= {"inscribe": (verse.verse,), "writing": settings.get("writing") or "vertical"}
    return fields, notes


def language_model(address_or_folder: str, name: str) -> Callable[[str, str], str]:
    """A language model at an address (OpenAI-compatible, up to and including /v1) or in a local folder, as a function
    (instructions, prompt) -> answer. Raises DataError, RequestError.
    """
    from bimo.curation.captioning.endpoint import Endpoint, Unanswered
    from bimo.curation.captioning.model_folder import ModelFolder
    from bimo.curation.captioning.rewriting import TextModel

    if re.match("https?://", address_or_folder):
        if not name:
            raise RequestError(
                "--language-model is an address; say with --language-model-name which model it is to ask"
            )
        import os

        key = KEY_VARIABLE if os.environ.get(KEY_VARIABLE) else ""
        model = TextModel(Endpoint(address=address_or_folder, model=name, key=key, tries=2), with_pictures=False)
    elif Path(address_or_folder).is_dir():
        model = TextModel(ModelFolder(path=address_or_folder), with_pictures=False)
    else:
        raise RequestError("--language-model is {place}; expected an http address or a folder", place=address_or_folder)

    def ask(instructions: str, prompt: str) -> str:
        try:
            (answer,) = model.answers([(f"{instructions}\n\n{prompt}", None)])
        except Unanswered as error:
            raise RequestError("the language model gave no answer: {reason}", reason=error.reason) from None
        return answer.text

    return ask


def expansion(prompt: str, ask: Callable[[str, str], str] | None) -> tuple[dict[str, Any], list[str]]:
    """The fields of a request for an expanded prompt, and notes for the user."""
    from bimo.xiaomo.captions.expansion import lexicons

    full = expanded(prompt, lexicons()) if ask is None else rewritten(prompt, ask)
    fields = {"text": full.text} | ({"original_text": prompt} if full.text != prompt else {})
    return fields, list(full.notes())


def translation(prompt: str, ask: Callable[[str, str], str] | None) -> tuple[dict[str, Any], list[str]]:
    """The fields of a request for a prompt translated into English, and notes for the user."""
    if not is_chinese(prompt):
        return {"text": prompt}, []
    if ask is not None:
        text = rewritten(prompt, lambda _, words: ask(_ASK_ENGLISH, words)).text
    else:
        from bimo.curation.captioning.dictionary_translation import translated

        text = translated(prompt)
    return {"text": text, "original_text": prompt}, [say("translated: {text}", text=text)]


def unread(recipe: Recipe, prompt: str) -> str:
    """The warning for a Chinese prompt and a model without Chinese; "" for any other."""
    if "zh" in recipe.languages or not recipe.languages or not is_chinese(prompt):
        return ""
    return say(
        "{name} reads no Chinese ({languages}): the picture will have little to do with the prompt; --translate "
        "translates it by a dictionary, or by --language-model",
        name=recipe.name,
        languages=", ".join(recipe.languages),
    )
