"""Distilled LoRAs with their publishers' sampling settings: LCM, Lightning, Turbo, Hyper-SD, TCD, and others by steps.

The kind and the number of steps are read from the file name. Settings that a request has of its own take precedence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import RequestError
from bimo.core.messages import Listed
from bimo.core.request import Request
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.schedules.schedule import Schedule
from bimo.diffusion.system import System


@dataclass(frozen=True)
class Distilled:
    """One kind of distillation: default steps, request fields, and the ``source`` of both."""

    steps: int
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    source: str = ""


#: Guidance was distilled into the weights, so drawing is without it unless the publisher says otherwise.
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
    # Files for flow-matching models (Z-Image's, Qwen-Image's) from several publishers: the steps are those in the name,
    # 8 by default, without guidance. Not verified for any of them.
    "distill": Distilled(8, {}, "names of files, not verified"),
}
#: The timestep shift for which flow-matching LoRAs were distilled, instead of the model's own, by kind and denoiser.
#: That of Qwen-Image-Lightning is from its authors' scheduler config as in diffusers' documentation: base_shift =
#: max_shift = log 3, without shift_terminal, for every size.
SHIFTS = {("lightning", "QwenImageTransformer2DModel"): 3.0}
#: Stands for "no guidance", and is replaced by the system's ``baseline_scale``.
UNGUIDED = 1.0
#: For Hyper-SD's files that keep guidance ("8steps-CFG") the publisher recommends 5 to 8.
HYPER_GUIDANCE = 5.0
MAXIMUM_STEPS = 64


@dataclass(frozen=True)
class Fast:
    """A distilled LoRA: its kind, and the defaults of a request's fields."""

    kind: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, file: Path) -> Fast:
        """From a file name: "lcm-lora-sdv1-5.safetensors", "Hyper-SD15-4steps-lora.safetensors". Raises RequestError
        if the name contains no known kind.
        """
        name = file.stem.casefold()
        # A name may also contain its base model's, such as Z-Image-Turbo: the last kind in it counts.
        mentions = [(match.start(), kind) for kind in KINDS for match in re.finditer(kind, name)]
        if not mentions:
            raise RequestError(
                "--fast: the name of {file} tells no kind of {listed}; rename it so, or give it with --lora and its "
                "settings by hand",
                file=file,
                listed=Listed(list(KINDS)),
            )
        kind = max(mentions)[1]
        named_steps = re.search(r"(\d+)[-_ ]?steps?", name)
        steps = int(named_steps[1]) if named_steps and 1 <= int(named_steps[1]) <= MAXIMUM_STEPS else KINDS[kind].steps
        settings = {"steps": steps, "guidance": UNGUIDED, **KINDS[kind].sampling}
        if kind == "hyper" and "cfg" in name:
            settings["guidance"] = HYPER_GUIDANCE
        if kind == "hyper" and steps == 1:
            settings |= {"sampler": "tcd", "eta": 1.0}
            settings.pop("spacing")
        return cls(kind, settings)

    def filled(self, system: System, request: Request) -> Request:
        """Fills in the fields that a request leaves unset. Sampler settings are for DDPM schedules only; flow-matching
        systems keep their own. Raises RequestError if a DDPM schedule needs one that the kind does not have.
        """
        settings = dict(self.settings)
        level = system.level(system.recipe.levels[-1].name)
        if settings["guidance"] == UNGUIDED:
            settings["guidance"] = level.recipe.guidance.baseline_scale
        if isinstance(level.schedule, Ddpm) and not KINDS[self.kind].sampling:
            raise RequestError(
                "--fast: a file of the kind {kind} is for systems of flow matching, and {name} needs a sampler that "
                "its name does not tell; give it with --lora and its settings by hand",
                kind=self.kind,
                name=system.recipe.name,
            )
        if not isinstance(level.schedule, Ddpm):
            settings = {name: settings[name] for name in ("steps", "guidance")}
        if request.sampler is not None:
            # Spacing and eta belong to the publisher's sampler and are dropped with it.
            settings = {name: settings[name] for name in ("steps", "guidance")}
        unset = {name: value for name, value in settings.items() if getattr(request, name) is None}
        return request.model_copy(update=unset)

    def set_shift(self, system: System) -> None:
        """Sets the last level's shift of a flow-matching system to that for which this adapter was distilled, if its
        publisher states another than the system's own.
        """
        *earlier, last = system.recipe.levels
        built = system.level(last.name)
        shift = SHIFTS.get((self.kind, type(built.denoiser.network).__name__))
        if shift is None or not isinstance(last.schedule, Flow):
            return
        level = replace(last, schedule=replace(last.schedule, shift=shift, dynamic="", terminal=0.0))
        system.recipe = replace(system.recipe, levels=(*earlier, level))
        built.recipe, built.schedule = level, cast(Schedule, level.schedule)
