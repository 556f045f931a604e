"""Experiment trackers: TensorBoard, Weights & Biases and others, by accelerate."""

# accelerate's trackers are typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from pathlib import Path
from typing import Any

from bimo.core.errors import RecipeError
from bimo.core.installing import installing
from bimo.core.part import meant
from bimo.core.recipe import Stage

#: Trackers that accept pictures.
WITH_PICTURES = ("tensorboard", "wandb")


def check_trackers(stage: Stage) -> None:
    """Raises RecipeError for an unknown tracker, or one whose package is not installed."""
    if not stage.trackers:
        return
    try:
        from accelerate import tracking
    except ImportError:
        raise RecipeError(
            "trackers of stage {name!r} are accelerate's, which is not here: {installing}",
            name=stage.name,
            installing=installing("train"),
        ) from None
    known, here = list(tracking.LOGGER_TYPE_TO_CLASS), [str(name) for name in tracking.get_available_trackers()]
    for name in stage.trackers:
        if name not in known:
            raise RecipeError(
                "trackers of stage {name!r}: there is no {tracker!r}{near}",
                name=stage.name,
                tracker=name,
                near=meant(name, known),
            )
        if name not in here:
            raise RecipeError(
                "trackers of stage {name!r}: the package of {tracker} is not installed; pip install {tracker}",
                name=stage.name,
                tracker=name,
            )


def opened(name: str, out: Path, settings: dict[str, Any]) -> Any:
    """A tracker of a run in ``out`` with the run's settings; its own files are in ``out``."""
    from accelerate import tracking

    cls: Any = tracking.LOGGER_TYPE_TO_CLASS[name]
    tracker = cls(out.name, logging_dir=str(out)) if cls.requires_logging_directory else cls(out.name)
    tracker.start()
    if name != "tensorboard":  # its table of settings takes numbers only
        tracker.store_init_configuration(settings)
    return tracker
