"""Drawing functions by the name of an ingredient's shape. Every shape is drawn around (x, y) with a half length of
about `size`, rotated by `angle`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.pieces.dough import (
    bun,
    dumpling,
    egghalf,
    friedegg,
    grains,
    haws,
    loaf,
    marbled,
    mooncake,
    sheet,
    shumai,
    skewer,
    stick,
    wonton,
    zongzi,
)
from bimo.xiaomo.dishes.pieces.meat import ball, belly, chunk, duck, fatslice, rib, roll, skinslice, slice_, wing
from bimo.xiaomo.dishes.pieces.place import Place, darker, lighter
from bimo.xiaomo.dishes.pieces.seafood import clam, crab, crayfish, fish, fishhead, prawn, squirrelfish
from bimo.xiaomo.dishes.pieces.vegetables import (
    bokchoy,
    broccoli,
    chilli,
    coin,
    corn,
    crumb,
    cube,
    curd,
    dice,
    frill,
    herb,
    leafy,
    lotus,
    mushroom,
    noodle,
    nut,
    ring,
    shred,
    strip,
    wedge,
)
from bimo.xiaomo.dishes.table import Ingredient
from bimo.xiaomo.scenes.description import Scene

SHAPES: Mapping[str, Callable[[Place], None]] = {
    "shred": shred,
    "strip": strip,
    "noodle": noodle,
    "dice": dice,
    "cube": cube,
    "belly": belly,
    "nut": nut,
    "chilli": chilli,
    "ring": ring,
    "crumb": crumb,
    "fatslice": fatslice,
    "slice": slice_,
    "roll": roll,
    "coin": coin,
    "lotus": lotus,
    "wedge": wedge,
    "curd": curd,
    "frill": frill,
    "bokchoy": bokchoy,
    "leafy": leafy,
    "broccoli": broccoli,
    "mushroom": mushroom,
    "rib": rib,
    "chunk": chunk,
    "wing": wing,
    "skinslice": skinslice,
    "ball": ball,
    "prawn": prawn,
    "crayfish": crayfish,
    "crab": crab,
    "clam": clam,
    "fish": fish,
    "squirrelfish": squirrelfish,
    "fishhead": fishhead,
    "duck": duck,
    "dumpling": dumpling,
    "wonton": wonton,
    "bun": bun,
    "loaf": loaf,
    "shumai": shumai,
    "stick": stick,
    "zongzi": zongzi,
    "mooncake": mooncake,
    "sheet": sheet,
    "haws": haws,
    "skewer": skewer,
    "grains": grains,
    "friedegg": friedegg,
    "egghalf": egghalf,
    "marbled": marbled,
    "corn": corn,
    "herb": herb,
}


def draw_piece(
    scene: Scene, chance: Chance, one: Ingredient, x: float, y: float, unit: float, angle: float, flat: float
) -> None:
    """Draws one piece of an ingredient at (x, y); `unit` is the size of an average piece."""
    vary = chance.uniform(-0.09, 0.09)
    tint = lighter(one.colour, vary) if vary > 0 else darker(one.colour, -vary)
    SHAPES[one.shape](Place(scene, chance, x, y, unit * one.size * chance.uniform(0.9, 1.1), angle, flat, tint))
