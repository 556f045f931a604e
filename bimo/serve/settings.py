"""The settings of a server: limits, retention, filters, labels."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bimo.core.credentials import Credentials
from bimo.core.label import Label
from bimo.hub.options import DEFAULT, LoadOptions


@dataclass(frozen=True)
class Limits:
    """Limits of a request. ``form_bytes`` and ``picture_bytes`` limit the size of bodies without and with pictures,
    checked while reading; ``bodies_bytes`` limits all bodies that are being read at the same time. A body may take
    ``body_seconds``, and ``stalled_seconds`` until more of it comes. ``photos`` and
    ``finetune_steps`` are of one fine-tuning, ``finetunings`` the most that are kept of a key.
    """

    side: int = 2048
    pixels: int = 2048 * 2048
    count: int = 16
    steps: int = 150
    calls: int = 10_000
    text: int = 4000
    loras: int = 8
    previews: int = 8
    waiting: int = 256
    waiting_of_key: int = 64
    form_bytes: int = 1 << 17
    picture_bytes: int = 1 << 25
    bodies_bytes: int = 1 << 28
    body_seconds: float = 600.0
    stalled_seconds: float = 30.0
    seconds: float | None = None
    photos: int = 60
    finetune_steps: int = 3000
    finetunings: int = 20


@dataclass(frozen=True)
class Retention:
    """Ended jobs are deleted after ``seconds``, and the oldest ones while pictures take more than ``bytes``."""

    seconds: float = 30 * 86400
    bytes: int = 10 << 30


@dataclass(frozen=True)
class ServeSettings:
    """The settings of a server. ``models`` are names as for ``bimo draw -m``; the first is the default, and requests
    can name no others. ``batch`` is the most pictures in one call of a denoiser. ``load_options`` apply to every model;
    their ``memory`` also limits the weights of all loaded models together. Users can vote on the pictures of
    ``reports``, folders of `bimo eval`. More than one of ``workers`` draw in processes ``on`` this machine, any number
    in replicas on a Ray cluster; a single one in a thread of the server. With ``editions`` the bundled model that
    learned what a prompt asks for draws where a request names none; with ``finetuning`` the page may fine-tune.
    """

    models: tuple[str, ...]
    folder: Path
    loras: Path | None = None
    embeddings: Path | None = None
    controlnets: Path | None = None
    reports: tuple[Path, ...] = ()
    load_options: LoadOptions = DEFAULT
    batch: int = 16
    workers: int = 1
    on: Literal["processes", "ray"] = "processes"
    editions: bool = False
    finetuning: bool = False
    url_seconds: int = 3600
    limits: Limits = field(default_factory=Limits)
    retention: Retention = field(default_factory=Retention)
    filter_prompts: bool = False
    filter_pictures: bool = False
    words: Path | None = None
    audit_prompts: bool = False
    label: Label | None = None
    credentials: Credentials | None = None


def default_folder() -> Path:
    """The default folder of jobs and pictures: BIMO_SERVE, or one in the user's data folder."""
    if configured := os.environ.get("BIMO_SERVE"):
        return Path(configured)
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "bimo" / "serve"
