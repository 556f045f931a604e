"""Peak memory of loading a system of full size, by bimo and by diffusers: the same files, a process of its own each.

A folder in the layout of Taiyi-SD (BERT, the UNet and autoencoder of Stable Diffusion 1.4) is made with random numbers
and deleted afterwards. Both sides load it in float32, as a processor draws; from float16 files that means converting.
The peak is what the kernel tells of each process (VmHWM), what importing the libraries takes included and told apart.

    python bench/loading.py [--dtype fp32] [--touch]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def make(folder: Path, half: bool) -> int:
    """Writes the folder piece by piece, with random numbers; answers its bytes."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import BertConfig, BertModel

    from bimo.core import weights

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
        weights.write(place / file, state)
        index[name] = ["transformers" if tower else "diffusers", type(model).__name__]
        del state
    words = folder / "tokenizer"
    words.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (words / "vocab.txt").write_text("\n".join([*special, *(chr(0x4E00 + i) for i in range(20000))]), "utf-8")
    (words / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    law = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    PNDMScheduler(**law, skip_prk_steps=True).save_config(str(folder / "scheduler"))
    index |= {"tokenizer": ["transformers", "BertTokenizer"], "scheduler": ["diffusers", "PNDMScheduler"]}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def floats(model: Any) -> list[tuple[str, Any]]:
    """Names and tensors of a module that hold floating numbers."""
    return [(name, value) for name, value in model.state_dict().items() if value.is_floating_point()]


def by_bimo(folder: Path) -> Any:
    from bimo.parts.published.folder import read_folder

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


def load(side: str, folder: Path, touch: bool) -> None:
    """Imports, loads, and prints what it took. ``touch`` also reads every number once, as drawing does."""
    import torch

    torch.set_num_threads(1)
    if side == "bimo":
        pass
    else:
        import diffusers  # noqa: F401
    before, start = own("VmHWM"), time.perf_counter()
    model = SIDES[side](folder)
    seconds = time.perf_counter() - start
    if touch:
        total = sum(float(p.detach().sum()) for p in model.parameters())
        assert total == total
    numbers = sum(p.numel() for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    found = {"before": before, "peak": own("VmHWM"), "own": own("RssAnon"), "seconds": seconds, "numbers": numbers}
    print(json.dumps(found))


def main() -> None:
    """Makes the folder, lets each side load it, prints the peaks and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dtype", choices=("fp16", "fp32"), default="fp16", help="of the files")
    parser.add_argument("--touch", action="store_true", help="read every number once after loading")
    parser.add_argument("--only", choices=SIDES)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.only:
        load(options.only, options.folder, options.touch)
        return
    with tempfile.TemporaryDirectory(prefix="bimo-loading-") as made:
        size = make(Path(made), options.dtype == "fp16")
        print(f"files: {size / 1e9:.2f} GB in {options.dtype}, loaded as float32")
        found: dict[str, dict[str, float]] = {}
        for side in SIDES:
            command = [sys.executable, __file__, "--only", side, "--folder", made, *["--touch"] * options.touch]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                sys.exit(run.stderr)
            one = found[side] = json.loads(run.stdout.splitlines()[-1])
            print(
                f"{side:10} peak {one['peak']:7.0f} MB ({one['before']:.0f} before loading), at the end "
                f"{one['own']:.0f} MB that are no file's; {one['seconds']:.1f} s; {one['numbers'] / 1e6:.0f} M numbers"
            )
        print(f"peak, bimo / diffusers: {found['bimo']['peak'] / found['diffusers']['peak']:.3f}; below 1 is less")


if __name__ == "__main__":
    main()
