"""Recording the operators of a network on tensors without data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from search_spaces.kernels import Kernel, kernel_of, sums_of

_NORMS = ("aten.native_group_norm", "aten.native_layer_norm")
_BATCH_NORM = "aten.native_batch_norm"


class Step(NamedTuple):
    """One operator: the activations that it reads and writes, by their number in the trace, and its work."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    kernel: Kernel
    num_read: int
    """Activation elements read: of a view, those that it shows."""
    num_written: int
    num_weights: int
    """Elements of parameters and constants read."""


@dataclass(frozen=True)
class Trace:
    """The operators of one forward pass, in order.

    Activations are numbered as they appear, the inputs first. A view is the activation that it looks into.

    Attributes:
        steps: what each operator reads and writes.
        sizes: elements of each activation.
        inputs: activation of each input tensor; twice the same where inputs share storage.
        outputs: activation of each output tensor, likewise.
        sums: sums over the operators, by the names of :func:`~search_spaces.kernels.sums_of`.
    """

    steps: tuple[Step, ...]
    sizes: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sums: Counter[str]

    @property
    def num_macs(self) -> int:
        """MACs of all operators, attention products included."""
        return sum(value for name, value in self.sums.items() if "_macs@" in name)


def record_operators(function: Callable[[], Any], inputs: Iterable[Tensor]) -> tuple[Trace, Any]:
    """Run a function and record its operators.

    Attention is recorded as a graph without fused operators has it: its scores are written and read. An
    operator costs nothing that only makes a view, that divides or multiplies by exactly one, that is a batch norm
    (folded into the convolution before it), or that depends on no input: graph runtimes run none of these. The
    statistics that norms return for training are left out.

    Args:
        function: runs the network; every tensor in its result (nested tuples, dicts) is an output.
        inputs: the tensors that count as inputs; all others made outside are parameters or constants.

    Returns:
        The trace and the function's result.

    Raises:
        NotImplementedError: an operator that is in no table, naming it.
    """
    with torch.no_grad(), Recorder(inputs) as recorder:
        result = function()
    return recorder.finish(_tensors(result)), result


