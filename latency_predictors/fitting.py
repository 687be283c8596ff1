"""Fitting a device profile to whatever is known of a device, from a spec sheet to all blocks and some networks.

The ladder, by what was measured on the device itself (`DeviceProfile.information`):

    spec_sheet   nothing: every kernel at its stated rate
    anchor       one whole network: a Gaussian process around the roofline, or around equal shares of every kernel
    networks     whole networks: the ensemble on kernel sums, and on source devices where there are some
    some_blocks  some parts: the others' latencies from a kernel model of those, then as with all blocks, unless the
                 networks alone predict each other better
    blocks       every part: whole networks as an increasing function of the sum of their parts

Where blocks are measured and there are source devices, the ensemble on both kernel sums and source devices is the other
candidate, and the smaller leave-one-out error on the measured networks decides. Without a whole network nothing scales
a source device, which is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from latency_predictors.importers.records import ImportedPrecision
from latency_predictors.judgement import Judgement
from latency_predictors.kernel_tables import KernelTables
from latency_predictors.latency_table import LatencyTable
from latency_predictors.manifest import Manifest
from latency_predictors.measurement import Conditions, Measurement
from latency_predictors.models import (
    Additive,
    Ensemble,
    FittedEnsemble,
    FittedModel,
    FittedRoofline,
    Inputs,
    Nnls,
    unlearned_prior,
)
from latency_predictors.networks import Networks
from latency_predictors.parts import Parts
from latency_predictors.profile import DeviceProfile, Information
from latency_predictors.profile_records import Check, SourceDevice
from latency_predictors.sheet_agreement import bounded, kernel_costs_ms, log_ratios
from latency_predictors.source_devices import check_enough, source_device, source_sums
from latency_predictors.spec_sheet import SpecSheet
from latency_predictors.training import Training
from search_spaces.errors import UserError
from search_spaces.space import Indices, SearchSpace

#: Random candidates that say what a typical network of the space is.
_NUM_TYPICAL = 2000
#: Leave-one-out errors of fewer networks choose no predictor.
_LEAST_TO_CHOOSE = 3
#: By how much the smallest of the errors of fewer than five networks understates that of others, since it was chosen as
#: the smallest. 90 % intervals on SD-shaped U-Nets hold .96 to .99 of them by `python -m experiments.bench.intervals
#: --networks 3 --blocks 4,12`, and .92 to .97 without it (`--scale chosen_factor=0.667`).
_CHOSEN_FACTOR = 1.5


@dataclass(frozen=True)
class ProfileFacts:
    """What a profile is of, besides its rows; fields as those of :class:`DeviceProfile`."""

    device: str
    runtime: str
    precision: ImportedPrecision
    latent_size: int
    num_tokens: int
    threads: int | None = None
    toolchain: str | None = None
    conditions: Conditions | None = None
    manifest: Manifest | None = None
    teacher_key: str | None = None

    @classmethod
    def of(
        cls,
        measured: Measurement,
        teacher_key: str | None,
        latent_size: int,
        num_tokens: int,
        manifest: Manifest | None = None,
    ) -> Self:
        """The facts that stand in one of our own measurements, and in the manifest of its session."""
        return cls(
            device=measured.device,
            runtime=measured.runtime,
            precision=measured.precision,
            latent_size=latent_size,
            num_tokens=num_tokens,
            threads=measured.threads,
            conditions=measured.conditions,
            manifest=manifest,
            teacher_key=teacher_key,
        )


def fit_profile(
    space: SearchSpace,
    kernels: KernelTables,
    training: Training,
    facts: ProfileFacts,
    held_out: Sequence[str] = (),
    spec: SpecSheet | None = None,
    sources: Mapping[str, LatencyTable] | None = None,
    power: bool = True,
) -> DeviceProfile:
    """The profile of everything that is known of a device.

    Args:
        space: of U-Nets, whose options the parts are.
        kernels: kernel sums of the same options.
        training: timings of parts and whole networks of the space.
        facts: what the profile is of.
        held_out: ids of networks in ``training`` that are not fitted but checked.
        spec: rates; needed where nothing was measured, used where no part was.
        sources: other devices by name, tabulated for this space, to transfer from: where no part was measured, or where
            that predicts the measured networks better than the sum of parts does, each left out in turn.
        power: see :class:`Additive`; False gives what format 1 predicted.

    Raises:
        UserError: nothing to fit, a subject that the space does not have, latencies that do not grow with the sums, or
            sources without a whole network (two where parts were measured) to scale them by.
    """
    kernels.check(space)
    parts = Parts.of(space, kernels, training.parts)
    kept = set(held_out)
    fit = Networks.of(space, training.networks, [name for name in training.networks if name not in kept])
    check = Networks.of(space, training.networks, held_out)
    check_enough(sources or {}, parts.num_measured, len(fit.ids))
    devices = tuple(source_device(name, table, space) for name, table in (sources or {}).items())
    information: Information
    model: FittedModel
    if parts.num_measured:
        information = "blocks" if parts.num_measured == parts.num_runnable else "some_blocks"
        bare, parts = parts, parts.imputed()
        if devices or (information == "some_blocks" and len(fit.ids) >= _LEAST_TO_CHOOSE):
            model, parts, devices = _better_of(
                lambda: (_fit_sums(space, kernels, parts, fit, power), parts, ()),
                lambda: (*_widened(*_fit_networks(space, kernels, bare, fit, spec, devices)), devices),
            )
        else:
            model = _fit_sums(space, kernels, parts, fit, power)
    elif len(fit.ids):
        information = "networks" if len(fit.ids) > 1 else "anchor"
        model, parts = _fit_networks(space, kernels, parts, fit, spec, devices)
    elif spec is not None:
        information = "spec_sheet"
        rates = spec.rates_per_ms(kernels.kernel_names)
        model = FittedRoofline.of(kernels.kernel_names, rates)
        parts = parts.estimated(np.array(model.kernel_cost_ms))
    else:
        raise UserError("nothing to fit: no part and no whole network was measured, no spec sheet is given; give one")
    return assemble(space, training, facts, parts, model, information, devices, fit, check)


def _better_of(
    *fits: Callable[[], tuple[FittedModel, Parts, tuple[SourceDevice, ...]]],
) -> tuple[FittedModel, Parts, tuple[SourceDevice, ...]]:
    """The fit with the smaller leave-one-out error on whole networks; one that cannot be made is left out.

    A few measured blocks say little of the others, and blocks timed alone may pay for things that networks do not.
    """
    found: list[tuple[float, FittedModel, Parts, tuple[SourceDevice, ...]]] = []
    reason: UserError | None = None
    for make in fits:
        try:
            model, parts, devices = make()
        except UserError as error:
            reason = error
            continue
        found.append((float(np.mean(np.square(model.loo_log_errors))), model, parts, devices))
    if not found:
        assert reason is not None
        raise reason
    _, model, parts, devices = min(found, key=lambda each: each[0])
    return model, parts, devices


def _widened(model: FittedModel, parts: Parts) -> tuple[FittedModel, Parts]:
    """The Gaussian process of a few networks, with the interval that it needs once its errors have chosen it."""
    if isinstance(model, FittedEnsemble) and model.gp_std_factor is not None:
        model = model.model_copy(update={"gp_std_factor": _CHOSEN_FACTOR * model.gp_std_factor})
    return model, parts


def _fit_sums(space: SearchSpace, kernels: KernelTables, parts: Parts, fit: Networks, power: bool) -> FittedModel:
    """The affine model of the sum of the parts."""
    rows = space.stage_rows(fit.matrix)
    if not len(fit.ids):
        return Additive(power=power).unfitted(kernels.kernel_names)
    additive = Additive(
        power=power,
        least_ms=parts.least_ms,
        noise_log_std=fit.noise_log_std,
        imputed_log_std=parts.imputed_log_std(rows),
    )
    inputs = Inputs(kernels.of_candidates(space, fit.matrix), kernels.kernel_names, rows, parts.sums(rows)[:, None])
    return additive.fit(inputs, fit.latency_ms)


def _fit_networks(
    space: SearchSpace,
    kernels: KernelTables,
    parts: Parts,
    fit: Networks,
    spec: SpecSheet | None,
    devices: tuple[SourceDevice, ...],
) -> tuple[FittedModel, Parts]:
    """The ensemble of models on kernel sums and source devices, and parts estimated from the same networks."""

    def inputs(matrix: Indices) -> Inputs:
        rows = space.stage_rows(matrix)
        sources = source_sums(devices, space, rows) if devices else None
        return Inputs(kernels.of_candidates(space, matrix), kernels.kernel_names, rows, sources)

    typical = inputs(space.sample(np.random.default_rng(0), _NUM_TYPICAL))
    cost = None if spec is None else kernel_costs_ms(spec, kernels.kernel_names)
    measured = inputs(fit.matrix)
    model = Ensemble(prior=unlearned_prior(typical, cost)).fit(measured, fit.latency_ms)
    if spec is not None:
        model = bounded(model, log_ratios(fit, spec, kernels, space))
    shares = Nnls(features="places", scale=typical.kernels.mean(0)).fit(measured, fit.latency_ms)
    return model, parts.estimated(np.array(shares.coefficients)[:-1])


def assemble(
    space: SearchSpace,
    training: Training,
    facts: ProfileFacts,
    parts: Parts,
    model: FittedModel,
    information: Information,
    devices: tuple[SourceDevice, ...],
    fit: Networks,
    check: Networks,
) -> DeviceProfile:
    """The profile of a fitted model, with its checks and its judgement."""
    profile = DeviceProfile(
        device=facts.device,
        runtime=facts.runtime,
        precision=facts.precision,
        threads=facts.threads,
        toolchain=facts.toolchain,
        conditions=facts.conditions,
        manifest=facts.manifest,
        teacher_key=facts.teacher_key,
        space=space.name,
        latent_size=facts.latent_size,
        num_tokens=facts.num_tokens,
        information=information,
        training_sha256=training.sha256,
        num_parts=parts.num_measured,
        num_networks=len(fit.ids),
        judgement=None,
        kernel_names=parts.kernel_names,
        base=parts.base,
        options={stage: dict(options) for stage, options in parts.options.items()},
        model=model,
        sources=devices,
        fitted=(),
        validation=(),
    )
    found: dict[str, Any] = {"fitted": (), "validation": ()}
    for role, networks in (("fitted", fit), ("validation", check)):
        if not len(networks.ids):
            continue
        predicted = profile.predict(space, networks.matrix)
        found[role] = tuple(
            Check(
                candidate=name,
                measured_ms=networks.latency_ms[row],
                predicted_ms=predicted.latency_ms[row],
                low_ms=predicted.low_ms[row],
                high_ms=predicted.high_ms[row],
                timing=training.networks[name],
            )
            for row, name in enumerate(networks.ids)
        )
        if role == "fitted":
            found["judgement"] = Judgement.leave_one_out(networks.latency_ms, model, predicted)
        else:
            found["judgement"] = Judgement.unseen(networks.latency_ms, predicted)
    return profile.model_copy(update=found)
