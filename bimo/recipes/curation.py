"""Curation of published systems as lists of steps for `bimo curate`; notes say what is known of each.

A threshold that a publisher did not give is ours, as the note says. Custom lists work the same way from any file:
`bimo curate SRC DST --recipe ./mine.py:name`.
"""

from bimo.curation.dedup.duplicates import Duplicates
from bimo.curation.filters.caption_rules import Adverts, Length, Meaningless, Normal
from bimo.curation.filters.classifiers import Aesthetic, Safe
from bimo.curation.filters.composition import Buckets
from bimo.curation.filters.frequency import TooFrequent
from bimo.curation.filters.image_rules import Aspect, MinSide, Sharpness, Still
from bimo.curation.filters.ocr import Watermark
from bimo.curation.filters.pii import Pii
from bimo.curation.filters.similarity import Similarity
from bimo.curation.steps import Curation

wukong = Curation(
    name="wukong",
    title="悟空 Wukong-100M",
    steps=(
        MinSide(pixels=200),
        Aspect(low=1 / 3, high=3.0),
        Normal(),
        Meaningless(),
        Length(least=2),
        Pii(do="mask"),
        TooFrequent(above=10),
    ),
    note="arXiv:2202.06767, recalled and not verified: about 2 B pairs found by frequent Chinese queries became 100 M. "
    "Sides under 200 pixels and shapes beyond 1:3 went; so did captions without meaning (图片, 照片, file names), too "
    "short ones and those there more than ten times; names of persons became a tag. How short is too short was not "
    "published: 2 is a guess. Their list of sensitive words was not either; Sensitive(words=FILE) takes one's own.",
)

huahua = Curation(
    name="huahua",
    title="悟空画画 25M",
    steps=(
        *wukong.steps,
        Watermark(below=0.6),
        Aesthetic(scorer="openai/clip-vit-large-patch14", head="", above=5.0),
        Similarity(scorer="taiyi-clip", top=0.25),
    ),
    note="minddiffusion: of Wukong's pairs about 25 M stayed, by how well words and picture fit, by watermarks and by "
    "beauty; scorers and thresholds were not published. Ours: signs of a watermark by rules over the text in the "
    "picture, 5 of 10 by a head of LAION's, and the best quarter by Taiyi-CLIP. The head is yours to name, none is "
    "shipped: --aesthetic FILE, or none to leave beauty out.",
)

taiyi = Curation(
    name="taiyi",
    title="太乙 20M",
    steps=(*wukong.steps, Similarity(scorer="taiyi-clip", above=0.2)),
    note="Wukong's 100 M and Zero's 23 M pairs with a score above 0.2 by Taiyi-CLIP became 20 M; the other steps are "
    "those of Wukong. The step was not published as code, and who repeated it with the published Taiyi-CLIP kept about "
    "6 M even above 0.08: a cosine of one release does not hold for another. false_accepts=0.05 in the place of above "
    "settles it on one's own pairs.",
)

altdiffusion = Curation(
    name="altdiffusion",
    title="AltDiffusion-m18",
    steps=(MinSide(pixels=256), Still(), Normal(), Length(least=1), Safe(below=0.5)),
    note="LAION-5B (2.32 B pairs in English, 1.8 B in 18 languages) at 256 pixels, then LAION-Aesthetics V1 at 512: "
    "--set steps.0.pixels=512. LAION had cut its pairs by CLIP before, at 0.28 in English and 0.26 in other languages "
    "(arXiv:2210.08402, recalled and not verified); Similarity(scorer=...) does so for pairs of one's own. That small "
    "and unsafe pictures went is our reading, not theirs.",
)

danqing = Curation(
    name="danqing",
    title="丹青",
    steps=(
        MinSide(pixels=256),
        Aspect(low=1 / 3, high=3.0),
        Sharpness(),
        Normal(),
        Meaningless(),
        Adverts(),
        Length(least=2),
        Duplicates(),
        Aesthetic(scorer="openai/clip-vit-large-patch14", head="", above=5.0),
        Similarity(scorer="taiyi-clip", top=0.5),
        Buckets(area=262144),
    ),
    note="Closed. Told were 0.8 B pairs behind filters of relevance, sharpness and beauty, and training in buckets of "
    "size and shape. Every number is ours, unverified, and so are the rules over captions and duplicates; beauty is "
    "judged as for huahua.",
)
