"""The paired errors of all candidates that agree in E1, E2, E3 and D3: `PairedEvaluator`'s, at a fraction of its cost.

All candidates see the same noise, so whatever comes before their first difference is computed once: the whole prefix
for noise errors and for the first sampling step. After that step every candidate has latents of its own. Values are
those of :meth:`nas.fidelity.paired.PairedEvaluator.evaluate` up to rounding: a test and `check` of the job hold that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from experiments.nanosd_bench.fast_unet import Head, Lanes, Prompts, Stage, Step
from experiments.nanosd_bench.kernels import from_lanes, library, to_lanes
from experiments.nanosd_bench.shards import SAMPLES
from nas.sampling import DdimSteps
from search_spaces.errors import UserError
from search_spaces.options import NONE
from search_spaces.surgery import build_stage

if TYPE_CHECKING:
    from nas.fidelity.paired import PairedEvaluator
    from nas.teacher import Teacher
    from search_spaces.space import SearchSpace

Floats = npt.NDArray[np.float64]
Leaves = tuple[tuple[str, ...], tuple[str, ...]]
"""Options of D2, and of D1."""
_STAGES = ("E1", "E2", "E3", "deep", "D3", "D2", "D1")
_LATENT_SIZE = 8


class _Prefix(NamedTuple):
    """After D3: its output, and what D2 and D1 read beside it."""

    h: Lanes
    d2_skips: tuple[Lanes, ...]
    d1_skips: tuple[Lanes, ...]


class SharedEvaluator:
    """Paired errors of groups of candidates.

    Args:
        teacher: its head, and its own options where `blocks` has none.
        space: stages E1 to D1 with `deep` always dropped.
        blocks: trained modules by (stage, option).
        evaluator: whose noise, prompts, timesteps and teacher outputs are used.
        folder: where the compiled kernels are kept.

    Raises:
        UserError: another space or size of latents, sample counts that 16 does not divide, or no compiler.
    """

    def __init__(
        self,
        teacher: Teacher,
        space: SearchSpace,
        blocks: Mapping[tuple[str, str], nn.Module],
        evaluator: PairedEvaluator,
        folder: Path,
    ) -> None:
        if space.stages != _STAGES or tuple(space.options["deep"]) != (NONE,):
            raise UserError(
                f"search space {space.name!r}: legal here are stages {' '.join(_STAGES)} with deep: [{NONE}]"
            )
        if teacher.latent_size != _LATENT_SIZE:
            raise UserError(f"latents of size {teacher.latent_size}: legal here is {_LATENT_SIZE}, the toy teacher's")
        settings = evaluator.settings
        for name in ("num_samples", "num_noise_samples"):
            if getattr(settings, name) % SAMPLES:
                raise UserError(f"fidelity.{name}: {getattr(settings, name)}; legal here are multiples of {SAMPLES}")
        self.space, self.evaluator, self._unet = space, evaluator, teacher.unet
        self._inputs = evaluator.paired_inputs
        self._ddim = DdimSteps(teacher.scheduler.config, settings.ddim_steps)
        self._prompts: dict[int, Prompts] = {}
        with torch.inference_mode():
            kernels = library(folder)
            self._head = Head(kernels, teacher.unet, _LATENT_SIZE)
            self._stages: dict[tuple[str, str], Stage] = {}
            for stage in (stage for stage in space.stages if space.options[stage] != (NONE,)):
                width = _LATENT_SIZE >> int(stage[1:]) - 1
                for option in space.options[stage]:
                    given = blocks.get((stage, option))
                    module = build_stage(teacher.unet, stage, option, copy=False) if given is None else given
                    self._stages[stage, option] = Stage(kernels, module, width)
            self._steps = {t: Step(self._embed(torch.tensor([t]))) for t in self._ddim.timesteps}
            starts = range(0, settings.num_noise_samples, SAMPLES)
            self._noise_rows = [slice(start, start + SAMPLES) for start in starts]
            self._noise_steps = [Step(self._embed(self._inputs.timesteps[rows])) for rows in self._noise_rows]
            self._noise_prompts = [Prompts(self._inputs.contexts[rows]) for rows in self._noise_rows]

    @property
    def leaves(self) -> Leaves:
        """All options of D2, and of D1."""
        return self.space.options["D2"], self.space.options["D1"]

    @torch.inference_mode()
    def noise_errors(self, prefix: Mapping[str, str], leaves: Leaves | None = None) -> Floats:
        """`noise_error` (D2 options, D1 options) of all candidates with these options of E1, E2, E3 and D3.

        Args:
            leaves: options of D2 and D1, if not all.
        """
        second, first = leaves or self.leaves
        total = np.zeros((len(second), len(first)))
        for rows, step, prompts in zip(self._noise_rows, self._noise_steps, self._noise_prompts, strict=True):
            target = to_lanes(self._inputs.epsilon[rows])
            state = self._prefix(prefix, to_lanes(self._inputs.noisy[rows]), step, prompts)
            for i, d2 in enumerate(second):
                h = self._stages["D2", d2].decode(state.h, state.d2_skips, step, prompts)
                for j, d1 in enumerate(first):
                    (output,) = self._out(d1, h, state, step, prompts)
                    total[i, j] += float((output.double() - target).square().sum())
        return np.asarray(total / self._inputs.epsilon.numel() / max(self.evaluator.noise_variance, 1e-12))

    @torch.inference_mode()
    def latent_errors(self, prefix: Mapping[str, str], start: int, leaves: Leaves | None = None) -> Floats:
        """Each of 16 samples' share of `latent_error`, (D2 options, D1 options, 16), of all candidates of a prefix.

        The mean over all samples of the evaluator is `latent_error`. Not finite where a network's values are not.

        Args:
            start: the first sample.
            leaves: options of D2 and D1, if not all.
        """
        second, first = leaves or self.leaves
        rows = slice(start, start + SAMPLES)
        noise, target, prompts = to_lanes(self._inputs.noise[rows]), self._inputs.latents[rows], self._prompts_of(start)
        errors = np.zeros((len(second), len(first), SAMPLES))
        t, *later = self._ddim.timesteps
        step = self._steps[t]
        common = self._prefix(prefix, noise, step, prompts)
        for i, d2 in enumerate(second):
            h = self._stages["D2", d2].decode(common.h, common.d2_skips, step, prompts)
            for j, d1 in enumerate(first):
                x = self._ddim.step(noise, self._guided(self._out(d1, h, common, step, prompts)), t)
                x = self._sample(x, {**prefix, "D2": d2, "D1": d1}, later, prompts)
                errors[i, j] = (from_lanes(x).double() - target).square().mean(dim=(1, 2, 3)).numpy()
        return np.asarray(errors / max(self.evaluator.latent_variance, 1e-12))

    def _sample(self, x: Tensor, options: Mapping[str, str], timesteps: list[int], prompts: Prompts) -> Tensor:
        for t in timesteps:
            step = self._steps[t]
            state = self._prefix(options, x, step, prompts)
            h = self._stages["D2", options["D2"]].decode(state.h, state.d2_skips, step, prompts)
            x = self._ddim.step(x, self._guided(self._out(options["D1"], h, state, step, prompts)), t)
        return x

    def _embed(self, timesteps: Tensor) -> Tensor:
        embedded: Tensor = self._unet.time_embedding(self._unet.time_proj(timesteps).to(self._inputs.noise.dtype))
        return embedded

    def _prompts_of(self, start: int) -> Prompts:
        """The passes on 16 samples: without and with their prompts, or with them alone where there is no guidance."""
        if start not in self._prompts:
            context = self._inputs.contexts[start : start + SAMPLES]
            empty = self._inputs.null_context.expand(SAMPLES, -1, -1)
            guided = self.evaluator.settings.guidance != 1
            self._prompts = {start: Prompts(empty, context) if guided else Prompts(context)}
        return self._prompts[start]

    def _prefix(self, options: Mapping[str, str], x: Tensor, step: Step, prompts: Prompts) -> _Prefix:
        entering = self._head.enter(x)
        e1 = self._stages["E1", options["E1"]].encode(entering, step, prompts)
        e2 = self._stages["E2", options["E2"]].encode(e1.h, step, prompts)
        e3 = self._stages["E3", options["E3"]].encode(e2.h, step, prompts)
        h = self._stages["D3", options["D3"]].decode(e3.h, (*reversed(e3.skips), e2.h), step, prompts)
        return _Prefix(h, (*reversed(e2.skips), e1.h), (*reversed(e1.skips), entering))

    def _out(self, d1: str, h: Lanes, state: _Prefix, step: Step, prompts: Prompts) -> Lanes:
        return self._head.leave(self._stages["D1", d1].decode(h, state.d1_skips, step, prompts))

    def _guided(self, output: Lanes) -> Tensor:
        if len(output) == 1:  # no guidance, or a network that never looks at the prompt
            return output[0]
        without, with_prompt = output
        return without + self.evaluator.settings.guidance * (with_prompt - without)
