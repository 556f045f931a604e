"""Runs training on a Ray cluster, one process in each worker of Ray Train."""

# ray leaves most of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bimo.core.errors import BimoError, TrainingError
from bimo.training.distributed.processes import PATIENCE


def on_ray(work: Callable[..., None], settings: Mapping[str, Any], out: Path, workers: int, device: str) -> None:
    """Calls ``work`` with settings in ``workers`` processes of a cluster, joined as by a launcher.

    The cluster is that of RAY_ADDRESS, else a local one. ``out`` and the data must be visible to all nodes under the
    same paths. Raises TrainingError with the error of a worker.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    began = not ray.is_initialized()
    if began:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        there = "cuda" if device == "auto" and ray.cluster_resources().get("GPU", 0) >= workers else device
        there = "cpu" if there == "auto" else there
        loop_config = {"work": work, "folder": os.getcwd(), "settings": {**settings, "device": there}}
        trainer = TorchTrainer(
            _worker,
            train_loop_config=loop_config,
            torch_config=TorchConfig(
                backend="nccl" if there == "cuda" else "gloo", timeout_s=int(PATIENCE.total_seconds())
            ),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=there == "cuda"),
            run_config=RunConfig(name="ray", storage_path=str((out / "cache").absolute())),
        )
        trainer.fit()
    except TrainingFailedError as error:
        raise _first_own_error(error) from None
    finally:
        if began:
            ray.shutdown()


def _worker(settings: dict[str, Any]) -> None:
    os.chdir(settings["folder"])
    settings["work"](**settings["settings"])


def _first_own_error(error: BaseException) -> TrainingError:
    """The error that a worker raised itself, in preference to one that reports another worker's end."""
    errors = [cause for cause in _causes(error) if isinstance(cause, BimoError)]
    own = [cause for cause in errors if "another process has ended" not in cause.en]
    for cause in own or errors:
        return TrainingError(cause.message)
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return TrainingError("training on the cluster failed: {last}", last=last)


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    for inner in [*getattr(error, "worker_failures", {}).values(), getattr(error, "cause", None), error.__cause__]:
        if isinstance(inner, BaseException):
            yield from _causes(inner)
