"""Scores that depend on nothing beside a row, in either kind of numbers; the best of several drawings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bimo.core.picture import Picture
from bimo.core.recipe import Recipe
from bimo.core.request import Request
from bimo.diffusion.system import System
from bimo.models.clip.scoring import ROWS, fastest, picture_vectors, ranked, similarity, square, word_vectors
from bimo.models.clip.vision import ClipVision
from bimo.models.text_encoders.bert import Bert


def test_the_best_comes_first() -> None:
    request = Request(text="一只红苹果", seed=1, count=4)
    pictures = [Picture(Image.new("RGB", (4, 4)), request, "r", "", index=i) for i in range(4)]
    asked: list[list[str]] = []

    def similarity(texts: Sequence[str], images: object) -> torch.Tensor:
        asked.append(list(texts))
        return torch.tensor([[0.1, 0.4, 0.4, -0.2]])

    found = ranked(pictures, similarity)
    assert [picture.index for picture, _ in found] == [1, 2, 0, 3]
    assert [score for _, score in found] == pytest.approx([0.4, 0.4, 0.1, -0.2])
    assert asked == [["一只红苹果"]]
    assert ranked([], similarity) == []


def made() -> System:
    """Chinese-CLIP at a quarter of ViT-B/32's width, its words trimmed to what each text needs."""
    torch.manual_seed(0)
    text = Bert(width=192, layers=2, heads=3, feed=768, length=52, masked=True, pooler=False, pool="start", project=64)
    text = replace(text, words="lexicon", vocab=64)
    vision = ClipVision(patch=32, width=192, layers=2, heads=3, feed=768, project=64, fit="squeezed")
    system = System(Recipe(name="small", text_encoders=(text,), vision=vision)).eval()
    system.text_encoders[0].build_tokenizer(TEXTS, ("猫",))
    return system


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def scorer(request: pytest.FixtureRequest) -> System:
    """Such a system in either kind of numbers."""
    return made().bfloat16() if request.param == "bf16" else made()


TEXTS = [f"{'很' * (number % 9)}{number}只猫" for number in range(3 * ROWS + 3)]


def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    sides = noise.integers(30, 400, (2 * ROWS + 3, 2))
    return [Image.fromarray(noise.integers(0, 256, (*side, 3), np.uint8)) for side in sides.tolist()]


def test_a_row_does_not_depend_on_its_neighbours(scorer: System) -> None:
    every, seen = word_vectors(scorer, TEXTS), picture_vectors(scorer, pictures())
    assert every.dtype == seen.dtype == torch.float32
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(len(seen)))
    mixed = torch.randperm(len(TEXTS)).tolist()
    assert torch.equal(word_vectors(scorer, [TEXTS[place] for place in mixed]), every[mixed])
    mixed = torch.randperm(len(seen)).tolist()
    assert torch.equal(picture_vectors(scorer, [pictures()[place] for place in mixed]), seen[mixed])
    for count in (1, 2, ROWS - 1, ROWS + 1):
        assert torch.equal(word_vectors(scorer, TEXTS[:count]), every[:count])
        assert torch.equal(picture_vectors(scorer, pictures()[:count]), seen[:count])


def test_a_row_does_not_depend_on_the_number_of_threads(scorer: System) -> None:
    before = torch.get_num_threads()
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append((word_vectors(scorer, TEXTS), picture_vectors(scorer, pictures())))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    for words, seen in found[1:]:
        assert torch.equal(words, found[0][0])
        assert torch.equal(seen, found[0][1])


def test_a_row_is_what_the_text_encoders_say_of_it() -> None:
    scorer = made()
    with torch.inference_mode():
        alone = [scorer.encode([text])[0].pooled for text in TEXTS]
        seen = scorer.vision(scorer.vision.seen(pictures()))
    unit = torch.nn.functional.normalize
    wanted = unit(torch.cat([row for row in alone if row is not None])) @ unit(seen).T
    torch.testing.assert_close(similarity(scorer, TEXTS, pictures()), wanted)


def test_what_is_seen_of_a_picture_stands_for_it(scorer: System) -> None:
    small = [square(scorer, picture) for picture in pictures()]
    assert {picture.size for picture in small} == {(224, 224)}
    assert torch.equal(picture_vectors(scorer, small), picture_vectors(scorer, pictures()))


def test_scores_in_bfloat16_are_near_those_in_float32() -> None:
    exact, found = (similarity(system, TEXTS, pictures()) for system in (made(), made().bfloat16()))
    assert not torch.equal(exact, found)
    assert (exact - found).abs().max() < 0.01


def test_the_speeds_of_both_kinds_of_numbers_are_told_apart() -> None:
    assert 0.05 < fastest() < 50


MEASURED_FIRST = """
import threading, torch
from bimo.models.clip.scoring import fastest
fastest()
later = []
thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
thread.start(); thread.join()
print(torch.get_num_threads(), *later)
"""


@pytest.mark.slow
def test_measuring_leaves_every_thread_its_processors() -> None:
    # In a process that asked nothing of torch yet: what one of its threads says first holds for all.
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", MEASURED_FIRST]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["2", "2"], done.stderr
