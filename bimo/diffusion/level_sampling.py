"""Sampling of one level: from its initial x over all steps, the denoiser's branches combined by guidance at each."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bimo.core.recipe import Branch, Guidance
from bimo.core.request import Request
from bimo.core.tensors import Conditioning, DenoiserInput, StepState, TextEncoding
from bimo.diffusion import guidance, image_to_image, noise, regions, seamless, windows
from bimo.diffusion.conditioner import Drawing
from bimo.diffusion.conditioning import merge_conditioning, stack_rows, zero_scalars, zero_text
from bimo.diffusion.denoiser import NEXT, StatefulDenoiser
from bimo.diffusion.preparation import EncodedPrompts, Prepared
from bimo.diffusion.prompt_texts import weight_of
from bimo.diffusion.sampler_names import SamplerOptions
from bimo.diffusion.samplers import Sampler, StepSettings, options_of
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.step_cache import StepShortcuts
from bimo.diffusion.system import ZERO_NULLS, BuiltLevel, System


class StopSampling(Exception):
    """Thrown into a sampling loop to have its picture as it is (`bimo.diffusion.sampling.stopped`)."""


@dataclass(frozen=True)
class LevelSettings:
    """A filled request's settings for one level: they are for the last, earlier ones have those of the recipe.

    ``shape`` is that of x, (C, h, w) or (D,); ``weights`` are those of further branches of guidance.
    """

    last: bool
    shape: tuple[int, ...]
    steps: int
    sampler: Sampler
    guidance: Guidance
    scale: float
    weights: Sequence[tuple[Branch, float]]
    eta: float | None

    @classmethod
    def of(cls, system: System, level: BuiltLevel, request: Request) -> LevelSettings:
        """The settings of a request for ``level``. Raises RequestError for a sampler that the level does not have."""
        recipe = level.recipe
        last = recipe.name == system.recipe.levels[-1].name
        shape = system.space(recipe.name).shape_for(request)
        weights = [(b, weight_of(request, b)) for b in recipe.guidance.branches if weight_of(request, b)]
        steps, name, options, scale = recipe.steps, recipe.sampler, SamplerOptions(), recipe.guidance.scale
        own = recipe.guidance
        if last:
            steps, name, options = request.steps or steps, request.sampler or name, options_of(request)
            scale = guidance.first_set(request.guidance, scale)
            if request.guidance_rescale is not None:
                own = replace(own, rescale=request.guidance_rescale)
            if request.guidance_interval is not None:
                own = replace(own, interval=request.guidance_interval)
        scale = guidance.wanted(recipe.guidance, scale, request.negative)
        with torch.device("cpu"):  # diffusers' schedulers compute in numpy, and do not move x
            sampler = level.schedule.sampler(name, steps, shape, options)
        return cls(last, shape, steps, sampler, own, scale, weights, request.eta if last else None)


def sample_level(
    system: System, level: BuiltLevel, prepared: Prepared, drawing: Drawing
) -> Generator[DenoiserInput, Tensor, Tensor]:
    """The level's final x, [1, C, h, w] or [1, D].

    StopSampling ends the last level early, after one step at least: x is then the clean x that its last step predicts.
    """
    request = prepared.request
    settings = LevelSettings.of(system, level, request)
    sampler = settings.sampler
    seed = drawing.noise.initial_seed()
    sampler.seed_noise(seed)
    for conditioner in level.conditioners:
        conditioner.before_noise(system, drawing)
    name, original = level.recipe.name, None
    if settings.last and (request.image is not None or request.draft):
        x, times, original = image_to_image.begin(system, name, drawing, sampler, settings.steps, settings.shape)
    else:
        x, times = noise.initial(sampler, drawing, settings.shape), sampler.timesteps
    conditioning = _StepConditioning(system, level, prepared, drawing, settings)
    derived = any(each.earlier_level for each in level.conditioners)
    if request.regions and level.recipe.steps == 1 and not sampler.init_noise_sigma and not derived:
        return (yield from _compose_single_step(conditioning, x, times, request))
    denoiser = _GuidedDenoiser(system, level, prepared, settings, conditioning, seed, len(times))
    clipped = isinstance(level.schedule, Ddpm) and bool(level.schedule.percentile)
    step_settings = StepSettings(drawing.noise, settings.eta, clipped)
    predicted: tuple[Tensor, Tensor, Tensor] | None = None
    for step, t in enumerate(times):
        following = times[step + 1] if step + 1 < len(times) else None
        try:
            output = yield from denoiser.output(x, step, t, following)
        except StopSampling:
            if predicted is None or not settings.last:
                raise
            drawing.stopped = True
            clean = level.schedule.clean(*predicted)
            return clean if original is None else original.put_back(clean, sampler, None)
        predicted = output[:, : settings.shape[0]], denoiser.scaled, t.expand(1)
        x = sampler.step(output if sampler.reads_all else output[:, : settings.shape[0]], t, x, step_settings)
        if original is not None:
            x = original.put_back(x, sampler, following)
    return x


def _compose_single_step(
    conditioning: _StepConditioning, x: Tensor, times: Tensor, request: Request
) -> Generator[DenoiserInput, Tensor, Tensor]:
    """The x of a single-step level, with every region's output at its place."""
    prompts = conditioning.at(0, 1)
    inputs = DenoiserInput(conditioning.level.recipe.name, x, times[:1], conditioning.conditionings(prompts, 0, 1)[0])
    rows = [conditioning.conditioned(text) for text in prompts.regions]
    return (yield from regions.compose_regions(inputs, request, rows))


