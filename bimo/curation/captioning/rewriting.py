"""Steps that rewrite captions by a model: translation, and recaptioning from the picture with or without the old
caption.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bimo.core.errors import RecipeError
from bimo.curation.captioning.endpoint import Answer, Client, Endpoint, Unanswered
from bimo.curation.captioning.model_folder import ModelFolder, Writer
from bimo.curation.filters.dictionary import agreement, has_han, share_of_han
from bimo.curation.steps import Pair, Tools, Verdict, WriterStep

if TYPE_CHECKING:
    from PIL import Image

Rewritten = list[tuple[str, ...] | Verdict]
#: Least share of Chinese characters among the letters of a Chinese text.
CHINESE = 0.3
#: Most cached responses of batches in which another request failed.
MOST_KNOWN = 4096
#: Most characters of a caption in a request.
MOST_CHARACTERS = 2000
TRANSLATE = {
    "zh": "把下面的图片说明译成自然、准确的简体中文。只输出译文，不要解释。\n\n{text}",
    "en": "Translate this caption of a picture into plain English. Answer with the translation only.\n\n{text}",
}
LOOK = {
    "zh": "用一段简体中文如实描述这张图片：主体、数量、颜色、动作、位置关系、背景、画面里的文字和风格。"
    "只写看得见的，不要评价，不要以“这张图片”开头。",
    "en": "Describe this picture truthfully in one paragraph of English: subjects, counts, colours, actions, places, "
    "background, written words and style. Only what can be seen, no opinions, and do not begin with 'This picture'.",
}
LOOK_AND_READ = {
    "zh": LOOK["zh"]
    + "\n图片原来的配文是：「{text}」。其中的名称（人名、地名、菜名、作品名）与图相符就用上，不相符的不要写。",
    "en": LOOK["en"] + "\nIts caption was: “{text}”. Use the names in it where they fit the picture, and nothing else.",
}
#: How refusals of models begin.
_DECLINED = re.compile(
    r"\W*(?:抱歉|对不起|很遗憾|我(?:无法|不能|没有办法)|无法(?:查看|识别|描述|翻译)|作为(?:一个|一名)?(?:AI|人工智能|语言模型)|"
    r"(?:i['’]?m |i am )?(?:sorry|unable)|i (?:cannot|can['’]?t)|as an ai\b)",
    re.IGNORECASE,
)
_QUOTES = "“”\"'‘’「」『』"


@dataclass(frozen=True, kw_only=True)
class Translate(WriterStep):
    """Adds a translation after each caption in another language; captions in ``to`` stay as they are.

    ``by`` is an Endpoint or a ModelFolder. With ``check`` a translation is used only where at least ``share`` of the
    English content words that the dictionary knows have a translation in the Chinese text. Otherwise, and where the
    model refused, was cut off or wrote another language, the row is unchanged; with ``drop`` a row that is left without
    a caption in ``to`` is dropped. ``replace`` keeps the translation alone.
    """

    says: ClassVar[tuple[str, str]] = ("译文不可用", "no usable translation")
    single: ClassVar[bool] = True

    by: Endpoint | ModelFolder
    to: Literal["zh", "en"] = "zh"
    check: bool = True
    share: float = 0.5
    most: int = 600
    replace: bool = False
    drop: bool = False

    def measuring(self, tools: Tools) -> str:
        """All settings but the address of the model and the retries."""
        settings = (self.to, self.check, self.share, self.most, self.replace, self.drop, TRANSLATE[self.to])
        return f"Translate/1 {_digest(self.by.response_key(), *settings)}"

    def write(self, tools: Tools) -> Callable[[Sequence[Pair]], Rewritten]:
        """Opens the model. A text that several captions of a batch share is translated once."""
        model = TextModel(self.by, with_pictures=False)
        # A sequence-to-sequence model translates its input; all others need an instruction.
        plain = model.writer is not None and model.writer.whole
        template = "{text}" if plain else TRANSLATE[self.to]

        def written(pairs: Sequence[Pair]) -> Rewritten:
            texts = list(dict.fromkeys(text for pair in pairs for text in pair.captions if self._foreign(text)))
            requests = [(template.replace("{text}", _for_request(text)), None) for text in texts]
            answers = dict(zip(texts, model.answers(requests), strict=True))
            return [self._row(pair, answers) for pair in pairs]

        return written

    def _foreign(self, text: str) -> bool:
        if self.to == "en":
            return has_han(text)
        return share_of_han(text) < CHINESE and any(character.isalpha() for character in text)

    def _row(self, pair: Pair, answers: dict[str, Answer]) -> tuple[str, ...] | Verdict:
        written: dict[str, None] = {}
        why: Verdict | None = None
        for text in pair.captions:
            if text not in answers:
                written[text] = None
                continue
            translation, wrong = self._judged(text, answers[text])
            if wrong is None:
                written |= dict.fromkeys((translation,) if self.replace else (text, translation))
            else:
                why = wrong
                written[text] = None
        if self.drop and why is not None and all(self._foreign(text) for text in written):
            return why
        return tuple(written)

    def _judged(self, text: str, answer: Answer) -> tuple[str, Verdict | None]:
        translation, wrong = usable(answer, self.most)
        if wrong is None and self._foreign(translation):
            wrong = Verdict(f"not {self.to}: {translation[:40]}", self.to)
        if wrong is None and self.check:
            english, chinese = (text, translation) if self.to == "zh" else (translation, text)
            share = agreement(english, chinese)
            if share is not None and share < self.share:
                wrong = Verdict(round(share, 4), self.share)
        return translation, wrong


@dataclass(frozen=True, kw_only=True)
class Recaption(WriterStep):
    """Writes captions from the picture, ``by`` a vision-language model: an Endpoint or a ModelFolder.

    ``mix`` is the share of the rows that are recaptioned, chosen by their number and ``seed``; the others are unchanged
    and cause no request. 0.5 is the ratio of Kolors (its technical report; not verified). ``read`` shows the model the
    first caption as well; ``beside`` keeps the old captions after the new ones. ``count`` captions are written for a
    row: of a model at temperature 0 they are equal, and each is kept once. Pictures are reduced to at most ``side``
    pixels. ``prompt`` replaces the default; "{text}" in it is the first caption. Where the model refused, wrote
    nothing, was cut off or wrote more than ``most`` characters, the row is unchanged, or with ``drop`` dropped.
    """

    says: ClassVar[tuple[str, str]] = ("没有写出可用的说明", "no usable caption was written")
    single: ClassVar[bool] = True

    by: Endpoint | ModelFolder
    language: Literal["zh", "en"] = "zh"
    mix: float = 1.0
    read: bool = False
    beside: bool = False
    count: int = 1
    side: int = 768
    most: int = 800
    prompt: str = ""
    drop: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mix <= 1 or self.count < 1 or self.side < 1:
            raise RecipeError("mix of Recaption must be above 0 and at most 1, count and side at least 1")

    def measuring(self, tools: Tools) -> str:
        """All settings but the address of the model and the retries."""
        settings = (self.mix, self.read, self.beside, self.count, self.side, self.most, self.drop, self.seed)
        return f"Recaption/1 {_digest(self.by.response_key(), self._template(), *settings)}"

    def write(self, tools: Tools) -> Callable[[Sequence[Pair]], Rewritten]:
        """Opens the model."""
        model = TextModel(self.by, with_pictures=True)

        def written(pairs: Sequence[Pair]) -> Rewritten:
            chosen = [pair for pair in pairs if self.chooses(pair.number)]
            requests = [(self._prompt(pair), self._shrunk(pair.picture)) for pair in chosen for _ in range(self.count)]
            answers = iter(model.answers(requests))
            rows = {pair.number: self._row(pair, [next(answers) for _ in range(self.count)]) for pair in chosen}
            return [rows.get(pair.number, pair.captions) for pair in pairs]

        return written

    def chooses(self, number: int) -> bool:
        """Whether a row is one of those that are recaptioned."""
        drawn = hashlib.blake2b(
            number.to_bytes(8, "little"), digest_size=8, key=self.seed.to_bytes(8, "little", signed=True)
        ).digest()
        return int.from_bytes(drawn, "little") < self.mix * 2**64

    def _template(self) -> str:
        return self.prompt or (LOOK_AND_READ if self.read else LOOK)[self.language]

    def _prompt(self, pair: Pair) -> str:
        if not self.prompt and not pair.captions:
            return LOOK[self.language]
        return self._template().replace("{text}", _for_request(next(iter(pair.captions), "")))

    def _shrunk(self, picture: Image.Image) -> Image.Image:
        if max(picture.size) <= self.side:
            return picture
        small = picture.copy()
        small.thumbnail((self.side, self.side))
        return small

    def _row(self, pair: Pair, answers: Sequence[Answer]) -> tuple[str, ...] | Verdict:
        judged = [usable(answer, self.most) for answer in answers]
        new = dict.fromkeys(text for text, wrong in judged if wrong is None)
        if not new:
            return judged[0][1] or pair.captions if self.drop else pair.captions
        return tuple(new | dict.fromkeys(pair.captions)) if self.beside else tuple(new)


class TextModel:
    """A model of either kind, opened. Where one request of a batch failed, the responses to the others are cached, so
    that retrying the batch pair by pair does not pay for them twice.
    """

    def __init__(self, by: Endpoint | ModelFolder, with_pictures: bool) -> None:
        self.client = Client(by) if isinstance(by, Endpoint) else None
        self.writer = Writer(by, with_pictures) if isinstance(by, ModelFolder) else None
        self._known: dict[str, list[Answer]] = {}

    def answers(self, requests: Sequence[tuple[str, Image.Image | None]]) -> list[Answer]:
        """The responses, in their order. Raises Unanswered where one is missing, DataError as ``Client.ask_all``."""
        if self.writer is not None:
            pictures = [picture for _, picture in requests if picture is not None]
            return self.writer.write([text for text, _ in requests], pictures)
        assert self.client is not None
        messages = [_message(text, picture) for text, picture in requests]
        keys = [_digest(message) for message in messages]
        results: list[Answer | Unanswered] = []
        missing: list[int] = []
        for at, key in enumerate(keys):
            if known := self._known.get(key):
                results.append(known.pop())
            else:
                results.append(Unanswered("not asked"))
                missing.append(at)
        for at, answer in zip(missing, self.client.ask_all([[messages[at]] for at in missing]), strict=True):
            results[at] = answer
        lost = [answer for answer in results if isinstance(answer, Unanswered)]
        if not lost:
            return [answer for answer in results if isinstance(answer, Answer)]
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        for key, answer in zip(keys, results, strict=True):
            if isinstance(answer, Answer):
                self._known.setdefault(key, []).append(answer)
        raise lost[0]


def usable(answer: Answer, most: int) -> tuple[str, Verdict | None]:
    """(the caption in a response, without quotes and line breaks, what is wrong with it)."""
    text = " ".join(answer.text.encode("utf-8", "replace").decode().split())
    if len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip()
    if not text:
        return "", Verdict("empty", "a caption")
    if _DECLINED.match(text):
        return text, Verdict(f"declined: {text[:40]}", "a caption")
    if answer.cut or len(text) > most:
        return text, Verdict(len(text), most)
    return text, None


def _for_request(text: str) -> str:
    """A caption for a request: truncated, and without characters that cannot be encoded."""
    return text[:MOST_CHARACTERS].encode("utf-8", "replace").decode()


def _message(text: str, picture: Image.Image | None) -> dict[str, Any]:
    if picture is None:
        return {"role": "user", "content": text}
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=90)
    address = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": text}]
    return {"role": "user", "content": content}


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "backslashreplace")).hexdigest()[:16]
