"""What the user gives of a device (files, anchors, a spec sheet, other devices' profiles), and the profile of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.calibration.target import Target
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.fitting import ProfileFacts
    from latency_predictors.importers import ImportedMeasurement
    from latency_predictors.latency_table import LatencyTable
    from latency_predictors.measurement import Measurement
    from latency_predictors.profile import DeviceProfile
    from latency_predictors.spec_sheet import SpecSheet
    from latency_predictors.training import Training

#: Bytes of an activation, where a spec sheet does not say.
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float": 2, "w8a16": 2, "w16a16": 2, "w4a16": 2, "w8a8": 1}


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
    if rows:
        found = sort_rows(rows, target.space, skip_unknown=given.skip_unknown)
        lines += [f"{line} (left out)" for line in found.unknown] + strays(rows)
        parts |= found.parts
        networks |= found.networks
    for text in given.anchors:
        anchor = _anchor(text, target, chosen)
        networks[anchor.subject] = anchor
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


def spec_sheet(given: Sequence[str], precision: str) -> SpecSheet | None:
    """The rates of files and "rate=value" together, later ones first; None where nothing is given.

    Raises:
        UserError: a file that is no mapping, an unknown rate, or a value that is no rate.
    """
    if not given:
        return None
    import yaml
    from pydantic import ValidationError

    from latency_predictors.spec_sheet import SpecSheet

    rates: dict[str, Any] = {"bytes_per_element": _BYTES[precision]} if precision in _BYTES else {}
    legal = ", ".join(SpecSheet.model_fields)
    for text in given:
        key, equals, value = text.partition("=")
        if equals:
            rates[key.strip()] = value.strip()
            continue
        try:
            content = yaml.safe_load(Path(text).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--spec {text}: cannot be read ({reason}); give a YAML file with {legal}") from None
        if not isinstance(content, dict):
            raise UserError(f"--spec {text}: holds no rates; give a YAML file with {legal}")
        rates |= content
    try:
        return SpecSheet.model_validate(rates)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        stated = "" if first["type"] == "missing" else f" is {first['input']!r}"
        raise UserError(f"--spec: {name}{stated}: {first['msg']}; legal are {legal}") from None


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
