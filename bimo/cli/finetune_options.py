"""The options of `bimo finetune` as a wish: which contradict, what they need, which model and captioner are meant."""

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


def wish_of(asked: Mapping[str, Any]) -> Wish:
    """A wish of the options of the command line. Raises RequestError."""
    given = {name: value for name, value in asked.items() if name not in ("class_word", "keep") and value}
    noun, keep = str(asked["class_word"]), tuple(asked["keep"])
    if given.get("word") and not noun:
        raise RequestError("--embedding needs --class: an everyday word that the new one begins as, for instance 鸭")
    if (keep or asked["prior"]) and asked["way"] not in ("lora", "full"):
        raise RequestError("--keep and --prior, of --lora, --full and --dreambooth alone: leave them out")
    taught = bool(given.get("prompt") or given.get("word"))
    nouns = ((noun,) if noun and taught else ()) + keep
    if asked["prior"] and not nouns:
        raise RequestError("--prior: say with --class or --keep what those pictures show")
    if given.get("control"):
        control_named(str(given["control"]))
    given["model"] = model_of(str(given["model"]))
    return Wish(**given, nouns=nouns)


def model_of(name: str) -> str:
    """A model as a recipe file may name it wherever it lies: a recipe's name, or a place of this machine."""
    path = Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    if re.fullmatch(r"(?:modelscope:)?[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        return str(fetch(name))
    return registry.recipe(name).name


def captioner_of(text: str, model: str) -> Endpoint | ModelFolder:
    """Who captions. Raises RequestError for an address without a model."""
    if not re.match(r"https?://", text):
        folder = ModelFolder(path=text)
        folder.checked_folder()
        return folder
    if not model:
        raise RequestError("--captioner is an address; say with --captioner-model which of its models is asked")
    return Endpoint(address=text, model=model, key=KEY_VARIABLE if os.environ.get(KEY_VARIABLE) else "")


def usual_precision(place: torch.device) -> str:
    """How products are worked out on a device where nothing else is asked."""
    if place.type == "cpu":
        return "fp32"
    return next((kind for kind in ("bf16", "fp16") if kind in dtypes_of(place)), "fp32")
