"""Where the project lies, and real pictures and texts that may lie beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Not part of the project: tests that read it are skipped where it is missing.
REAL_DATA = ROOT.parent / "shared" / "data"
