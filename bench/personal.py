"""Fine-tunes the bundled model on ten photographs by LoRA on a CPU: what it learns, and what it forgets.

Each of ten dishes is taught by one photograph of HowToCook (Unlicense: public domain); another one of it is held out.
Pictures drawn for the dishes' names, by seeds that training never saw, are judged by which of the ten held-out
photographs they are nearest to, by colours alone: where they lie (CIELab over 4 x 4 places) and how much there is of
each. Chance is one of ten. `python bench/personal.py PHOTOS OUT`, with the folder of photographs and its pairs.jsonl.

`python bench/personal.py --drawings OUT` teaches twenty drawings of one dish, which the model has never seen, by
`bimo finetune OUT/taught --out OUT/run` and nothing else. What it draws for the dish's name, by seeds not seen, before
and after, is judged by which of ten dishes' held-out drawings it is nearest to, on the average; chance is one of ten.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bimo.cli import main as command
from bimo.core.files import write_whole
from bimo.core.recipe import Stage
from bimo.curation.folder import build_folder
from bimo.data.sheets import sheet
from bimo.diffusion.system import System
from bimo.engine.adapters import Adapters
from bimo.engine.engine import Engine
from bimo.hub import registry
from bimo.models.composer.conditioners import Palette, lab
from bimo.training.adapters.lora_stage import Lora
from bimo.training.objectives.dreambooth import Dreambooth
from bimo.training.trainer import train
from bimo.xiaomo.dishes.plan import MANNERS, DishPlan, draw_dish, vessels_of
from bimo.xiaomo.recipe import xiaomo

#: A dish's name -> the training photograph, and the held-out one.
DISHES = {
    "百香果橙子特调": ("img/0064.jpg", "img/0065.jpg"),
    "凉拌鸡丝": ("img/0081.jpg", "img/0083.jpg"),
    "空气炸锅鸡翅中": ("img/0219.jpg", "img/0220.jpg"),
    "西红柿鸡蛋挂面": ("img/0285.jpg", "img/0286.jpg"),
    "昂刺鱼豆腐汤": ("img/0226.jpg", "img/0227.jpg"),
    "凉拌木耳": ("img/0303.jpg", "img/0304.jpg"),
    "手撕包菜": ("img/0310.jpg", "img/0311.jpg"),
    "草莓酱": ("img/0033.jpg", "img/0034.jpg"),
    "梅菜扣肉": ("img/0137.jpg", "img/0138.jpg"),
    "勾芡香菇汤": ("img/0222.jpg", "img/0224.jpg"),
}
#: Subjects that the model must not forget; the class of DreamBooth.
KEPT = ("红苹果", "一只猫", "汽车", "房子", "一朵花", "大熊猫", "蛋糕", "树", "鱼", "面包")
KEPT += ("草莓", "鸡蛋", "鸡", "汤", "蘑菇", "白菜", "果汁", "西红柿", "肉", "碗")
#: Known subjects without prior-preservation pictures.
OTHERS = (
    "城堡",
    "草地上的奶牛",
    "a green car",
    "玫瑰，剪纸",
    "猫头鹰，剪影",
    "三个香蕉",
    "彩虹",
    "机器人",
    "火箭",
    "蝴蝶",
)
SIDE, SEED, DRAWS = 128, 1000, 10
#: The dish to learn from drawings, and distractors.
TAUGHT = "麻婆豆腐"
TOLD_FROM = ("清炒青菜", "酸菜鱼", "番茄炒蛋", "东坡肉", "酸辣土豆丝", "地三鲜", "辣子鸡", "蒜蓉西兰花", "水煮鱼")
DRAWINGS, SEEDS = 20, 30

dreams = Dreambooth(class_noun=KEPT, count=40)
first = Stage(
    name="first level",
    level="expected",
    objective=dreams,
    train=(),
    adapter=Lora(targets=("expected.denoiser.*", "text.0.model.*"), rank=16, alpha=16.0),
    steps=200,
    batch=20,
    lr=2e-3,
    warmup=10,
    lr_schedule="cosine",
    size=(SIDE, SIDE),
)
painter = replace(
    first,
    name="painter",
    level="image",
    adapter=Lora(targets=("image.denoiser.*.to_*", "image.denoiser.*.ff.*"), rank=16, alpha=16.0),
    steps=60,
    lr=1e-3,
    warmup=5,
    caption_dropout=0.1,
)
photos = replace(xiaomo, prompts=(), stages=(first, painter))


def square(path: Path) -> Image.Image:
    """The middle of a photograph, as training sees it."""
    picture = Image.open(path).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def seen(pictures: list[Image.Image]) -> Tensor:
    """[N, D]: features of the spatial layout and of the histogram of colours."""
    rows = [torch.tensor(list(picture.convert("RGB").tobytes())).view(SIDE, SIDE, 3) for picture in pictures]
    pixels = torch.stack(rows).permute(0, 3, 1, 2).float() / 127.5 - 1
    places = functional.interpolate(lab(pixels), size=(4, 4), mode="area").flatten(1) / 20
    amounts = Palette().counted(pixels).sqrt()
    return torch.cat([places / places.shape[1] ** 0.5, amounts / amounts.shape[1] ** 0.5], dim=1)


def right(pictures: list[Image.Image], truth: list[Image.Image]) -> Tensor:
    """[len(truth), seeds] bool: which pictures, those of one subject after another, are nearest to their own."""
    nearest = torch.cdist(seen(pictures), seen(truth)).argmin(dim=1).view(len(truth), -1)
    return nearest == torch.arange(len(truth))[:, None]


def told(found: Tensor) -> dict[str, float]:
    """The share that is right with its 95 % interval: subjects are drawn again, as seeds of one are much alike."""
    generator = torch.Generator().manual_seed(0)
    again = torch.randint(len(found), (10_000, len(found)), generator=generator)
    means = found.float().mean(dim=1)[again].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"right": round(float(found.float().mean()), 3), "low": round(low, 3), "high": round(high, 3)}


def drawn(system: System, texts: tuple[str, ...], draws: int) -> list[Image.Image]:
    """Draws some pictures of each text."""
    engine = Engine(system)
    return [engine.draw(text, seed=SEED + n)[0].image for text in texts for n in range(draws)]


def dish(name: str, first: int) -> list[Image.Image]:
    """Drawings of a dish, each another one; those from another number on are others."""
    plans = [DishPlan(f"bench-{first + n}", name, vessels_of(name)[0], MANNERS[0]) for n in range(DRAWINGS)]
    return [draw_dish(plan, SIDE).image for plan in plans]


def nearest(pictures: list[Image.Image], held: list[list[Image.Image]]) -> Tensor:
    """[N] bool: which pictures are nearest, on the average, to the first dish's held-out drawings."""
    own = seen(pictures)
    means = torch.stack([torch.cdist(own, seen(several)).mean(dim=1) for several in held], dim=1)
    return means.argmin(dim=1) == 0


