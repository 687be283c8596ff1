"""The journal of measurements: one JSON line per finished pass of a subject, safe against SIGKILL."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from latency_predictors.manifest import Manifest, SubjectFacts
from latency_predictors.measurement import Measurement, Recording, combine_all
from search_spaces.atomic import write_error
from search_spaces.errors import UserError


class Journal:
    """Append-only lines in `path`: {"context": ...} first, then one of these.

    {"recording": ...}: a pass of a subject; {"finished": [...]}: subjects that are done; {"failed": {subject: reason}};
    {"retry": [...]}: subjects whose failure no longer counts; {"digests": {subject: SHA-256 of its graph}};
    {"facts": {subject: ...}}; {"manifest": ...}: the session as it ended, the last one counts. Journals of
    earlier versions have the first two.

    `context` says what the measurements depend on: a journal of another context is refused. A last line
    torn by a kill is cut off; any other unreadable line is an error.
    """

    def __init__(self, path: Path, context: Mapping[str, Any]) -> None:
        self._path = path
        self.recordings: dict[str, list[Recording]] = {}
        self.finished: list[str] = []
        self.failed: dict[str, str] = {}
        self.facts: dict[str, SubjectFacts] = {}
        self.digests: dict[str, str] = {}
        self.manifest: Manifest | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            torn = lines.pop()
            os.truncate(path, path.stat().st_size - len(torn))
        for number, line in enumerate(lines, start=1):
            self._read(number, line, dict(context))
        if not lines:
            self._append([{"context": dict(context)}])

    def _read(self, number: int, line: bytes, context: dict[str, Any]) -> None:
        where = f"{self._path}, line {number}"
        try:
            entry = json.loads(line)
            if number == 1:
                found = entry["context"]
                changed = sorted(k for k in found.keys() | context.keys() if found.get(k) != context.get(k))
                if changed:
                    key = changed[0]
                    raise UserError(
                        f"{where}: {key} is {found.get(key)!r}, this session's is {context.get(key)!r}; "
                        "delete the file or use another directory"
                    )
            elif "recording" in entry:
                recording = Recording.model_validate(entry["recording"])
                self.recordings.setdefault(recording.subject, []).append(recording)
            elif "failed" in entry:
                self.failed.update(entry["failed"])
            elif "retry" in entry:
                for subject in entry["retry"]:
                    self.failed.pop(subject, None)
            elif "digests" in entry:
                self.digests.update(entry["digests"])
            elif "facts" in entry:
                self.facts.update({k: SubjectFacts.model_validate(v) for k, v in entry["facts"].items()})
            elif "manifest" in entry:
                self.manifest = Manifest.model_validate(entry["manifest"])
            else:
                self.finished += entry["finished"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{where}: not a line of a measurement journal; delete the file and measure again"
            ) from None

    def add_pass(self, recordings: Iterable[Recording]) -> None:
        """Writes one pass; when this returns it is on the disk."""
        recordings = list(recordings)
        self._append([{"recording": r.model_dump(mode="json")} for r in recordings])
        for recording in recordings:
            self.recordings.setdefault(recording.subject, []).append(recording)

    def finish(self, subjects: Sequence[str]) -> None:
        """Marks subjects as measured: they are never measured again."""
        self._append([{"finished": list(subjects)}])
        self.finished += subjects

    def fail(self, subject: str, reason: str) -> None:
        """Marks a subject that cannot be measured; it is tried again only after :meth:`retry`."""
        self._append([{"failed": {subject: reason}}])
        self.failed[subject] = reason

    def retry(self, subjects: Sequence[str]) -> None:
        """Forgets failures."""
        forgotten = [name for name in subjects if name in self.failed]
        if forgotten:
            self._append([{"retry": forgotten}])
            for name in forgotten:
                del self.failed[name]

    def identify(self, digests: Mapping[str, str]) -> None:
        """Keeps which graph each subject is, by its digest; a failure of another graph no longer counts.

        Raises:
            UserError: a subject is in the journal as another graph, or nothing tells as which.
        """
        for name, digest in digests.items():
            known = self.digests.get(name)
            is_there = name in self.recordings
            if name in self.failed and not is_there and known != digest:
                self.retry([name])  # it failed as another graph, and nothing of that one is kept
                continue
            if (known is not None or is_there) and known != digest:
                raise UserError(
                    f"{self._path}: {name} was another graph (SHA-256 {(known or 'not known')[:16]}, now "
                    f"{digest[:16]}); rename the file or use another directory"
                )
        new = {name: digest for name, digest in digests.items() if self.digests.get(name) != digest}
        if new:
            self._append([{"digests": new}])
            self.digests.update(new)

    def learn(self, facts: Mapping[str, SubjectFacts]) -> None:
        """Keeps what is known of subjects' graphs; what is kept already is not written again."""
        new = {name: fact for name, fact in facts.items() if self.facts.get(name) != fact}
        if new:
            self._append([{"facts": {name: fact.model_dump(mode="json") for name, fact in new.items()}}])
            self.facts.update(new)

    def close(self, manifest: Manifest) -> None:
        """Writes the manifest of the session that ends."""
        self._append([{"manifest": manifest.model_dump(mode="json")}])
        self.manifest = manifest

    def measurements(self) -> dict[str, Measurement]:
        """The finished subjects' measurements."""
        return combine_all({name: self.recordings[name] for name in self.finished})

    def _append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):  # half a line is no end of a journal that others append to
                os.truncate(self._path, size)
            raise write_error(self._path, error, len(text)) from error
