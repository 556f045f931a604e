"""The result of a run: its adapters in one file under the name that diffusers looks for, loaded back and compared."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bimo.core import checkpoint_io
from bimo.core.errors import WeightsError
from bimo.core.messages import Listed
from bimo.core.recipe import Recipe
from bimo.data.sheets import sheet
from bimo.diffusion.system import WEIGHTS_FILE, System
from bimo.engine.adapters import Adapters
from bimo.engine.engine import Engine
from bimo.models.adapters.lora_captions import about_captions
from bimo.models.adapters.lora_merging import touched
from bimo.training.adapters.adapter import Adapter, adapter_of

if TYPE_CHECKING:
    from PIL import Image

#: The file names in diffusers of adapters, by kind.
FILES = {"lora": "pytorch_lora_weights.safetensors", "tokens": "learned_embeds.safetensors"}
SHEET_FILE = "before-after.png"
SEED = 7
#: Tolerance between a merged and a trained weight: the product of the two factors may round differently.
CLOSE = 1e-4
SHOWN = 3


def collected(run: Path, recipe: Recipe, captions: Iterable[str] = ()) -> Path | None:
    """Merges the adapters of a run's stages into one file in its folder; returns the file, or the folder of a
    ControlNet, None if no adapter was trained. The file's metadata has the ``captions`` it was trained on.
    """
    found = [(number, each) for number, stage in enumerate(recipe.stages, 1) if (each := adapter_of(stage))]
    if not found:
        return None
    kinds = {each.kind for _, each in found}
    if kinds == {"control"}:
        folder = run / f"control-{found[-1][0]}"
        for file in folder.iterdir():
            shutil.copyfile(file, run / file.name)
        return run
    name = FILES[kinds.pop()]
    state: dict[str, Tensor] = {}
    for number, each in found:
        state |= checkpoint_io.read(_left(run, each, number))
    checkpoint_io.write(run / name, state, about=about_captions(captions))
    return run / name


def _left(run: Path, adapter: Adapter, number: int) -> Path:
    return run / f"{adapter.kind}-{number}.safetensors"


def adapters_of(run: Path, kind: str) -> Adapters:
    """The adapters of a run, loaded by the run's folder."""
    loras, embeddings, controls = ([run] if kind == one else [] for one in ("lora", "tokens", "control"))
    return Adapters.from_files(loras, embeddings, controls)


def attached(base: System, run: Path, kind: str) -> System:
    """A system with the adapters of a run. Weights that a LoRA is merged into become float32: in a narrower dtype the
    sum would be rounded.
    """
    if kind == "lora":
        for name in touched(base, run / FILES[kind]):
            parameter = base.get_parameter(name)
            parameter.data = parameter.data.float()
    return adapters_of(run, kind).put(base)


def compare(loaded: System, run: Path) -> None:
    """Raises WeightsError where a system with the file beside it has other weights than the run ended with."""
    learnt = checkpoint_io.read(run / WEIGHTS_FILE)
    own = loaded.state_dict()
    other = [name for name, value in learnt.items() if name not in own or not _close(own[name], value)]
    if other:
        raise WeightsError(
            "the file in {run} gives other weights than were learnt: {count} of {whole} ({listed}); draw with the run "
            "itself, -m {run}",
            run=run,
            count=len(other),
            whole=len(learnt),
            listed=Listed(other[:SHOWN]),
        )


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    one, other = one.float(), other.float()
    return bool(torch.allclose(one, other, rtol=CLOSE, atol=CLOSE * float(other.abs().max()) if other.numel() else 0.0))


def drawn(engine: Engine, prompts: Sequence[str], **settings: Any) -> list[Image.Image]:
    """One picture for each prompt, all with the same seed and without drafts, so that they show what the weights
    learned; ``settings`` are further fields of the request.
    """
    return [engine.draw(text, seed=SEED, draft=0, **settings)[0].image for text in prompts]


def written(
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    known: Sequence[str],
    prompts: Sequence[str],
    run: Path,
) -> Path:
    """Writes a sheet of pictures: a row from before, by the prompts ``known``, and a row from after training."""
    return sheet([*before, *after], [*known, *prompts], run / SHEET_FILE, columns=len(prompts))
