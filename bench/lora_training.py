"""A LoRA trained by bimo against the loop of diffusers' train_text_to_image_lora.py: one checkpoint, the same settings.

The checkpoint is that of `against_diffusers.py`, random weights in the layout of Taiyi-SD. The script is no part of
diffusers' package, so its loop is written here as it stands in examples/text_to_image: peft's layers in the UNet's
attention, accelerate around model, optimiser, loader and schedule, torch's AdamW with its defaults, and at every step
pictures decoded, the autoencoder and the text encoder asked. ``cached`` is the same loop over posteriors and hidden
states that were worked out before the first step, as some of diffusers' other scripts do by ``--cache_latents``. bimo's
is `Trainer` with a LoRA stage, its loader, caches, journal and progress bar included.

Before anything is timed both must have as many numbers to learn, and their first answers for the same x, t and words
must be equal. Then they take turns, one step each, the order changing; medians are given of seconds and of processor
seconds, which mind other work on the machine less. Peak memory is that of a process of its own for each side, from
reading the checkpoint over encoding to the fifth step.

    OMP_NUM_THREADS=1 python bench/lora_training.py [--turns 15] [--batch 4] [--size 256] [--precision bf16] [--memory]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from against_diffusers import PUBLISHED, Sizes, own_peak_megabytes
from against_diffusers import make as make_checkpoint
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from training import make as make_pictures
from training import taking_turns

from bimo.core.recipe import Stage
from bimo.core.tensors import DenoiserInput
from bimo.data.loader import Pictures
from bimo.data.shards import read
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.training.adapters.lora_stage import Lora
from bimo.training.logging import Journal, Progress
from bimo.training.objectives.denoise import Denoise
from bimo.training.trainer import Trainer
from bimo.training.tuning import attention

#: The target modules of the script's LoraConfig.
TARGETS = ("to_k", "to_q", "to_v", "to_out.0")
LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-4, (0.9, 0.999), 1e-2, 1.0
SIDES = ("bimo", "script", "cached")
#: A step of one picture of 256 x 256 is some tenths of a second of one core.
LEARNT = Sizes((32, 64, 128, 128), (32, 32, 64, 64), 128, 4, 4)
MEMORY_STEPS = 5
#: Tokens of a caption, as of Stable Diffusion's CLIP.
LENGTH = 77
#: The allowed difference of both networks' first outputs, relative to the largest value.
EQUAL = 1e-4


class Captioned(Dataset[dict[str, Tensor]]):
    """Rows as by the script's transforms: pixels [3, H, W] in [-1, 1], token ids [77]."""

    def __init__(self, data: Path, tokenizer: Any, size: int) -> None:
        self.rows = [(image, row["captions"][0]["text"]) for _, image, row in read(data)]
        self.tokenizer, self.size = tokenizer, size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Decodes and tokenises a row."""
        content, text = self.rows[number]
        image = Image.open(io.BytesIO(content)).convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(numpy.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        length = self.tokenizer.model_max_length
        settings = {"max_length": length, "padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer([text], **settings).input_ids[0]
        return {"pixel_values": (pixels - 0.5) / 0.5, "input_ids": ids}

    def caption(self, number: int) -> str:
        """The text of a row."""
        return self.rows[number][1]


class Script:
    """The training loop of the script; with ``cached`` outputs of frozen models are computed in advance."""

    def __init__(self, folder: Path, data: Path, options: argparse.Namespace, cached: bool) -> None:
        from accelerate import Accelerator
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import cast_training_params
        from peft import LoraConfig
        from transformers import AutoTokenizer, BertModel

        saved = str(folder / "saved")
        mixed = "bf16" if options.precision == "bf16" else "no"
        self.accelerator = Accelerator(cpu=True, mixed_precision=mixed)
        self.dtype = torch.bfloat16 if mixed == "bf16" else torch.float32
        self.scheduler = DDPMScheduler.from_pretrained(saved, subfolder="scheduler")
        tokenizer = AutoTokenizer.from_pretrained(saved, subfolder="tokenizer", local_files_only=True)
        self.text_encoder: Any = BertModel.from_pretrained(saved, subfolder="text_encoder")
        self.vae: Any = AutoencoderKL.from_pretrained(saved, subfolder="vae")
        self.scale = self.vae.config.scaling_factor
        unet: Any = UNet2DConditionModel.from_pretrained(saved, subfolder="unet")
        for module in (unet, self.vae, self.text_encoder):
            module.requires_grad_(False)
            module.to(dtype=self.dtype)
        rank = options.rank
        unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
        )
        if mixed != "no":
            cast_training_params(unet, dtype=torch.float32)
        if options.checkpointing:
            unet.enable_gradient_checkpointing()
        self.parameters = [p for p in unet.parameters() if p.requires_grad]
        settings: Any = {"lr": LEARNING_RATE, "betas": BETAS, "weight_decay": WEIGHT_DECAY, "eps": 1e-8}
        optimizer = torch.optim.AdamW(self.parameters, **settings)
        self.rows = Captioned(data, tokenizer, options.size)
        rows: Any = self.rows
        if cached:
            rows = self._encoded(self.rows)
            del self.vae, self.text_encoder
        self.cached = cached
        loader = DataLoader(rows, shuffle=True, batch_size=options.batch, num_workers=0)
        schedule = get_scheduler("constant", optimizer=optimizer, num_warmup_steps=0, num_training_steps=10**6)
        self.unet, self.optimizer, self.loader, self.law = self.accelerator.prepare(unet, optimizer, loader, schedule)
        self.unet.train()
        self._batches = self._endless()

    def _encoded(self, rows: Captioned) -> list[dict[str, Tensor]]:
        """Mean and deviation of the posterior, and hidden states, of every row."""
        made: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for row in rows:
                posterior = self.vae.encode(row["pixel_values"][None].to(self.dtype)).latent_dist
                states = self.text_encoder(row["input_ids"][None])[0]
                made.append({"mean": posterior.mean[0], "std": posterior.std[0], "states": states[0]})
        return made

    def _endless(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from self.loader

    def step(self) -> None:
        """A step of the script."""
        batch = next(self._batches)
        with self.accelerator.accumulate(self.unet):
            if self.cached:
                latents = batch["mean"] + batch["std"] * torch.randn_like(batch["mean"])
                states = batch["states"]
            else:
                latents = self.vae.encode(batch["pixel_values"].to(dtype=self.dtype)).latent_dist.sample()
                states = self.text_encoder(batch["input_ids"], return_dict=False)[0]
            latents = latents * self.scale
            noise = torch.randn_like(latents)
            count = self.scheduler.config["num_train_timesteps"]
            timesteps = torch.randint(0, count, (latents.shape[0],)).long()
            noisy = self.scheduler.add_noise(latents, noise, cast(Any, timesteps))
            answer = self.unet(noisy, timesteps, states, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(answer.float(), noise.float(), reduction="mean")
            self.accelerator.gather(loss.repeat(latents.shape[0])).mean().item()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
            self.optimizer.step()
            self.law.step()
            self.optimizer.zero_grad()
        loss.detach().item()  # for the bar


class Bimo:
    """A LoRA stage of bimo, set up as by `bimo finetune`."""

    def __init__(self, folder: Path, data: Path, out: Path, options: argparse.Namespace) -> None:
        system = read_folder(folder / "saved", torch.float32)
        level = system.recipe.levels[-1]
        rank = options.rank
        self.stage = Stage(
            name="lora",
            objective=Denoise(),
            level=level.name,
            train=(),
            adapter=Lora(targets=attention(system.recipe, level), rank=rank, alpha=float(rank)),
            steps=10**6,
            batch=options.batch,
            lr=LEARNING_RATE,
            betas=BETAS,
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=MAX_GRAD_NORM,
            precision=options.precision,
            gradient_checkpointing=options.checkpointing,
            frozen=options.frozen,
            size=(options.size, options.size),
        )
        self.run = Trainer(replace(system.recipe, stages=(self.stage,), prompts=()), Pictures(data), out)
        self.run.begin_as(system)
        del system
        self.run._words()
        self.learning = self.run._stage_trainer(self.stage, None)
        self.run._modes()
        self.progress = Progress(self.stage, 0, Journal(out))

    def step(self) -> None:
        """A step, its line in the journal and the bar."""
        self.run._step(self.stage, self.learning)
        self.run._log(self.stage, self.learning, self.progress)


def check_equal(ours: Bimo, script: Script) -> None:
    """Exits unless both have the same number of trainable parameters, token ids and outputs."""
    counts = [sum(p.numel() for p in each) for each in (ours.learning.parameters.values(), script.parameters)]
    if counts[0] != counts[1]:
        sys.exit(f"bimo learns {counts[0]} numbers and the script {counts[1]}: nothing is timed")
    system, name = ours.run.system, ours.stage.level
    torch.manual_seed(0)
    side = ours.stage.size[0] // 8  # type: ignore[index]
    x, t, ids = torch.randn(1, 4, side, side), torch.tensor([700]), script.rows[0]["input_ids"][None]
    with torch.no_grad():
        encodings = system.encode([script.rows.caption(0)])
        own = encodings[0].tokens, system.denoise(DenoiserInput(name, x, t, system.condition(encodings)))
        states = script.text_encoder(ids)[0]
        other = states.float(), script.unet(x.to(script.dtype), t, states, return_dict=False)[0].float()
    if own[0].shape != other[0].shape:
        sys.exit(f"bimo reads a caption as {tuple(own[0].shape)}, the script as {tuple(other[0].shape)}")
    apart = max(float((one - two).abs().max() / two.abs().max()) for one, two in zip(own, other, strict=True))
    print(f"both learn {counts[0]} numbers; words and first answers differ by {apart:.1e} of the largest number")
    if script.dtype == torch.float32 and ours.stage.frozen == "fp32" and apart > EQUAL:
        sys.exit("the networks are not the same: nothing is timed")


def set_length(file: Path) -> None:
    """Pads captions to the length of Stable Diffusion's."""
    settings = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(settings | {"model_max_length": LENGTH}), "utf-8")


