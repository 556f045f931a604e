"""Engines of a processor against plain diffusers: Stable Diffusion 1 at its published size, random weights, 512x512.

Each side is a process of its own that loads once and then draws when it is told to, so that its load time and peak
memory are its own; the sides take turns, in another order every turn. A turn draws few steps, and times each step: a
picture of 20 steps is a picture's fixed part (words, decoding) and 20 steps, of the medians. "Whole process" adds
loading, imports included, and what only the first drawing does (compiling, hashing).
The first drawing of each side, 20 steps of a smaller picture, warms it and says how far it is from diffusers' in
float32.

What OpenVINO has converted is made in a run before, which is not timed: a side whose conversions are missing makes them
as it warms.

    python bench/processor.py --folder DIR [--turns 2] [--steps 2] [--size 512] [--json FILE]
    python bench/processor.py --networks hunyuan-dit kolors z-image     # blocks at half width, no pictures
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from against_diffusers import GUIDANCE, NEGATIVE, PROMPT, PUBLISHED, SEED, decibels, make, own_peak_megabytes

SIDES = ("diffusers-fp32", "diffusers-bf16", "torch-bf16", "openvino", "openvino-bf16", "openvino-int8")
DEFAULT_SIDES = ("diffusers-fp32", "diffusers-bf16", "openvino-bf16", "openvino-int8")
STEPS_OF_A_PICTURE = 20
#: (side, other side, required ratio of seconds)
WANTED = (
    ("openvino-bf16", "diffusers-fp32", 3.0),
    ("openvino-bf16", "diffusers-bf16", 1.3),
    ("openvino-int8", "diffusers-fp32", 4.5),
)
#: draw(size, steps, note of each step's beginning) -> PIL image
Draw = Callable[[int, int, Callable[[], None]], Any]


def of_diffusers(folder: Path, numbers: str) -> Draw:
    """Draws with diffusers' StableDiffusionPipeline."""
    import torch
    from diffusers import StableDiffusionPipeline

    dtype = torch.bfloat16 if numbers == "bf16" else torch.float32
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder / "saved"), torch_dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)

    def draw(size: int, steps: int, note: Callable[[], None]) -> Any:
        own = pipeline.unet.forward

        def noted(*args: Any, **named: Any) -> Any:
            note()
            return own(*args, **named)

        pipeline.unet.forward = noted
        try:
            return pipeline(
                PROMPT,
                negative_prompt=NEGATIVE,
                guidance_scale=GUIDANCE,
                num_inference_steps=steps,
                width=size,
                height=size,
                generator=torch.Generator().manual_seed(SEED),
            ).images[0]
        finally:
            pipeline.unet.forward = own

    return draw


def of_bimo(folder: Path, name: str) -> Draw:
    """Draws with an engine of bimo's."""
    from bimo.engine.engine import Engine
    from bimo.engine.processor import Processor
    from bimo.models.layouts.diffusers_folder import read_folder

    processor = Processor(name)
    engine = Engine(read_folder(folder / "saved", None), dtype=processor.dtype, processor=processor)
    request = {"text": PROMPT, "negative": NEGATIVE, "guidance": GUIDANCE, "seed": SEED}

    def draw(size: int, steps: int, note: Callable[[], None]) -> Any:
        told = {**request, "size": (size, size), "steps": steps}
        return engine.draw(told, progress=lambda *step: note())[0].image

    return draw


