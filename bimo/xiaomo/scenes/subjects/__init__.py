"""All subjects by name."""

from __future__ import annotations

from collections.abc import Mapping

from bimo.xiaomo.scenes.subjects.hills import HILLS
from bimo.xiaomo.scenes.subjects.people import PEOPLE
from bimo.xiaomo.scenes.subjects.plants_alone import PLANTS
from bimo.xiaomo.scenes.subjects.subject import SEALED, Subject, stamp
from bimo.xiaomo.scenes.subjects.waterside import WATERSIDE

SUBJECTS: Mapping[str, Subject] = {one.name: one for one in (*WATERSIDE, *HILLS, *PLANTS, *PEOPLE)}

__all__ = ["SEALED", "SUBJECTS", "Subject", "stamp"]
