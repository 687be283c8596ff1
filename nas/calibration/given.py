"""What the user gives of a device (files, anchors, a spec sheet, other devices' profiles), and the profile of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.calibration.spec import spec_sheet
from nas.calibration.target import Target
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.fitting import ProfileFacts
    from latency_predictors.importers import ImportedMeasurement
    from latency_predictors.latency_table import LatencyTable
    from latency_predictors.measurement import Measurement
    from latency_predictors.profile import DeviceProfile
    from latency_predictors.training import Training


@dataclass(frozen=True)
class Given:
    """As the command line takes it.

    Attributes:
        files: measurement files.
        format: of all files; None: told from their content.
        subject: of files of one measurement, which do not name it.
        facts: device, runtime, precision, threads, toolchain, as far as given.
        anchors: "MS", the latency of the largest candidate, or "SUBJECT=MS".
        spec: files of rates (YAML), and "rate=value".
        sources: device or NPU profiles, by path or name.
        skip_unknown: leave out rows whose subject is nothing of the space.
    """

    files: Sequence[Path] = ()
    format: str | None = None
    subject: str | None = None
    facts: Mapping[str, str | int | None] = field(default_factory=dict)
    anchors: Sequence[str] = ()
    spec: Sequence[str] = ()
    sources: Sequence[str] = ()
    skip_unknown: bool = False

    def is_anything(self) -> bool:
        """Whether there is anything to fit a profile to."""
        return bool(self.files or self.anchors or self.spec)

    def with_facts(self, facts: Mapping[str, str | int | None]) -> Given:
        """The same, with more facts."""
        return replace(self, facts={**self.facts, **facts})


@dataclass(frozen=True)
class Known:
    """What is known of a device: rows, facts, and lines to show to the user."""

    training: Training
    facts: ProfileFacts
    lines: tuple[str, ...]

    def with_training(self, training: Training) -> Known:
        """The same device with other timings."""
        return replace(self, training=training)


def read(given: Given, target: Target, earlier: DeviceProfile | None = None) -> Known:
    """Reads what is given; a row of `earlier` (the profile so far) stays unless a file has a new one of its subject.

    Raises:
        UserError: files that cannot be read, subjects that the space does not have, rows of several devices, a
            device, runtime or precision that nobody names, or another one than `earlier`'s.
    """
    from latency_predictors.imported import one_device, sort_rows, strays
    from latency_predictors.training import Training

    rows, lines = _rows(given)
    common = one_device(rows)
    chosen = {name: value if (value := given.facts.get(name)) is not None else common[name] for name in common}
    if earlier is not None:
        _check_same(earlier, chosen)
        chosen = {name: getattr(earlier, name) if value is None else value for name, value in chosen.items()}
    for name in ("device", "runtime", "precision"):
        if chosen[name] is None:
            raise UserError(f"{name}: no measurement names it; give --{name}")
    parts: dict[str, Measurement | ImportedMeasurement] = {}
    networks: dict[str, Measurement | ImportedMeasurement] = {}
    if earlier is not None:
        parts |= earlier.training.parts
        networks |= earlier.training.networks
    in_files: Mapping[str, ImportedMeasurement] = {}
    if rows:
        found = sort_rows(rows, target.space, skip_unknown=given.skip_unknown)
        lines += [f"{line} (left out)" for line in found.unknown] + strays(rows)
        parts |= found.parts
        in_files = found.networks
    networks |= {**in_files, **_anchors(given.anchors, target, chosen, in_files)}
    return Known(Training(parts, networks), _facts(target, chosen), tuple(lines))


def fit(given: Given, target: Target, known: Known, held_out: Sequence[str] = ()) -> DeviceProfile:
    """The profile of what is known; see :func:`latency_predictors.fitting.fit_profile`."""
    from latency_predictors.fitting import fit_profile
    from latency_predictors.profile_file import load_profile

    shapes = target.shapes
    sources: dict[str, LatencyTable] = {}
    for name in given.sources:
        profile = load_profile(name)
        table = profile.tabulate(shapes.unet, target.space, shapes.latent_size, shapes.num_tokens)
        if profile.device in sources:
            raise UserError(f"--source {name}: device {profile.device!r} is given twice; keep one")
        sources[profile.device] = table
    spec = spec_sheet(given.spec, str(known.facts.precision))
    return fit_profile(target.space, target.kernels, known.training, known.facts, held_out, spec, sources)


def _rows(given: Given) -> tuple[list[ImportedMeasurement], list[str]]:
    from pydantic import ValidationError

    from latency_predictors.importers import Facts, read_all

    try:
        facts = Facts.model_validate({name: value for name, value in given.facts.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from None
    if not given.files:
        if given.subject is not None:
            raise UserError(f"--subject {given.subject}: names the measurement of a file; give it with --from")
        return [], []
    rows, lines = read_all(given.files, given.format, facts)
    if given.subject is not None:
        if len(rows) != 1:
            raise UserError(
                f"--subject {given.subject}: there are {len(rows)} measurements, and it names one; give one file of "
                "one measurement, or files that are named after their subject (E1_RA.csv)"
            )
        rows = [row.model_copy(update={"subject": given.subject}) for row in rows]
    return rows, lines


def _check_same(earlier: DeviceProfile, chosen: Mapping[str, str | int | None]) -> None:
    for name, value in chosen.items():
        own = getattr(earlier, name)
        if value is not None and own is not None and value != own:
            raise UserError(
                f"{name} is {value!r}, the profile that is there already is of {own!r}; give another --out, or "
                f"move that one away"
            )


def _facts(target: Target, chosen: Mapping[str, Any]) -> ProfileFacts:
    from latency_predictors.fitting import ProfileFacts

    return ProfileFacts(**chosen, latent_size=target.shapes.latent_size, num_tokens=target.shapes.num_tokens)


def _anchors(
    texts: Sequence[str], target: Target, chosen: Mapping[str, Any], in_files: Mapping[str, ImportedMeasurement]
) -> dict[str, ImportedMeasurement]:
    """The latencies given on the command line by candidate; UserError for one that is told otherwise elsewhere."""
    from latency_predictors.importers.records import at

    found: dict[str, ImportedMeasurement] = {}
    told = {
        name: (row.latency_ms, f"{row.provenance.file}, {at(row.provenance.row)}") for name, row in in_files.items()
    }
    for text in texts:
        anchor = _anchor(text, target, chosen)
        ms, where = told.setdefault(anchor.subject, (anchor.latency_ms, f"--anchor {text}"))
        if ms != anchor.latency_ms:
            raise UserError(f"--anchor {text}: {anchor.subject} takes {ms:g} ms by {where}; keep one of the two")
        found[anchor.subject] = anchor
    return found


def _anchor(text: str, target: Target, chosen: Mapping[str, Any]) -> ImportedMeasurement:
    """One latency given on the command line, of a whole U-Net."""
    from latency_predictors.imported import legal_subjects, subject_of
    from latency_predictors.importers import ImportedMeasurement, Provenance
    from latency_predictors.importers.base import RowError, latency_ms

    subject, equals, value = text.rpartition("=")
    try:
        ms = latency_ms(value, "ms", "latency")
    except RowError as error:
        raise UserError(f"--anchor {text}: {error}; write milliseconds, or SUBJECT=MS") from None
    name, is_network = subject_of(subject, target.space) if equals else (target.largest, True)
    if not is_network:
        raise UserError(
            f"--anchor {text}: {name} is no whole U-Net; legal subjects are {legal_subjects(target.space)}, of which "
            "an anchor is a candidate"
        )
    digest = hashlib.sha256(text.encode()).hexdigest()
    provenance = Provenance(file="--anchor", sha256=digest, format="command-line", row=1)
    return ImportedMeasurement(subject=name, latency_ms=ms, provenance=provenance, **chosen)