def serve(side: str, folder: Path, threads: int) -> None:
    """Loads a side, then draws for each input line [size, steps, file] and prints the measurements."""
    begun = time.perf_counter()
    import torch

    torch.set_num_threads(threads)
    way, _, numbers = side.partition("-")
    draw = of_diffusers(folder, numbers) if way == "diffusers" else of_bimo(folder, side)
    print(json.dumps({"load": time.perf_counter() - begun, "load_cpu": spent()}), flush=True)
    for line in sys.stdin:
        size, steps, file = json.loads(line)
        noted: list[tuple[float, float]] = []
        start = (time.perf_counter(), spent())
        image = draw(size, steps, lambda noted=noted: noted.append((time.perf_counter(), spent())))
        end = (time.perf_counter(), spent())
        image.save(file)
        # The last step ends with the decoder, so it is not among those that are timed.
        each = [[after[k] - before[k] for before, after in itertools.pairwise(noted)] for k in (0, 1)]
        whole = [end[k] - start[k] for k in (0, 1)]
        fixed = [whole[k] - len(noted) * statistics.median(each[k]) for k in (0, 1)]
        print(json.dumps({"steps": each, "fixed": fixed, "whole": whole, "peak": own_peak_megabytes()}), flush=True)


def spent() -> float:
    """CPU seconds of this process, user and system."""
    times = os.times()
    return times.user + times.system


