"""Fitting a device profile to whatever is known of a device, from a spec sheet to all blocks and some networks.

The ladder, by what was measured on the device itself (`DeviceProfile.information`):

    spec_sheet   nothing: every kernel at its stated rate
    anchor       one whole network: a Gaussian process around the roofline, or around equal shares of every kernel
    networks     whole networks: the ensemble on kernel sums, and on source devices where there are some
    some_blocks  some parts: the others' latencies from a kernel model of those, then as with all blocks, unless the
                 networks alone predict each other better
    blocks       every part: whole networks as an increasing function of the sum of their parts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from latency_predictors.importers.records import ImportedMeasurement, ImportedPrecision
from latency_predictors.judgement import Judgement
from latency_predictors.kernel_tables import KernelTables
from latency_predictors.latency_table import LatencyTable
from latency_predictors.manifest import Manifest
from latency_predictors.measurement import Conditions, Measurement
from latency_predictors.models import Additive, Ensemble, FittedModel, FittedRoofline, Inputs, Nnls, unlearned_prior
from latency_predictors.parts import Parts
from latency_predictors.profile import Check, DeviceProfile, Information, SourceDevice
from latency_predictors.source_devices import source_device, source_sums
from latency_predictors.spec_sheet import SpecSheet
from latency_predictors.training import Training
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError, shown
from search_spaces.space import Indices, SearchSpace

#: Random candidates that say what a typical network of the space is.
_NUM_TYPICAL = 2000
#: Leave-one-out errors of fewer networks choose no predictor.
_LEAST_TO_CHOOSE = 3


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


@dataclass(frozen=True)
class _Networks:
    """Measured whole networks of a space: ids, index matrix (N, decisions), latencies (N,) in ms.

    noise_log_std: their own repeatability, the standard deviation of a median's logarithm; 0 where none is stated.
    """

    ids: tuple[str, ...]
    matrix: Indices
    latency_ms: NDArray[np.float64]
    noise_log_std: float

    @classmethod
    def of(
        cls, space: SearchSpace, timings: Mapping[str, Measurement | ImportedMeasurement], ids: Sequence[str]
    ) -> Self:
        matrix = np.empty((len(ids), len(space.sizes)), dtype=np.int64)
        for row, text in enumerate(ids):
            if text not in timings:
                raise UserError(f"held_out: network {shown(text)} was not measured; name networks that were")
            matrix[row] = space.encode(Candidate.from_id(text, space.stages))
        latency_ms = np.array([timings[text].latency_ms for text in ids], dtype=np.float64)
        # A 95 % interval is 1.96 standard deviations to either side; imported timings state none.
        noise = [t.ci95_half_width_pct / 196.0 for t in (timings[text] for text in ids) if isinstance(t, Measurement)]
        return cls(tuple(ids), matrix, latency_ms, float(np.median(noise)) if noise else 0.0)


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
        sources: other devices by name, tabulated for this space, to transfer from where no part was measured.
        power: see :class:`Additive`; False gives what format 1 predicted.

    Raises:
        UserError: nothing to fit, a subject that the space does not have, or latencies that do not grow with the sums.
    """
    kernels.check(space)
    parts = Parts.of(space, kernels, training.parts)
    kept = set(held_out)
    fit = _Networks.of(space, training.networks, [name for name in training.networks if name not in kept])
    check = _Networks.of(space, training.networks, held_out)
    devices: tuple[SourceDevice, ...] = ()
    information: Information
    model: FittedModel
    if parts.num_measured:
        information = "blocks" if parts.num_measured == parts.num_runnable else "some_blocks"
        bare, parts = parts, parts.imputed()
        if information == "blocks" or len(fit.ids) < _LEAST_TO_CHOOSE:
            model = _fit_sums(space, kernels, parts, fit, power)
        else:
            model, parts = _better_of(
                lambda: (_fit_sums(space, kernels, parts, fit, power), parts),
                lambda: _fit_networks(space, kernels, bare, fit, spec, ()),
            )
    elif len(fit.ids):
        information = "networks" if len(fit.ids) > 1 else "anchor"
        devices = tuple(source_device(name, table, space) for name, table in (sources or {}).items())
        model, parts = _fit_networks(space, kernels, parts, fit, spec, devices)
    elif spec is not None:
        information = "spec_sheet"
        rates = spec.rates_per_ms(kernels.kernel_names)
        model = FittedRoofline.of(kernels.kernel_names, rates)
        parts = parts.estimated(np.array(model.kernel_cost_ms))
    else:
        raise UserError("nothing to fit: no part and no whole network was measured, no spec sheet is given; give one")
    return assemble(space, training, facts, parts, model, information, devices, fit, check)


def _better_of(*fits: Callable[[], tuple[FittedModel, Parts]]) -> tuple[FittedModel, Parts]:
    """The fit with the smaller leave-one-out error on whole networks; one that cannot be made is left out.

    A few measured blocks say little of the others: on the SD-shaped U-Nets, 3 blocks and 7 networks gave a median error
    of 61 % through the sum of blocks and 4 % from the networks alone.
    """
    found: list[tuple[float, FittedModel, Parts]] = []
    reason: UserError | None = None
    for make in fits:
        try:
            model, parts = make()
        except UserError as error:
            reason = error
            continue
        found.append((float(np.mean(np.square(model.loo_log_errors))), model, parts))
    if not found:
        assert reason is not None
        raise reason
    _, model, parts = min(found, key=lambda each: each[0])
    return model, parts


def _fit_sums(space: SearchSpace, kernels: KernelTables, parts: Parts, fit: _Networks, power: bool) -> FittedModel:
    """The affine model of the sum of the parts."""
    rows = space.stage_rows(fit.matrix)
    additive = Additive(power=power, least_ms=parts.least_ms, noise_log_std=fit.noise_log_std)
    if not len(fit.ids):
        return additive.unfitted(kernels.kernel_names)
    inputs = Inputs(kernels.of_candidates(space, fit.matrix), kernels.kernel_names, rows, parts.sums(rows)[:, None])
    return additive.fit(inputs, fit.latency_ms)


def _fit_networks(
    space: SearchSpace,
    kernels: KernelTables,
    parts: Parts,
    fit: _Networks,
    spec: SpecSheet | None,
    devices: tuple[SourceDevice, ...],
) -> tuple[FittedModel, Parts]:
    """The ensemble of models on kernel sums and source devices, and parts estimated from the same networks."""

    def inputs(matrix: Indices) -> Inputs:
        rows = space.stage_rows(matrix)
        sources = source_sums(devices, space, rows) if devices else None
        return Inputs(kernels.of_candidates(space, matrix), kernels.kernel_names, rows, sources)

    typical = inputs(space.sample(np.random.default_rng(0), _NUM_TYPICAL))
    cost = None
    if spec is not None:
        cost = FittedRoofline.of(kernels.kernel_names, spec.rates_per_ms(kernels.kernel_names)).kernel_cost_ms
    measured = inputs(fit.matrix)
    model = Ensemble(prior=unlearned_prior(typical, cost)).fit(measured, fit.latency_ms)
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
    fit: _Networks,
    check: _Networks,
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
