"""Weights as other numbers, and put away while they do not work: the picture stays, or nearly."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from bimo.core.picture import Picture
from bimo.diffusion.batching import run_batched
from bimo.diffusion.image_inputs import to_image
from bimo.diffusion.preparation import prepare
from bimo.diffusion.sampling import sample
from bimo.diffusion.system import System
from bimo.engine.offload import Offloader, offloadable, space_dtype
from bimo.hub import registry
from bimo.models.qwen_image.space import QwenLatent
from bimo.models.spaces import ClipImage, Latent
from bimo.xiaomo.autoencoder import Compact
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import checkpoint

pytestmark = pytest.mark.slow

REQUEST = {"text": "一只红苹果", "seed": 3, "steps": 3, "guidance": 3.0, "size": (64, 64)}


def drawn(offloader: Offloader, index: int = 0) -> Picture:
    with offloader.text_encoders():
        prepared = prepare(offloader.system, REQUEST)
    (picture,) = run_batched(
        offloader.system, [sample(offloader.system, prepared, index)], lambda _, ask: offloader.on_step(ask)
    )
    return picture


def kinds(system: System) -> dict[str, set[torch.dtype]]:
    return {name: {p.dtype for p in worker.parameters()} for name, worker in offloadable(system).items()}


@pytest.mark.parametrize("away", [False, True])
def test_float32_is_the_same_picture_to_the_byte(tiny_folder: Path, away: bool) -> None:
    plain = Offloader(System.read(tiny_folder), torch.float32, offload="none")
    kept = Offloader(System.read(tiny_folder, None), torch.float32, offload="parts" if away else "none")
    for index in (0, 1):
        assert drawn(kept, index).image.tobytes() == drawn(plain, index).image.tobytes()


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_nearly_the_same_picture(tiny_folder: Path, dtype: torch.dtype, away: bool) -> None:
    plain = Offloader(System.read(tiny_folder), torch.float32, offload="none")
    kept = Offloader(System.read(tiny_folder, None), dtype, offload="parts" if away else "none")
    one, other = (numpy.asarray(drawn(offloader).image).astype(int) for offloader in (plain, kept))
    assert 0 < numpy.abs(one - other).mean() < 2
    space = space_dtype(kept.system.recipe.level("image"), dtype)
    assert space == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    assert all(p.dtype == space for p in kept.system.space("image").parameters())  # type: ignore[attr-defined]


def test_only_the_running_module_is_cast(tiny_folder: Path) -> None:
    system = System.read(tiny_folder, None)
    offloader = Offloader(system, torch.bfloat16, offload="parts")
    stored, half = {torch.float32}, {torch.bfloat16}
    assert all(found == stored for found in kinds(system).values())
    with offloader.text_encoders():
        assert kinds(system) == {"text.0": half, "expected.denoiser": stored, "image.denoiser": stored}
        prepared = prepare(system, REQUEST)
    working: list[str] = []

    def told(_: int, ask: object) -> None:
        offloader.on_step(ask)  # type: ignore[arg-type]
        working.append(offloader.working)
        assert [name for name, found in kinds(system).items() if found == half] == [offloader.working]

    run_batched(system, [sample(system, prepared)], told)  # type: ignore[arg-type]
    assert working == ["expected.denoiser", *["image.denoiser"] * 3]
    offloader.rest()
    assert all(found == stored for found in kinds(system).values())


def test_weights_come_back_bit_for_bit(tiny_folder: Path) -> None:
    system = System.read(tiny_folder, None)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    offloader = Offloader(system, torch.float16, offload="parts")
    drawn(offloader)
    offloader.rest()
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


SPACES = (Latent().tiny(), Latent(shift=0.1, quant=False).tiny(), QwenLatent().tiny(), Compact().tiny())


def in_bfloat16(space: nn.Module) -> Any:
    """A space with its weights so, as a shelf keeps it: what it has counted stays in float32."""
    for parameter in space.parameters():
        parameter.data = parameter.data.bfloat16()
    return space


@pytest.mark.parametrize("part", SPACES, ids=lambda part: type(part).__name__)
def test_a_space_in_bfloat16_takes_and_answers_float32(part: Any) -> None:
    """Decoded and coded within rounding of what float32 gives, and a sample takes the same noise."""
    torch.manual_seed(0)
    space = part.build().eval()
    half = in_bfloat16(copy.deepcopy(space))
    x = torch.randn(1, *space.shape((64, 64)))
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        for made in (
            lambda of: of.decode(x),
            lambda of: of.encode(pixels),
            lambda of: of.encode(pixels, torch.Generator().manual_seed(5)),
        ):
            one, other = made(space), made(half)
            assert other.dtype == torch.float32
            assert 0 < (one - other).norm() < 0.05 * one.norm()


def test_embeddings_of_pictures_in_bfloat16() -> None:
    space = ClipImage().tiny().build().eval()
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        one, other = space.encode(pixels), in_bfloat16(copy.deepcopy(space)).encode(pixels)
    assert other.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(one, other).min() > 0.999


def test_what_the_bundled_model_draws_is_decoded_within_1_of_255_in_bfloat16() -> None:
    """The only trained decoder that is here: 55 dB, as the documents say."""
    system = registry.load("xiaomo")
    image = draw(system, "红苹果", seed=1)[0].image
    space: Any = system.space("image")
    pixels = torch.from_numpy(numpy.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        x = space.encode(pixels)
        one, other = space.decode(x), in_bfloat16(space).decode(x)
    apart = numpy.abs(numpy.asarray(to_image(one[0])).astype(float) - numpy.asarray(to_image(other[0])))
    assert apart.max() == 1
    assert 20 * numpy.log10(255 / numpy.sqrt((apart**2).mean())) > 55


#: Loads each folder named after the first, keeps it each way and has all of it work; prints for each by how many bytes
#: the process grew at the most, and by how many in the end.
GROWN = """
import gc
import sys
from pathlib import Path
import torch
from bimo.core.tensors import Conditioning, DenoiserInput
from bimo.engine.offload import Offloader
from bimo.hub import registry

