"""Times ONNX graphs on an Android phone, with onnxruntime_perf_test through adb."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np

from latency_predictors.android import PROVIDERS, Adb, Cooling, PerfTest, Phone, Provider, remote_path
from latency_predictors.android.calls import Calls, graph_files
from latency_predictors.android.perf_test import PRECISIONS
from latency_predictors.android.store import Store
from latency_predictors.measurement import Measurement, Precision, Recording, combine_all
from latency_predictors.runners.base import Announce, DeviceError, MeasureSettings, Prepared, Progress, Sample
from latency_predictors.runners.options import Celsius, Seconds, Texts, ThermalStatus, Threads, checked
from latency_predictors.runners.round_robin import Session
from search_spaces.errors import UserError, shown

FOLDER = "/data/local/tmp/nanosd"
"""Where adb's user may write and run programs."""


class AdbRunner:
    """Runner (see runners.base) for a phone.

    A pass turns to every subject once, in an order drawn from the settings' seed: one process on the phone,
    which loads the graph, warms up and runs it `rounds_per_pass` times. So a crash costs that one process, and
    another is tried; after three in a row, or when one hangs, the error is raised that names the subject. Before
    each process the phone must be cool.
    The first process of a subject profiles it, to see on which provider its operators ran; it is not timed.

    What is timed is a tight loop: caches are not emptied between runs as on a CPU of this machine, and
    no primer is needed. When the phone disappears, what its pass had measured is handed out before the error is raised.

    Parameters
    ----------
    perf_test: onnxruntime_perf_test: a file here, which is pushed with the shared libraries (*.so) beside it, or
        an absolute path on the phone.
    serial: as `adb devices` lists it; None: the only phone connected.
    folder: on the phone, where graphs and results go meanwhile, and a pushed binary stays.
    provider: "cpu", "xnnpack", "nnapi" or "qnn"; every operator must run on it.
    backend_path: QNN's backend (libQnnHtp.so), on the phone.
    options: the provider's options, as onnxruntime_perf_test -i takes them.
    precision: of the graphs; "float16" are float32 graphs that the provider runs in half precision.
    timeout_s: wall time of one process on the phone.
    max_thermal_status: Android's, 0 (not throttled) to 6. max_battery_c: degrees Celsius.
    cooling_s: most seconds to wait until neither is exceeded; looked at every `poll_s` seconds.
    adb: the program's name or path.

    Raises:
        UserError: an option that is not legal.
        DeviceError: from any property or method: no adb, no phone, several phones, not authorised, no binary on the
            phone, no such provider in it, no space, too hot for too long, unplugged.
    """

    HANDLING: ClassVar[frozenset[str]] = frozenset({"folder", "timeout_s", "cooling_s", "poll_s", "adb"})

    @checked
    def __init__(
        self,
        perf_test: str = f"{FOLDER}/onnxruntime_perf_test",
        *,
        serial: str | None = None,
        folder: str = FOLDER,
        provider: Provider = "cpu",
        backend_path: str | None = None,
        options: Texts | None = None,
        threads: Threads = 1,
        precision: Precision | None = None,
        timeout_s: Seconds = 120.0,
        max_thermal_status: ThermalStatus = 0,
        max_battery_c: Celsius = 42.0,
        cooling_s: Seconds = 900.0,
        poll_s: Seconds = 5.0,
        adb: str = "adb",
    ) -> None:
        if provider not in PROVIDERS:
            raise UserError(f"provider: {shown(provider)} is not known; legal are {', '.join(get_args(Provider))}")
        precision = precision or PRECISIONS[provider][0]
        if precision not in PRECISIONS[provider]:
            raise UserError(
                f"precision: {shown(precision)} does not run on {provider}; legal are {', '.join(PRECISIONS[provider])}"
            )
        if backend_path is not None and provider != "qnn":
            raise UserError(f"backend_path: {shown(backend_path)} is for provider qnn; leave it out for {provider}")
        if backend_path is not None and "/" in backend_path:
            remote_path(backend_path, "backend_path")
        self._local = Path(perf_test) if Path(perf_test).is_file() else None
        if self._local is None and not perf_test.startswith("/"):
            raise UserError(
                f"perf_test: {shown(perf_test)} is no file here and no path on the phone; give the binary built for "
                "Android, see docs/measuring-a-phone.md"
            )
        self._remote = perf_test if self._local else remote_path(perf_test, "perf_test")
        self._folder = remote_path(folder, "folder")
        self._provider: Provider = provider
        self._backend_path, self._options = backend_path, dict(options or {})
        self._threads, self._precision = threads, precision
        self._timeout_s = timeout_s
        self._cooling = Cooling(max_thermal_status, max_battery_c, cooling_s, poll_s)
        self._adb_program, self._serial = adb, serial
        self._connected: tuple[Adb, Phone] | None = None
        self._tool: tuple[PerfTest, str] | None = None
        self._placement: dict[str, dict[str, int]] = {}

    @property
    def device(self) -> str:
        """The phone's maker and model, and its SoC."""
        phone = self._connect()[1]
        return f"{phone.name} ({phone.soc})"

    @property
    def runtime(self) -> str:
        """Name of the runtime and its provider."""
        return f"onnxruntime-{self._provider}"

    @property
    def precision(self) -> Precision:
        """Precision that the graphs run in."""
        return self._precision

    @property
    def threads(self) -> int:
        """Intra-op threads of a run."""
        return self._threads

    @property
    def versions(self) -> dict[str, str]:
        """The tool by the SHA-256 of its files (it tells no version), Android and its build."""
        phone = self._connect()[1]
        return {"onnxruntime_perf_test": self._install()[1], "android": phone.android, "build": phone.build}

    @property
    def placement(self) -> dict[str, dict[str, int]]:
        """Operators per execution provider of each subject loaded, from its profile."""
        return dict(self._placement)

    def prepare(self, graph: Path, samples: Sequence[Sample]) -> Prepared | None:
        """Quantises for w8a8 and w8a16: as Qualcomm's NPUs want it for qnn, else as onnxruntime's CPU kernels do."""
        if self._precision not in ("w8a8", "w8a16"):
            return None
        if self._provider == "qnn":
            from latency_predictors.qnn.quantization import QuantizationSettings, quantize_graph

            settings = QuantizationSettings(precision="w8a8" if self._precision == "w8a8" else "w8a16")
            quantize_graph(graph, samples, graph, settings)
            return Prepared(settings=settings.model_dump())
        from latency_predictors.cpu_quantization import quantize_for_cpu

        return quantize_for_cpu(graph, samples, self._precision)

    def passes(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        announce: Announce | None = None,
    ) -> Generator[dict[str, Recording], None, None]:
        """See runners.base.Runner.passes; `primer` is not needed here."""
        assert subjects, "nothing to measure"
        turn_to = announce or (lambda name: None)
        adb, phone = self._connect()
        tool, version = self._install()

        def before_each(name: str) -> None:
            # Told again at every look: a wait is no stall.
            phone.wait_until_cool(self._cooling, lambda: turn_to(name))
            turn_to(name)

        rng = np.random.default_rng(settings.seed)
        names = list(subjects)
        with Store(adb, self._folder) as store:
            calls = Calls(store, tool, settings, before_each)
            graphs: dict[str, str] = {}
            for name, path in subjects.items():
                turn_to(name)
                graphs[name] = store.publish("graphs", graph_files(name, path)) + "/model.onnx"
                self._placement[name] = calls.profile(name, graphs[name])
            while True:
                pass_id = time.time_ns()
                conditions = phone.conditions(version)
                samples: dict[str, tuple[float, ...]] = {}
                broken: UserError | None = None
                try:
                    for index in rng.permutation(len(names)):
                        name = names[index]
                        samples[name] = calls.time(name, graphs[name])
                except UserError as error:
                    broken = error
                recordings = {
                    name: Recording(
                        subject=name,
                        pass_id=pass_id,
                        device=self.device,
                        runtime=self.runtime,
                        precision=self._precision,
                        threads=self._threads,
                        # What the tool tells is wall time; how long the thread had the processor is not known.
                        wall_ms=samples[name],
                        cpu_ms=samples[name],
                        conditions=conditions,
                    )
                    for name in names
                    if name in samples
                }
                if recordings:
                    yield recordings
                if broken is not None:
                    raise broken

    def measure(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        on_progress: Progress | None = None,
    ) -> dict[str, Measurement]:
        """See runners.base.Runner.measure."""
        session = Session(len(subjects), settings)
        with closing(self.passes(subjects, settings, primer)) as passes:
            for recordings in passes:
                session.add(recordings)
                if on_progress is not None:
                    on_progress(len(subjects), len(subjects), f"round {session.num_rounds}")
                if session.is_over:
                    break
        return combine_all(session.recordings)

    def _connect(self) -> tuple[Adb, Phone]:
        if self._connected is None:
            adb = Adb(self._serial, self._adb_program)
            self._connected = adb, Phone(adb)
        return self._connected

    def _install(self) -> tuple[PerfTest, str]:
        """The tool on the phone, pushed if it is here, and what tells its version."""
        if self._tool is None:
            adb = self._connect()[0]
            store = Store(adb, self._folder)
            remote = self._remote
            if self._local is not None:
                files = {file.name: file for file in sorted(self._local.parent.glob("*.so"))}
                folder = store.publish("bin", {**files, "onnxruntime_perf_test": self._local}, program=True, keep=True)
                remote = f"{folder}/onnxruntime_perf_test"
            if adb.shell(["test", "-x", remote]).code != 0:
                raise DeviceError(
                    f"perf_test: there is no program {remote} on the phone; push onnxruntime_perf_test and chmod it, "
                    "or give its file here, see docs/measuring-a-phone.md"
                )
            tool = PerfTest(
                path=remote,
                provider=self._provider,
                threads=self._threads,
                precision=self._precision,
                timeout_s=self._timeout_s,
                backend_path=self._backend_path,
                options=self._options,
            )
            self._tool = tool, store.fingerprint(remote)
        return self._tool
