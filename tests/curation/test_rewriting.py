"""Captions translated and written anew: by a stand-in endpoint, and by tiny random models in folders."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

from bimo.core.errors import DataError, RecipeError
from bimo.core.part import dump, load
from bimo.curation.captioning import rewriting
from bimo.curation.captioning.endpoint import Answer, Endpoint, Unanswered
from bimo.curation.captioning.model_folder import ModelFolder, Writer
from bimo.curation.captioning.rewriting import Recaption, Translate, usable
from bimo.curation.filters.dictionary import agreement
from bimo.curation.steps import Pair, Tools, Verdict, WriterStep
from tests.support.chat_endpoint import Reply, Standin, said

pytestmark = pytest.mark.network

TOOLS = Tools(scorer=lambda name: pytest.fail("no scorer is needed"))
PAIRS = {
    "a man riding a bicycle on the street": "一个男人在街上骑自行车",
    "two dogs playing in the snow": "两只狗在雪地里玩耍",
    "A red apple on a wooden table": "木桌上的一个红苹果",
}
LETTERS = "图片猫狗一只描述请红苹果在桌上山水译成中文"


def by(standin: Standin, **settings: Any) -> Endpoint:
    return Endpoint(**{"address": standin.address, "model": "m", "tries": 1, **settings})


def pair(number: int, *captions: str, size: tuple[int, int] = (40, 20)) -> Pair:
    return Pair(number, Image.new("RGB", size, (200, number, 0)), captions)


def response_key(body: dict[str, Any]) -> str:
    """The text of a request."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else content[1]["text"]


def picture(body: dict[str, Any]) -> Image.Image:
    head, data = body["messages"][0]["content"][0]["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def translated(body: dict[str, Any], count: int) -> Reply:
    return said(PAIRS[response_key(body).split("\n\n")[1]])


@pytest.mark.parametrize("step", [Translate, Recaption])
def test_they_are_writer_steps_and_dump(step: type[Translate | Recaption]) -> None:
    for model in (Endpoint(address="https://a/v1", model="m", key="KEY"), ModelFolder(path="/nowhere")):
        made = step(by=model)
        assert isinstance(made, WriterStep)
        assert load(dump(made)) == made
    near, far = (
        step(by=Endpoint(address=f"https://{host}/v1", model="m", together=n)) for host, n in (("a", 1), ("b", 9))
    )
    assert near.measuring(TOOLS) == far.measuring(TOOLS)
    assert near.measuring(TOOLS) != step(by=Endpoint(address="https://a/v1", model="n")).measuring(TOOLS)


# Translation


@pytest.mark.slow
def test_a_translation_stands_behind_its_original(standin: Standin) -> None:
    standin.reply = translated
    first, second, third = PAIRS
    write = Translate(by=by(standin)).write(TOOLS)
    found = write([pair(1, first, second), pair(2, "一只猫"), pair(3, third), pair(4, first), pair(5, "2024-01-02")])
    assert found == [
        (first, PAIRS[first], second, PAIRS[second]), ("一只猫",), (third, PAIRS[third]), (first, PAIRS[first]),
        ("2024-01-02",),
    ]  # fmt: skip
    # What is Chinese, and what has no letters, is not asked about; what is there twice is asked about once.
    assert sorted(response_key(body).split("\n\n")[1] for body in standin.bodies) == sorted(PAIRS)
    assert Translate(by=by(standin), replace=True).write(TOOLS)([pair(1, first)]) == [(PAIRS[first],)]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("一只猫坐在桌子上", Verdict(0.0, 0.5)),
        ("", Verdict("empty", "a caption")),
        ("抱歉，我无法翻译", Verdict("declined: 抱歉，我无法翻译", "a caption")),
        ("I'm sorry, but I can't", Verdict("declined: I'm sorry, but I can't", "a caption")),
        ("a man rides a bike", Verdict("not zh: a man rides a bike", "zh")),
        ("街上" * 400, Verdict(800, 600)),
    ],
)
def test_a_translation_that_will_not_do(standin: Standin, answer: str, verdict: Verdict) -> None:
    standin.reply = lambda body, count: said(answer)
    source = next(iter(PAIRS))
    assert Translate(by=by(standin)).write(TOOLS)([pair(1, source)]) == [(source,)]
    assert Translate(by=by(standin), drop=True).write(TOOLS)([pair(1, source)]) == [verdict]
    # With a caption in that language left, the row stays.
    kept = Translate(by=by(standin), drop=True).write(TOOLS)([pair(1, source, "一只猫")])
    assert kept == [(source, "一只猫")]


