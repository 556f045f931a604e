"""Display names of a suite's groups and measures, in both languages."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bimo.core.messages import Both, Message
from bimo.evaluation.suite_text import LESS, PRINT

#: Titles of groups, by their names in a suite.
GROUPS: Mapping[str, Message] = {
    "dishes": Message("dishes with misleading names"),
    "idiom_story": Message("idioms: the story"),
    "idiom_meant": Message("idioms: the meaning"),
    "verses": Message("verses"),
    "terms": Message("solar terms"),
    "festivals": Message("festivals"),
    "dress": Message("dress"),
    "landmarks": Message("landmarks"),
    "brush": Message("brushwork and crafts"),
    "counts": Message("counts and classifiers"),
    "colours": Message("colours and their names"),
    "negation": Message("negation"),
    "relations": Message("relations"),
    "invariance": Message("other spellings"),
    "mixed": Message("Chinese and English mixed"),
    "inscriptions": Message("text in the picture"),
}
#: Names of measures, by those in the record; of measures that are not listed the parts are replaced.
MEASURES: Mapping[str, Message] = {
    "text characters": Message("text: share of characters read, in any order"),
    "text similarity": Message("text: similarity (1 − NED)"),
    "text sentences": Message("text: whole sentences read"),
    "text f1": Message("text: F1 of characters"),
    "text whole": Message("text: no error in the picture"),
    "text OneIG": Message("text: OneIG score"),
    "text strokes": Message("text: characters with all strokes right (lower bound)"),
    "precision": Message("precision"),
    "recall": Message("recall"),
    "near copy": Message("near copy of a training picture"),
}
PARTS: Mapping[str, Message] = {
    "clip-zh": Message("Chinese CLIP"),
    "clip-en": Message("English CLIP"),
    "similarity": Message("similarity"),
    "alike, languages": Message("similarity of both languages"),
    "alike, spellings": Message("similarity of other spellings"),
    "alike, others": Message("similarity of unrelated prompts (baseline)"),
    "apart, seeds": Message("diversity between seeds"),
    ", beyond its line": Message(": past the threshold"),
    "aesthetic": Message("aesthetic score"),
    "nsfw": Message("NSFW"),
    "all checks": Message("all checks right"),
    "checks": Message("checks right"),
    "endpoint": Message("vision model"),
    "pixels": Message("pixels"),
    " r": Message(" retrieved first (CLIP-R)"),
}
_PART = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(PARTS, key=len, reverse=True)))})(?!\w)")


def measure_name(measure: str) -> Message:
    """The display name of a measure."""
    if measure in MEASURES:
        return MEASURES[measure]
    if (name := measure.removesuffix(PRINT)) != measure:
        return Message("{measure}, OCR of clean print", measure=measure_name(name))
    if (name := measure.removesuffix(LESS)) != measure:
        return Message("{measure}, error minus that of OCR", measure=measure_name(name))

    def in_language(code: str) -> str:
        return _PART.sub(lambda match: PARTS[match.group()].said(code), measure)

    return Both(in_language("zh"), in_language("en"))


def group_name(group: str) -> Message:
    """The display name of a group; groups of published suites keep their names."""
    return GROUPS.get(group, Both(group, group))