def of_process(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def work(module):
    return sum(float(p.detach().flatten()[::256].sum()) for p in module.parameters())

def kept(folder, dtype, away):
    system = registry.load(folder, stored=away or dtype != torch.float32)
    shelf = Offloader(system, dtype, offload="parts" if away else "none")
    with shelf.text_encoders():
        work(system.text)
    for level in system.recipe.levels:
        shelf.on_step(DenoiserInput(level.name, torch.zeros(1), torch.zeros(1), Conditioning(())))
        work(system.level(level.name).denoiser)
    shelf.rest()
    work(system.space(system.recipe.levels[-1].name))
    return shelf

for folder in sys.argv[1:]:
    for case in ("float32", "bfloat16", "float16", "float32 away", "bfloat16 away"):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = of_process("VmRSS")
        shelf = kept(folder, getattr(torch, case.split()[0]), "away" in case)
        grown = of_process("VmHWM") - before, of_process("VmRSS") - before
        if folder != sys.argv[1]:  # with the first all is imported that there is to be
            print(folder, case, *grown, sep=",")
        del shelf
"""
#: What the process may hold of a file of float32 at the most, and in the end.
SHARES = {
    "float32": (1.0, 1.0),
    "bfloat16": (0.5, 0.5),
    "float16": (0.5, 0.5),
    "float32 away": (1.0, 0.0),
    "bfloat16 away": (0.5, 0.0),
}


@pytest.fixture(scope="module")
def middling(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A system of 62 million numbers, 250 MB in float32: as bimo writes it, as safetensors does (whose tensors begin
    anywhere), and in diffusers' layout.
    """
    from diffusers import DDIMScheduler
    from safetensors.torch import save_file

    made = tmp_path_factory.mktemp("middling")
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    folders = {"bimo": made / "bimo", "safetensors": made / "other", "diffusers": made / "diffusers"}
    checkpoint(folders["diffusers"], "bert", scheduler, channels=(128, 256, 384, 384), norm_num_groups=32)
    checkpoint(made / "small", "bert", scheduler)
    folders["small"] = made / "small"
    system = registry.load(folders["diffusers"])
    system.save(folders["bimo"])
    shutil.copytree(folders["bimo"], folders["safetensors"], ignore=shutil.ignore_patterns("hashes.json"))
    save_file(dict(system.state_dict()), folders["safetensors"] / "weights.safetensors")
    return folders


@pytest.fixture(scope="module")
def grown(middling: dict[str, Path]) -> list[list[str]]:
    """[folder, case, most bytes, bytes in the end] of each layout and case, in a process of their own."""
    folders = [str(middling[name]) for name in ("small", "bimo", "safetensors", "diffusers")]
    # The allocator is to give back at once what is freed, lest one case count in the next.
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", GROWN, *folders]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=settings)
    return [line.split(",") for line in run.stdout.splitlines() if line.count(",") == 3]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much memory a process has")
@pytest.mark.parametrize("layout", ["bimo", "safetensors", "diffusers"])
def test_no_weight_is_in_memory_twice(middling: dict[str, Path], grown: list[list[str]], layout: str) -> None:
    """Half of what the file holds where it is kept in half, and a sixth of it for everything else."""
    whole = (middling["bimo"] / "weights.safetensors").stat().st_size
    assert whole > 100_000_000
    found = [row[1:] for row in grown if row[0] == str(middling[layout])]
    shares = {case: (int(most) / whole, int(end) / whole) for case, most, end in found}
    assert shares.keys() == SHARES.keys()
    too_much = {c: s for c, s in shares.items() if any(a > b + 1 / 6 for a, b in zip(s, SHARES[c], strict=True))}
    assert not too_much
