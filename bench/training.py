"""Training by bimo against a plain loop written as diffusers' train_text_to_image: same modules, data and settings.

The systems are published ones at an eighth of their widths, each a stage or three. The shares of FLOP that autoencoder,
text tower and denoiser take of a step are near those of the published sizes (`--bounds` counts both, on the meta
device): Stable Diffusion 1 at 512, in float32 and in bfloat16; VisCPM-Paint, whose language model is
frozen while what bridges it learns; and the prior of 通义's cascade, which learns a picture's embedding from its words.
The plain loop does what the script does at every step: decodes the pictures, reads the words, encodes both, adds noise,
asks the denoiser, clips, steps AdamW; frozen towers are bfloat16 where the script would have them so. Ours does a step
of the same stage. They take turns, one step each, the order changing; medians are given of seconds and of processor
seconds, which mind other work on the machine less. Peak memory is that of a process of its own for each.

The overhead is that of a whole step of ours over forward, backward, clipping and optimiser on tensors made before.
"at most" is what is saved where everything frozen costs nothing, by the FLOP of the modules as they are here.

    OMP_NUM_THREADS=1 python bench/training.py [--turns 7] [--batch 4] [--cases sd,bf16,bridge,prior] [--memory]
    python bench/training.py --bounds
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from bimo.core.recipe import Level, Recipe, Stage
from bimo.core.tensors import TextEncoding
from bimo.data.loader import Pictures
from bimo.data.shards import read, shard_name, write_index, write_shard
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.system import System
from bimo.models.cascade.prior import Prior, RootLength
from bimo.models.spaces import ClipImage, Latent
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.language_model import Bridge, LanguageModel
from bimo.recipes.damo_cascade import damo_cascade
from bimo.recipes.taiyi_sd import taiyi_en
from bimo.recipes.viscpm import cpm_bee_10b, viscpm_paint
from bimo.training.encoding_cache import frozen_of
from bimo.training.logging import Journal, Progress
from bimo.training.objectives.denoise import Denoise
from bimo.training.optimizers import autocast, freeze
from bimo.training.trainer import Trainer

PICTURES, WARM = 32, 2
WORDS = "红黄蓝绿黑白大小山水花鸟鱼虫猫狗马牛房屋桥船车树天地人家日月星云"
KEYS = ("image.denoiser.*.attn2.to_[kv].*",)


@dataclass(frozen=True)
class Case:
    """A training case: recipe, side of pictures, batch size, and the published system that it resembles."""

    recipe: Recipe
    side: int
    batch: int
    like: Recipe
    like_stages: tuple[tuple[str, ...], ...]


def sd(precision: Any = "fp32") -> Case:
    """Stable Diffusion 1 at an eighth of its widths, 32 x 32 places of latents."""
    words = Bert(width=48, layers=12, heads=4, feed=192, vocab=4000, positions=77, types=1, length=77, pooler=False)
    words = replace(words, words="lexicon", padding="shown", dropout=0.0)
    space = Latent(block_channels=(16, 32, 64, 64), groups=8)
    denoiser = Unet(size=32, block_channels=(40, 80, 160, 160), heads=8, text=48, groups=8)
    learning = {"text tower": ("text.*",), "keys and values": KEYS, "full": ("image.denoiser.*",)}
    level = Level(name="image", space=space, denoiser=denoiser, schedule=Ddpm())
    stages = tuple(_stage(name, train, "image", 4, precision) for name, train in learning.items())
    return Case(
        Recipe(name="sd", text_encoders=(words,), levels=(level,), stages=stages),
        256,
        4,
        taiyi_en,
        (*learning.values(),),
    )


def bridge() -> Case:
    """VisCPM-Paint at an eighth of its UNet's widths: the language model takes the same share of a step as in the
    published system.
    """
    words = replace(
        cpm_bee_10b,
        width=640,
        layers=12,
        heads=10,
        head=64,
        feed=1600,
        vocab=500,
        positions=128,
        length=128,
        bridge=Bridge(width=128),
    )
    space = Latent(block_channels=(16, 32, 64, 64), groups=8)
    denoiser = Unet(size=32, block_channels=(40, 80, 160, 160), heads=(1, 2, 4, 4), text=128, linear=True, groups=8)
    level = Level(name="image", space=space, denoiser=denoiser, schedule=Ddpm())
    train = viscpm_paint.stages[0].train
    stage = _stage("bridge", train, "image", 4)
    return Case(
        Recipe(name="bridge", text_encoders=(words,), levels=(level,), stages=(stage,)), 256, 4, viscpm_paint, (train,)
    )


def prior() -> Case:
    """The prior of 通义's cascade at an eighth of its widths."""
    words = Bert(width=48, layers=12, heads=4, feed=192, vocab=4000, positions=77, types=1, length=77, pooler=False)
    words = replace(words, words="lexicon", padding="shown", pool="start", project=96, dropout=0.0)
    level = Level(
        name="prior",
        space=ClipImage(embed=96, width=128, layers=24, heads=4, feed=512),
        denoiser=Prior(embed=96, width=256, layers=24, heads=4),
        schedule=Ddpm(beta_schedule="squaredcos_cap_v2"),
    )
    train = ("prior.denoiser.*",)
    recipe = Recipe(name="prior", text_encoders=(words,), text_fusion=RootLength(), levels=(level,))
    recipe = replace(recipe, stages=(_stage("prior", train, "prior", 32),))
    return Case(recipe, 256, 32, damo_cascade, (train,))


