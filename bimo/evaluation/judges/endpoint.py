"""A vision-language model behind an OpenAI-compatible ``/chat/completions`` endpoint as judge."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bimo.curation.captioning.endpoint import Answer as Reply
from bimo.curation.captioning.endpoint import Client, Endpoint
from bimo.evaluation.judges.judge import Answer, Judge, Look, opened

#: The prompts around a question, which ask for a one-word answer.
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
#: Pictures are sent with at most this side, in pixels.
SENT_SIDE = 1024


class EndpointJudge(Judge):
    """Sends each check with its picture as an inline PNG to an endpoint."""

    def __init__(self, endpoint: Endpoint, wait: Callable[[float], object] | None = None) -> None:
        self.client = Client(endpoint) if wait is None else Client(endpoint, wait)
        self.endpoint = endpoint
        self.name = "endpoint"
        #: Number of looks without an answer, or with one that could not be parsed.
        self.unanswered = 0

    def identity(self) -> Mapping[str, str]:
        """The model and the instruction, but not the endpoint's address."""
        instruction = hashlib.sha256(repr(sorted(INSTRUCTION.items())).encode()).hexdigest()[:16]
        return {"judge": self.name, "model": self.endpoint.response_key(), "instruction": instruction}

    def answer(self, looks: Sequence[Look]) -> list[Answer]:
        """Raises DataError if the endpoint refuses or cannot be reached."""
        replies = self.client.ask_all([[_message(look)] for look in looks])
        answers = [
            _understood(one.text, look) if isinstance(one, Reply) else Answer("", None)
            for one, look in zip(replies, looks, strict=True)
        ]
        self.unanswered += sum(one.right is None for one in answers)
        return answers


def _message(look: Look) -> Mapping[str, Any]:
    check, language = look.check, look.check.language(look.language)
    yes_or_no = check.expected(look.language) in ("是", "否", "yes", "no")
    text = INSTRUCTION[language if yes_or_no else "other"].format(question=check.question_in(look.language))
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
    """Parses an answer: yes or no by the first such word, else whether the expected word or number occurs."""
    expected = _folded(look.check.expected(look.language))
    # Reasoning models emit their thoughts before the answer.
    plain = re.sub(r"(?s)<think>.*?</think>", "", text)
    words = [_folded(part) for part in re.split(r"[\s,.;:!?，。；：！？、“”\"'（）()*]+", plain) if part]
    if expected in ("yes", "no"):
        for word in words:
            if word in ("yes", "no"):
                return Answer(plain.strip()[:80], word == expected)
        return Answer(plain.strip()[:80], None)
    return Answer(plain.strip()[:80], expected in words) if words else Answer("", None)


def _folded(word: str) -> str:
    word = word.strip().lower()
    if word in YES:
        return "yes"
    if word in NO:
        return "no"
    return NUMBERS.get(word, word)
