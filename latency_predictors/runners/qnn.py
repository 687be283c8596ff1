"""The runner for Qualcomm NPUs on a PC: it compiles and checks, and refuses to time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from latency_predictors.measurement import Measurement, Precision, Recording
from latency_predictors.qnn import CompileReport, CompileSettings, Steps, compile_subject, find_soc, toolchain
from latency_predictors.runners.base import Announce, MeasureSettings, Prepared, Progress, Sample
from latency_predictors.runners.options import checked
from search_spaces.errors import UserError


class QnnRunner:
    """Has a runner's interface (see runners.base), but no latency: the NPU it compiles for is not here.

    What a PC can say of a graph is whether all of it compiles for the NPU, how large it gets and how far its
    quantised numerics are from float32: see :meth:`compile`.

    Raises:
        UserError: an unknown SoC, or the extra `qnn` is not installed.
    """

    @checked
    def __init__(
        self, settings: CompileSettings | None = None, *, soc: str | None = None, precision: str | None = None
    ) -> None:
        self._settings = settings or CompileSettings()
        if soc is not None:
            self._settings = self._settings.model_copy(update={"soc": soc})
        if precision is not None:
            if precision not in ("w8a16", "w8a8"):
                raise UserError(f"precision: {precision!r} does not run on the NPU; legal are w8a16, w8a8")
            quantization = self._settings.quantization.model_copy(update={"precision": precision})
            self._settings = self._settings.model_copy(update={"quantization": quantization})
        self._soc = find_soc(self._settings.soc)

    @property
    def device(self) -> str:
        """Model number of the SoC that is compiled for."""
        return self._soc.name

    @property
    def runtime(self) -> str:
        """Name of the runtime and its provider."""
        return "onnxruntime-qnn"

    @property
    def precision(self) -> Precision:
        """Precision that graphs are quantised to."""
        return self._settings.quantization.precision

    @property
    def threads(self) -> int:
        """One: the NPU schedules itself."""
        return 1

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the compiler's packages; none where the extra `qnn` is not installed."""
        if find_spec("onnxruntime_qnn") is None:
            return {}
        return dict(toolchain().model_dump(mode="json"))

    @property
    def placement(self) -> dict[str, dict[str, int]]:
        """Nothing: graphs are compiled one by one, and each report counts its nodes."""
        return {}

    def prepare(self, graph: Path, samples: Sequence[Sample]) -> Prepared | None:
        """Nothing: :meth:`compile` quantises."""
        return None

    def compile(
        self, subject: str, graph: Path, samples: Path, context: Path, *, check_numerics: bool = False
    ) -> CompileReport:
        """Compiles a float32 graph in processes of its own; see :func:`latency_predictors.qnn.compile_subject`."""
        steps = Steps(subject, self._settings)
        return compile_subject(steps, graph, samples, context, self._settings, check_numerics=check_numerics)

    def passes(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        announce: Announce | None = None,
    ) -> Iterator[dict[str, Recording]]:
        """Raises UserError: there is no latency here."""
        self._refuse()

    def measure(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        on_progress: Progress | None = None,
    ) -> dict[str, Measurement]:
        """Raises UserError: there is no latency here."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(
            f"device {self._soc.name}: this machine has only its compiler and an emulator, whose time says nothing of "
            "the NPU's; measure on the phone, or import a measurement file"
        )
