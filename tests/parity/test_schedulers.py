"""Every scheduler that a folder can name draws as in diffusers' own pipeline, with every one of its settings, or is
refused by name; and samplers asked for by name take over what the folder's scheduler says.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy
import pytest
import torch

from bimo.core.errors import RecipeError, RequestError
from bimo.core.picture import read_metadata
from bimo.diffusion.preparation import prepare
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import Folder, read_folder
from bimo.models.stable_diffusion.layout import schedule_of
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import checkpoint

#: diffusers warns of settings that its pipelines mend, and of those that do not go together.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
REQUEST = {"text": "a red cat", "negative": "apple", "seed": 3, "guidance": 5.0, "size": (64, 64)}
CLASSES = sorted(
    name
    for name, cls in inspect.getmembers(diffusers.schedulers, inspect.isclass)
    if issubclass(cls, diffusers.SchedulerMixin) and cls is not diffusers.SchedulerMixin
)
#: The settings of schedulers that change what is drawn, each with a value that is not the default.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "steps_offset": (2,),
    "use_karras_sigmas": (True,),
    "use_exponential_sigmas": (True,),
    "use_beta_sigmas": (True,),
    "use_lu_lambdas": (True,),
    "set_alpha_to_one": (False,),
    "final_sigmas_type": ("sigma_min",),
    "rescale_betas_zero_snr": (True,),
    "trained_betas": ([0.0001 + 0.00002 * i for i in range(1000)],),
    "beta_schedule": ("squaredcos_cap_v2",),
    "solver_order": (3,),
    "solver_type": ("heun", "bh1"),
    "algorithm_type": ("sde-dpmsolver++",),
    "euler_at_final": (True,),
    "lower_order_final": (False,),
    "skip_prk_steps": (True,),
    "interpolation_type": ("log_linear",),
    "timestep_type": ("continuous",),
    "thresholding": (True,),
    "clip_sample": (True,),
    "variance_type": ("fixed_large",),
    "original_inference_steps": (20,),
    "timestep_scaling": (5.0,),
    "predictor_order": (3,),
    "corrector_order": (1,),
    "predict_x0": (False,),
    "disable_corrector": ([0, 1],),
    "use_flow_sigmas": (True,),
    "sigma_schedule": ("exponential",),
    "sigma_data": (0.7,),
    "sigma_min": (0.05,),
    "rho": (5.0,),
}
#: Of no use for the latents of Stable Diffusion and its kin: they are refused, not drawn wrong.
REFUSED = {
    *("AmusedScheduler", "BlockRefinementScheduler", "CogVideoXDPMScheduler"),
    *("DDPMWuerstchenScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler", "FlowMapEulerDiscreteScheduler"),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"),
    *("HeliosDMDScheduler", "HeliosScheduler", "KarrasVeScheduler", "LTXEulerAncestralRFScheduler"),
    *("MiniMaxH3Scheduler", "PiflowScheduler", "RFD4ProteinaScheduler", "RePaintScheduler", "ScoreSdeVeScheduler"),
    *("ScoreSdeVpScheduler", "UnCLIPScheduler", "VQDiffusionScheduler"),
}


@pytest.fixture(scope="module", autouse=True)
def _few_training_steps() -> Iterator[None]:
    """KDPM2 works out a thousand steps in Python as it is made, which ``set_timesteps`` throws away: here, ten."""
    with pytest.MonkeyPatch.context() as patch:
        for cls in (diffusers.KDPM2DiscreteScheduler, diffusers.KDPM2AncestralDiscreteScheduler):
            plain: Any = cls.set_timesteps

            def few(self: Any, num_inference_steps: int, *given: Any, plain: Any = plain, **named: Any) -> None:
                constructed = given == (None, num_inference_steps)
                plain(self, 10 if constructed else num_inference_steps, *given, **named)

            patch.setattr(cls, "set_timesteps", few)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schedulers") / "saved"
    # One level of channels: a denoiser as small as can be, which the text still moves.
    checkpoint(folder, "clip", diffusers.EulerDiscreteScheduler(**SCHEDULE, steps_offset=1), channels=(8,))
    return folder


@pytest.fixture(scope="module")
def system(place: Path) -> System:
    return read_folder(place)


@pytest.fixture(scope="module")
def parts(system: System, place: Path) -> dict[str, Any]:
    scheduler = {"_class_name": "EulerDiscreteScheduler", **SCHEDULE, "steps_offset": 1}
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return dict(diffusers.StableDiffusionPipeline.from_pretrained(str(place), local_files_only=True).components)


def ours(system: System, place: Path, scheduler: dict[str, Any], **request: Any) -> numpy.ndarray:
    """The picture of bimo by what a folder says of its scheduler."""
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    system.level("image").schedule = schedule_of(Folder.at(place))
    (picture,) = draw(system, {**REQUEST, "steps": 4, **request})
    return numpy.asarray(picture.image).astype(int)


def theirs(parts: dict[str, Any], scheduler: Any, seed: int = 3, **settings: Any) -> numpy.ndarray:
    """The picture of diffusers' own pipeline."""
    pipeline = diffusers.StableDiffusionPipeline(**{**parts, "scheduler": scheduler}, requires_safety_checker=False)
    return drawn_by(pipeline, seed, **settings)