#: Of a caption in VisCPM's record.
LIKE_TOKENS = 64
CASES: dict[str, Callable[[], Case]] = {"sd": sd, "bf16": lambda: sd("bf16"), "bridge": bridge, "prior": prior}


def _stage(name: str, train: tuple[str, ...], level: str, batch: int, precision: Any = "fp32") -> Stage:
    made = Stage(name=name, objective=Denoise(), train=train, level=level, batch=batch, steps=10**6)
    return replace(made, precision=precision)


def write_words(folder: Path) -> None:
    """A vocabulary for the language model: characters, found one by one."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    letters = ["<pad>", "<unk>", *dict.fromkeys(WORDS + '{"caption": "objects"}')]
    made = Tokenizer(models.WordLevel({letter: at for at, letter in enumerate(letters)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}), encoding="utf-8")


def make(folder: Path, side: int) -> None:
    """Writes pictures of blobs with captions of ten characters."""
    from PIL import Image

    draw = random.Random(0)
    rows: list[Any] = []
    for number in range(PICTURES):
        noise = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise.numpy()).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
        text = "".join(draw.choice(WORDS) for _ in range(10))
        rows.append((f"{number:04d}", buffer.getvalue(), {"captions": [{"text": text}], "labels": {}}))
    folder.mkdir(parents=True)
    write_index(folder, [write_shard(folder / shard_name(0), rows, "blobs")])


def ours(case: Case, number: int, data: Path, out: Path) -> tuple[Trainer, Any, Callable[[], None]]:
    """A step of our loop, its line in the journal and the progress bar with it; and what it learns with."""
    stage = case.recipe.stages[number]
    if isinstance(case.recipe.text_encoders[0], LanguageModel):
        write_words(out / "words.0")
    run = Trainer(replace(case.recipe, stages=(stage,)), Pictures(data), out)
    run._words()
    learning = run._stage_trainer(stage, None)
    run._modes()
    progress = Progress(stage, 0, Journal(out))

    def step() -> None:
        run._step(stage, learning)
        run._log(stage, learning, progress)

    return run, learning, step


def plain(run: Trainer, learning: Any, data: Path) -> Callable[[], None]:
    """A step as in diffusers' script, with modules of the same shape and without caches."""
    import numpy
    from diffusers import DDPMScheduler
    from PIL import Image

    system, stage = run.system, run.recipe.stages[0]
    narrow = torch.bfloat16 if stage.precision == "bf16" else torch.float32
    learns_words = any(p.requires_grad for p in system.text.parameters())
    # The script casts frozen weights to half precision; trainable ones run under autocast.
    tower: Any = system.text_encoders[0] if learns_words else copy.deepcopy(system.text[0]).to(narrow)
    space: Any = copy.deepcopy(system.space(stage.level)).to(narrow)  # type: ignore[call-overload]
    level: Any = system.level(stage.level)
    scheduler = DDPMScheduler(**level.schedule._law())
    parameters = list(learning.parameters.values())
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01, eps=1e-8, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)
    rows = [(image, row["captions"][0]["text"]) for _, image, row in read(data)]
    place = [0]

    def step() -> None:
        some = [rows[(place[0] + i) % len(rows)] for i in range(stage.batch)]
        place[0] += stage.batch
        arrays = [numpy.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image, _ in some]
        pixels = torch.stack([torch.from_numpy(a.copy()).permute(2, 0, 1) for a in arrays]).float() / 127.5 - 1
        with torch.no_grad():
            latents = space.encode(pixels.to(narrow), torch.Generator()).float()
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (stage.batch,))
        noised = scheduler.add_noise(latents, noise, cast(Any, t))
        with torch.autocast("cpu", narrow) if narrow != torch.float32 else nullcontext():
            with torch.set_grad_enabled(learns_words):
                said = tower.encode([text for _, text in some])
                pooled = None if said.pooled is None else said.pooled.float()
                conditioning = system.condition((TextEncoding(said.tokens.float(), said.mask, pooled),))
            answer = level.denoiser(noised, t, conditioning)
        loss = torch.nn.functional.mse_loss(answer.float(), noise.float(), reduction="mean")
        loss.detach().item()  # the script gathers it for its log
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()

    return step


