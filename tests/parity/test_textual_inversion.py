"""Words that were learnt: files of diffusers draw as in its own pipeline, ours are read by it, others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from bimo.core.errors import RecipeError, WeightsError
from bimo.diffusion.system import System
from bimo.engine.adapters import embedding
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.textual_inversion import begin_word, end_word, save_word, table_of, teach, vectors_of
from tests.parity.test_adapters import SCHEDULE, by_diffusers, compare
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import bert_words, checkpoint, read_by_diffusers

pytestmark = pytest.mark.slow

REQUEST: dict[str, Any] = {"seed": 3, "steps": 4, "guidance": 7.5, "size": (64, 64), "text": "a red <toy> cat"}


@pytest.fixture(scope="module", params=["clip", "bert"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    place = tmp_path_factory.mktemp("sd") / "saved"
    checkpoint(place, request.param, diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False))
    return place


def vectors(count: int) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("count", [1, 3])
def test_a_file_of_diffusers(folder: Path, tmp_path: Path, count: int) -> None:
    save_file({"<toy>": vectors(count)}, tmp_path / "toy.safetensors")
    pipeline = read_by_diffusers(folder)
    pipeline.load_textual_inversion(str(tmp_path / "toy.safetensors"))
    system = read_folder(folder)
    plain, before = draw(system, REQUEST), system.weights_hash
    assert teach(system, tmp_path / "toy.safetensors") == ["<toy>"]
    assert system.weights_hash != before
    assert system.budgets("<toy>")[0].used == 2 + count
    compare(draw(system, REQUEST), by_diffusers(pipeline, REQUEST), plain)
    # A system that was taught a word is kept with it.
    system.save(tmp_path / "kept")
    again = draw(System.read(tmp_path / "kept"), REQUEST)[0]
    assert again.image.tobytes() == draw(system, REQUEST)[0].image.tobytes()


@pytest.mark.parametrize("count", [1, 3])
def test_one_that_is_learnt_here_is_read_by_diffusers(folder: Path, tmp_path: Path, count: int) -> None:
    system = read_folder(folder)
    tower: Any = system.text_encoders[0]
    state = {name: value.clone() for name, value in system.state_dict().items()}
    tokens = tower.ids(["a red cat"])[0]
    rows = table_of(tower).num_embeddings
    name = begin_word(tower, "<toy>", "cat", count)
    initial = table_of(tower).weight[tower.tokenizer.token_to_id("cat") or tower.tokenizer.token_to_id("cat</w>")]
    assert torch.equal(tower.get_parameter(name), initial.expand(count, -1))
    with torch.no_grad():
        tower.get_parameter(name).copy_(vectors(count))
    learnt = draw(system, REQUEST)
    save_word(tmp_path / "toy.safetensors", "<toy>", vectors_of(tower))
    assert load_file(tmp_path / "toy.safetensors")["<toy>"].shape == (count, 16)
    end_word(tower)
    # Nothing else learns, and nothing is left behind.
    assert table_of(tower).num_embeddings == rows
    assert all(torch.equal(value, state[name]) for name, value in system.state_dict().items())
    assert torch.equal(tower.ids(["a red cat"])[0], tokens)
    pipeline = read_by_diffusers(folder)
    pipeline.load_textual_inversion(str(tmp_path / "toy.safetensors"))
    compare(learnt, by_diffusers(pipeline, REQUEST), draw(system, REQUEST))
    teach(system, tmp_path / "toy.safetensors")
    assert draw(system, REQUEST)[0].image.tobytes() == learnt[0].image.tobytes()


def test_under_another_name(folder: Path, tmp_path: Path) -> None:
    save_file({"emb_params": vectors(2)}, tmp_path / "toy.safetensors")
    save_file({"<toy>": vectors(2)}, tmp_path / "other.safetensors")
    system, other = read_folder(folder), read_folder(folder)
    assert teach(system, tmp_path / "toy.safetensors") == ["toy"]  # AUTOMATIC1111's are called as their files are
    assert teach(other, tmp_path / "other.safetensors", "toy") == ["toy"]
    request = REQUEST | {"text": "a toy"}
    assert draw(system, request)[0].image.tobytes() == draw(other, request)[0].image.tobytes()


def published(kind: str, file: Path) -> None:
    """Saves two vectors as others do."""
    own = vectors(2)
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(own)})
    plain = {"string_to_token": {"*": 265}, "string_to_param": {"*": own}, "name": "toy", "step": 500}
    forms: dict[str, Any] = {
        "AUTOMATIC1111": {**plain, "sd_checkpoint": None, "sd_checkpoint_name": None},
        "AUTOMATIC1111, a parameter": {**plain, "string_to_param": {"*": torch.nn.Parameter(own)}},
        "CompVis": {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters},
        "CompVis, a word of its own": {
            "string_to_token": {"toy": torch.tensor(265)},
            "string_to_param": torch.nn.ParameterDict({"toy": torch.nn.Parameter(own)}),
        },
        "diffusers": {"toy": own},
        "emb_params": {"emb_params": own},
        "a tensor": own,
    }
    torch.save(forms[kind], file, _use_new_zipfile_serialization=kind != "AUTOMATIC1111")


FORMS = ("AUTOMATIC1111", "AUTOMATIC1111, a parameter", "CompVis", "CompVis, a word of its own", "diffusers")


@pytest.mark.parametrize("kind", [*FORMS, "emb_params", "a tensor"])
def test_every_published_form(folder: Path, tmp_path: Path, kind: str) -> None:
    """The word is the file's own, where it has none the file's name, or the one that is given; never a key."""
    named = kind in ("AUTOMATIC1111", "AUTOMATIC1111, a parameter", "CompVis, a word of its own", "diffusers")
    published(kind, tmp_path / ("ink.pt" if named else "toy.pt"))
    expected = read_folder(folder)
    save_file({"toy": vectors(2)}, tmp_path / "toy.safetensors")
    teach(expected, tmp_path / "toy.safetensors")
    request = REQUEST | {"text": "a toy cat", "steps": 2}
    system = read_folder(folder)
    assert teach(system, tmp_path / ("ink.pt" if named else "toy.pt")) == ["toy"]
    assert draw(system, request)[0].image.tobytes() == draw(expected, request)[0].image.tobytes()
    again = read_folder(folder)
    assert teach(again, tmp_path / ("ink.pt" if named else "toy.pt"), "<玩具>") == ["<玩具>"]


@pytest.mark.parametrize("names", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_of_two_text_encoders_of_one_width_the_names_tell(tmp_path: Path, names: tuple[str, str]) -> None:
    """A file of Stable Diffusion XL, in any order, as diffusers reads each half into its own text encoder."""
    from tests.parity.test_stable_diffusion_xl import checkpoint as xl
    from tests.parity.test_stable_diffusion_xl import read_by_diffusers as xl_by_diffusers

    pipeline = xl_by_diffusers(xl(tmp_path / "xl"))
    halves = (4 * vectors(2), 4 * vectors(3)[:2])
    for number, half in zip(("", "_2"), halves, strict=True):
        parts = {"text_encoder": pipeline.components[f"text_encoder{number}"]}
        parts |= {"tokenizer": pipeline.components[f"tokenizer{number}"]}
        assert parts["text_encoder"].get_input_embeddings().embedding_dim == 16
        pipeline.load_textual_inversion({"<toy>": half}, **parts)
    save_file(dict(zip(names, halves, strict=True)), tmp_path / "toy.safetensors")
    request = {**REQUEST, "steps": 2, "text": "a red <toy> cat"}
    system = read_folder(tmp_path / "xl")
    plain = draw(system, request)
    assert teach(system, tmp_path / "toy.safetensors", "<toy>") == ["<toy>"]
    compare(draw(system, request), by_diffusers(pipeline, request), plain)
    save_file({"<toy>": halves[0]}, tmp_path / "either.safetensors")
    with pytest.raises(WeightsError, match="16, 16 wide"):
        teach(read_folder(tmp_path / "xl"), tmp_path / "either.safetensors")


def test_a_folder_of_diffusers_and_numbers_of_8_bits(folder: Path, tmp_path: Path) -> None:
    narrow = vectors(2).to(torch.float8_e4m3fn)
    save_file({"toy": narrow}, tmp_path / "toy.safetensors")
    (tmp_path / "concept").mkdir()
    with pytest.raises(WeightsError, match=r"learned_embeds\.safetensors"):
        teach(read_folder(folder), tmp_path / "concept")
    torch.save({"toy": narrow.float()}, tmp_path / "concept" / "learned_embeds.bin")
    request = REQUEST | {"text": "a toy cat", "steps": 2}
    pictures: list[bytes] = []
    for place in ("toy.safetensors", "concept"):
        system = read_folder(folder)
        file, word = embedding(str(tmp_path / place))
        assert teach(system, file, word) == ["toy"]
        pictures.append(draw(system, request)[0].image.tobytes())
    assert pictures[0] == pictures[1] != draw(read_folder(folder), request)[0].image.tobytes()


class _Bomb:
    def __reduce__(self) -> Any:
        return (print, ("a pickle ran code",))


def test_one_that_would_run_code_or_is_broken_is_refused(folder: Path, tmp_path: Path) -> None:
    system = read_folder(folder)
    own = {"string_to_param": {"*": vectors(1)}, "name": "toy"}
    for name, value, told in (
        ("code", {**own, "more": _Bomb()}, "would run code"),
        ("nan", {**own, "string_to_param": {"*": vectors(1) * float("nan")}}, "NaN"),
        ("empty", {**own, "string_to_param": {}}, "no tensor"),
    ):
        torch.save(value, tmp_path / f"{name}.pt")
        with pytest.raises(WeightsError, match=told):
            teach(system, tmp_path / f"{name}.pt")
    torch.save({**own, "name": "my toy"}, tmp_path / "spaces.pt")
    with pytest.raises(RecipeError, match="<my-toy>"):
        teach(system, tmp_path / "spaces.pt")


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    system = read_folder(folder)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    save_file({"<toy>": torch.ones(1, 24)}, tmp_path / "wide.safetensors")
    with pytest.raises(WeightsError, match=r"\(1, 24\).* 16 wide"):
        teach(system, tmp_path / "wide.safetensors")
    save_file({"<toy>": torch.ones(0, 16)}, tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="no vectors for <toy>"):
        teach(system, tmp_path / "none.safetensors")
    save_file({"<toy>": vectors(1), "<ball>": vectors(2)}, tmp_path / "two.safetensors")
    with pytest.raises(WeightsError, match="several"):
        teach(system, tmp_path / "two.safetensors", "<toy>")
    for token in ("red</w>" if "red</w>" in _words(system) else "red", "a toy", ""):
        with pytest.raises(RecipeError):
            begin_word(system.text_encoders[0], token, "cat", 1)
    with pytest.raises(RecipeError, match="initial"):
        begin_word(system.text_encoders[0], "<toy>", "", 1)
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())
    assert teach(system, tmp_path / "two.safetensors") == ["<ball>", "<toy>"]
    with pytest.raises(RecipeError, match="ball"):
        teach(system, tmp_path / "two.safetensors")


def test_a_vocabulary_with_gaps_is_refused(tmp_path: Path) -> None:
    """A word that is listed twice leaves one: the next number is the last word's own."""
    bert_words(tmp_path / "words")
    table = (tmp_path / "words" / "vocab.txt").read_text("utf-8").split("\n")
    (tmp_path / "words" / "vocab.txt").write_text("\n".join([*table[:9], table[8], *table[9:]]), "utf-8")
    tower = Bert(vocab=len(table) + 1, length=24).tiny().build()
    tower.load_tokenizer(tmp_path / "words")
    with pytest.raises(RecipeError, match="gaps"):
        begin_word(tower, "<toy>", "cat", 1)


def _words(system: System) -> dict[str, int]:
    tower: Any = system.text_encoders[0]
    return tower.tokenizer.get_vocab()