class _GuidedDenoiser:
    """A level's denoiser with guidance: the branches of a step in one call, unless a shortcut or a window says
    otherwise, and their outputs combined.
    """

    def __init__(
        self,
        system: System,
        level: BuiltLevel,
        prepared: Prepared,
        settings: LevelSettings,
        conditioning: _StepConditioning,
        seed: int,
        count: int,
    ) -> None:
        request, guide = prepared.request, settings.guidance
        self.name, self.denoiser = level.recipe.name, level.denoiser
        self.settings, self.conditioning, self.count = settings, conditioning, count
        factor = system.space(self.name).factor
        self.tiles = windows.windows(request, settings.shape, factor, self.denoiser.multiple) if settings.last else []
        self.shares = regions.shares(request, settings.shape) if request.regions and len(settings.shape) == 3 else []
        self.shortcuts = StepShortcuts(request) if settings.last else StepShortcuts()
        self.projection = guidance.Projection(guide.projected, prepared.prompt) if guide.projected else None
        self.axes = request.seamless or ""
        rolled = bool(self.axes) and seamless.is_rolled(self.denoiser, settings.shape)
        self.rolling = seamless.Rolling(self.denoiser, self.axes, seed) if rolled else None
        self.states = (StepState(),) if isinstance(self.denoiser, StatefulDenoiser) else ()
        #: The x that it read last, [1, C, h, w], at the scale that the schedule knows.
        self.scaled = torch.empty(0)

    def output(
        self, x: Tensor, step: int, t: Tensor, following: Tensor | None
    ) -> Generator[DenoiserInput, Tensor, Tensor]:
        """What the sampler steps by from x [1, C, h, w], [1, C', h, w]; ``following`` is the next timestep, None at
        the last.
        """
        guide, scale, weights = self.settings.guidance, self.settings.scale, self.settings.weights
        guided = guidance.on(guide, scale, step, self.count)
        prompts = self.conditioning.at(step, self.count)
        every_branch = prompts.joined or (guided and not self.shortcuts.branches_cached())
        conditional, stacked = self.conditioning.conditionings(prompts, step, self.count)
        conditioning, rows = (stacked, 2 + len(weights) + len(prompts.further)) if every_branch else (conditional, 1)
        if self.denoiser.reads_next:
            following = torch.zeros_like(t) if following is None else following
            scalars = {**conditioning.scalars, NEXT: following.to(x.device).expand(rows)[:, None]}
            conditioning = replace(conditioning, scalars=scalars)
        output = yield from self._denoised(x, step, t, conditioning, rows)
        if prompts.joined:
            shares = [share.to(x) for share in self.shares]
            output = guidance.join(guide, output, 2 + len(weights), prompts.weights(shares))
            output = output if guided else output[1:2]
        elif guided:
            output = self.shortcuts.restore_branches(output)
        return guidance.combine(guide, scale, output, weights, self.projection, step)

    def _denoised(
        self, x: Tensor, step: int, t: Tensor, conditioning: Conditioning, rows: int
    ) -> Generator[DenoiserInput, Tensor, Tensor]:
        """The output [rows, C', h, w] of every branch in ``conditioning``, of the denoiser or of a step cache."""
        self.scaled = scaled = self.settings.sampler.scale_model_input(x, t)
        output = self.shortcuts.guess(scaled, rows, step, self.count)
        if output is not None:
            return output
        denoiser_input = self.shortcuts.with_shortcuts(
            DenoiserInput(
                *(self.name, torch.cat([scaled] * rows), t.expand(rows), conditioning, step, self.count),
                seamless=self.axes if self.denoiser.shift_equivariant else "",
                states=self.states,
            )
        )
        if self.rolling is None:
            output = yield from windows.predict_in_windows(denoiser_input, self.tiles)
        else:
            output = yield from self.rolling.predict(denoiser_input)
        self.shortcuts.keep(scaled, output)
        return output


