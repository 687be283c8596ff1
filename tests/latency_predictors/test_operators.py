from __future__ import annotations

import math
from pathlib import Path

import onnx
import torch
from diffusers import UNet2DConditionModel

from latency_predictors.graphs import export_onnx
from latency_predictors.operators import find_operators
from latency_predictors.subjects import Subjects
from search_spaces.space import SearchSpace
from search_spaces.surgery import assemble


def test_the_operators_are_those_that_the_candidates_run(unet: UNet2DConditionModel, space: SearchSpace) -> None:
    """Against hooks on the layers of every candidate: another way to see the same calls."""
    seen: set[str] = set()

    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        shape = inputs[0].shape
        if isinstance(module, torch.nn.Conv2d):
            kernel, stride = module.kernel_size[0], module.stride[0]
            seen.add(f"conv2d_k{kernel}s{stride}_{shape[1]}to{output.shape[1]}_{shape[2]}x{shape[3]}")
        elif isinstance(module, torch.nn.Linear):
            bare = "" if module.bias is not None else "_nobias"
            seen.add(f"linear_{shape[-1]}to{output.shape[-1]}_n{math.prod(shape[:-1])}{bare}")
        elif isinstance(module, torch.nn.GroupNorm):
            seen.add(f"groupnorm_g{module.num_groups}_{shape[1]}_{'x'.join(map(str, shape[2:]))}")
        elif isinstance(module, torch.nn.LayerNorm):
            seen.add(f"layernorm_{shape[-1]}_n{math.prod(shape[:-1])}")

    for row in space.enumerate():
        network = assemble(unet, space.decode(row), copy=False)
        hooks = [module.register_forward_hook(hook) for module in network.modules()]
        with torch.no_grad():
            network(torch.zeros(1, 4, 8, 8), torch.ones(1, dtype=torch.int64), torch.zeros(1, 5, 8))
        for each in hooks:
            each.remove()
    found = find_operators(Subjects(unet, space, 8, 5, 8))
    assert {name for name in found if not name.startswith("attention")} == seen
    # Self-attention over 64, 16 and fewer positions, cross-attention to 5 tokens.
    assert {name for name in found if name.startswith("attention")} >= {
        "attention_h2d2_q64_k64",
        "attention_h2d2_q64_k5",
    }


def test_an_operator_is_a_graph_of_its_own(unet: UNet2DConditionModel, space: SearchSpace, tmp_path: Path) -> None:
    found = find_operators(Subjects(unet, space, 8, 5, 8))
    name = next(n for n in found if n.startswith("conv2d_k3s2"))
    module, inputs, input_names, output_names = found[name]()
    path = export_onnx(module, inputs, tmp_path / "op.onnx", input_names, output_names)
    graph = onnx.load(str(path)).graph
    assert [node.op_type for node in graph.node] == ["Conv"]
    assert list(inputs[0].shape[1:2]) == [int(name.split("_")[2].split("to")[0])]
