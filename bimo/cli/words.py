"""What is made of a prompt before it is drawn: a poem's scene, expansion, translation; all of it is said."""

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
#: Verses are drawn so where no style is said.
POEM_STYLE = "ink"


def poem_fields(asked: str, settings: Mapping[str, Any], inscribed: bool) -> tuple[dict[str, Any], list[str]]:
    """The fields of a request for the verse of a poem, and what is to be said of it. Raises RequestError."""
    from bimo.prompts.poems import found
    from bimo.xiaomo.captions.expansion import lexicons

    verse = found(asked)
    full = expanded(verse.verse, lexicons())
    fields: dict[str, Any] = {"text": full.text, "original_text": asked, "style": settings.get("style") or POEM_STYLE}
    told = [say("the verse is of {poem}: {verse}", poem=str(verse.poem), verse=verse.verse)]
    told += full.notes() if full.added else ()
    if not verse.exact:
        told.insert(0, say("no poem here has {asked}; the nearest is drawn", asked=asked))
    if inscribed:
        fields |= {"inscribe": (verse.verse,), "writing": settings.get("writing") or "vertical"}
    return fields, told


def language_model(place: str, name: str) -> Callable[[str, str], str]:
    """A language model of an address (OpenAI-compatible, up to and with /v1) or of a local folder: (what it is told,
    the prompt) -> its answer. Raises DataError, RequestError.
    """
    from bimo.curation.captioning.endpoint import Endpoint, Unanswered
    from bimo.curation.captioning.model_folder import ModelFolder
    from bimo.curation.captioning.rewriting import Asking

    if re.match("https?://", place):
        if not name:
            raise RequestError(
                "--language-model is an address; say with --language-model-name which model it is to ask"
            )
        import os

        key = KEY_VARIABLE if os.environ.get(KEY_VARIABLE) else ""
        asking = Asking(Endpoint(address=place, model=name, key=key, tries=2), sees=False)
    elif Path(place).is_dir():
        asking = Asking(ModelFolder(path=place), sees=False)
    else:
        raise RequestError("--language-model is {place}; expected an http address or a folder", place=place)

    def ask(told: str, prompt: str) -> str:
        try:
            (answer,) = asking.answers([(f"{told}\n\n{prompt}", None)])
        except Unanswered as error:
            raise RequestError("the language model gave no answer: {reason}", reason=error.reason) from None
        return answer.text

    return ask


def expansion(prompt: str, ask: Callable[[str, str], str] | None) -> tuple[dict[str, Any], list[str]]:
    """The fields of a request for an expanded prompt, and what is to be said of it."""
    from bimo.xiaomo.captions.expansion import lexicons

    full = expanded(prompt, lexicons()) if ask is None else rewritten(prompt, ask)
    fields = {"text": full.text} | ({"original_text": prompt} if full.text != prompt else {})
    return fields, list(full.notes())


def translation(prompt: str, ask: Callable[[str, str], str] | None) -> tuple[dict[str, Any], list[str]]:
    """The fields of a request for a prompt in English, and what is to be said of it."""
    if not is_chinese(prompt):
        return {"text": prompt}, []
    if ask is not None:
        text = rewritten(prompt, lambda _, words: ask(_ASK_ENGLISH, words)).text
    else:
        from bimo.curation.captioning.dictionary_translation import translated

        text = translated(prompt)
    return {"text": text, "original_text": prompt}, [say("translated: {text}", text=text)]


def unread(recipe: Recipe, prompt: str) -> str:
    """What is to be said of a Chinese prompt for a model that reads none; "" for any other."""
    if "zh" in recipe.languages or not recipe.languages or not is_chinese(prompt):
        return ""
    return say(
        "{name} reads no Chinese ({languages}): the picture will have little to do with the prompt; --translate "
        "translates it by a dictionary, or by --language-model",
        name=recipe.name,
        languages=", ".join(recipe.languages),
    )
