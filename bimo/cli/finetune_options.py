"""Validates the options of `bimo finetune` and resolves its model and captioner."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bimo.core.errors import RequestError
from bimo.curation.captioning.endpoint import Endpoint
from bimo.curation.captioning.model_folder import ModelFolder
from bimo.engine.devices import dtypes_of
from bimo.hub import registry
from bimo.hub.download import fetch
from bimo.training.finetune.planning import control_named
from bimo.training.finetune.wish import Wish

KEY_VARIABLE = "BIMO_CAPTIONKEY"


def wish_of(options: Mapping[str, Any]) -> Wish:
    """A `Wish` from the options of the command line. Raises RequestError for contradictions and missing options."""
    fields: dict[str, Any] = {k: value for k, value in options.items() if k not in ("class_word", "keep")}
    fields = {name: value for name, value in fields.items() if value or value is False}
    class_word, kept_words = str(options["class_word"]), tuple(options["keep"])
    if fields.get("word") and not class_word:
        raise RequestError("--embedding needs --class: an everyday word that the new one begins as, for instance 鸭")
    if (kept_words or options["prior"]) and options["way"] not in ("lora", "full"):
        raise RequestError("--keep and --prior, of --lora, --full and --dreambooth alone: leave them out")
    learns_subject = bool(fields.get("prompt") or fields.get("word"))
    nouns = ((class_word,) if class_word and learns_subject else ()) + kept_words
    if options["prior"] and not nouns:
        raise RequestError("--prior: say with --class or --keep what those pictures show")
    if fields.get("control"):
        control_named(str(fields["control"]))
    fields["model"] = model_of(str(fields["model"]))
    return Wish(**fields, nouns=nouns)


def model_of(name: str) -> str:
    """A model's name as a recipe file can refer to it from any folder: a recipe's name, or an absolute path."""
    path = Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    if re.fullmatch(r"(?:modelscope:)?[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        return str(fetch(name))
    return registry.recipe(name).name


def captioner_of(captioner: str, model: str, wish: Wish) -> Endpoint | ModelFolder:
    """The captioner: a model folder or an endpoint. Raises RequestError for an address without a model, and for a wish
    that learns no captions.
    """
    if own := wish.prompt or wish.word:
        raise RequestError("--captioner: no caption is learnt, each picture is called {name!r}; leave it out", name=own)
    if not re.match(r"https?://", captioner):
        folder = ModelFolder(path=captioner)
        folder.checked_folder()
        return folder
    if not model:
        raise RequestError("--captioner is an address; say with --captioner-model which of its models is asked")
    return Endpoint(address=captioner, model=model, key=KEY_VARIABLE if os.environ.get(KEY_VARIABLE) else "")


def usual_precision(device: torch.device) -> str:
    """The default precision of training on a device."""
    if device.type == "cpu":
        return "fp32"
    return next((kind for kind in ("bf16", "fp16") if kind in dtypes_of(device)), "fp32")
