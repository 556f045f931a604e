"""What each measure of `bimo eval` costs a picture, in core-seconds: its own share, without drawing.

The pictures are text printed on a ground of colours, 512 pixels a side. Networks have random weights of the shapes that
are published, which cost what trained ones do: Inception-v3 of 2015-12-05, Taiyi-CLIP of RoBERTa-base and ViT-B/32.
The seconds are those of the processor, all threads together, so that other work on the machine matters little; loading
is left out. What is worked out once for a set (FID of its features) is told by itself.

    python bench/metric_costs.py [--pictures 16] [--side 512] [--set 1000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bimo.curation.filters.classifiers import Safe
from bimo.curation.steps import Pair, Tools
from bimo.diffusion.system import System
from bimo.evaluation.metrics import distribution, glyphs, similarity
from bimo.evaluation.metrics.inception import FEATURES, Inception
from bimo.evaluation.metrics.resize import Resize, prepared
from bimo.evaluation.suite_drawings import Drawing
from bimo.evaluation.suite_measures import MeasuredPicture
from bimo.evaluation.suite_text import Reader, measure_strokes, printed
from bimo.evaluation.suites.suite import Prompt, own
from bimo.models.clip.scoring import picture_vectors, word_vectors
from bimo.recipes.taiyi_clip import taiyi_clip_b32


def pictures_of(count: int, side: int) -> list[tuple[Prompt, Image.Image]]:
    """Prompts with text and pictures that have it."""
    noise = np.random.default_rng(0)
    prompts = [prompt for prompt in own().prompts if prompt.written and prompt.language == "zh"]
    made: list[tuple[Prompt, Image.Image]] = []
    for number in range(count):
        prompt = prompts[number % len(prompts)]
        ground = Image.fromarray(noise.integers(120, 256, (6, 6, 3), np.uint8)).resize((side, side))
        text = np.asarray(printed(prompt.written).resize((side, side)))
        made.append((prompt, Image.fromarray(np.minimum(np.asarray(ground), text))))
    return made


def spent(work: Callable[[], Any]) -> float:
    """Core-seconds of a call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def clip() -> System:
    """The published shape with random weights, and a small vocabulary: words cost as much."""
    words = replace(taiyi_clip_b32.text_encoders[0], words="lexicon")  # type: ignore[type-var]
    system = System(replace(taiyi_clip_b32, text_encoders=(words,))).eval()
    system.text_encoders[0].build_tokenizer([prompt.text for prompt in own().prompts], ())  # type: ignore[attr-defined]
    return system


def costs(count: int, side: int, features: int) -> tuple[dict[str, float], dict[str, float]]:
    """(core-seconds a picture, core-seconds a set) by measure."""
    torch.manual_seed(0)
    rows = pictures_of(count, side)
    prompts, images = [prompt for prompt, _ in rows], [image for _, image in rows]
    each: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder))
        reader.read(images[0], "warm")
        each["text: reading a picture"] = spent(lambda: [reader.read(p, str(n)) for n, p in enumerate(images)])
        once = {prompt.key: prompt for prompt in prompts}
        each["text: reading the clean print, once a prompt"] = (
            spent(lambda: [reader.control(prompt.written) for prompt in once.values()]) * count / len(once)
        )
        each["text: scores of what was read"] = spent(lambda: [glyphs.glyphs(p.written, p.written) for p in prompts])
        measured: list[MeasuredPicture] = []
        for number, (prompt, image) in enumerate(rows):
            path = Path(folder) / f"{number}.png"
            image.save(path)
            drawing = Drawing(prompt.key, number, path.name, str(number))
            measured.append(MeasuredPicture(prompt, drawing, path, read=prompt.written))
        measure_strokes(measured[:1], lambda *_: None, "")
        each["text strokes (--strokes)"] = spent(lambda: measure_strokes(measured, lambda *_: None, ""))
    each["colours at 64 x 64 pixels"] = spent(lambda: similarity.thumbs(images))
    each["near copies: pHash (--known)"] = spent(lambda: similarity.perceptual_hashes(images))
    scorer = clip()
    each["CLIP, ViT-B/32: a picture (--clip-zh)"] = spent(lambda: picture_vectors(scorer, images))
    each["CLIP, RoBERTa-base: a prompt or phrase"] = spent(
        lambda: word_vectors(scorer, [prompt.text for prompt in prompts])
    )
    network = Inception().eval()
    with torch.inference_mode():
        each["Inception's features (--real)"] = spent(
            lambda: [network(prepared(image, Resize.torch_fidelity)[None]) for image in images]
        )
    safe = Safe().open(Tools(partial(_no_scorer)))
    pairs = [Pair(number, image, ()) for number, image in enumerate(images)]
    safe(pairs[:1])
    each["NSFW (--nsfw)"] = spent(lambda: safe(pairs))
    drawn, real = torch.randn(features, FEATURES), torch.randn(features, FEATURES)
    whole = {
        "FID with its interval": spent(lambda: distribution.fid_interval(drawn, real)),
        "FID-infinity": spent(lambda: distribution.fid_infinity(drawn, real)),
        "KID": spent(lambda: distribution.kid(drawn, real)),
        "Inception Score": spent(lambda: distribution.inception_score(torch.randn(features, 1008))),
        "precision and recall": spent(lambda: distribution.precision_recall(drawn, real)),
    }
    return {name: seconds / count for name, seconds in each.items()}, whole


def _no_scorer(name: str) -> Any:
    raise AssertionError(name)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--set", type=int, default=1000, help="features of so many drawn and real pictures for FID")
    given = parser.parse_args()
    each, whole = costs(given.pictures, given.side, given.set)
    print(f"| measure | core-seconds a picture of {given.side} pixels |\n|---|---|")
    print("\n".join(f"| {name} | {seconds:.3f} |" for name, seconds in each.items()))
    print(f"\n| of {given.set} drawn and {given.set} real pictures' features | core-seconds |\n|---|---|")
    print("\n".join(f"| {name} | {seconds:.1f} |" for name, seconds in whole.items()))


if __name__ == "__main__":
    main()
