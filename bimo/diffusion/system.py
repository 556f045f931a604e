"""A built recipe as one module: encode texts, condition, denoise, save."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.files import write_whole
from bimo.core.hashing import LateDigest, digest, digest_of_table, verifying
from bimo.core.lora_weight import LoraWeight
from bimo.core.part import dumps
from bimo.core.recipe import Level, Recipe
from bimo.core.tensors import Batch, Conditioning, DenoiserInput, Shortcuts, TextEncoding
from bimo.core.weight_formats import is_gguf
from bimo.diffusion.casting import cast_conditioning, cast_encoding, dtype_of
from bimo.diffusion.conditioner import Conditioner
from bimo.diffusion.conditioning import merge_conditioning, with_dropout
from bimo.diffusion.denoiser import Denoiser, ShortcutDenoiser, StatefulDenoiser
from bimo.diffusion.schedules.schedule import Schedule
from bimo.diffusion.seamless import circular
from bimo.diffusion.space import Decoder, Space
from bimo.diffusion.text_encoder import TextEncoder, TextFusion
from bimo.prompts.paraphrases import Paraphrase, paraphrased
from bimo.prompts.token_budget import Budget

if TYPE_CHECKING:
    from PIL import Image

RECIPE_FILE = "recipe.json"
WEIGHTS_FILE = "weights.safetensors"
HASHES_FILE = "hashes.json"
#: The number of broken tensors that a message names.
NAMES_SHOWN = 3
#: Unconditional branches that do not depend on a negative prompt.
ZERO_NULLS = ("zeros", "masked")


class BuiltLevel(nn.Module):
    """A level with its modules. A space shared with another level is registered there only."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.recipe = level
        self.schedule = cast(Schedule, level.schedule)
        self.conditioners = cast("tuple[Conditioner, ...]", level.conditioners)
        if not isinstance(level.space, str):
            self.space: Space = cast(Any, level.space).build()
        self.denoiser: Denoiser = cast(Any, level.denoiser).build()

    def conditions_of(self, system: System, batch: Batch) -> list[Conditioning]:
        """The output of the conditioners for a training batch, B rows; rows that drop a conditioner have its
        unconditional form.
        """
        return [with_dropout(each, each.from_batch(system, batch), batch) for each in self.conditioners]


class StepwiseWeights(Protocol):
    """Weights of denoisers that depend on the step, such as those with LoRAs in a range of steps."""

    def phase(self, step: int, steps: int) -> tuple[bool, ...]:
        """A key that is equal for two steps if their weights are."""
        ...

    def idle(self, counts: Mapping[str, Sequence[int]]) -> list[tuple[str, LoraWeight]]:
        """Name and weight of each LoRA that applies in none of the steps, given how many each level takes."""
        ...

    def enter(self, system: System, phase: tuple[bool, ...]) -> None:
        """Sets the weights of a phase."""
        ...