def drawn_by(pipeline: Any, seed: int = 3, **settings: Any) -> numpy.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    told = {"num_inference_steps": 4, "guidance_scale": 5.0, "negative_prompt": "apple", **settings}
    image = pipeline("a red cat", width=64, height=64, generator=torch.Generator().manual_seed(seed), **told).images[0]
    return numpy.asarray(image).astype(int)


def same(found: numpy.ndarray, expected: numpy.ndarray) -> None:
    assert numpy.abs(found - expected).max() <= 1
    assert expected.std() > 5  # a flat picture would prove nothing


def cases() -> list[Any]:
    """(class, settings) of everything that its constructor takes: each prediction, each setting by itself."""
    found: list[Any] = []
    for name in CLASSES:
        if name in REFUSED or not hasattr(diffusers, name):
            continue
        cls: Any = getattr(diffusers, name)
        known = inspect.signature(cls.__init__).parameters
        schedule = SCHEDULE if "beta_schedule" in known else {}
        every: list[dict[str, Any]] = [{}]
        if "prediction_type" in known:
            every = [{"prediction_type": kind} for kind in ("epsilon", "v_prediction", "sample")]
        every += [{name: value} for name, values in SETTINGS.items() if name in known for value in values]
        if name == "IPNDMScheduler":
            every = [{}]  # with betas of its own it takes a thousand steps, whatever was asked
        if "rescale_betas_zero_snr" in known:
            zero = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
            every.append({**zero, "timestep_spacing": "trailing"})
        if "use_flow_sigmas" in known:
            every.append({"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"})
        for number, settings in enumerate(every):
            summary = ",".join(f"{n}={v if not isinstance(v, list) else '...'}" for n, v in settings.items())
            # While writing, each class as it comes is enough.
            marks = (pytest.mark.slow,) * (number > 0)
            found.append(pytest.param(name, {**schedule, **settings}, id=f"{name}-{summary}", marks=marks))
    return found


@pytest.mark.parametrize(("name", "settings"), cases())
def test_a_folder_with_it_draws_as_its_pipeline(
    system: System, place: Path, parts: dict[str, Any], name: str, settings: dict[str, Any]
) -> None:
    cls: Any = getattr(diffusers, name)
    said = {"_class_name": name, **settings}
    if name == "DPMSolverSDEScheduler":
        settings = {**settings, "noise_sampler_seed": REQUEST["seed"]}  # where it is not said, diffusers draws it anew
    steps = 2 if name == "SCMScheduler" else 4
    try:
        expected = theirs(parts, cls(**settings), num_inference_steps=steps)
    except Exception:  # diffusers cannot draw by it: then bimo says so, by its name
        with pytest.raises((RecipeError, RequestError), match=name):
            ours(system, place, said, steps=steps)
        return
    found = ours(system, place, said, steps=steps)
    assert numpy.abs(found - expected).max() <= 1


@pytest.mark.parametrize("name", sorted(REFUSED | {name for name in CLASSES if not hasattr(diffusers, name)}))
def test_a_scheduler_of_other_models_is_refused_by_name(tmp_path: Path, name: str) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", name]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(RecipeError, match=name):
        schedule_of(Folder.at(tmp_path))


