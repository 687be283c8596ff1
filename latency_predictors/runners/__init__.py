"""Runners: each times ONNX graphs with one runtime on one kind of device. They are made by name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.runners.base import Runner

_RUNNERS = {
    "onnxruntime-cpu": "latency_predictors.runners.onnxruntime_cpu:OnnxRuntimeRunner",
    "onnxruntime-cuda": "latency_predictors.runners.onnxruntime_cuda:CudaRunner",
    "adb": "latency_predictors.runners.adb:AdbRunner",
    "openvino": "latency_predictors.runners.openvino:OpenVinoRunner",
    "qnn": "latency_predictors.runners.qnn:QnnRunner",
}


class RunnerSpec(BaseModel):
    """A runner by name with its options: what a worker process needs to make it.

    `name` is one of :func:`runner_names`, or "package.module:Class" of a runner of one's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    def make(self) -> Runner:
        """The runner; see :func:`make_runner`."""
        return make_runner(self.name, **self.options)

    @property
    def context(self) -> dict[str, Any]:
        """All options, those left out by their default, that latencies may depend on: what a journal is checked for.

        A class names those that only say how a device is reached and waited for in `HANDLING`.
        """
        made_by = _factory(self.name)
        values = {
            name: self.options.get(name, parameter.default)
            for name, parameter in inspect.signature(made_by).parameters.items()
            if name not in getattr(made_by, "HANDLING", ())
        }
        context: dict[str, Any] = json.loads(json.dumps(values, default=str))
        return context


def runner_names() -> tuple[str, ...]:
    """Names that :func:`make_runner` knows."""
    return tuple(_RUNNERS)


def make_runner(name: str, **options: Any) -> Runner:
    """The runner of this name with these options (JSON-ready keywords of its class).

    Raises:
        UserError: an unknown name or option, or what the runner itself refuses (its runtime is not here).
    """
    runner_options(name, options)
    runner: Runner = _factory(name)(**options)
    return runner


def runner_options(name: str, given: Mapping[str, Any] = MappingProxyType({})) -> tuple[str, ...]:
    """Options that the runner of this name has.

    Raises:
        UserError: an unknown name, an option in `given` that it does not have, or a value that is not legal.
    """
    from latency_predictors.runners.options import legal_values

    made_by = _factory(name)
    legal = tuple(inspect.signature(made_by).parameters)
    for option in given:
        _check_known(name, option, legal)
    try:
        legal_values(made_by.__init__, given)
    except UserError as error:
        raise UserError(f"runner {name!r}: {error}") from None
    return legal


def option_from_text(name: str, option: str, text: str) -> Any:
    """The value of a runner's option that was given as text; see :func:`latency_predictors.runners.options.from_text`.

    Raises:
        UserError: an unknown name, or an option that it does not have.
    """
    from latency_predictors.runners.options import from_text

    made_by = _factory(name)
    _check_known(name, option, tuple(inspect.signature(made_by).parameters))
    return from_text(made_by.__init__, option, text)


def _check_known(name: str, option: str, legal: Sequence[str]) -> None:
    if option not in legal:
        raise UserError(f"runner {name!r}: option {option!r} is not known; legal are {', '.join(legal) or 'none'}")


def _factory(name: str) -> Any:
    module, _, attribute = _RUNNERS.get(name, name).partition(":")
    if not attribute:
        raise UserError(f"runner {name!r} is not known; legal are {', '.join(_RUNNERS)}")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"runner {name!r} cannot be imported: {error}; legal are {', '.join(_RUNNERS)}") from None
