"""What may be added to a built system: LoRA files, and what else is published to go with a denoiser."""

from bimo.parts.denoisers.lora_files import adapt, adapters, unadapt

__all__ = ["adapt", "adapters", "unadapt"]