class _StepConditioning:
    """The conditioning of a level at each step: conditions are computed once, prompts may be edited over the steps."""

    def __init__(
        self,
        system: System,
        level: BuiltLevel,
        prepared: Prepared,
        drawing: Drawing,
        settings: LevelSettings,
    ) -> None:
        self.system, self.level, self.prepared, self.weights = system, level, prepared, settings.weights
        self.conditions = [each.from_request(system, drawing, settings.shape) for each in level.conditioners]
        self.nulls = [
            conditioner.unconditional(value)
            for conditioner, value in zip(level.conditioners, self.conditions, strict=True)
        ]
        self._made: dict[int, tuple[Conditioning, Conditioning]] = {}

    def at(self, step: int, count: int) -> EncodedPrompts:
        """The prompts of a step of ``count``; samplers of second order have two steps for each of the request's."""
        every = self.prepared.encoded
        place = 1 + step * every[-1].until // count
        return next((prompts for prompts in every if prompts.until >= place), every[-1])

    def conditioned(self, text: tuple[TextEncoding, ...]) -> Conditioning:
        """The conditioning of a prompt with the level's conditions."""
        return self.system.condition(text, self.conditions)

    def conditionings(self, prompts: EncodedPrompts, step: int, count: int) -> tuple[Conditioning, Conditioning]:
        """The conditioning of the conditional branch at a step, and that of all branches in the order of
        ``guidance.combine``, then of ``guidance.join``.
        """
        if prompts.until not in self._made:
            self._made[prompts.until] = self._conditionings(prompts)
        conditional, stacked = self._made[prompts.until]
        request = self.prepared.request
        names = [name for each in self.level.conditioners for name in each.resting(request, step, count)]
        return (zero_scalars(conditional, names), zero_scalars(stacked, names)) if names else (conditional, stacked)

    def _conditionings(self, prompts: EncodedPrompts) -> tuple[Conditioning, Conditioning]:
        system, request = self.system, self.prepared.request
        conditional = system.condition(prompts.prompt, self.conditions)
        if request.nag is not None:
            conditional = replace(conditional, negative=system.condition(prompts.negative, self.nulls).streams[0])
        null = system.condition(prompts.negative, self.nulls)
        kind = self.level.recipe.guidance.unconditional
        if kind in ZERO_NULLS or (kind == "zeros_without_negative" and request.negative is None):
            text = Conditioning(conditional.streams, conditional.vector)
            null = merge_conditioning(zero_text(text, torch.ones(1, dtype=torch.bool), kind == "masked"), self.nulls)
        others: list[Conditioning] = []
        for branch, _ in self.weights:
            text = prompts.negative if "text" in branch.drop else prompts.prompt
            text = prompts.prefixed[branch.prefix] if branch.prefix else text
            rows = zip(self.level.conditioners, self.conditions, self.nulls, strict=True)
            values = [null_ if each.key in branch.drop else value for each, value, null_ in rows]
            others.append(system.condition(text, values))
        others += [self.conditioned(text) for text in prompts.further]
        return conditional, stack_rows((null, conditional, *others))
