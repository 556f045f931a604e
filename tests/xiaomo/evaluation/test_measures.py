"""The rule of colours on synthetic pictures, figures with a judge of two kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bimo.evaluation.pixel_rules import foreground, pieces
from bimo.xiaomo.artwork.lexicon import COLOURS
from bimo.xiaomo.evaluation.judge import Judge, Seen
from bimo.xiaomo.evaluation.measures import Drawn, agreement, by_style, colour_of, cut_out, figures, spread
from bimo.xiaomo.evaluation.prompts import Question
from tests.support.synthetic_pictures import canvas


@pytest.mark.parametrize("name", list(COLOURS))
def test_colour_rule_names_each_declared_colour(name: str) -> None:
    assert colour_of(canvas((64, 64, 40, COLOURS[name].rgb))) == name


def test_colour_rule_is_not_washed_out_by_outline_and_shine_and_tells_wrong_from_right() -> None:
    image = canvas((64, 64, 44, (20, 20, 20)), (64, 64, 40, COLOURS["blue"].rgb), (50, 50, 9, (255, 255, 255)))
    assert colour_of(image) == "blue"
    assert colour_of(canvas((64, 64, 40, COLOURS["red"].rgb))) != "blue"
    assert colour_of(canvas()) == ""


def test_a_piece_is_cut_out_to_the_size_of_a_sprite() -> None:
    image = canvas((20, 20, 12, (200, 0, 0)), (90, 90, 20, (0, 0, 200)))
    alone = cut_out(image, pieces(foreground(image))[1])
    mask = foreground(alone)
    assert alone.size == (128, 128)
    assert colour_of(alone) == "red"
    assert np.flatnonzero(mask.any(1)).size == pytest.approx(128 * 0.84, abs=3)


class Redness(nn.Module):
    """Calls a picture kind 0 and style 0 where it is more red than blue, else kind 1 and style 1."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        red = (x[:, 0] - x[:, 2]).mean((1, 2))
        two = torch.stack([red, -red], 1)
        return two, two, nn.functional.normalize(two + 1e-3, dim=1)


def red_or_blue() -> Judge:
    """A judge of the kinds "red" and "blue" in the styles "3d" and "line"."""
    gallery = nn.functional.normalize(torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]] * 2), dim=2)
    return Judge(Redness(), ("red", "blue"), ("3d", "line"), gallery, {})


RED, BLUE = canvas((64, 64, 50, (220, 30, 30))), canvas((64, 64, 50, (30, 30, 220)))


def drawn(judge: Judge, rows: list[tuple[Question, Image.Image]]) -> Drawn:
    small = np.stack([np.asarray(image.resize((64, 64))) for _, image in rows])
    return Drawn([q for q, _ in rows], [image for _, image in rows], judge.see(small))


def test_figures_say_what_was_right_beside_the_baselines() -> None:
    judge = red_or_blue()
    rows = [Question("unseen", str(n), "zh", "x", kinds=("red",), style="3d") for n in range(40)]
    good = drawn(judge, [(q, RED) for q in rows])
    bad = drawn(judge, [(q, BLUE) for q in rows])
    found = {f.measure: f for f in figures(judge, {"model": good, "first level": bad, "none": None})}
    assert found["kind top-1"].model.value == 1
    assert found["nearest neighbour"].model.value == 1
    assert found["kind and style"].as_dict()["verdicts"] == {"first level": "above"}
    assert found["kind top-5"].baselines["first level"] == found["kind top-5"].model
    assert found["style"].baselines["none"] is None
    assert by_style(judge, good, "unseen")["3d"]["style"].n == 40


def test_agreement_compares_the_two_languages_of_one_question() -> None:
    judge = red_or_blue()
    rows = [(Question("bare", key, lang, "x"), image) for key, lang, image in
            [("a", "zh", RED), ("a", "en", RED), ("b", "zh", RED), ("b", "en", BLUE), ("c", "zh", RED)]]  # fmt: skip
    figure = agreement(judge, {"model": drawn(judge, rows), "nearest picture": None}, "bare")
    assert figure is not None
    assert (figure.model.value, figure.model.n) == (0.5, 2)
    assert agreement(judge, {"model": drawn(judge, rows)}, "seen") is None


def test_two_things_must_both_be_there_and_in_order() -> None:
    judge = red_or_blue()
    judge = Judge(judge.network, ("red", "blue"), judge.styles, judge.gallery, {})
    # With two kinds all are among the five likeliest, so only the number of pieces and the order can fail here.
    left = canvas((30, 64, 20, (220, 0, 0)), (98, 64, 20, (0, 0, 220)))
    question = Question("pair", "a", "zh", "x", kinds=("red",), kind2="blue", relation="above")
    found = {f.measure: f.model.value for f in figures(judge, {"model": drawn(judge, [(question, left)])})}
    assert found == {"both things": 1, "both in order": 0}
    found = {f.measure: f.model.value for f in figures(judge, {"model": drawn(judge, [(question, RED)])})}
    assert found == {"both things": 0, "both in order": 0}


def test_spread_is_nought_between_equal_pictures() -> None:
    judge = red_or_blue()
    one = drawn(judge, [(Question("bare", "a", "zh", "x"), RED)])
    other = drawn(judge, [(Question("bare", "a", "zh", "x"), BLUE)])
    pixels, embedding = spread(one, one)
    assert pixels.value == 0
    assert embedding.value == pytest.approx(0, abs=1e-6)
    assert spread(one, other)[0].value > 0.1


def test_of_picks_rows() -> None:
    seen = Seen(np.arange(10).reshape(2, 5), np.array([0, 1]), np.eye(2, dtype=np.float32))
    both = Drawn([Question("bare", "a", "zh", "x"), Question("seen", "a", "en", "y")], [RED, BLUE], seen)
    assert both.of("seen").seen.style.tolist() == [1]
    assert not both.of("seen", "zh").questions
