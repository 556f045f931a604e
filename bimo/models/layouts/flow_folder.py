"""Shared by the readers of folders with a flow-matching transformer and one language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bimo.core.messages import Message, say
from bimo.core.part import Part
from bimo.core.recipe import Defaults, Level, Recipe
from bimo.diffusion.schedules.flow import Flow
from bimo.models.layouts.configs import Config, defaults_of, plain, read_json
from bimo.models.layouts.diffusers_folder import Filling, Folder, Reading
from bimo.models.layouts.language_model import text_name
from bimo.models.layouts.schedulers import demand_flow_steps, scheduler_class
from bimo.models.stable_diffusion.layout import latent, vae_name
from bimo.models.text_encoders.language_model import LanguageModel

LEVEL = "image"
STEPS = 50
#: Further settings of FlowMatchEulerDiscreteScheduler, which are passed to the sampler unchanged.
FLOW_SETTINGS = (
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)


def reading_with(
    folder: Folder, name: str, why: Message, encoder: LanguageModel, level: Level, request: Defaults
) -> Reading:
    """The reading of a folder with components text_encoder, transformer, vae and tokenizer, for a recipe with one text
    encoder and one level; ``why`` is the reason for this recipe, for users.
    """
    recipe = Recipe(
        name=name,
        languages=("zh", "en"),
        text_encoders=(encoder,),
        levels=(level,),
        request=request,
        dtypes=("bf16",),
        note=say(why),
    )
    fillings = (
        Filling("text_encoder", "text.0.model", text_name),
        Filling("transformer", "image.denoiser.model"),
        Filling("vae", "image.space.model", vae_name),
    )
    return Reading(recipe, fillings, ("tokenizer",))


def denoiser(folder: Folder, cls: str, part: type[Part], own: Mapping[str, str], **known: Any) -> Any:
    """A transformer's part by its config; ``own`` maps the part's fields to the config's. Raises RecipeError for other
    fields.

    ``known`` are fields of the config with their only supported value.
    """
    import diffusers

    folder.demand("transformer", "diffusers", (cls,))
    defaults = {**defaults_of(getattr(diffusers, cls)), **known}
    read = folder.config("transformer").of(defaults, own.values(), ())
    return part(**{name: read[field] for name, field in own.items()})


def flux_space(folder: Folder) -> Part:
    """The space of a folder with an AutoencoderKL. Raises RecipeError."""
    folder.demand("vae", "diffusers", ("AutoencoderKL",))
    return latent(folder.config("vae"), ("shift",))


def flow_schedule(folder: Folder, own_sigmas: bool = False, **grid: Any) -> Flow:
    """The schedule of a folder's scheduler, FlowMatchEulerDiscreteScheduler or another that its pipeline supports; with
    ``own_sigmas`` the pipeline leaves the timesteps to a scheduler with ``use_flow_sigmas``. Raises RecipeError.
    """
    path = folder.path / "scheduler" / "scheduler_config.json"
    config = Config(path, read_json(path))
    name = str(config.fields.get("_class_name", folder.classes.get("scheduler", ("", ""))[1]))
    cls = scheduler_class(path, name)
    own = {
        "shift": "shift",
        "dynamic": "use_dynamic_shifting",
        "curve": "time_shift_type",
        "base_length": "base_image_seq_len",
        "max_length": "max_image_seq_len",
        "base_shift": "base_shift",
        "max_shift": "max_shift",
        "terminal": "shift_terminal",
    }
    grid = {"grid": "even", **grid}
    if name == "FlowMatchEulerDiscreteScheduler":
        defaults = defaults_of(cls)
        read = config.of(defaults, (*own.values(), *FLOW_SETTINGS), ())
        settings = {n: read[n] for n in FLOW_SETTINGS if read[n] != defaults[n]}
    else:
        settings = {n: plain(v) for n, v in config.fields.items() if not n.startswith("_")}
        # The pipelines' default; flow_shift is a setting of the solver.
        low, high = (0.25, 0.75) if grid.get("dynamic") == "root" else (0.5, 1.15)
        silent = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": low, "max_shift": high}
        silent |= {
            "shift": 1.0,
            "use_dynamic_shifting": False,
            "time_shift_type": "exponential",
            "shift_terminal": None,
        }
        read = {**silent, **defaults_of(cls), **settings}
        if own_sigmas and read.get("use_flow_sigmas"):
            grid["grid"] = "own"
    if settings or name != "FlowMatchEulerDiscreteScheduler":
        settings = {"_class_name": name, **settings}
        demand_flow_steps(path, cls, settings, str(grid["grid"]))
    fields: dict[str, Any] = {field: read[theirs] for field, theirs in own.items()}
    kind = grid.pop("dynamic", "line")
    fields["dynamic"] = kind if fields["dynamic"] else ""
    return Flow(**{**fields, "terminal": fields["terminal"] or 0.0}, **grid, config=settings)
