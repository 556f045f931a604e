"""The gradio components that events of the page read and write."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from bimo.serve.page.form import Form


@dataclass(frozen=True)
class Components:
    """The components of the page; those of the form by its fields' names."""

    form: dict[str, Any]
    ratio: Any
    licence: Any
    meter: Any
    stage: Any
    about: Any
    cards: Any
    search: Any
    many: Any
    picked: Any
    onto: Any
    go: Any

    @property
    def inputs(self) -> list[Any]:
        """The components in the order of the form's fields."""
        return [self.form[field.name] for field in fields(Form)]
