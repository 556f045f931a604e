"""Time and memory of loading a full-size system with bimo and with diffusers: the same files, a new process per run.

A folder in the layout of Taiyi-SD (BERT, the UNet and autoencoder of Stable Diffusion 1.4) is made with random numbers
and deleted afterwards, also where this is interrupted or terminated. Both sides load it in float32, as a processor
draws; from float16 files that means converting. The sides take turns, all files read once before the first, so that
both find them in the page cache. Told are medians of whole processes, importing the libraries included: processor
seconds (user and system), seconds of the clock, and the peak of memory that the kernel tells (VmHWM). bimo works out
the SHA-256 of the files when the first picture's record needs it; what that takes stands apart.

    python bench/loading.py [--dtype fp32] [--runs 3] [--touch]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn


def make(folder: Path, half: bool) -> int:
    """Writes the folder with random weights, tensor by tensor; returns its size in bytes."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import BertConfig, BertModel

    from bimo.core import checkpoint_io

    dtype = torch.float16 if half else torch.float32
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        models: dict[str, Any] = {
            "text_encoder": BertModel(BertConfig(vocab_size=21128)),
            "unet": UNet2DConditionModel(cross_attention_dim=768, sample_size=64),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ),
        }
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
    for name, model in models.items():
        place = folder / name
        place.mkdir(parents=True)
        tower = name == "text_encoder"
        if tower:
            model.config.save_pretrained(str(place))
        else:
            model.save_config(str(place))
        state = {n: torch.empty(v.shape, dtype=dtype).normal_(0, 0.02, generator=generator) for n, v in floats(model)}
        file = "model.safetensors" if tower else "diffusion_pytorch_model.safetensors"
        checkpoint_io.write(place / file, state)
        index[name] = ["transformers" if tower else "diffusers", type(model).__name__]
        del state
    words = folder / "tokenizer"
    words.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (words / "vocab.txt").write_text("\n".join([*special, *(chr(0x4E00 + i) for i in range(20000))]), "utf-8")
    (words / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    PNDMScheduler(**schedule, skip_prk_steps=True).save_config(str(folder / "scheduler"))
    index |= {"tokenizer": ["transformers", "BertTokenizer"], "scheduler": ["diffusers", "PNDMScheduler"]}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def floats(model: Any) -> list[tuple[str, Any]]:
    """The floating-point tensors of a module by name."""
    return [(name, value) for name, value in model.state_dict().items() if value.is_floating_point()]


def by_bimo(folder: Path) -> Any:
    from bimo.models.layouts.diffusers_folder import read_folder

    return read_folder(folder)


def by_diffusers(folder: Path) -> Any:
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        str(folder), local_files_only=True, torch_dtype=torch.float32, safety_checker=None
    )
    return torch.nn.ModuleList([pipeline.text_encoder, pipeline.unet, pipeline.vae])  # type: ignore[attr-defined]


SIDES = {"bimo": by_bimo, "diffusers": by_diffusers}


def own(field: str) -> float:
    """Megabytes of this process: VmHWM is the peak, RssAnon what no file could give back, VmRSS all of now."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def spent() -> float:
    """CPU seconds of this process, user and system."""
    times = os.times()
    return times.user + times.system


def load(side: str, folder: Path, touch: bool) -> None:
    """Imports, loads, and prints the measurements. ``touch`` also reads all weights once, as drawing does."""
    import torch

    torch.set_num_threads(1)
    model = SIDES[side](folder)
    if touch:
        total = sum(float(p.detach().sum()) for p in model.parameters())
        assert total == total
    found = {"cpu": spent(), "ended": time.time(), "peak": own("VmHWM"), "own": own("RssAnon")}
    found["numbers"] = sum(p.numel() for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    if side == "bimo":
        before = spent()
        assert len(model.weights_hash) == 64
        found["hash"] = spent() - before
    print(json.dumps(found))


def run(side: str, folder: str, touch: bool) -> dict[str, float]:
    """Loads in a process of its own; seconds are measured from its start."""
    command = [sys.executable, __file__, "--only", side, "--folder", folder, *["--touch"] * touch]
    start = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "seconds": found["ended"] - start}


def read_all(folder: Path) -> None:
    """Reads every file once, into the page cache."""
    for file in filter(Path.is_file, folder.rglob("*")):
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass


def end(number: int, _: object) -> NoReturn:
    """Signal handler: raises, so that the folder is deleted."""
    sys.exit(128 + number)


def main() -> None:
    """Runs the benchmark and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dtype", choices=("fp16", "fp32"), default="fp16", help="of the files")
    parser.add_argument("--runs", type=int, default=3, help="of each side")
    parser.add_argument("--touch", action="store_true", help="read every number once after loading")
    parser.add_argument("--only", choices=SIDES)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.only:
        load(options.only, options.folder, options.touch)
        return
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)
    with tempfile.TemporaryDirectory(prefix="bimo-loading-") as made:
        size = make(Path(made), options.dtype == "fp16")
        read_all(Path(made))
        print(f"files: {size / 1e9:.2f} GB in {options.dtype}, loaded as float32; {options.runs} runs each, in turns")
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(options.runs):
            for side, runs in found.items():
                runs.append(run(side, made, options.touch))
    middle = {s: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for s, runs in found.items()}
    for side, one in middle.items():
        each = ", ".join(f"{one['cpu']:.1f}" for one in found[side])
        print(
            f"{side:10} {one['cpu']:6.2f} s of a processor (each run: {each}), {one['seconds']:6.2f} s of the clock, "
            f"peak {one['peak']:5.0f} MB, {one['own']:5.0f} MB that are no file's; {one['numbers'] / 1e6:.0f} M numbers"
        )
    for key, what in (("cpu", "processor"), ("seconds", "clock"), ("peak", "peak")):
        print(f"{what}, bimo / diffusers: {middle['bimo'][key] / middle['diffusers'][key]:.3f}; below 1 is less")
    print(f"bimo's SHA-256, with the first picture: {middle['bimo']['hash']:.2f} s of a processor")


if __name__ == "__main__":
    main()