#: What people type, and what it is in diffusers by its own table of AUTOMATIC1111's names: a class and settings.
TYPED: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "euler_A": ("EulerAncestralDiscreteScheduler", {}),
    "LMS Karras": ("LMSDiscreteScheduler", {"use_karras_sigmas": True}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a Karras": ("KDPM2AncestralDiscreteScheduler", {"use_karras_sigmas": True}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm++_2m-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "k_dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "k_dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2M SDE Karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "DPM++ 2M SDE Exponential": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": True},
    ),
    "DPM++ SDE": ("DPMSolverSDEScheduler", {"noise_sampler_seed": 3}),
    "DPM++ SDE Karras": ("DPMSolverSDEScheduler", {"noise_sampler_seed": 3, "use_karras_sigmas": True}),
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
    "EulerDiscreteScheduler": ("EulerDiscreteScheduler", {}),
    "dpmsolver multistep scheduler": ("DPMSolverMultistepScheduler", {}),
    "DPMSolverSinglestepScheduler": ("DPMSolverSinglestepScheduler", {}),
    "SASolver": ("SASolverScheduler", {}),
}
#: Folders by what their scheduler says, each with something that a named sampler has to take over.
FOLDERS: dict[str, dict[str, Any]] = {
    "leading": {"_class_name": "EulerDiscreteScheduler", **SCHEDULE, "timestep_spacing": "leading", "steps_offset": 1},
    "lightning": {
        "_class_name": "EulerDiscreteScheduler",
        **SCHEDULE,
        "timestep_spacing": "trailing",
        "steps_offset": 0,
    },
    "v": {
        "_class_name": "DDIMScheduler",
        **SCHEDULE,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "clip_sample": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
    "zero terminal": {
        "_class_name": "EulerDiscreteScheduler",
        **SCHEDULE,
        "prediction_type": "v_prediction",
        "steps_offset": 1,
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "use_karras_sigmas": False,
    },
    "sde": {
        "_class_name": "DPMSolverMultistepScheduler",
        **SCHEDULE,
        "algorithm_type": "sde-dpmsolver++",
        "solver_order": 2,
        "use_karras_sigmas": True,
        "final_sigmas_type": "sigma_min",
        "steps_offset": 1,
    },
}
NAMED = [("leading", name) for name in TYPED] + [
    (folder, name)
    for folder in ("lightning", "v", "zero terminal", "sde")
    for name in ("Euler", "DDIM", "DPM++ 2M", "UniPC", "Euler a")
    if (folder, name) != ("sde", "Euler a")
]


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "name"), NAMED)
def test_a_named_sampler_takes_over_what_the_folder_says(
    system: System, place: Path, parts: dict[str, Any], folder: str, name: str
) -> None:
    """As diffusers' ``from_config``, which is what its users write to exchange a scheduler."""
    said = FOLDERS[folder]
    own = getattr(diffusers, str(said["_class_name"])).from_config(said)
    cls, settings = TYPED[name]
    if cls == "DPMSolverMultistepScheduler":
        settings = {"algorithm_type": "dpmsolver++", **settings}
    settings = {n: v for n, v in settings.items() if n not in said or n == "algorithm_type"}
    other = getattr(diffusers, cls).from_config(own.config, **settings)
    pipeline = diffusers.StableDiffusionPipeline(**{**parts, "scheduler": own}, requires_safety_checker=False)
    pipeline.scheduler = other
    same(ours(system, place, said, sampler=name), drawn_by(pipeline))


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"sampler": "euler", "schedule": "Karras"}, {"use_karras_sigmas": True}),
        ({"sampler": "euler", "schedule": "exponential"}, {"use_exponential_sigmas": True}),
        ({"sampler": "euler", "schedule": "beta"}, {"use_beta_sigmas": True}),
        ({"sampler": "euler", "schedule": "SGM Uniform"}, {"timestep_spacing": "trailing"}),
        ({"sampler": "euler", "spacing": "linspace"}, {"timestep_spacing": "linspace"}),
        ({"sampler": "DPM++ 2M", "schedule": "lu"}, {"use_lu_lambdas": True}),
        ({"schedule": "karras", "spacing": "trailing"}, {"use_karras_sigmas": True, "timestep_spacing": "trailing"}),
        ({}, {}),
    ],
)
def test_schedule_and_spacing_are_settings_of_diffusers(
    system: System, place: Path, parts: dict[str, Any], options: dict[str, Any], settings: dict[str, Any]
) -> None:
    said = FOLDERS["leading"]
    cls: Any = diffusers.DPMSolverMultistepScheduler if "DPM" in options.get("sampler", "") else None
    scheduler = (cls or diffusers.EulerDiscreteScheduler).from_config({**said, **settings})
    same(ours(system, place, said, **options), theirs(parts, scheduler))


def test_normal_turns_off_what_the_folder_says(system: System, place: Path, parts: dict[str, Any]) -> None:
    said = {**FOLDERS["leading"], "use_karras_sigmas": True}
    plain = diffusers.EulerDiscreteScheduler.from_config({**said, "use_karras_sigmas": False})
    same(ours(system, place, said, schedule="normal"), theirs(parts, plain))