def sides_of(
    names: tuple[str, ...], folder: Path, data: Path, out: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """The compared sides by name."""
    made: dict[str, Any] = {}
    for name in names:
        made[name] = (
            Bimo(folder, data, out, options) if name == "bimo" else Script(folder, data, options, name == "cached")
        )
    return made


def peak(name: str, options: argparse.Namespace, folder: Path) -> float:
    """The peak resident size of a process that reads, encodes and makes some steps, in MB."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, *sys.argv[1:], "--side", name, "--folder", str(folder), "--out", out]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    return float(run.stdout.split()[-1])


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--frozen", default="fp32", help="how bimo keeps frozen weights: Stage.frozen")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing on both sides")
    parser.add_argument("--full", action="store_true", help="weights of the published size")
    parser.add_argument("--memory", action="store_true", help="measure peak memory as well, a process a side")
    parser.add_argument("--folder", type=Path, help="where the checkpoint and the pictures are, or are to be made")
    parser.add_argument("--out", type=Path, help="where bimo trains")
    parser.add_argument("--side", choices=SIDES, help="make five steps and print the peak memory in MB")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder, out = options.folder or Path(made), options.out or Path(made) / "run"
        data = folder / "data"
        if not (folder / "saved").exists():
            make_checkpoint(folder, options.size, PUBLISHED if options.full else LEARNT)
            set_length(folder / "saved" / "tokenizer" / "tokenizer_config.json")
            make_pictures(data, options.size)
        if options.side:
            side = sides_of((options.side,), folder, data, out, options)[options.side]
            for _ in range(MEMORY_STEPS):
                side.step()
            print(own_peak_megabytes())
            return
        report(folder, data, out, options)


def report(folder: Path, data: Path, out: Path, options: argparse.Namespace) -> None:
    """Times the sides in turns and prints the results."""
    sides = sides_of(SIDES, folder, data, out, options)
    check_equal(sides["bimo"], sides["script"])
    found = taking_turns({name: cast(Callable[[], None], side.step) for name, side in sides.items()}, options.turns)
    row: dict[str, Any] = {"load": os.getloadavg()[0], "turns": options.turns, "batch": options.batch}
    for name, (seconds, processor) in found.items():
        row[name] = {"seconds": seconds, "processor": processor, "samples a second": options.batch / seconds}
        ratios = seconds / found["bimo"][0], processor / found["bimo"][1]
        ratio = f"bimo is {ratios[0]:.2f} times as fast ({ratios[1]:.2f} by processor time)"
        print(f"{name:7} {options.batch / seconds:6.2f} samples/s, {seconds:.3f} s a step; {ratio}")
    if options.memory:
        row["peak megabytes"] = {name: peak(name, options, folder) for name in SIDES}
        print("peak memory: " + ", ".join(f"{name} {value:.0f} MB" for name, value in row["peak megabytes"].items()))
    print(json.dumps(row))


if __name__ == "__main__":
    main()
