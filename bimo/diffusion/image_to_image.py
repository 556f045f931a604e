"""Image-to-image (SDEdit, arXiv:2108.01073) and inpainting: sampling starts from an image of the request."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.request import Request
from bimo.diffusion import noise as noises
from bimo.diffusion.conditioner import Draft, Drawing
from bimo.diffusion.image_inputs import IMAGE, MASK, pixels_of, read_by_conditioners
from bimo.diffusion.samplers import Sampler
from bimo.diffusion.system import System
from bimo.prompts.a1111 import composed
from bimo.prompts.paraphrases import Paraphrase
from bimo.prompts.token_budget import listed


def begin(
    system: System, name: str, drawing: Drawing, sampler: Sampler, steps: int, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, MaskedOriginal | None]:
    """The initial x of a request with an image or a draft, the remaining timesteps, and the original that a mask keeps.

    Random numbers are drawn in the order of diffusers' pipelines: first the sample of the image's posterior, then the
    noise. With a ``strength`` below 1 only the last of the steps are run.
    """
    request, generator = drawing.request, drawing.noise
    strength = share_of_steps(request) or 1.0
    read = read_by_conditioners(system, name)
    masked = MASK in drawing.pictures
    blended = masked and MASK not in read
    from_noise = strength == 1 and (masked or IMAGE in read)
    if from_noise and not blended:
        return noises.initial(sampler, drawing, shape), sampler.timesteps, None
    if not sampler.can_add_noise:
        raise RequestError(
            "{recipe} cannot use an image: its sampler {cls} cannot begin with a picture; leave the image "
            "out, or take another sampler",
            recipe=system.recipe.name,
            cls=sampler.name,
        )
    times = last_times(sampler, steps, strength)
    own = drawing.latent
    if own is None:
        own = system.space(name).encode(_start(system, name, drawing), generator)
    noise = noises.gaussian(drawing, shape)
    x = noise * sampler.init_noise_sigma if from_noise else sampler.add_noise(own, noise, times[:1])
    if not blended:
        return x, times, None
    # diffusers draws these for the latents of the masked image, even if the denoiser does not read them.
    torch.randn(1, *shape, generator=generator)
    return x, times, MaskedOriginal(own, noise, to_shape(drawing.pictures[MASK], shape))


def share_of_steps(request: Request) -> float | None:
    """The share of the steps that a filled request's image or draft goes through, None if it starts from noise."""
    return request.draft or None if request.image is None else request.strength


def steps_taken(request: Request, steps: int) -> int:
    """How many of ``steps`` a filled request runs: fewer if it starts from a picture."""
    share = share_of_steps(request)
    return steps if share is None else max(1, int(steps * share))


def draft_of(system: System, request: Request) -> Draft | None:
    """The draft that a conditioner of the last level has of what a request asks for; None without one."""
    conditioners = system.level(system.recipe.levels[-1].name).conditioners
    return next((draft for each in conditioners if (draft := each.draft(system, request))), None)


def drawn_over(system: System, request: Request) -> Draft | None:
    """The draft that a filled request is drawn over if it shows every word of the prompt, learned or not; else None."""
    draft = draft_of(system, request) if request.draft else None
    return draft if draft is not None and draft.whole else None


def unlike_its_draft(system: System, draft: Draft | None, paraphrase: Paraphrase) -> Paraphrase:
    """What a paraphrase changes in a prompt, besides what its ``draft`` (``drawn_over``) shows as it is written."""
    if draft is None:
        return paraphrase
    if draft.verbatim:
        return replace(paraphrase, replaced=(), left_out=())
    return paraphrase.besides(drafted_words(system))


def drafted_words(system: System) -> frozenset[str]:
    """The words that drafts of a system show, in their normal form."""
    levels = (system.level(level.name) for level in system.recipe.levels)
    return frozenset[str]().union(*(each.drafted_words() for level in levels for each in level.conditioners))


def left_out_notes(draft: Draft | None) -> tuple[str, ...]:
    """A sentence of the words of a prompt that its draft does not show."""
    if draft is None or not draft.left_out:
        return ()
    return (say("not understood and not in the draft by program: {words}", words=listed(draft.left_out)),)


def begins_from_noise(request: Request) -> bool:
    """Whether nothing but a draft may come before the noise of a request: no image, no whole of several prompts."""
    return request.image is None and not request.seamless and not request.regions


def draft_share(system: System, request: Request) -> float | None:
    """The share of the steps that a draft of the system's own goes through, None where there is no draft; 0, if that
    was asked for, stays where there is one, so that a filled request is filled to the same again.
    """
    share = system.recipe.request.draft if request.draft is None else request.draft
    if not system.recipe.request.draft or not begins_from_noise(request) or len(composed(request.read_text)) > 1:
        return None
    return share if draft_of(system, request) else None


def draft_warnings(system: System, asked: bool, request: Request) -> tuple[str, ...]:
    """A warning if a draft was ``asked`` for and the filled request has none."""
    if not asked or request.draft:
        return ()
    return (say("{name} has no draft of its own for this prompt; draft changed nothing", name=system.recipe.name),)


def _start(system: System, name: str, drawing: Drawing) -> Tensor:
    """The picture to start from, [1, 3, H, W]: the request's image, or a draft."""
    if drawing.request.image is not None:
        return drawing.pictures[IMAGE]
    draft = draft_of(system, drawing.request)
    assert draft is not None, "a request is filled with a draft only if there is one"
    assert drawing.request.size is not None
    return pixels_of(draft.make(drawing), drawing.request.size)


def last_times(sampler: Sampler, steps: int, strength: float) -> Tensor:
    """The timesteps of the last ``strength`` of all steps; their number is rounded down, for flow matching up."""
    taken = min(steps * strength, steps)
    first = int(steps - taken) if sampler.of_flow else steps - int(taken)
    if first >= steps:
        raise RequestError(
            "strength {strength} of {steps} steps is less than one, nothing would be drawn; raise strength or steps",
            strength=strength,
            steps=steps,
        )
    return sampler.times_from(first)


@dataclass
class MaskedOriginal:
    """The original of inpainting: the image's x, the noise that is added to it at each step, and the mask, 1 where it
    is repainted.
    """

    x: Tensor
    noise: Tensor
    mask: Tensor

    def put_back(self, x: Tensor, sampler: Sampler, t: Tensor | None) -> Tensor:
        """x [1, C, h, w] with the original, noised for the next timestep t (None: clean), where the mask is 0."""
        own = self.x if t is None else sampler.add_noise(self.x, self.noise, t[None])
        return (1 - self.mask) * own + self.mask * x


def to_shape(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resizes a mask [B, 1, H, W] to x, [B, 1, h, w], by the nearest pixel."""
    return nn.functional.interpolate(mask, size=shape[1:])