def of_draws(found: Tensor) -> dict[str, float]:
    """The share that is right with its 95 % interval over seeds."""
    return told(found[:, None])


def drawings(out: Path) -> dict[str, object]:
    """Teaches drawings by the one command, judges what is drawn before and after, and writes a sheet."""
    for number, picture in enumerate(dish(TAUGHT, 0), 1):
        (out / "taught").mkdir(parents=True, exist_ok=True)
        picture.save(out / "taught" / f"{TAUGHT}_{number:02d}.png")
    held = [dish(name, 1000) for name in (TAUGHT, *TOLD_FROM)]
    begun, busy = time.monotonic(), time.process_time()
    words = ["finetune", str(out / "taught"), "-m", "xiaomo", "--lora", "--out", str(out / "run"), "--threads", "1"]
    if command.run(words):
        raise SystemExit("bimo finetune failed")
    took, busy = time.monotonic() - begun, time.process_time() - busy
    before = drawn(registry.load("xiaomo"), (TAUGHT,), SEEDS)
    others_before = drawn(registry.load("xiaomo"), OTHERS, 1)
    system = Adapters.from_files([out / "run"]).put(registry.load("xiaomo"))
    after, others_after = drawn(system, (TAUGHT,), SEEDS), drawn(system, OTHERS, 1)
    rows = [dish(TAUGHT, 0)[:10], held[0][:10], before[:10], after[:10], others_before, others_after]
    names = [f"{TAUGHT} {what}" for what in ("学的", "没学的", "学前", "学后")]
    labels = [name for name in names for _ in range(10)] + [f"{n} {w}" for w in ("学前", "学后") for n in OTHERS]
    sheet([picture for row in rows for picture in row], labels, out / "drawings.png")
    return {
        "held-out drawings themselves": of_draws(nearest(dish(TAUGHT, 2000), held)),
        "before": of_draws(nearest(before, held)),
        "after": of_draws(nearest(after, held)),
        "other words, after nearest to before": told(right(others_after, others_before)),
        "drawn": SEEDS,
        "seconds": round(took),
        "seconds of the processor": round(busy),
    }


