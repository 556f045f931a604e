"""Endpoints of AUTOMATIC1111's ControlNet extension."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from bimo.serve.dependencies import Service

router = APIRouter(prefix="/controlnet", tags=["AUTOMATIC1111"])


@router.get("/version", summary="The version of the interface")
async def version() -> dict[str, int]:
    """The version of the extension whose units are supported."""
    return {"version": 3}


@router.get("/model_list", summary="ControlNets")
async def model_list(service: Service, update: bool = True) -> dict[str, list[str]]:
    """The values of a unit's ``model``; ``update`` is ignored, as the list is fixed when the server starts."""
    return {"model_list": list(service.pool.controls)}


@router.get("/module_list", summary="Preprocessors")
async def module_list(alias_names: bool = False) -> dict[str, Any]:
    """There are no preprocessors: a unit's picture is used as it is."""
    return {"module_list": ["none"], "module_detail": {}}


@router.get("/settings", summary="How many units")
async def settings() -> dict[str, int]:
    """The number of units of a request."""
    return {"control_net_unit_count": 4}
