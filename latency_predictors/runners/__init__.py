"""Runners: each times ONNX graphs with one runtime on one kind of device. They are made by name."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.runners.base import Runner

_RUNNERS = {
    "adb": "latency_predictors.runners.adb:AdbRunner",
    "onnxruntime-cpu": "latency_predictors.runners.onnxruntime_cpu:OnnxRuntimeRunner",
    "onnxruntime-cuda": "latency_predictors.runners.onnxruntime_cuda:CudaRunner",
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


def runner_names() -> tuple[str, ...]:
    """Names that :func:`make_runner` knows."""
    return tuple(_RUNNERS)


def make_runner(name: str, **options: Any) -> Runner:
    """The runner of this name with these options (JSON-ready keywords of its class).

    Raises:
        UserError: an unknown name or option, or what the runner itself refuses (its runtime is not here).
    """
    target = _RUNNERS.get(name, name)
    module, _, attribute = target.partition(":")
    if not attribute:
        raise UserError(f"runner {name!r} is not known; legal are {', '.join(_RUNNERS)}")
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"runner {name!r} cannot be imported: {error}; legal are {', '.join(_RUNNERS)}") from None
    legal = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in legal:
            raise UserError(f"runner {name!r}: option {option!r} is not known; legal are {', '.join(legal) or 'none'}")
    runner: Runner = factory(**options)
    return runner
