"""Endpoints of AUTOMATIC1111's ControlNet extension."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from bimo.serve.dependencies import Service

router = APIRouter(prefix="/controlnet", tags=["AUTOMATIC1111"])


@router.get("/version", summary="The version of the interface")
async def version() -> dict[str, int]:
    """That of the extension whose units are read."""
    return {"version": 3}


@router.get("/model_list", summary="ControlNets")
async def model_list(service: Service, update: bool = True) -> dict[str, list[str]]:
    """What a unit's ``model`` may name; ``update`` changes nothing: what there is was said when the server began."""
    return {"model_list": list(service.pool.controls)}


@router.get("/module_list", summary="Preprocessors")
async def module_list(alias_names: bool = False) -> dict[str, Any]:
    """There is none: a unit's picture is taken as it is."""
    return {"module_list": ["none"], "module_detail": {}}


@router.get("/settings", summary="How many units")
async def settings() -> dict[str, int]:
    """As many as a request may have."""
    return {"control_net_unit_count": 4}
