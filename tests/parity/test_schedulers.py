"""Every scheduler that a folder can name draws as in diffusers' own pipeline, with every one of its settings, or is
refused by name; and samplers asked for by name take over what the folder's scheduler says.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch

from bimo.core.errors import RecipeError, RequestError
from bimo.diffusion.drive import draw
from bimo.diffusion.system import System
from bimo.parts.published.folder import Folder, read_folder
from bimo.parts.published.stable_diffusion import law
from tests.parity.tiny_checkpoints import checkpoint

#: diffusers warns of settings that its pipelines mend, and of those that do not go together.
pytestmark = pytest.mark.filterwarnings("ignore")

LAW = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schedulers") / "saved"
    checkpoint(folder, "clip", diffusers.EulerDiscreteScheduler(**LAW, steps_offset=1))
    return folder


@pytest.fixture(scope="module")
def system(place: Path) -> System:
    return read_folder(place)


@pytest.fixture(scope="module")
def parts(place: Path) -> dict[str, Any]:
    return dict(diffusers.StableDiffusionPipeline.from_pretrained(str(place), local_files_only=True).components)


def ours(system: System, place: Path, scheduler: dict[str, Any], **request: Any) -> numpy.ndarray:
    """The picture of bimo by what a folder says of its scheduler."""
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    system.level("image").schedule = law(Folder.at(place))
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
        law = LAW if "beta_schedule" in known else {}
        every: list[dict[str, Any]] = [{}]
        if "prediction_type" in known:
            every = [{"prediction_type": kind} for kind in ("epsilon", "v_prediction", "sample")]
        every += [{name: value} for name, values in SETTINGS.items() if name in known for value in values]
        if "rescale_betas_zero_snr" in known:
            zero = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
            every.append({**zero, "timestep_spacing": "trailing"})
        if "use_flow_sigmas" in known:
            every.append({"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"})
        for settings in every:
            told = ",".join(f"{n}={v if not isinstance(v, list) else '...'}" for n, v in settings.items())
            found.append(pytest.param(name, {**law, **settings}, id=f"{name}-{told}"))
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
def test_a_scheduler_of_other_models_is_refused_by_name(place: Path, name: str) -> None:
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(RecipeError, match=name):
        law(Folder.at(place))
