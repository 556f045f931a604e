"""Curation as published systems told of it: lists of steps for `bimo curate`, with what is known of each.

A list of one's own is the same in any file: `bimo curate SRC DST --recipe ./mine.py:name`.
"""

from bimo.data.curation.caption_rules import Length, Meaningless, Normal
from bimo.data.curation.image_rules import Aspect, MinSide
from bimo.data.curation.similarity import Similarity
from bimo.data.curation.steps import Curation

wukong = Curation(
    name="wukong",
    title="悟空 Wukong-100M",
    steps=(
        MinSide(pixels=200),
        Aspect(low=1 / 3, high=3.0),
        Normal(),
        Meaningless(),
        Length(least=2),
    ),
    note="arXiv:2202.06767, unverified: about 2 B pairs found by frequent Chinese queries became 100 M. Sides under "
    "200 pixels and shapes beyond 1:3 went; so did captions without meaning (图片, 照片, file names), too short ones, "
    "those there more than ten times, and those with sensitive words; names of persons were replaced. How short is too "
    "short and the words were not published: 2 is a guess.",
)

taiyi = Curation(
    name="taiyi",
    title="太乙 20M",
    steps=(*wukong.steps, Similarity(scorer="taiyi-clip", above=0.2)),
    note="Wukong's 100 M and Zero's 23 M pairs with a score above 0.2 by Taiyi-CLIP became 20 M. The step was not "
    "published as code, and who repeated it kept about 6 M even above 0.08 (Fengshenbang-LM, issue 236): a cosine of "
    "one release does not hold for another. false_accepts=0.05 in the place of above settles it on one's own pairs.",
)
