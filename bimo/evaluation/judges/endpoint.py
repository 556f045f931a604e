"""A vision model behind an OpenAI-compatible endpoint (``/chat/completions``) as judge: one question, one picture."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bimo.core.messages import say
from bimo.curation.captioning.endpoint import Answer as Said
from bimo.curation.captioning.endpoint import Client, Endpoint
from bimo.evaluation.judges.judge import Answer, Judge, Look, opened

#: Asked before the question, so that the answer is one word.
INSTRUCTION = {
    "zh": "请只看图回答。{question}只答“是”或“否”。",
    "en": "Answer by the picture alone. {question} Answer yes or no, nothing else.",
    "other": "Answer by the picture alone. {question} Answer in one word.",
}
YES = {"是", "是的", "有", "能", "能看到", "可以", "yes", "true", "对"}
NO = {"否", "不是", "没有", "不能", "不", "看不到", "无", "no", "false"}
NUMBERS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "zero": "0",
}  # fmt: skip
#: Longest side that is sent, in pixels.
SENT_SIDE = 1024


class EndpointJudge(Judge):
    """Asks each check of an endpoint; a picture is sent as a PNG within the message."""

    def __init__(self, endpoint: Endpoint, wait: Callable[[float], object] | None = None) -> None:
        self.client = Client(endpoint) if wait is None else Client(endpoint, wait)
        self.endpoint = endpoint
        self.name = "endpoint"
        #: Looks that got no answer, or none that could be understood.
        self.unanswered = 0

    def identity(self) -> Mapping[str, str]:
        """The model and how it is asked, not where."""
        instruction = hashlib.sha256(repr(sorted(INSTRUCTION.items())).encode()).hexdigest()[:16]
        return {"judge": self.name, "model": self.endpoint.asked(), "instruction": instruction}

    def answer(self, looks: Sequence[Look]) -> list[Answer]:
        """Raises DataError where the endpoint refuses or cannot be reached."""
        found = self.client.ask_all([[_message(look)] for look in looks])
        answers = [
            _understood(one.text, look) if isinstance(one, Said) else Answer("", None)
            for one, look in zip(found, looks, strict=True)
        ]
        self.unanswered += sum(one.right is None for one in answers)
        return answers

    def told(self) -> str:
        """How many questions stayed open, "" for none."""
        return say("questions without an answer: {count}", count=self.unanswered) if self.unanswered else ""


def _message(look: Look) -> Mapping[str, Any]:
    check, language = look.check, look.check.language(look.language)
    yes_or_no = check.expected(look.language) in ("是", "否", "yes", "no")
    text = INSTRUCTION[language if yes_or_no else "other"].format(question=check.asked(look.language))
    url = f"data:image/png;base64,{_sent(look.picture)}"
    return {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}],
    }


def _sent(path: Path) -> str:
    image = opened(path)
    image.thumbnail((SENT_SIDE, SENT_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _understood(text: str, look: Look) -> Answer:
    """Yes or no by the first word; other answers by their word or number."""
    wanted = _folded(look.check.expected(look.language))
    # What a model thinks aloud stands before its answer.
    plain = re.sub(r"(?s)<think>.*?</think>", "", text)
    words = [_folded(part) for part in re.split(r"[\s,.;:!?，。；：！？、“”\"'（）()*]+", plain) if part]
    if wanted in ("yes", "no"):
        for word in words:
            if word in ("yes", "no"):
                return Answer(plain.strip()[:80], word == wanted)
        return Answer(plain.strip()[:80], None)
    return Answer(plain.strip()[:80], wanted in words) if words else Answer("", None)


def _folded(word: str) -> str:
    word = word.strip().lower()
    if word in YES:
        return "yes"
    if word in NO:
        return "no"
    return NUMBERS.get(word, word)
