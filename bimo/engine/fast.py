"""Distilled adapters at the settings that their publishers say: LCM, Lightning, Turbo, Hyper, TCD as LoRA files.

Which it is is read off the file's name, as are the steps it was distilled for. Whatever a request says itself stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.messages import Listed
from bimo.core.request import Request
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.system import System


@dataclass(frozen=True)
class Distilled:
    """A kind: its steps where the file's name tells none, and the fields of a request. ``source`` says them."""

    steps: int
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    source: str = ""


#: Without guidance, but where a publisher says otherwise: it was distilled in. Scale 1 asks the given branch alone.
KINDS: dict[str, Distilled] = {
    # LCMScheduler, 4 steps, guidance 0 to 2; "guidance_scale=0" in the card's own example.
    "lcm": Distilled(4, {"sampler": "lcm"}, "latent-consistency/lcm-lora-sdv1-5, arXiv:2311.05556"),
    # EulerDiscreteScheduler with trailing times, guidance_scale=0.
    "lightning": Distilled(
        4, {"sampler": "euler", "spacing": "trailing"}, "ByteDance/SDXL-Lightning, arXiv:2402.13929"
    ),
    # EulerAncestralDiscreteScheduler with trailing times, guidance_scale=0.
    "turbo": Distilled(4, {"sampler": "euler-a", "spacing": "trailing"}, "stabilityai/sdxl-turbo, arXiv:2311.17042"),
    # DDIMScheduler with trailing times, guidance_scale=0; with one step TCDScheduler with eta 1.
    "hyper": Distilled(8, {"sampler": "ddim", "spacing": "trailing"}, "ByteDance/Hyper-SD, arXiv:2404.13686"),
    # TCDScheduler, guidance_scale=0, eta=0.3.
    "tcd": Distilled(4, {"sampler": "tcd", "eta": 0.3}, "h1t/TCD-SDXL-LoRA, arXiv:2402.19159"),
}
#: No guidance, by whatever number a system counts that.
UNGUIDED = 1.0
#: Hyper-SD's files that keep guidance ("8steps-CFG") say 5 to 8.
HYPER_GUIDANCE = 5.0
MAXIMUM_STEPS = 64


@dataclass(frozen=True)
class Fast:
    """A distilled adapter: its kind and what a request is to be, unless it says otherwise."""

    kind: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, file: Path) -> Fast:
        """By a file's name: "lcm-lora-sdv1-5.safetensors", "Hyper-SD15-4steps-lora.safetensors". Raises RequestError
        for a name that tells no kind.
        """
        name = file.stem.casefold()
        # Z-Image-Turbo and the like are models: of several words the last says what was distilled into the file.
        found = [(match.start(), kind) for kind in KINDS for match in re.finditer(kind, name)]
        if not found:
            raise RequestError(
                "--fast: the name of {file} tells no kind of {listed}; rename it so, or give it with --lora and its "
                "settings by hand",
                file=file,
                listed=Listed(list(KINDS)),
            )
        kind = max(found)[1]
        told = re.search(r"(\d+)[-_ ]?steps?", name)
        steps = int(told[1]) if told and 1 <= int(told[1]) <= MAXIMUM_STEPS else KINDS[kind].steps
        settings = {"steps": steps, "guidance": UNGUIDED, **KINDS[kind].sampling}
        if kind == "hyper" and "cfg" in name:
            settings["guidance"] = HYPER_GUIDANCE
        if kind == "hyper" and steps == 1:
            settings |= {"sampler": "tcd", "eta": 1.0}
            settings.pop("spacing")
        return cls(kind, settings)

    def filled(self, system: System, request: Request) -> Request:
        """A request with these settings where it leaves them open. A sampler is for systems whose noise has betas: of
        flow matching each keeps its own.
        """
        settings = dict(self.settings)
        level = system.level(system.recipe.levels[-1].name)
        if settings["guidance"] == UNGUIDED:
            settings["guidance"] = level.recipe.guidance.baseline_scale
        if not isinstance(level.schedule, Ddpm):
            settings = {name: settings[name] for name in ("steps", "guidance")}
        if request.sampler is not None:
            # Spacing and eta go with the sampler they were said of.
            settings = {name: settings[name] for name in ("steps", "guidance")}
        open_ = {name: value for name, value in settings.items() if getattr(request, name) is None}
        return request.model_copy(update=open_)