def photographs(photos_folder: Path, out: Path) -> dict[str, object]:
    """Teaches photographs by a recipe, draws, judges, and writes a sheet, and one without the photographs."""
    source = out / "taught"
    source.mkdir(parents=True, exist_ok=True)
    listed = {
        row["file"]: row["dish"] for row in map(json.loads, (photos_folder / "pairs.jsonl").open(encoding="utf-8"))
    }
    for number, (dish, files) in enumerate(DISHES.items()):
        if any(listed.get(file) != dish for file in files):
            raise SystemExit(f"{photos_folder} has other photographs than those of this bench: {files}")
        square(photos_folder / files[0]).save(source / f"{number}.png")
        (source / f"{number}.txt").write_text(dish, encoding="utf-8")
    held = [square(photos_folder / file) for _, file in DISHES.values()]
    taught = [square(photos_folder / file) for file, _ in DISHES.values()]
    before = registry.load("xiaomo")
    build_folder(source, out / "data")
    run = train(photos, out / "data", out / "run", threads=1, start=[before])
    steps = [json.loads(line)["seconds"] for line in (run / "log.jsonl").open(encoding="utf-8")]
    after = System.read(run)
    names = tuple(DISHES)
    pictures = {name: drawn(system, names, DRAWS) for name, system in (("before", before), ("after", after))}
    others = {name: drawn(system, OTHERS, 1) for name, system in (("before", before), ("after", after))}
    told_of = {
        "the photographs taught": told(right(taught, held)),
        "before": told(right(pictures["before"], held)),
        "after": told(right(pictures["after"], held)),
        "other words, after nearest to before": told(right(others["after"], others["before"])),
        "seconds of all steps": round(sum(steps)),
        "drawn of each": DRAWS,
    }
    made = pictures["before"][::DRAWS]
    made += [picture for n in range(3) for picture in pictures["after"][n::DRAWS]]
    labels = [f"{name} 学前" for name in names] + [f"{name} 学后" for name in names] * 3
    sheet([*taught, *held, *made], [*names, *names, *labels], out / "personal.png")
    made += [*others["before"], *others["after"]]
    labels += [f"{name} 学前" for name in OTHERS] + [f"{name} 学后" for name in OTHERS]
    sheet(made, labels, out / "drawn.png")
    return told_of


def main() -> None:
    """Teaches, draws, judges, and writes personal.json, a sheet, and one without the photographs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("out", type=Path)
    parser.add_argument("--drawings", action="store_true", help="teach drawings by one command, no photographs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = drawings(given.out) if given.drawings else photographs(given.photos, given.out)
    name = "drawings.json" if given.drawings else "personal.json"
    write_whole(given.out / name, json.dumps(found, ensure_ascii=False, indent=1).encode())
    print(json.dumps(found, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