class System(nn.Module):
    """A built recipe: text encoders under ``text.0 ...``, ``vision`` if there is one, each level under its own name.

    ``weights_hash`` is the SHA-256 of the loaded weights. It can be set by a function, ``hashed``, which is called on
    first use because it reads gigabytes. ``aligned`` says that all weights are aligned to cache lines, as those of
    modules that torch creates; weights that are memory-mapped from a file are aligned by whoever reads them.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.hashed: Callable[[], str] = str
        #: The files that its weights were read from.
        self.files: tuple[Path, ...] = ()
        self.aligned = False
        #: A small decoder of the last level's x, if one was loaded: see ``Request.tiny_decoder``.
        self.tiny_space: Decoder | None = None
        #: The LoRAs that are merged into its weights, of `bimo.models.adapters.lora_merging`.
        self.merged_loras: object | None = None
        #: The captions, in normal form, of the training data of merged adapters.
        self.captions_learned: tuple[str, ...] = ()
        #: Weights that depend on the step, if there are any.
        self.stepwise: StepwiseWeights | None = None
        #: The attached adapters, of `bimo.engine.adapters`.
        self.attached: object | None = None
        #: What moves its modules while it learns, a `bimo.engine.offload.WeightMover`.
        self.weight_mover: object | None = None
        self.text = nn.ModuleList(cast(Any, encoder).build() for encoder in recipe.text_encoders)
        for encoder in self.text_encoders:
            encoder.share(self.text_encoders)
        self.text_fusion: Any = None if recipe.text_fusion is None else cast(Any, recipe.text_fusion).build()
        self.vision: Any = None if recipe.vision is None else cast(Any, recipe.vision).build()
        for level in recipe.levels:
            self.add_module(level.name, BuiltLevel(level))

    @property
    def weights_hash(self) -> str:
        """The SHA-256 of the loaded weights, "" if nothing was loaded. Raises WeightsError if a file cannot be read."""
        return self.hashed()

    @weights_hash.setter
    def weights_hash(self, value: str | Callable[[], str]) -> None:
        self.hashed = (lambda: value) if isinstance(value, str) else value

    def check_files(self) -> None:
        """Raises WeightsError if a file of weights holds values that are not finite."""
        for file in self.files:
            if file.is_file() and not is_gguf(file) and (names := checkpoint_io.unsound(file)):
                shown = ", ".join(names[:NAMES_SHOWN]) + (
                    f" … (+{len(names) - NAMES_SHOWN})" * (len(names) > NAMES_SHOWN)
                )
                raise WeightsError(
                    "{count} tensors of {file} hold values that are no finite numbers (NaN or infinite): {shown}; "
                    "the weights are broken, whatever the precision: download them again, or ask their publisher",
                    count=len(names),
                    file=file,
                    shown=shown,
                )

    @property
    def text_encoders(self) -> list[TextEncoder]:
        """The text encoders, in the recipe's order."""
        return cast("list[TextEncoder]", list(self.text))

    def level(self, name: str) -> BuiltLevel:
        """A built level. Raises RecipeError for a name the recipe does not have."""
        self.recipe.level(name)
        return cast(BuiltLevel, self.get_submodule(name))

    def space(self, name: str) -> Space:
        """The space of a level, its own or the one it shares."""
        space = self.recipe.level(name).space
        return self.space(space) if isinstance(space, str) else self.level(name).space

    def encode(
        self, texts: Sequence[str], skip: int = 0, pictures: Sequence[Image.Image] = ()
    ) -> tuple[TextEncoding, ...]:
        """Encodes texts by every text encoder; CLIPs skip their last ``skip`` layers. Encoders that read pictures see
        ``pictures`` with each text.
        """
        rows = [
            encoder.encode_with(texts, [pictures] * len(texts))
            if encoder.reads_pictures
            else encoder.encode(texts, skip if encoder.skippable else 0)
            for encoder in self.text_encoders
        ]
        return tuple(cast_encoding(row, torch.float32) for row in rows)

    def paraphrased(self, text: str) -> Paraphrase:
        """A prompt paraphrased with words that the text encoder learned, if it has a word list."""
        known = frozenset[str]().union(*(encoder.known for encoder in self.text_encoders))
        return paraphrased(text, self._strictest, known) if known else Paraphrase(text)

    def _strictest(self, text: str) -> Budget:
        return max(self.budgets(text), key=lambda budget: len(budget.unknown))

    def budgets(self, text: str) -> list[Budget]:
        """The token budget of a text for each text encoder."""
        return [encoder.budget(text).knowing(self.captions_learned) for encoder in self.text_encoders]

    def conditions_of_seed(self, seed: int) -> dict[str, list[float]]:
        """The values that conditioners derive from a seed, by name: a request with them reproduces the picture."""
        every = [each for level in self.recipe.levels for each in self.level(level.name).conditioners]
        drawn = {each.name: each.of_seed(seed) for each in every}
        return {name: [float(number) for number in value[0]] for name, value in drawn.items() if value is not None}

    def condition(self, encodings: tuple[TextEncoding, ...], conditions: Sequence[Conditioning] = ()) -> Conditioning:
        """The inputs of a level's denoiser from encodings and conditions. Without a ``text_fusion`` in the recipe each
        encoding is a stream, and the vector is the last pooled output.
        """
        if self.text_fusion is not None:
            return merge_conditioning(cast(TextFusion, self.text_fusion).fuse(encodings), conditions)
        pooled = [e.pooled for e in encodings if e.pooled is not None]
        return merge_conditioning(Conditioning(encodings, pooled[-1] if pooled else None), conditions)

    def denoise(self, inputs: DenoiserInput) -> Tensor:
        """The denoiser's output, [R, *shape] (twice the channels with a learned variance).

        The denoiser runs in its own dtype; the output has the dtype of x. Integer x are token ids and not cast; the
        output has the denoiser's dtype then.
        """
        denoiser: Any = self.level(inputs.level).denoiser
        if isinstance(denoiser, ShortcutDenoiser) and inputs.shortcuts != Shortcuts(seamless=inputs.seamless):
            denoiser = partial(denoiser.shortened, denoiser_input=inputs)
        elif isinstance(denoiser, StatefulDenoiser) and inputs.states:
            denoiser = partial(denoiser.with_states, states=inputs.states)
        module = self.level(inputs.level).denoiser
        kind = dtype_of(module) or inputs.x.dtype
        t = inputs.t.to(inputs.x.device)  # samplers keep timesteps on the CPU
        with circular(module, inputs.seamless):
            if kind == inputs.x.dtype:
                return denoiser(inputs.x, t, inputs.conditioning)
            if not inputs.x.is_floating_point():
                return denoiser(inputs.x, t, cast_conditioning(inputs.conditioning, kind))
            return denoiser(inputs.x.to(kind), t, cast_conditioning(inputs.conditioning, kind)).to(inputs.x.dtype)

    def save(self, folder: Path, dtype: torch.dtype | None = None, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes recipe, weights, tokenizers and their hashes; ``bimo.load(folder)`` reads them back. ``state``
        replaces the modules' own weights if these are not complete in this process.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECIPE_FILE, dumps(self.recipe).encode())
        checkpoint_io.write(folder / WEIGHTS_FILE, self.state_dict() if state is None else state, dtype)
        for index, encoder in enumerate(self.text_encoders):
            encoder.save_tokenizer(folder / f"words.{index}")
        files = [folder / RECIPE_FILE, folder / WEIGHTS_FILE, *sorted(folder.glob("words.*/*"))]
        hashes = {p.relative_to(folder).as_posix(): digest(p) for p in files}
        write_whole(folder / HASHES_FILE, json.dumps(hashes, indent=1).encode())

    @classmethod
    def read(cls, folder: Path, dtype: torch.dtype | None = torch.float32) -> System:
        """Reads a system that ``save`` wrote, with its weights as ``dtype`` (None: as stored). The weights may be in
        several files listed in hashes.json, parts of a system as `bimo export --only` writes them. Raises WeightsError
        and RecipeError.
        """
        recipe = checkpoint_io.read_recipe(folder / RECIPE_FILE)
        if not isinstance(recipe, Recipe):
            raise RecipeError("{folder} is not a recipe", folder=folder / RECIPE_FILE)
        hashes = checkpoint_io.read_hashes(folder / HASHES_FILE)
        with verifying(folder, hashes):
            with module_weights.unfilled():
                system = cls(recipe)
            parts = {name: one for name, one in hashes.items() if name.endswith(".safetensors")}
            files = tuple(folder / name for name in parts or (WEIGHTS_FILE,))
            system.weights_hash = next(iter(parts.values())) if len(parts) == 1 else digest_of_table(parts)
            if not parts:
                system.weights_hash = LateDigest(files[0])
            system.files = files
            state = {name: value for file in files for name, value in checkpoint_io.read(file, dtype).items()}
            # Copied if unaligned, so that it draws the same bits as before it was saved.
            system.aligned = True
            if dtype is not None:
                state = {name: module_weights.aligned(value) for name, value in state.items()}
            module_weights.assign(system, state, dtype, files[0])
            for index, encoder in enumerate(system.text_encoders):
                encoder.load_tokenizer(folder / f"words.{index}")
        return system.eval()
