"""Every family in every form that its weights are stored in: read to the bit as what diffusers saved, or refused by
name. That the plain form draws as diffusers does is held by each family's own tests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bimo.core.errors import WeightsError
from bimo.diffusion.system import System
from bimo.models.layouts import weight_files
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.pipelines import FAMILIES as READERS
from bimo.models.layouts.pipelines import family_of, other_task
from bimo.models.layouts.weight_files import files_of
from tests.support.families import FAMILIES
from tests.support.tiny_checkpoints import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(folder as its library saved it, the system that is read of it) by family, made when first asked for."""
    made: dict[str, tuple[Path, System]] = {}

    def place(family: str) -> tuple[Path, System]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family) / "saved"
            FAMILIES[family][1](folder)
            made[family] = folder, read_folder(folder)
        return made[family]

    return place


def whole(name: str, save: Callable[[State, Path], None]) -> Callable[[Path, State, str], None]:
    return lambda folder, state, stem: save(state, folder / name.format(stem=stem))


def shards(name: str, index: str, save: Callable[[State, Path], None]) -> Callable[[Path, State, str], None]:
    """Two files and, unless "", an index of them."""

    def write(folder: Path, state: State, stem: str) -> None:
        table: dict[str, str] = {}
        for part, names in enumerate((list(state)[::2], list(state)[1::2]), start=1):
            file = name.format(stem=stem, part=f"{part:05d}-of-00002")
            save({n: state[n] for n in names}, folder / file)
            table |= dict.fromkeys(names, file)
        if index:
            settings = {"metadata": {"total_size": 0}, "weight_map": table}
            (folder / index.format(stem=stem)).write_text(json.dumps(settings))

    return write


def pickled(state: State, path: Path) -> None:
    torch.save(state, path)


def halved(save: Callable[[State, Path], None]) -> Callable[[State, Path], None]:
    return lambda state, path: save({n: v.half() if v.is_floating_point() else v for n, v in state.items()}, path)


def other(state: State, path: Path) -> None:
    """What is not to be read."""
    save_file({name: torch.zeros_like(value) for name, value in state.items()}, path)


def both(first: Callable[[Path, State, str], None], second: Callable[[Path, State, str], None]) -> Any:
    def write(folder: Path, state: State, stem: str) -> None:
        first(folder, state, stem)
        second(folder, state, stem)

    return write


OLD = "{stem}-{part}.fp16.safetensors"
#: How the libraries store a part's weights: what writes it, and whether its numbers are halved.
FORMS: dict[str, tuple[Callable[[Path, State, str], None], bool]] = {
    "pickle": (whole("{stem}.bin", pickled), False),
    "upper case": (whole("{stem}.SAFETENSORS", save_file), False),
    "shards": (shards("{stem}-{part}.safetensors", "{stem}.safetensors.index.json", save_file), False),
    "shards without an index": (shards("{stem}-{part}.safetensors", "", save_file), False),
    "pickled shards": (shards("{stem}-{part}.bin", "{stem}.bin.index.json", pickled), False),
    "fp16": (whole("{stem}.fp16.safetensors", halved(save_file)), True),
    "pickled fp16": (whole("{stem}.fp16.bin", halved(pickled)), True),
    "fp16 shards": (
        shards("{stem}.fp16-{part}.safetensors", "{stem}.safetensors.index.fp16.json", halved(save_file)),
        True,
    ),
    "fp16 shards of before": (shards(OLD, "{stem}.safetensors.index.fp16.json", halved(save_file)), True),
    "plain beside fp16": (
        both(whole("{stem}.fp16.safetensors", other), whole("{stem}.safetensors", save_file)),
        False,
    ),
    "pickle beside fp16": (both(whole("{stem}.fp16.safetensors", other), whole("{stem}.bin", pickled)), False),
    "fp16 beside an index of nothing": (
        both(
            whole("{stem}.fp16.safetensors", halved(save_file)),
            lambda folder, state, stem: (
                (folder / f"{stem}.safetensors.index.json").write_text(
                    json.dumps({"weight_map": dict.fromkeys(state, "gone-00001-of-00009.safetensors")})
                )
                and None
            ),
        ),
        True,
    ),
    "fp16 beside a pointer": (
        both(
            whole("{stem}.fp16.safetensors", halved(save_file)),
            whole("{stem}.safetensors", lambda _, path: path.write_text(POINTER) and None),
        ),
        True,
    ),
}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 99\n"


def stored(source: Path, target: Path, form: str, only: str = "") -> Path:
    """A folder with the weights of its parts, or of one, in another form."""
    shutil.copytree(source, target)
    for place in sorted(path for path in target.iterdir() if path.is_dir()):
        files = [*place.glob("*.safetensors")]
        if not files or (only and place.name != only):
            continue
        state = {name: value for file in files for name, value in load_file(file).items()}
        stem = files[0].name.split(".")[0].split("-0")[0]
        for file in (*files, *place.glob("*.index.json")):
            file.unlink()
        pickles = "bin" in form or "pickle" in form
        named = "pytorch_model" if stem == "model" and pickles else stem
        FORMS[form][0](place, state, named)
    return target


#: Of these every form is read: of a UNet and of a transformer. Of the others every form is read by some family, and
#: every family in several forms: what reads a form does not know the family.
EVERY_FORM = ("stable-diffusion", "z_image")
READ = [
    pytest.param(family, form, marks=(pytest.mark.slow,) * (family not in EVERY_FORM))
    for number, family in enumerate(FAMILIES)
    for position, form in enumerate(FORMS)
    if family in EVERY_FORM or (number + position) % 4 == 0
]