def bare(run: Trainer, learning: Any) -> Callable[[], None]:
    """Forward, backward, clipping and the optimizer's step on a prepared batch."""
    system, stage = run.system, run.recipe.stages[0]
    inputs = learning.batches.inputs(0, torch.Generator().manual_seed(0))
    denoiser: Any = system.level(stage.level).denoiser
    tower: Any = system.text_encoders[0]
    question = learning.objective.question(inputs, stage.level)
    learns = any(p.requires_grad for p in system.text.parameters())
    part = frozen_of(system)[0]
    ids = tower.ids(inputs.texts) if learns and part is None else None
    said = part.encode_batch(inputs.texts) if learns and part is not None else None
    parameters = list(learning.parameters.values())

    def step() -> None:
        learning.optimiser.zero_grad(set_to_none=True)
        with autocast(stage, run.processes.device):
            conditioning = question.denoiser_input.conditioning
            if ids is not None:
                conditioning = system.condition((tower(*ids),))
            elif said is not None:
                conditioning = system.condition((tower.finished(said),))
            answer = denoiser(question.denoiser_input.x, question.denoiser_input.t, conditioning)
            torch.nn.functional.mse_loss(answer.float(), question.noise).backward()
        torch.nn.utils.clip_grad_norm_(parameters, stage.max_grad_norm, foreach=True)
        learning.optimiser.step()

    return step


def flop(work: Callable[[], object]) -> float:
    """The number of floating-point operations of a function."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def bounds() -> None:
    """Prints the composition of a step of the published systems, and what caching frozen outputs can save."""
    for name, made in CASES.items():
        case = made()
        for train, own in zip(case.like_stages, case.recipe.stages, strict=True) if name != "bf16" else ():
            learnt, picture, words = (count / 1e12 for count in made_up(case.like, own.level, train))
            print(
                f"{case.like.name:14} {own.name:16} what learns {learnt:.3f}, picture {picture:.3f}, frozen words "
                f"{words:.3f} TFLOP a sample: at most {(learnt + picture + words) / learnt:.2f}x"
            )


def made_up(recipe: Recipe, name: str, train: tuple[str, ...]) -> tuple[float, float, float]:
    """FLOP of a sample's step at published size: of what learns or is gone through, of the picture's code, of words
    that are frozen.
    """
    with torch.device("meta"):
        system = System(recipe)
    freeze(dict(system.named_parameters()), train)
    level, space, tower = system.level(name), cast(Any, system.space(name)), cast(Any, system.text_encoders[0])
    length = LIKE_TOKENS if isinstance(recipe.text_encoders[0], LanguageModel) else tower.part.length
    ids, mask = (torch.ones(1, length, dtype=kind, device="meta") for kind in (torch.long, torch.bool))
    width, height = recipe.stages[0].size or recipe.request.size
    pixels, x = (torch.zeros(1, *shape, device="meta") for shape in ((3, height, width), space.shape((width, height))))
    part = frozen_of(system)[0]
    box: list[TextEncoding] = []
    with torch.no_grad():
        picture = flop(lambda: space.posterior(pixels) if hasattr(space, "posterior") else space.encode(pixels))
        words = flop(lambda: box.append(tower(ids, mask)))
    given = box[0]
    if part is not None and part.trunk:  # the output of its head has a gradient
        given = replace(given, tokens=given.tokens.requires_grad_())

    def step() -> None:
        said = tower(ids, mask) if part is None else given
        level.denoiser(x, torch.zeros(1, device="meta"), system.condition((said,))).sum().backward()

    return flop(step), picture, 0.0 if part is None else words


def taking_turns(steps: dict[str, Callable[[], None]], turns: int) -> dict[str, tuple[float, float]]:
    """(seconds, CPU seconds) of each side: medians of steps made in turns."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(turns + WARM):
        for name in list(steps) if turn % 2 == 0 else list(steps)[::-1]:
            start, busy = time.perf_counter(), time.process_time()
            steps[name]()
            if turn >= WARM:
                seen[name].append((time.perf_counter() - start, time.process_time() - busy))
    medians = {n: [statistics.median(v) for v in zip(*values, strict=True)] for n, values in seen.items()}
    return {name: (found[0], found[1]) for name, found in medians.items()}


