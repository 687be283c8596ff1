"""Traces of stages, put together from traces of their layers, each of which is made once.

A space has hundreds of options a stage, but they share few distinct layers. A stage's own code runs for every
option; each of its layers is replaced by a stand-in that gives tensors of the right shapes and adds the layer's
trace, which is remembered by the layer's structure and the shapes and layouts of its inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from search_spaces.liveness import Liveness
from search_spaces.slimming import slim_attention, slim_resnet
from search_spaces.stage_option import Internals
from search_spaces.tracing import Recorder, Trace, record_operators

_LAYERS = (
    ResnetBlock2D,
    Transformer2DModel,
    Downsample2D,
    Upsample2D,
    AutoencoderTinyBlock,
    nn.Conv2d,
    nn.ReLU,
    nn.Upsample,
)
TEACHERS = Internals()


class NumParams(NamedTuple):
    """Parameter elements, told apart as precisions do."""

    matrices: int
    """In parameters with two or more dimensions."""
    vectors: int
    """In all others: biases, norms."""

    @classmethod
    def of(cls, module: nn.Module) -> NumParams:
        """Of a module, parameters that occur twice counted once."""
        sizes = [(parameter.ndim >= 2, parameter.numel()) for parameter in module.parameters()]
        return cls(sum(n for matrix, n in sizes if matrix), sum(n for matrix, n in sizes if not matrix))


@dataclass(frozen=True)
class StageCost:
    """Everything that one option of a stage costs in one forward pass.

    ``contiguous`` says whether its outputs are laid out as PyTorch does by default.
    """

    params: NumParams
    trace: Trace
    contiguous: bool

    @cached_property
    def liveness(self) -> Liveness:
        """Lives of its activations."""
        return Liveness.of(self.trace)


class LayerTraces:
    """Costs of stages, layer by layer, each distinct layer traced once.

    Everything must be on the ``meta`` device, where running a layer computes shapes only.
    """

    def __init__(self) -> None:
        self._traces: dict[Any, tuple[Trace, TreeSpec, list[Tensor]]] = {}
        self._params: dict[Any, NumParams] = {}
        self._slim: dict[Any, nn.Module] = {}
        self._made: dict[Any, nn.Module] = {}
        self._recorder: Recorder
        self._structures: dict[int, tuple[nn.Module, Any]] = {}

    def stage_cost(
        self,
        stage: nn.Module,
        inputs: tuple[Tensor, ...],
        kwargs: Mapping[str, Any] | None = None,
        internals: Internals = TEACHERS,
    ) -> StageCost:
        """Cost of a stage; see :meth:`cost_and_results`."""
        return self.cost_and_results(stage, inputs, kwargs, internals)[0]

    def cost_and_results(
        self,
        stage: nn.Module,
        inputs: tuple[Tensor, ...],
        kwargs: Mapping[str, Any] | None = None,
        internals: Internals = TEACHERS,
    ) -> tuple[StageCost, tuple[Tensor, ...]]:
        """Cost of a stage, and what it gives.

        Args:
            stage: the module, whose layers are the teacher's.
            inputs: tensors that it is called with; only their shapes and layouts matter.
            kwargs: what else it is called with.
            internals: what becomes of its ResNet and transformer blocks.
        """
        fresh = tuple(blank(tensor) for tensor in inputs)
        stand_ins: list[_StandIn] = []

        def replaced(module: nn.Module) -> nn.Module:
            if isinstance(module, _LAYERS):
                module = _StandIn(module, self._slimmed(module, internals), self)
            if isinstance(module, _StandIn):
                stand_ins.append(module)
                return module
            clone = copy.copy(module)
            clone._modules = {name: None if m is None else replaced(m) for name, m in module._modules.items()}
            return clone

        assembled = replaced(stage)
        with torch.no_grad(), Recorder(fresh) as self._recorder:
            outputs = assembled(*fresh, **(kwargs or {}))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        # A layer that a stage runs twice has its parameters once.
        distinct = {id(stand_in.original): self._num_params(stand_in.layer) for stand_in in stand_ins}
        params = (NumParams.of(assembled), *distinct.values())
        cost = StageCost(
            params=NumParams(sum(p.matrices for p in params), sum(p.vectors for p in params)),
            trace=self._recorder.finish(outputs),
            contiguous=all(tensor.is_contiguous() for tensor in outputs),
        )
        return cost, outputs

    def make(self, kind: type[nn.Module], *args: Any) -> nn.Module:
        """What stands in for a new layer of this class and arguments; the layer itself is made once."""
        if (kind, args) not in self._made:
            with torch.device("meta"):
                self._made[kind, args] = kind(*args).eval()
        return _StandIn(None, self._made[kind, args], self)

    def run(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Results of a layer, without running it if one like it was run on such inputs before."""
        leaves, spec = tree_flatten((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        layouts = tuple((tuple(leaf.shape), leaf.stride()) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        key = (self._structure(layer), layouts, spec)
        if key not in self._traces:
            fresh = [blank(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            fresh_args, fresh_kwargs = tree_unflatten(fresh, spec)
            made, result = record_operators(
                lambda: layer(*fresh_args, **fresh_kwargs), [leaf for leaf in fresh if isinstance(leaf, Tensor)]
            )
            results, result_spec = tree_flatten(result)
            self._traces[key] = made, result_spec, results
        made, result_spec, results = self._traces[key]
        outputs = [blank(tensor) for tensor in results]
        self._recorder.splice(made, given, outputs)
        return tree_unflatten(outputs, result_spec)

    def _slimmed(self, layer: nn.Module, internals: Internals) -> nn.Module:
        """The layer with these internals, made once for all layers of the same structure: weights do not matter."""
        if isinstance(layer, ResnetBlock2D):
            own = Internals(resnet_width=internals.resnet_width, conv=internals.conv)
        elif isinstance(layer, Transformer2DModel):
            own = Internals(ff_width=internals.ff_width, heads=internals.heads, attention=internals.attention)
        else:
            return layer
        if own.is_teachers:
            return layer
        key = (self._structure(layer), own)
        if key not in self._slim:
            self._slim[key] = (
                slim_resnet(layer, own) if isinstance(layer, ResnetBlock2D) else slim_attention(layer, own)
            )
        return self._slim[key]

    def _num_params(self, layer: nn.Module) -> NumParams:
        key = self._structure(layer)
        if key not in self._params:
            self._params[key] = NumParams.of(layer)
        return self._params[key]

    def _structure(self, layer: nn.Module) -> Any:
        if id(layer) not in self._structures:
            # The layer is kept, so that its id is never that of another one.
            self._structures[id(layer)] = layer, structure(layer)
        return self._structures[id(layer)][1]


class _StandIn(nn.Module):
    """Takes a layer's place in a stage: gives its shapes and adds its trace to the recorder's."""

    def __init__(self, original: nn.Module | None, layer: nn.Module, traces: LayerTraces) -> None:
        """``original`` is what it was in the teacher; ``None`` for a layer that nothing shares."""
        super().__init__()
        # In a tuple, so that the layer's parameters are not taken for the stage's own.
        self._held = (self if original is None else original, layer)
        self._traces = traces

    @property
    def original(self) -> nn.Module:
        return self._held[0]

    @property
    def layer(self) -> nn.Module:
        return self._held[1]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._traces.run(self.layer, args, kwargs)


def blank(tensor: Tensor) -> Tensor:
    """A new tensor of the same shape and layout (``empty_like`` would be an operator that reads the old one).

    The layout counts: some operators copy an input first that is not contiguous.
    """
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def structure(module: nn.Module) -> Any:
    """What decides a module's operators: modules by name and class, their plain attributes, parameter shapes."""
    return tuple(
        (
            name,
            type(child),
            tuple((key, _plain(value)) for key, value in vars(child).items() if not key.startswith("_")),
            tuple((key, None if p is None else tuple(p.shape)) for key, p in child._parameters.items()),
        )
        for name, child in module.named_modules(remove_duplicate=False)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value)
    return getattr(value, "__qualname__", type(value).__qualname__)
