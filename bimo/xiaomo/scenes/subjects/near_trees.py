"""A tree in the foreground."""

from __future__ import annotations

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements import (
    trees,
)


def near_tree_kind(scene: Scene) -> str:
    """The kind of the tree in the foreground, by season."""
    kinds = {
        "spring": ("willow", "willow", "peach"),
        "summer": ("willow", "leafy"),
        "autumn": ("maple", "willow", "ginkgo"),
        "winter": ("bare", "bare", "pine"),
    }[scene.mood.season]
    return scene.chance.fork("near tree").pick(kinds)


def near_tree(scene: Scene, height: float = 0.72, kind: str | None = None) -> None:
    """A tree in the foreground on the layout's side, leaning into the picture."""
    side, kind = scene.layout.side, kind or near_tree_kind(scene)
    x = 0.5 + side * 0.44
    if kind == "pine":
        trees.pine(scene, x, 1.0, height, -0.3 * side)
    else:
        trees.tree(scene, x, 1.0, height, kind, 0.05 * side)