def own_peak_megabytes() -> float:
    """The peak resident size of this process, in MB. Linux's getrusage would count that of the parent as well."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def peak(options: argparse.Namespace, case: str, number: int, side: str) -> float:
    """The peak memory of a process that makes some steps, in MB. Its caches are made by one before it."""
    command = [sys.executable, __file__, "--cases", case, "--stage", str(number), "--side", side]
    run = subprocess.run([*command, "--folder", str(options.folder)], capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--cases", default=",".join(CASES), help=f"some of {', '.join(CASES)}")
    parser.add_argument("--memory", action="store_true", help="measure peak memory as well, a process a side")
    parser.add_argument("--bounds", action="store_true", help="count what caching can save of the published systems")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--side", choices=("ours", "plain"), help="make five steps and print the peak memory in MB")
    parser.add_argument("--stage", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.bounds:
        bounds()
        return
    if options.side:
        case, data = CASES[options.cases](), options.folder / f"data-{CASES[options.cases]().side}"
        run, learning, step = ours(case, options.stage, data, options.folder / f"{options.cases}-{options.stage}")
        step = plain(run, learning, data) if options.side == "plain" else step
        for _ in range(5):
            step()
        print(own_peak_megabytes())
        return
    with tempfile.TemporaryDirectory() as made:
        options.folder = options.folder or Path(made)
        report: dict[str, Any] = {"threads": 1, "turns": options.turns}
        for name in options.cases.split(","):
            case = CASES[name]()
            data = options.folder / f"data-{case.side}"
            if not data.is_dir():
                make(data, case.side)
            for number in range(len(case.recipe.stages)):
                report[f"{name}: {case.recipe.stages[number].name}"] = measured(options, name, case, number, data)
        print(json.dumps(report))


def measured(options: argparse.Namespace, name: str, case: Case, number: int, data: Path) -> dict[str, Any]:
    """Benchmarks one stage: time and memory of each side."""
    run, learning, step = ours(case, number, data, options.folder / f"{name}-{number}")
    others = {"plain": plain(run, learning, data), "bare": bare(run, learning)}
    flops = {side: flop(work) / case.batch / 1e9 for side, work in others.items()}
    found = taking_turns({"ours": step, **others}, options.turns)
    row: dict[str, Any] = {side: {"seconds": s, "processor": p} for side, (s, p) in found.items()}
    row["gigaflop"] = flops
    times = [found["plain"][kind] / found["ours"][kind] for kind in (0, 1)]
    over = [found["ours"][kind] / found["bare"][kind] - 1 for kind in (0, 1)]
    print(
        f"{name:7} {case.recipe.stages[number].name:16} ours {case.batch / found['ours'][0]:6.2f} samples/s, plain "
        f"{case.batch / found['plain'][0]:6.2f}: {times[0]:.2f}x ({times[1]:.2f}x by processor; at most "
        f"{flops['plain'] / flops['bare']:.2f}x by FLOP); over the bare step {over[0]:+.1%} ({over[1]:+.1%})"
    )
    if options.memory:
        memory = {side: peak(options, name, number, side) for side in ("ours", "plain")}
        print(f"{'':24} peak memory: ours {memory['ours']:.0f} MB, plain {memory['plain']:.0f} MB")
        row["peak_megabytes"] = memory
    return row


if __name__ == "__main__":
    main()
