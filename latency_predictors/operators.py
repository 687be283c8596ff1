"""Single operators of a search space at a teacher's shapes: each one a graph of its own to measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from latency_predictors.subjects import Exportable, Subjects
from search_spaces.options import NONE
from search_spaces.surgery import build_stage


class Operator(nn.Module):
    """One call of a function with weights of the shapes that were seen; activations are its inputs."""

    def __init__(
        self, function: Callable[..., Tensor], weights: Mapping[str, Sequence[int]], options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self._function, self._options = function, dict(options)
        for name, shape in weights.items():
            value = torch.randn(*shape, generator=generator) / math.sqrt(max(1, math.prod(shape[1:])))
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def forward(self, *activations: Tensor) -> Tensor:
        return self._function(*activations, **dict(self.named_parameters()), **self._options)


def find_operators(subjects: Subjects) -> dict[str, Callable[[], Exportable]]:
    """Distinct convolutions, linear layers, norms and attentions of the space's options, and of what is around them.

    Returns name -> what makes the graph's module with example inputs. A name says all that decides the work, such as
    `conv2d_k3s1_320to640_32x32`, `linear_320to2560_n4096`, `attention_h8d40_q4096_k77`; where an operator has a name
    and its shapes twice (two networks, two stages), it is one operator. Nothing is computed: modules run on the
    meta device if the teacher's are there, and on the teacher's weights otherwise.
    """
    found: dict[str, Callable[[], Exportable]] = {}
    with torch.no_grad(), _Finder(found):
        for stage, options in subjects.space.options.items():
            for option in options:
                if option != NONE:
                    inputs = subjects.stage_inputs(stage, str(subjects.unet.device))
                    build_stage(subjects.unet, stage, option, copy=False)(*inputs)
        subjects.run_base()
    return dict(sorted(found.items()))


class _Finder(TorchFunctionMode):
    """Notes the operators that are called inside it."""

    def __init__(self, found: dict[str, Callable[[], Exportable]]) -> None:
        super().__init__()
        self._found = found
        self._is_inside = False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        note = _NOTES.get(func)
        if note is None or self._is_inside:
            return func(*args, **kwargs)
        note(self._found, *args, **kwargs)
        with self._inside():  # group_norm calls itself by another name
            return func(*args, **kwargs)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False


_Found = dict[str, Callable[[], Exportable]]


def _add(
    found: _Found,
    name: str,
    function: Callable[..., Tensor],
    activations: Sequence[Sequence[int]],
    weights: Mapping[str, Sequence[int] | None],
    options: Mapping[str, Any],
) -> None:
    shapes = [tuple(shape) for shape in activations]
    given = {key: tuple(shape) for key, shape in weights.items() if shape is not None}

    def make() -> Exportable:
        generator = torch.Generator().manual_seed(0)
        inputs = tuple(torch.randn(*shape, generator=generator) for shape in shapes)
        return Operator(function, given, options).eval(), inputs, tuple(f"in{i}" for i in range(len(inputs))), ("out",)

    found.setdefault(name, make)


def _shape(tensor: Tensor | None) -> Sequence[int] | None:
    return None if tensor is None else tensor.shape


def _conv2d(
    found: _Found,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> None:
    (num_out, _, kernel, _), (_, num_in, height, width) = weight.shape, input.shape
    step = stride if isinstance(stride, int) else stride[0]
    grouped = "" if groups == 1 else f"g{groups}"
    bare = "" if bias is not None else "_nobias"
    _add(
        found,
        f"conv2d_k{kernel}s{step}{grouped}_{num_in}to{num_out}_{height}x{width}{bare}",
        torch.conv2d,
        [input.shape],
        {"weight": weight.shape, "bias": _shape(bias)},
        {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
    )


def _linear(found: _Found, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    num_out, num_in = weight.shape
    rows = math.prod(input.shape[:-1])
    bare = "" if bias is not None else "_nobias"
    name = f"linear_{num_in}to{num_out}_n{rows}{bare}"
    _add(found, name, F.linear, [input.shape], {"weight": weight.shape, "bias": _shape(bias)}, {})


def _group_norm(
    found: _Found,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> None:
    extent = "x".join(map(str, input.shape[2:]))
    _add(
        found,
        f"groupnorm_g{num_groups}_{input.shape[1]}_{extent}",
        F.group_norm,
        [input.shape],
        {"weight": _shape(weight), "bias": _shape(bias)},
        {"num_groups": num_groups, "eps": eps},
    )


def _layer_norm(
    found: _Found,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> None:
    width = math.prod(normalized_shape)
    _add(
        found,
        f"layernorm_{width}_n{math.prod(input.shape) // width}",
        F.layer_norm,
        [input.shape],
        {"weight": _shape(weight), "bias": _shape(bias)},
        {"normalized_shape": tuple(normalized_shape), "eps": eps},
    )


def _attention(found: _Found, query: Tensor, key: Tensor, value: Tensor, *_: Any, **kwargs: Any) -> None:
    heads, num_queries, width = query.shape[1:]
    num_keys = key.shape[-2]
    scale = kwargs.get("scale")
    _add(
        found,
        f"attention_h{heads}d{width}_q{num_queries}_k{num_keys}",
        F.scaled_dot_product_attention,
        [query.shape, key.shape, value.shape],
        {},
        {} if scale is None else {"scale": scale},
    )


_NOTES: dict[Any, Callable[..., None]] = {
    torch.conv2d: _conv2d,
    F.linear: _linear,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.scaled_dot_product_attention: _attention,
}
