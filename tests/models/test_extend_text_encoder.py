"""A tower with more words and positions begins where the one it grew from stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bimo.core.errors import RecipeError
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.clip import ClipText, ClipTextEncoder
from bimo.models.text_encoders.extend import characters, extend, extended
from tests.support.tiny_checkpoints import clip_words


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> ClipTextEncoder:
    folder = tmp_path_factory.mktemp("words") / "clip"
    torch.manual_seed(0)
    part = ClipText(width=16, layers=2, heads=2, feed=32, vocab=len(clip_words(folder)), positions=16, length=16)
    made = part.build().eval()
    made.load_tokenizer(folder)
    return made


def test_what_was_read_before_is_read_as_before(tower: ClipTextEncoder) -> None:
    grown = extended(tower, ["红", "苹"], positions=40, length=30)
    with torch.inference_mode():
        before, after = (one.encode(["a red cat", "果"]).tokens for one in (tower, grown))
    # The tower is causal: what stands later is not seen. Padding is one of its words as well.
    assert after.shape == (2, 30, 16)
    assert torch.allclose(before, after[:, :16], atol=1e-6)


def test_a_new_word_begins_as_the_mean_of_its_pieces(tower: ClipTextEncoder, tmp_path: Path) -> None:
    grown = extended(tower, ["红", "苹"], positions=40, length=30)
    pieces = tower.tokenizer.encode("红", add_special_tokens=False).ids
    assert len(pieces) > 1
    table = grown.model.embeddings.token_embedding.weight
    assert torch.allclose(table[tower.part.vocab], tower.model.embeddings.token_embedding.weight[pieces].mean(dim=0))
    ids, mask = grown.ids(["红苹果"])
    assert ids[0, 1:3].tolist() == [tower.part.vocab, tower.part.vocab + 1]
    assert int(mask.sum()) < int(tower.ids(["红苹果"])[1].sum())
    grown.save_tokenizer(tmp_path / "saved")
    again = ClipTextEncoder(grown.part)
    again.load_tokenizer(tmp_path / "saved")
    assert torch.equal(again.ids(["一只红苹果 red"])[0], grown.ids(["一只红苹果 red"])[0])


@pytest.mark.parametrize(
    ("words", "positions", "message"), [(["a"], 20, "'a'"), (["红", "红"], 20, "'红'"), (["红"], 8, "only become more")]
)
def test_what_cannot_be_added_is_refused(
    tower: ClipTextEncoder, words: list[str], positions: int, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        extended(tower, words, positions, 8)


def test_words_and_text_encoder_must_belong_together(tower: ClipTextEncoder, tmp_path: Path) -> None:
    clip_words(tmp_path / "words")
    larger = ClipText(width=16, layers=2, heads=2, feed=32, vocab=600).build()
    larger.load_tokenizer(tmp_path / "words")
    with pytest.raises(RecipeError, match="600 words"):
        extended(larger, ["红"], 77, 77)


def test_a_system_is_extended_whole(tower: ClipTextEncoder, tmp_path: Path) -> None:
    system = System(Recipe(name="two", text_encoders=(tower.part, tower.part))).eval()
    for own in system.text_encoders:
        own.load_state_dict(tower.state_dict())  # type: ignore[attr-defined]
        own.tokenizer, own.pad = tower.tokenizer, tower.pad  # type: ignore[attr-defined]
    assert extend(system, ["红", "a", "红", "苹"], positions=40, length=0) == [2, 2]
    assert [part.vocab for part in system.recipe.text_encoders] == [tower.part.vocab + 2] * 2  # type: ignore[attr-defined]
    system.save(tmp_path / "grown")
    again = System.read(tmp_path / "grown")
    wanted = extended(tower, ["红", "苹"], 40, 16).encode(["红苹果"]).tokens
    assert all(torch.equal(own.encode(["红苹果"]).tokens, wanted) for own in again.text_encoders)
    with pytest.raises(RecipeError, match="BertTextEncoder"):
        extend(System(Recipe(name="bert", text_encoders=(Bert().tiny(),))), ["红"], 0, 0)


def test_the_most_frequent_characters_come_first() -> None:
    assert characters(["红苹果和红花", "a 红 cat, 花"], 2) == ["红", "花"]