def test_without_the_dictionary_any_text_of_the_language_will_do(standin: Standin) -> None:
    standin.reply = lambda body, count: said("“一只猫\n坐在桌子上”")
    source = next(iter(PAIRS))
    found = Translate(by=by(standin), check=False).write(TOOLS)([pair(1, source)])
    assert found == [(source, "一只猫 坐在桌子上")]


def test_from_chinese_into_english(standin: Standin) -> None:
    back = {zh: en for en, zh in PAIRS.items()}
    standin.reply = lambda body, count: said(back[response_key(body).split("\n\n")[1]])
    english, chinese = next(iter(PAIRS.items()))
    found = Translate(by=by(standin), to="en").write(TOOLS)([pair(1, chinese, english)])
    assert found == [(chinese, english)]


def test_the_dictionary_tells_a_translation_from_another_sentence() -> None:
    sources, translations = list(PAIRS), list(PAIRS.values())
    table = [[agreement(en, zh) for zh in translations] for en in sources]
    assert [table[n][n] for n in range(3)] == [1.0, 1.0, 1.0]
    assert all((table[n][m] or 0) <= 0.25 for n in range(3) for m in range(3) if n != m)
    assert agreement("Xyzzy Qwfp", "某某") is None
    assert agreement("the mice's cities", "老鼠的城市") == 1.0


def test_what_was_answered_is_not_asked_for_twice(standin: Standin) -> None:
    """One of a batch fails: asked about again one by one, the others have their answers."""
    bad = list(PAIRS)[1]

    def reply(body: dict[str, Any], count: int) -> Reply:
        return (400, {}, {}) if bad in response_key(body) else translated(body, count)

    standin.reply = reply
    write = Translate(by=by(standin)).write(TOOLS)
    pairs = [pair(number, text) for number, text in enumerate(PAIRS)]
    with pytest.raises(Unanswered):
        write(pairs)
    assert len(standin.bodies) == 3
    assert write(pairs[:1]) == [(pairs[0].captions[0], PAIRS[pairs[0].captions[0]])]
    with pytest.raises(Unanswered):
        write(pairs[1:2])
    assert len(write(pairs[2:])) == 1
    assert len(standin.bodies) == 4
    # Another time it is asked for again.
    write(pairs[:1])
    assert len(standin.bodies) == 5


# Captions from pictures


def test_a_caption_is_written_from_a_small_picture(standin: Standin) -> None:
    standin.reply = lambda body, count: said(f"宽{picture(body).width}")
    write = Recaption(by=by(standin), side=64).write(TOOLS)
    assert write([pair(1, "旧", size=(640, 320)), pair(2, size=(50, 30))]) == [("宽64",), ("宽50",)]
    shown = next(picture(body) for body in standin.bodies if picture(body).width == 64)
    assert shown.size == (64, 32)
    assert abs(cast("tuple[int, ...]", shown.getpixel((5, 5)))[0] - 200) < 8
    assert {response_key(body) for body in standin.bodies} == {rewriting.LOOK["zh"]}


def test_with_the_words_that_stood_beside_it(standin: Standin) -> None:
    standin.reply = lambda body, count: said("新")
    write = Recaption(by=by(standin), read=True, beside=True).write(TOOLS)
    assert write([pair(1, "鱼香茄子{text}", "二"), pair(2)]) == [("新", "鱼香茄子{text}", "二"), ("新",)]
    texts = {response_key(body) for body in standin.bodies}
    assert texts == {rewriting.LOOK_AND_READ["zh"].replace("{text}", "鱼香茄子{text}"), rewriting.LOOK["zh"]}
    Recaption(by=by(standin), prompt="看：{text}。").write(TOOLS)([pair(1, "鱼")])
    assert response_key(standin.bodies[-1]) == "看：鱼。"


def test_half_and_half_is_the_same_half_each_time(standin: Standin) -> None:
    standin.reply = lambda body, count: said("新")
    pairs = [pair(number % 200, "旧") for number in range(200)]
    step = Recaption(by=by(standin), mix=0.5)
    found = step.write(TOOLS)(pairs)
    new = [number for number, captions in enumerate(found) if captions == ("新",)]
    assert 75 < len(new) < 125
    assert len(standin.bodies) == len(new)
    assert [number for number in range(200) if step.chooses(number)] == new
    assert [n for n in range(200) if Recaption(by=by(standin), mix=0.5, seed=1).chooses(n)] != new
    # A larger share holds the smaller one.
    assert all(Recaption(by=by(standin), mix=0.7).chooses(number) for number in new)


def test_several_captions_a_sample(standin: Standin) -> None:
    answers = iter(["一", "二", "一"])
    standin.reply = lambda body, count: said(next(answers))
    found = Recaption(by=by(standin, together=1), count=3).write(TOOLS)([pair(1, "旧")])
    assert found == [("一", "二")]