@pytest.mark.parametrize(("family", "form"), READ)
def test_a_form_is_read_to_the_bit(places: Any, tmp_path: Path, family: str, form: str) -> None:
    folder, plain = places(family)
    system = read_folder(stored(folder, tmp_path / "other", form))
    found, expected = system.state_dict(), plain.state_dict()
    assert found.keys() == expected.keys()
    half = FORMS[form][1]
    for name, value in expected.items():
        assert torch.equal(found[name], value.half().float() if half and value.is_floating_point() else value), name
    assert system.recipe.levels == plain.recipe.levels
    assert ("fp16" in system.recipe.note) == half


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_may_be_stored_each_in_its_own_way(places: Any, tmp_path: Path, family: str) -> None:
    folder, plain = places(family)
    found = read_folder(stored(folder, tmp_path / "other", "fp16 shards", "vae")).state_dict()
    for name, value in plain.state_dict().items():
        of_vae = ".space.model." in name
        assert torch.equal(found[name], value.half().float() if of_vae else value), name


@pytest.mark.slow
@pytest.mark.parametrize("variant", [None, "fp16", "bf16", "own"])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("safe", [False, True])
def test_what_diffusers_writes_itself(tmp_path: Path, variant: str | None, sharded: bool, safe: bool) -> None:
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    pipeline: Any = checkpoint(tmp_path / "plain", "clip", diffusers.DDIMScheduler(**schedule, clip_sample=False))
    more: dict[str, Any] = {"max_shard_size": "20KB"} if sharded else {}
    pipeline.save_pretrained(str(tmp_path / "other"), variant=variant, safe_serialization=safe, **more)
    if sharded:
        assert len(files_of(tmp_path / "other" / "unet")) > 1
    expected = read_folder(tmp_path / "plain").state_dict()
    found = read_folder(tmp_path / "other").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    kinds = {weight_files.variant_of(tmp_path / "other" / part) for part in ("unet", "vae", "text_encoder")}
    assert kinds == {variant or ""}


BROKEN: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a shard that is not there": (
        "fp16 shards",
        lambda unet: next(unet.glob("*-00002-of-*")).unlink(),
        r"index\.fp16\.json lists are missing: .*-00002-of-00002",
    ),
    "a shard without an index that is not there": (
        "shards without an index",
        lambda unet: next(unet.glob("*-00001-of-*")).unlink(),
        r"are missing: .*\(1\)",
    ),
    "nothing": ("fp16", lambda unet: next(unet.glob("*.fp16.*")).unlink(), "no weights in .*unet.*fp16"),
    "pointers alone": (
        "shards",
        lambda unet: [file.write_text(POINTER) for file in unet.glob("*-of-*")] and None,
        "git LFS's pointer .* of 99 bytes",
    ),
    "half a variant": (
        "fp16",
        lambda unet: [f.write_bytes(f.read_bytes()[:-99]) for f in unet.glob("*.fp16.*")] and None,
        r"fp16\.safetensors: it is cut off",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("family", ["stable-diffusion", "kolors", "z_image"])
def test_what_is_not_whole_is_named(places: Any, tmp_path: Path, family: str, case: str) -> None:
    form, spoil, output = BROKEN[case]
    folder = stored(places(family)[0], tmp_path / "bad", form)
    part = folder / ("unet" if (folder / "unet").is_dir() else "transformer")
    spoil(part)
    with pytest.raises(WeightsError, match=output.replace("unet", part.name)):
        read_folder(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_pipelines_of_other_purposes_are_read_as_their_family(
    places: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Every class of diffusers with the same parts; what it loads besides is named."""
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    folder, _ = places(family)
    base = FAMILIES[family][0]
    expected = places(family)[1].recipe
    path = tmp_path / "other"
    shutil.copytree(folder, path, ignore=shutil.ignore_patterns("*.safetensors"))
    index = json.loads((path / "model_index.json").read_text())
    stem = base.removesuffix("Pipeline")
    names = {f"{stem}{word}Pipeline" for word in ("Img2Img", "Inpaint", "ControlNet", "PAG", "ControlNetInpaint")}
    names |= {name for name in dir(diffusers) if family_of(name) == base}
    for name in sorted(names - {base}):
        beside = {"controlnet": ["diffusers", "ControlNetModel"]} if "ControlNet" in name else {}
        (path / "model_index.json").write_text(json.dumps({**index, "_class_name": name, **beside}))
        found = recipe_of(path)
        assert found.text_encoders == expected.text_encoders
        assert (found.levels, found.request) == (expected.levels, expected.request)
        assert name in found.note
        assert ("controlnet" in found.note) == bool(beside)


def test_every_pipeline_of_these_families_is_drawn_or_refused_with_its_reason() -> None:
    """Of the pinned diffusers, whose newer classes are to be looked at."""
    stems = {name.removesuffix("Pipeline") for name in READERS}
    named = [n for n in dir(diffusers) if n.endswith("Pipeline") and any(n.startswith(stem) for stem in stems)]
    named = [name for name in named if not name.startswith("StableDiffusion3") and "Modular" not in name]
    assert [name for name in named if family_of(name) is None and other_task(name) is None] == []
    assert family_of("StableDiffusionXLControlNetUnionImg2ImgPipeline") == "StableDiffusionXLPipeline"
    assert family_of("LatentConsistencyModelPipeline") == "StableDiffusionPipeline"
    assert family_of("StableDiffusion3Img2ImgPipeline") is None
    for name in ("StableDiffusionUpscalePipeline", "CogView4ControlPipeline"):
        assert family_of(name) is None
