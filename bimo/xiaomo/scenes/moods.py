"""What is seen in one season alone, and names it."""

from __future__ import annotations

from collections.abc import Mapping

IN_SEASON: Mapping[str, str] = {
    **dict.fromkeys(("peach blossom", "swallow", "field"), "spring"),
    **dict.fromkeys(("lotus", "lotus leaf"), "summer"),
    **dict.fromkeys(("maple", "ginkgo", "osmanthus", "chrysanthemum", "geese"), "autumn"),
    **dict.fromkeys(("plum blossom", "snowman"), "winter"),
}