@pytest.mark.parametrize("name", ["DDIM", "TCD"])
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_eta_is_that_of_the_pipeline(system: System, place: Path, parts: dict[str, Any], name: str, eta: float) -> None:
    said = {**FOLDERS["leading"], "clip_sample": False}
    scheduler = getattr(diffusers, TYPED[name][0]).from_config(said)
    same(ours(system, place, said, sampler=name, eta=eta), theirs(parts, scheduler, eta=eta))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"sampler": "DPM+ 2M Karas"}, "did you mean"),
        ({"sampler": "FlowMatchEulerDiscreteScheduler"}, "does not go with the noise of this system; there is ddim,"),
        ({"sampler": "DDIM", "schedule": "karras"}, "ddim has no schedule 'karras'; those that have are euler,"),
        ({"sampler": "DPM++ 2S", "spacing": "trailing"}, "has no spacing 'trailing'"),
        ({"sampler": "Euler Karras", "schedule": "beta"}, "say one of them"),
        ({"schedule": "karas"}, "did you mean karras"),
        ({"spacing": "trail"}, "did you mean trailing"),
        ({"sampler": "euler", "eta": 0.5}, "has no eta; those that have are ddim, tcd"),
        ({"eta": 1.5}, "expected a number from 0 to 1"),
        ({"guidance_rescale": float("nan")}, "expected a number from 0 to 1"),
        ({"sampler": "lcm", "steps": 51}, "the sampler lcm cannot take 51 steps"),
        ({"clip_skip": 0}, "expected 1 to"),
        ({"clip_skip": 9}, "allows 1 to 2"),
    ],
)
def test_what_a_sampler_cannot_do_is_a_sentence(
    system: System, place: Path, request_: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    with pytest.raises(RequestError) as raised:
        ours(system, place, FOLDERS["leading"], **request_)
    assert message in raised.value.en


@pytest.mark.parametrize(
    ("spacing", "steps", "told"),
    [("leading", 1, True), ("trailing", 1, False), (None, 1, True), (None, 6, True), (None, 7, False)],
)
def test_steps_that_begin_at_too_little_noise_are_reported(
    system: System, place: Path, spacing: str | None, steps: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turbo and Lightning take few steps: leading times then begin far from the noise that is drawn."""
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(FOLDERS["leading"]))
    system.level("image").schedule = schedule_of(Folder.at(place))
    warnings = prepare(system, {**REQUEST, "steps": steps, "spacing": spacing}).warnings
    assert any("--spacing trailing" in warning for warning in warnings) == told


def test_records_hold_the_names_and_draw_again(system: System, place: Path, tmp_path: Path) -> None:
    ours(system, place, FOLDERS["leading"])
    fields = {"sampler": "DPM++ SDE Karras", "spacing": "Trailing", "clip_skip": 2, "guidance_rescale": 0.5}
    (picture,) = draw(system, {**REQUEST, "steps": 3, **fields})
    record = read_metadata(picture.save(tmp_path / "drawn.png"))["request"]
    assert {name: record[name] for name in ("sampler", "schedule", *fields)} == {
        "sampler": "dpm-solver-sde",
        "schedule": "karras",
        "spacing": "trailing",
        "clip_skip": 2,
        "guidance_rescale": 0.5,
    }
    assert draw(system, record)[0].png() == picture.png()
    (other,) = draw(system, {**REQUEST, "steps": 3, **fields, "seed": 4})
    assert other.png() != picture.png()


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_is_counted_as_a1111_does(
    system: System, place: Path, parts: dict[str, Any], skip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 is the last layer; diffusers' clip_skip is one less."""
    said = FOLDERS["leading"]
    # The pipeline looks for the norm where it was before transformers 5.
    norm = parts["text_encoder"].final_layer_norm
    monkeypatch.setattr(parts["text_encoder"], "text_model", SimpleNamespace(final_layer_norm=norm), raising=False)
    scheduler = diffusers.EulerDiscreteScheduler.from_config(said)
    found = ours(system, place, said, clip_skip=skip)
    same(found, theirs(parts, scheduler, clip_skip=skip - 1))
    assert (numpy.abs(found - ours(system, place, said)).max() > 3) == (skip > 1)


def test_guidance_rescale_is_that_of_the_pipeline(system: System, place: Path, parts: dict[str, Any]) -> None:
    said = FOLDERS["leading"]
    scheduler = diffusers.EulerDiscreteScheduler.from_config(said)
    found = ours(system, place, said, guidance_rescale=0.7)
    same(found, theirs(parts, scheduler, guidance_rescale=0.7))
    assert numpy.abs(found - ours(system, place, said)).max() > 3
