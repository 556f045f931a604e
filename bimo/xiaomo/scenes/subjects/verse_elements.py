"""The elements that a verse may name by their zone in the scene, and the free places of a zone."""

from __future__ import annotations

WATERY = frozenset({
    "water", "river", "sea", "waves", "boat", "sail", "fisherman", "boatman", "lotus", "lotus leaf", "ducks", "carp",
    "geese on water", "reeds", "dyke", "dragon boat", "river lantern", "stone lantern",
})  # fmt: skip
SKY_BIRDS = ("geese", "egret", "crane", "crow", "swallow", "eagle")
FAR = ("pagoda", "temple", "city gate", "palace", "great wall", "beacon tower", "pavilion", "houses", "yurt")
TREES = (
    "willow", "pine", "peach blossom", "maple", "plum blossom", "bamboo", "tree", "bare tree", "ginkgo", "osmanthus",
)  # fmt: skip
FIGURES = (
    "person", "traveller", "poet", "scholar", "monk", "child", "farmer", "herd boy", "ox", "horse", "rider", "sheep",
    "camel", "wine", "table", "rabbit", "snowman",
)  # fmt: skip
FLAT = ("path", "grass", "meadow", "field", "flowers", "rock", "fence", "chrysanthemum", "orchid", "wine flag")
#: All elements that can be drawn.
SUPPORTED: frozenset[str] = WATERY | {
    "moon", "sun", "stars", "cloud", "mist", "rain", "snow", "smoke", "bird", "kite", "firework", "sky lantern",
    "mountain", "peak", "cliff", "hill", "stream", "spring", "waterfall", "desert", "vine", "cottage", "bridge", "gate",
    "window", "lantern", "terrace rail", *SKY_BIRDS, *FAR, *TREES, *FIGURES, *FLAT,
}  # fmt: skip
SEASON_TREES = {
    "spring": ("willow", "peach blossom"),
    "summer": ("willow", "tree", "pine"),
    "autumn": ("maple", "ginkgo", "pine"),
    "winter": ("bare tree", "pine", "plum blossom"),
}
TREE_KIND = {
    "willow": "willow", "peach blossom": "peach", "maple": "maple", "tree": "leafy", "bare tree": "bare",
    "ginkgo": "ginkgo", "osmanthus": "ginkgo",
}  # fmt: skip


class Places:
    """The places of a zone, each assigned once; after the last it is shared."""

    def __init__(self, *places: tuple[float, float]) -> None:
        self._free = list(places)

    def take(self) -> tuple[float, float]:
        """The next free place."""
        return self._free.pop(0) if len(self._free) > 1 else self._free[0]