class Recorder(TorchDispatchMode):
    """Context that records the operators run inside it; see :func:`record_operators`."""

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self._steps: list[Step] = []
        self._sizes: list[int] = []
        self._sums: Counter[str] = Counter()
        self._number: dict[int, int] = {}
        self._heights: list[int] = []
        # Storages are told apart by address, so none may be freed, and its address given anew, while recording.
        self._alive: list[Any] = []
        self._stack = ExitStack()
        self._inputs = tuple(self._new(t, _height(t)) if (n := self._find(t)) is None else n for t in inputs)

    def __enter__(self) -> Self:
        # One form of attention on every device: the fused operators differ by device and hide the scores.
        self._stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    @property
    def num_steps(self) -> int:
        """Operators so far."""
        return len(self._steps)

    def numbers(self, tensors: Iterable[Tensor]) -> tuple[int, ...]:
        """Numbers of activations."""
        return tuple(self._number_of(tensor) for tensor in tensors)

    def finish(self, outputs: Iterable[Tensor]) -> Trace:
        """What was recorded, ``outputs`` being the results."""
        numbers = tuple(self._number_of(tensor) for tensor in outputs)
        return Trace(tuple(self._steps), tuple(self._sizes), self._inputs, numbers, self._sums)

    def splice(self, part: Trace, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """Append another trace, whose inputs and outputs are these tensors; the outputs are new ones."""
        number: dict[int, int] = {}
        for tensor, old in zip(inputs, part.inputs, strict=True):
            number[old] = self._number_of(tensor)
        for tensor, old in zip(outputs, part.outputs, strict=True):
            if old in number:
                self._alias(tensor, number[old])
            else:
                number[old] = self._new(tensor, _height(tensor), part.sizes[old])
        for old, size in enumerate(part.sizes):
            if old not in number:
                number[old] = len(self._sizes)
                self._sizes.append(size)
                self._heights.append(0)  # internal to the part: nothing outside reads it
        for step in part.steps:
            reads, writes = (tuple(number[i] for i in numbers) for numbers in (step.reads, step.writes))
            self._steps.append(step._replace(reads=reads, writes=writes))
        self._sums.update(part.sums)

    def _find(self, tensor: Tensor) -> int | None:
        return self._number.get(tensor.untyped_storage()._cdata)

    def _number_of(self, tensor: Tensor) -> int:
        number = self._find(tensor)
        assert number is not None, "a tensor that no recorded operator made"
        return number

    def _alias(self, tensor: Tensor, number: int) -> None:
        storage = tensor.untyped_storage()
        self._alive.append(storage)
        self._number[storage._cdata] = number

    def _new(self, tensor: Tensor, height: int, size: int | None = None) -> int:
        self._alias(tensor, len(self._sizes))
        self._sizes.append(tensor.untyped_storage().nbytes() // tensor.element_size() if size is None else size)
        self._heights.append(height)
        return len(self._sizes) - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        output = _result(func, args, kwargs or {})
        self._record(func, args, kwargs or {}, output)
        return output

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = _tensors((args, kwargs))
        found = [(tensor, number) for tensor in given if (number := self._find(tensor)) is not None]
        if not found:
            return
        name = str(func.overloadpacket)
        results = _tensors(output)[: 1 if name in (*_NORMS, _BATCH_NORM) else None]
        if not func._schema.is_mutable:
            if _is_identity(name, args):
                self._alias(results[0], found[0][1])
            if all(self._find(result) is not None for result in results):
                return
        operands = [arg for arg in args if isinstance(arg, Tensor)][-2:]
        kernel = kernel_of(name, args, results[0], has_weight=any(self._find(tensor) is None for tensor in operands))
        reads = tuple(dict.fromkeys(number for _, number in found))
        height = max(self._heights[number] for number in reads)
        if name in ("aten.convolution", "aten.upsample_nearest2d"):
            height = int(results[0].shape[-2])
        writes = tuple(self._new(r, height) if (n := self._find(r)) is None else n for r in results)
        num_outputs = sum(r.numel() for r in results)
        num_inputs = sum(tensor.numel() for tensor, _ in found)
        num_weights = sum(tensor.numel() for tensor in given) - num_inputs
        if name == "aten.embedding":  # reads only the rows that it gives
            num_weights = num_outputs
        self._steps.append(Step(reads, writes, kernel, num_inputs, num_outputs, num_weights))
        self._sums.update(sums_of(kernel, height, num_outputs, num_inputs + num_outputs))


#: Layouts of operators' results by operator, layouts of what it was given, and other arguments; None: it gives a view.
_RESULTS: dict[Any, tuple[list[Any], TreeSpec] | None] = {}


def _result(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operator gives.

    On ``meta`` PyTorch works out shapes in Python, in about a millisecond an operator, and a network's layers are much
    the same: results are made anew from the layouts that the same operator gave for the same layouts before.
    """
    leaves, spec = tree_flatten((args, kwargs))
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not given or not all(tensor.is_meta for tensor in given) or func._schema.is_mutable:
        return func(*args, **kwargs)
    # The type of what is no tensor counts: times 1 and times 1.0 are equal keys, and give other dtypes.
    key = (func, spec, *(_layout(leaf) if isinstance(leaf, Tensor) else (type(leaf), leaf) for leaf in leaves))
    if key in _RESULTS:
        remembered = _RESULTS[key]
        if remembered is None:
            return func(*args, **kwargs)
        layouts, result_spec = remembered
        made = [
            None if layout is None else torch.empty_strided(layout[0], layout[1], dtype=layout[2], device="meta")
            for layout in layouts
        ]
        return tree_unflatten(made, result_spec)
    output = func(*args, **kwargs)
    results, result_spec = tree_flatten(output)
    old = {tensor.untyped_storage()._cdata for tensor in given}
    is_new = all(
        result is None or (isinstance(result, Tensor) and result.is_meta and result.untyped_storage()._cdata not in old)
        for result in results
    )
    _RESULTS[key] = ([None if r is None else _layout(r) for r in results], result_spec) if is_new else None
    return output


def _blank(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


def _layout(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], torch.dtype]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _height(tensor: Tensor) -> int:
    """Height of a feature map (B, C, H, W); 0 for anything else."""
    return int(tensor.shape[-2]) if tensor.ndim == 4 else 0


def _is_identity(name: str, args: tuple[Any, ...]) -> bool:
    if name == _BATCH_NORM and not args[5]:  # not training: folded into the convolution before it
        return True
    return name in ("aten.div", "aten.mul") and not isinstance(args[1], Tensor) and args[1] == 1