class Side:
    """A process of one side."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.name = name
        command = [sys.executable, __file__, "--serve", name, "--folder", str(folder), "--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.load: dict[str, float] = self._read()
        self.load["seconds"] = time.perf_counter() - start
        self.first: dict[str, Any] = {}
        self.turns: list[dict[str, Any]] = []

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} ended: run its command by hand to see why")

    def draw(self, size: int, steps: int, file: Path) -> dict[str, Any]:
        """One drawing."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([size, steps, str(file)]) + "\n")
        self.process.stdin.flush()
        return self._read()

    def picture(self, kind: int, steps: int) -> float:
        """Seconds (kind 0) or processor seconds (1) of a picture of so many steps, of the medians."""
        each = [value for turn in self.turns for value in turn["steps"][kind]]
        return statistics.median(turn["fixed"][kind] for turn in self.turns) + steps * statistics.median(each)

    def begun(self, share: float) -> float:
        """Seconds until it draws at its speed: loading, and what only the first drawing does (compiling, hashing). That
        one had a ``share`` of the pixels.
        """
        fixed = statistics.median(turn["fixed"][0] for turn in self.turns)
        return self.load["seconds"] + max(0.0, self.first["fixed"][0] - share * fixed)

    def end(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def pictures(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the sides in turns, prints and returns the measurements."""
    from PIL import Image

    report: dict[str, Any] = {"size": options.size, "turns": options.turns, "steps": STEPS_OF_A_PICTURE, "sides": {}}
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if not (folder / "saved").exists():
            make(folder, options.size, PUBLISHED)
        sides = [Side(name, folder, options.threads) for name in options.sides]
        for side in sides:
            side.first = side.draw(options.warm_size, STEPS_OF_A_PICTURE, Path(made) / f"{side.name}-warm.png")
        for turn in range(options.turns):
            for side in sides if turn % 2 == 0 else sides[::-1]:
                file = Path(made) / f"{side.name}.png"
                side.turns.append(side.draw(options.size, options.steps, file))
        exact = {kind: Image.open(Path(made) / f"{sides[0].name}{kind}.png") for kind in ("", "-warm")}
        for side in sides:
            off = {kind: decibels(Image.open(Path(made) / f"{side.name}{kind}.png"), exact[kind]) for kind in exact}
            wall, busy = (side.picture(kind, STEPS_OF_A_PICTURE) for kind in (0, 1))
            found = {
                "seconds": wall,
                "processor_seconds": busy,
                "step": statistics.median(value for turn in side.turns for value in turn["steps"][0]),
                "load_seconds": side.load["seconds"],
                "load_processor_seconds": side.load["load_cpu"],
                "begun_seconds": side.begun((options.warm_size / options.size) ** 2),
                "process_seconds": side.begun((options.warm_size / options.size) ** 2) + wall,
                "peak_megabytes": max(turn["peak"] for turn in side.turns),
                f"decibels_{STEPS_OF_A_PICTURE}_steps_{options.warm_size}": off["-warm"],
                f"decibels_{options.steps}_steps_{options.size}": off[""],
            }
            report["sides"][side.name] = found
            print(
                f"{side.name:15} {wall:7.1f} s a picture of {STEPS_OF_A_PICTURE} steps ({busy:.1f} s of processor; "
                f"{found['step']:.2f} s a step), loaded in {side.load['seconds']:.1f} s ("
                f"{found['begun_seconds']:.1f} with what the first drawing does once), peak "
                f"{found['peak_megabytes']:.0f} MB, {off['-warm']:.1f} dB from {sides[0].name} in "
                f"{STEPS_OF_A_PICTURE} steps of {options.warm_size}x{options.warm_size}, {off['']:.1f} dB in "
                f"{options.steps} of {options.size}x{options.size}",
                flush=True,
            )
            side.end()
    for one, other, least in WANTED:
        if one in report["sides"] and other in report["sides"]:
            a, b = report["sides"][one], report["sides"][other]
            ratios = [b[kind] / a[kind] for kind in ("seconds", "processor_seconds", "process_seconds")]
            shares = [a[kind] / b[kind] for kind in ("peak_megabytes", "load_seconds", "begun_seconds")]
            print(
                f"{one} against {other}: {ratios[0]:.2f}x warm, {ratios[1]:.2f}x by processor seconds, "
                f"{ratios[2]:.2f}x the whole process; wanted {least}x. "
                f"Memory {shares[0]:.2f}, loading {shares[1]:.2f} of its, with the first drawing's own {shares[2]:.2f}"
            )
    return report


def network(name: str) -> tuple[Any, dict[str, Any]]:
    """A denoiser of diffusers at half its published width (Z-Image of half its layers, too), with random weights, and
    what it is asked for 512x512.
    """
    import torch
    from diffusers import HunyuanDiT2DModel, UNet2DConditionModel, ZImageTransformer2DModel

    torch.manual_seed(0)
    if name == "hunyuan-dit":
        from diffusers.models.embeddings import get_2d_rotary_pos_embed

        made: Any = HunyuanDiT2DModel(
            num_attention_heads=16,
            attention_head_dim=44,
            in_channels=4,
            patch_size=2,
            sample_size=128,
            hidden_size=704,
            num_layers=40,
            mlp_ratio=4.3637,
            cross_attention_dim=1024,
            cross_attention_dim_t5=2048,
            pooled_projection_dim=1024,
            use_style_cond_and_image_meta_size=False,
            learn_sigma=True,
        )
        return made, {
            "hidden_states": torch.randn(2, 4, 64, 64),
            "timestep": torch.tensor([500.0, 500.0]),
            "encoder_hidden_states": torch.randn(2, 77, 1024),
            "text_embedding_mask": torch.ones(2, 77, dtype=torch.bool),
            "encoder_hidden_states_t5": torch.randn(2, 256, 2048),
            "text_embedding_mask_t5": torch.ones(2, 256, dtype=torch.bool),
            "image_meta_size": None,
            "style": None,
            "image_rotary_emb": get_2d_rotary_pos_embed(44, ((0, 0), (32, 32)), (32, 32), output_type="pt"),
        }
    if name == "kolors":
        made = UNet2DConditionModel(
            sample_size=64,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(160, 320, 640),
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=5632,
            encoder_hid_dim=4096,
            encoder_hid_dim_type="text_proj",
        )
        return made, {
            "sample": torch.randn(2, 4, 64, 64),
            "timestep": torch.tensor([500, 500]),
            "encoder_hidden_states": torch.randn(2, 256, 4096),
            "added_cond_kwargs": {"text_embeds": torch.randn(2, 4096), "time_ids": torch.randn(2, 6)},
        }
    if name == "z-image":
        made = ZImageTransformer2DModel(dim=1920, n_heads=15, n_kv_heads=15, n_layers=15)
        return made, {
            "x": [torch.randn(16, 1, 64, 64)],
            "t": torch.tensor([0.5]),
            "cap_feats": [torch.randn(64, 2560)],
        }
    raise SystemExit(f"there is no network {name!r}; there are hunyuan-dit, kolors, z-image")


def awake(module: Any) -> None:
    """Sets zero-initialised gates to other values, as blocks would otherwise have no effect."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1 and not bool(parameter.any()):
                parameter.normal_(0, 0.02)


def beside(module: Any, dtype: Any) -> Any:
    """The same module, whose weights are shared where they are of the same kind of number."""
    import torch

    weights = {id(own): torch.nn.Parameter(own.data.to(dtype), requires_grad=False) for own in module.parameters()}
    return copy.deepcopy(module, dict(weights)).eval()


def networks(options: argparse.Namespace) -> dict[str, Any]:
    """Times each network's answer by diffusers in float32 and bfloat16 and by OpenVINO in bfloat16, in turns."""
    import torch

    from bimo.engine.openvino import ConvertedBlock, repeated
    from bimo.engine.openvino_cache import ConversionCache

    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {}
    for name in options.networks:
        module, inputs = network(name)
        awake(module.eval())
        count = sum(parameter.numel() for parameter in module.parameters())
        half, ours = beside(module, torch.bfloat16), beside(module, torch.float32)
        found = [ConvertedBlock(path, block, "bf16", ConversionCache(None)) for path, block in repeated(ours)]

        def halved(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.to(torch.bfloat16) if value.is_floating_point() else value
            if isinstance(value, dict):
                return {key: halved(part) for key, part in value.items()}
            return type(value)(halved(part) for part in value) if isinstance(value, (list, tuple)) else value

        narrow = {key: value if key == "image_rotary_emb" else halved(value) for key, value in inputs.items()}
        ways = {
            "diffusers-fp32": lambda module=module, inputs=inputs: module(**inputs, return_dict=False)[0],
            "diffusers-bf16": lambda half=half, narrow=narrow: half(**narrow, return_dict=False)[0],
            "openvino-bf16": lambda ours=ours, inputs=inputs: ours(**inputs, return_dict=False)[0],
        }
        answers: dict[str, Any] = {}
        seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        with torch.inference_mode():
            for way, call in ways.items():
                answer = call()
                answers[way] = (answer[0] if isinstance(answer, list) else answer).float()
            for turn in range(options.turns):
                for way in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
                    start = (time.perf_counter(), spent())
                    ways[way]()
                    seconds[way].append((time.perf_counter() - start[0], spent() - start[1]))
        exact = answers["diffusers-fp32"]
        middle = {way: [statistics.median(kind) for kind in zip(*rows, strict=True)] for way, rows in seconds.items()}
        report[name] = {"parameters": count, "blocks": len(found)}
        for way, (wall, busy) in middle.items():
            error = float((answers[way] - exact).norm() / exact.norm())
            off = -20 * math.log10(max(error, 1e-9))
            report[name][way] = {"seconds": wall, "processor_seconds": busy, "error": error}
            print(
                f"{name} ({count / 1e6:.0f} M) {way:15} {wall:.3f} s, {busy:.3f} s of processor, error {error:.1e} "
                f"({off:.1f} dB), {middle['diffusers-fp32'][0] / wall:.2f}x, "
                f"{middle['diffusers-fp32'][1] / busy:.2f}x by processor seconds",
                flush=True,
            )
        del module, half, ours, found, ways
    return report


def main() -> None:
    """Runs the benchmark; ``--json`` writes the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or is to be made, in saved/")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(DEFAULT_SIDES))
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="steps of a timed drawing")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--warm-size", type=int, default=256, help="of the drawing that warms and is compared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", nargs="+", help="time these denoisers at half width, and no pictures")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=SIDES, help="draw what standard input says, for the other process")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.folder, options.threads)
        return
    report = networks(options) if options.networks else pictures(options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
