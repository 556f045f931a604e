"""What the report of 小墨's evaluation calls its groups, measures and baselines; how it is to be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bimo.evaluation.report import Labels

_GROUPS = {
    "seen": ("见过的说法：名称加风格词", "Captions seen in training: name and style word"),
    "bare": ("人们平常打的词", "Bare everyday words"),
    "unseen": ("没见过的（种类，风格）组合", "(kind, style) pairs never seen"),
    "colour": ("颜色词", "Colour words"),
    "unseen colour": ("没见过的（种类，颜色）组合", "(kind, colour) pairs never seen"),
    "count": ("数量", "Counts"),
    "pair": ("两样东西", "Two things"),
    "place": ("位置", "Places"),
    "warning": ("不认识的词的提醒", "Warning of unknown words"),
    "seeds": ("不同种子的差别", "Difference between seeds"),
}
_MEASURES = {
    "kind top-1": "种类第一位对", "kind top-5": "种类前五位对", "style": "风格对", "kind and style": "种类和风格都对",
    "nearest neighbour": "最近的真图种类对", "colour": "颜色对", "colour and kind": "颜色和种类都对",
    "number": "数目对", "both things": "两样都有", "both in order": "两样都有且位置对", "place": "位置对",
    "zh and en alike": "中英文同一种类",
    "unknown word named": "点出不认识的词", "false alarm, seen captions": "误报（见过的说法）",
    "false alarm, known everyday words": "误报（词表内的日常词）", "pixels, two seeds": "像素差（两个种子）",
    "pixels, two kinds": "像素差（两个种类）", "embedding, two seeds": "特征距离（两个种子）",
    "embedding, two kinds": "特征距离（两个种类）",
}  # fmt: skip
_BASELINES = {"nearest picture": "最近的训练图", "first level": "只用第一层"}
LABELS = Labels(_GROUPS, _MEASURES, _BASELINES)
NOTES = (
    "区间为 95%：比例用 Wilson，均值用自助法。Intervals are 95 %: Wilson for shares, bootstrap for means.",
    "“高于”指模型的区间整个在基线的区间之上。“above” means that the model's whole interval lies above the baseline's.",
    "最近的训练图：同一种类的 3D 训练图（3D 被留出时用别的风格），不看风格、颜色、数目等词。"
    "Nearest picture: the 3d training picture of the kind (another style where that is held out), deaf to words of "
    "style, colour, number and place. The judge learned from these very pictures.",
    "真图：所要的种类和风格的真图，换了姿态，由同一评判器看：完美的画家能得的分。"
    "True pictures: the true picture of the kind and style asked for in a new pose, shown to the "
    "same judge: the score of a perfect painter.",
    "最近的真图：评判器的特征不大看风格，贴 3D 图也能得高分；能不能换风格，要看“种类和风格都对”。"
    "Nearest neighbour: the judge's embedding looks past style, so that pasting the 3d picture scores high as "
    "well; whether style transfers is seen in “kind and style”.",
    "“见过的说法”说明记忆，不说明生成。Seen captions show memory, not generation.",
    "评判器自己也会错；它在真图上的准确率见下表。"
    "The judge errs too: its accuracy on true pictures is in the tables below.",
    "日常词：评判器认为是所列种类之一即为对。"
    "Everyday words: right if the judge names one of the kinds a person would accept.",
)


def judge_tables(facts: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """The judge's own accuracies as tables: on poses never seen, and blind on held-out pairs."""
    heading = ["", "n", "kind top-1", "kind top-5", "style", "both"]

    def row(name: str, cells: dict[str, Any]) -> list[str]:
        return [name, str(cells["n"]), *(f"{cells[part]:.1%}".replace("%", " %") for part in heading[2:])]

    main, blind = facts.get("accuracy", {}), facts.get("blind accuracy", {})
    tables: dict[str, list[list[str]]] = {}
    if "overall" in main:
        body = [row("all", main["overall"])]
        body += [row(s, main["overall by style"][s]) for s in main["overall by style"]]
        tables["评判器在真图（新姿态）上 the judge on true pictures in poses never seen"] = [heading, *body]
    if "held out" in blind:
        body = [row("judge that never saw them", blind["held out"]), row("judge used here", main["held out"])]
        body.append(row("judge that never saw them, on pairs it saw", blind["overall"]))
        title = "留出的（种类，风格）真图 true pictures of held-out pairs: what a perfect painter could score"
        tables[title] = [heading, *body]
    return tables
