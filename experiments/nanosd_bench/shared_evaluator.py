"""The paired errors of all candidates that agree in E1, E2, E3 and D3: `PairedEvaluator`'s, at a fraction of its cost.

All candidates see the same noise, so whatever comes before their first difference is computed once: the whole prefix
for noise errors and for the first sampling step. After that step every candidate has latents of its own; what is still
shared then is in :mod:`experiments.nanosd_bench.shared_forward`. Equal to
:meth:`nas.fidelity.paired.PairedEvaluator.evaluate` up to rounding, which a test and the job's own check hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from experiments.nanosd_bench.shared_forward import Prompts, Step, decoder, encoder, head_in, head_out
from nas.sampling import DdimSteps
from search_spaces.errors import UserError
from search_spaces.options import NONE
from search_spaces.surgery import build_stage

if TYPE_CHECKING:
    from nas.fidelity.paired import PairedEvaluator
    from nas.teacher import Teacher
    from search_spaces.space import SearchSpace

Floats = npt.NDArray[np.float64]
STAGES = ("E1", "E2", "E3", "deep", "D3", "D2", "D1")
PREFIX = ("E1", "E2", "E3", "D3")


class _Prefix(NamedTuple):
    """After D3: its output, and what D2 and D1 read beside it."""

    h: Tensor
    d2_skips: tuple[Tensor, ...]
    d1_skips: tuple[Tensor, ...]


class SharedEvaluator:
    """Paired errors of groups of candidates.

    Args:
        teacher: its head, and its own options where `blocks` has none.
        space: stages E1 to D1 with `deep` always dropped.
        blocks: trained modules by (stage, option).
        evaluator: whose noise, prompts, timesteps and teacher outputs are used.
        group: candidates in one batch after the first sampling step; changes cost, not results.

    Raises:
        UserError: a space of other stages.
    """

    def __init__(
        self,
        teacher: Teacher,
        space: SearchSpace,
        blocks: Mapping[tuple[str, str], nn.Module],
        evaluator: PairedEvaluator,
        group: int = 1,
    ) -> None:
        if space.stages != STAGES or tuple(space.options["deep"]) != (NONE,):
            raise UserError(f"search space {space.name!r}: legal here are stages {' '.join(STAGES)} with deep: [{NONE}]")
        self.space, self.evaluator, self.group = space, evaluator, group
        self._unet = teacher.unet
        self._stages: dict[tuple[str, str], Any] = {}
        for stage in space.stages:
            for option in space.options[stage]:
                given = blocks.get((stage, option))
                module = build_stage(teacher.unet, stage, option) if given is None else given
                self._stages[stage, option] = module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        settings = evaluator.settings
        self._inputs = evaluator.paired_inputs
        self._ddim = DdimSteps(teacher.scheduler.config, settings.ddim_steps)
        with torch.inference_mode():
            self._steps = {t: Step(self._embed(torch.tensor([t]))) for t in self._ddim.timesteps}
            size, count = settings.batch_size, len(self._inputs.noisy)
            self._noise_rows = [slice(start, min(start + size, count)) for start in range(0, count, size)]
            self._noise_passes = [
                (rows, Step(self._embed(self._inputs.timesteps[rows])), Prompts(self._inputs.contexts[rows]))
                for rows in self._noise_rows
            ]
        self._prompts: dict[tuple[int, int, int], Prompts] = {}

    @torch.inference_mode()
    def noise_errors(self, prefix: Mapping[str, str]) -> Floats:
        """`noise_error` (D2 options, D1 options) of all candidates with these options of E1, E2, E3 and D3."""
        second, first = self.space.options["D2"], self.space.options["D1"]
        total = np.zeros((len(second), len(first)))
        for rows, step, prompts in self._noise_passes:
            target = self._inputs.epsilon[rows]
            state = self._prefix(prefix, self._inputs.noisy[rows], step, prompts)
            for i, d2 in enumerate(second):
                h = decoder(self._stages["D2", d2], state.h, state.d2_skips, step, prompts)
                for j, d1 in enumerate(first):
                    total[i, j] += float((self._out(d1, h, state.d1_skips, step, prompts) - target).double().square().sum())
        return np.asarray(total / self._inputs.epsilon.numel() / max(self.evaluator.noise_variance, 1e-12))

    @torch.inference_mode()
    def latent_errors(self, prefix: Mapping[str, str], samples: slice) -> Floats:
        """Each sample's share of `latent_error` (D2 options, D1 options, samples), of all candidates of a prefix.

        The mean over all samples of the evaluator is `latent_error`. Not finite where a network's values are not.
        """
        second, first = self.space.options["D2"], self.space.options["D1"]
        noise, target = self._inputs.noise[samples], self._inputs.latents[samples]
        x = [[noise for _ in first] for _ in second]
        for number, t in enumerate(self._ddim.timesteps):
            step = self._steps[t]
            size = len(first) if number == 0 else min(self.group, len(first))
            if number == 0:  # one prefix for all: they differ from here on
                prompts = self._prompts_of(samples, 1)
                state = self._prefix(prefix, noise, step, prompts)
            for i, d2 in enumerate(second):
                for start in range(0, len(first), size):
                    members = range(start, min(start + size, len(first)))
                    if number > 0:
                        prompts = self._prompts_of(samples, len(members))
                        state = self._prefix(prefix, torch.cat([x[i][j] for j in members]), step, prompts)
                    h = decoder(self._stages["D2", d2], state.h, state.d2_skips, step, prompts)
                    own = self._prompts_of(samples, 1)
                    for k, j in enumerate(members):
                        parts = [h, *state.d1_skips]
                        if number > 0:
                            parts = [_member(part, k, len(members), len(noise)) for part in parts]
                        output = self._guided(self._out(first[j], parts[0], parts[1:], step, own), len(noise))
                        x[i][j] = self._ddim.step(x[i][j], output, t)
        variance = max(self.evaluator.latent_variance, 1e-12)
        errors = [[(z.double() - target.double()).square().mean(dim=(1, 2, 3)) for z in row] for row in x]
        return np.array([[error.numpy() for error in row] for row in errors]) / variance

    def _embed(self, timesteps: Tensor) -> Tensor:
        projected = self._unet.time_proj(timesteps).to(self._inputs.noise.dtype)
        embedded: Tensor = self._unet.time_embedding(projected)
        return embedded

    def _prompts_of(self, samples: slice, copies: int) -> Prompts:
        """Prompts of `copies` candidates on the same samples: all empty ones first, if there is guidance."""
        key = (samples.start, samples.stop, copies)
        if key not in self._prompts:
            if any(known[:2] != key[:2] for known in self._prompts):
                self._prompts.clear()
            context = self._inputs.contexts[samples].repeat(copies, 1, 1)
            if self.evaluator.settings.guidance != 1:
                context = torch.cat([self._inputs.null_context.expand(len(context), -1, -1), context])
            self._prompts[key] = Prompts(context)
        return self._prompts[key]

    def _prefix(self, options: Mapping[str, str], x: Tensor, step: Step, prompts: Prompts) -> _Prefix:
        entering = head_in(self._unet, x)
        e1 = encoder(self._stages["E1", options["E1"]], entering, step, prompts)
        e2 = encoder(self._stages["E2", options["E2"]], e1.h, step, prompts)
        e3 = encoder(self._stages["E3", options["E3"]], e2.h, step, prompts)
        h = decoder(self._stages["D3", options["D3"]], e3.h, (*reversed(e3.skips), e2.h), step, prompts)
        return _Prefix(h, (*reversed(e2.skips), e1.h), (*reversed(e1.skips), entering))

    def _out(self, d1: str, h: Tensor, skips: Any, step: Step, prompts: Prompts) -> Tensor:
        return head_out(self._unet, decoder(self._stages["D1", d1], h, skips, step, prompts))

    def _guided(self, output: Tensor, count: int) -> Tensor:
        if len(output) == count:  # no guidance, or a network that never looks at the prompt
            return output
        without, with_prompt = output.chunk(2)
        return without + self.evaluator.settings.guidance * (with_prompt - without)


def _member(h: Tensor, number: int, members: int, count: int) -> Tensor:
    """The rows of one member of a batch of `members`, `count` rows each, narrow or wide."""
    if members == 1:
        return h
    rows = [h[(lane * members + number) * count :][:count] for lane in range(len(h) // (members * count))]
    return rows[0] if len(rows) == 1 else torch.cat(rows)
