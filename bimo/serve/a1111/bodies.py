"""Request bodies of AUTOMATIC1111's API."""

from __future__ import annotations

from typing import Annotated, Any, cast

import pydantic

from bimo.serve.enlarging import MOST_ENLARGED

#: The greatest nesting depth of free-form fields, such as a script's arguments.
DEEPEST = 32


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (cast("dict[str, Any]", each).values() if isinstance(each, dict) else cast("list[Any]", each))
        ]
        if not level:
            return value
    raise ValueError(f"nested more than {DEEPEST} deep")


Untyped = Annotated[dict[str, Any], pydantic.AfterValidator(_shallow)]


class Body(pydantic.BaseModel):
    """Base class: null means a field's default, as in A1111."""

    model_config = pydantic.ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())

    @pydantic.model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = cast("dict[str, Any]", value)
        return {name: field for name, field in fields.items() if field is not None}


class Txt2Img(Body):
    """The body of txt2img; unknown fields are ignored."""

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] = []
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = pydantic.Field(0, allow_inf_nan=False)
    sampler_name: str = ""
    sampler_index: str = ""
    scheduler: str = ""
    batch_size: int = pydantic.Field(1, ge=1)
    n_iter: int = pydantic.Field(1, ge=1)
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    restore_faces: bool = False
    tiling: bool = False
    eta: float | None = None
    denoising_strength: float | None = None
    override_settings: Untyped = {}
    alwayson_scripts: Untyped = {}
    script_name: str = ""
    send_images: bool = True
    enable_hr: bool = False
    hr_scale: float = pydantic.Field(2.0, ge=1, le=4, allow_inf_nan=False)
    hr_upscaler: str = ""
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    infotext: str = ""
    force_task_id: str = pydantic.Field("", max_length=100)


class Img2Img(Txt2Img):
    """The body of img2img."""

    init_images: list[str] = []
    mask: str = ""
    mask_blur: int = 0
    resize_mode: int = 0
    inpainting_fill: int = 1
    inpaint_full_res: bool = False
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: float = pydantic.Field(1.0, allow_inf_nan=False)
    include_init_images: bool = False


class OnePicture(Body):
    """A picture in base64."""

    image: str = ""


class Extras(Body):
    """The settings of upscaling."""

    image: str = ""
    resize_mode: int = 0
    upscaling_resize: float = pydantic.Field(2.0, gt=0, le=8, allow_inf_nan=False)
    upscaling_resize_w: int = pydantic.Field(512, ge=1, le=MOST_ENLARGED)
    upscaling_resize_h: int = pydantic.Field(512, ge=1, le=MOST_ENLARGED)
    upscaling_crop: bool = True
    upscaler_1: str = "Lanczos"


class NamedPicture(Body):
    """A picture in base64 with a name."""

    data: str
    name: str = ""


class ExtrasBatch(Extras):
    """Several pictures to upscale with the same settings."""

    imageList: list[NamedPicture] = pydantic.Field([], max_length=16)


class Task(Body):
    """A task by its ``force_task_id``."""

    id_task: str = pydantic.Field("", max_length=100)
    live_preview: bool = True