def test_what_is_no_caption(standin: Standin) -> None:
    standin.reply = lambda body, count: said("作为一个AI，我看不到图片")
    assert Recaption(by=by(standin)).write(TOOLS)([pair(1, "旧")]) == [("旧",)]
    dropped = Recaption(by=by(standin), drop=True).write(TOOLS)([pair(1, "旧")])
    assert dropped == [Verdict("declined: 作为一个AI，我看不到图片", "a caption")]
    assert usable(Answer("一" * 900), 800)[1] == Verdict(900, 800)
    assert usable(Answer("说到一半", cut=True), 800)[1] == Verdict(4, 800)
    assert usable(Answer(" 「红苹果」 "), 800) == ("红苹果", None)
    assert usable(Answer("\ud800红"), 800) == ("?红", None)


@pytest.mark.parametrize("wrong", [{"mix": 0.0}, {"mix": 1.5}, {"count": 0}, {"side": 0}])
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Recaption(by=ModelFolder(path="x"), **wrong)


# Folders


def words() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    listed = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *dict.fromkeys(LETTERS), *"abcdefghijklmnopqrstuvwxyz"]
    table = Tokenizer(models.WordLevel({word: place for place, word in enumerate(listed)}, unk_token="<unk>"))
    table.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=table, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CHAT = (
    "{% for m in messages %}[{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}]{% endfor %}"
)


def causal(folder: Path) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = words()
    tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    config = LlamaConfig(
        **SMALL, vocab_size=len(tokenizer), num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def test_a_causal_model_is_told_what_to_do(tmp_path: Path) -> None:
    model = causal(tmp_path)
    writer = Writer(ModelFolder(path=str(tmp_path), tokens=5, batch=2), with_pictures=False)
    texts = ["请描述一只猫", "译成中文", "山水"]
    found = writer.write(texts)
    for text, answer in zip(texts, found, strict=True):
        # Alone, and by hand: padding beside others changes nothing, and what was asked is not part of the answer.
        ids = torch.tensor([writer.words(f"[{text}]")["input_ids"]])
        for _ in range(5):
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        ending = ids[0, -5:].tolist()
        ending = ending[: ending.index(2)] if 2 in ending else ending
        assert answer.text == writer.words.decode(ending, skip_special_tokens=True).strip()
        assert answer.cut == (2 not in ids[0, -5:])


def test_a_translator_is_given_the_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = words()
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, pad_token_id=0,
        eos_token_id=2, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = ModelFolder(path=str(tmp_path), prefix="to zh: ", tokens=4)
    given: list[str] = []
    write = Writer.write
    monkeypatch.setattr(Writer, "write", lambda self, texts, pictures=(): given.extend(texts) or write(self, texts))
    found = Translate(by=model, check=False).write(TOOLS)([pair(1, "a red apple"), pair(2, "猫")])
    assert given == ["a red apple"]
    assert found[1] == ("猫",)
    writer = Writer(model, with_pictures=False)
    assert writer._prompt("a red apple", False) == "to zh: a red apple"


def test_a_model_that_sees(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = words()
    torch.manual_seed(1)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SMALL, image_size=16, patch_size=8, projection_dim=8),
        text_config=LlamaConfig(
            **SMALL, vocab_size=len(tokenizer), num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0
        ),
        image_token_index=4,
    )
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=CHAT,
    ).save_pretrained(tmp_path)  # fmt: skip
    model = ModelFolder(path=str(tmp_path), tokens=6, batch=2)
    writer = Writer(model, with_pictures=True)
    pictures = [Image.effect_noise((30, 20), 90).convert("RGB"), Image.new("RGB", (20, 30), "blue")]
    first, second, third = writer.write(["描述", "请描述图片", "描述"], [*pictures, pictures[1]])
    assert all(answer.text for answer in (first, second, third))
    assert writer.write(["描述"], pictures[:1]) == [first]
    assert first != third  # the same words, another picture
    step = Recaption(by=model, prompt="描述", most=800)
    assert step.write(TOOLS)([pair(1, "旧")]) == [("旧",)]  # cut off at the most tokens


def test_a_folder_is_known_by_its_files(tmp_path: Path) -> None:
    causal(tmp_path)
    part = ModelFolder(path=str(tmp_path))
    before = part.response_key()
    assert before == ModelFolder(path=str(tmp_path), batch=3).response_key()
    assert before != ModelFolder(path=str(tmp_path), tokens=9).response_key()
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert part.response_key() != before


def test_a_folder_that_is_none_or_wants_to_run_code(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="config"):
        Writer(ModelFolder(path=str(tmp_path)), with_pictures=False)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}})
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DataError):
        Writer(ModelFolder(path=str(tmp_path)), with_pictures=False)
    assert not (tmp_path / "ran").exists()
