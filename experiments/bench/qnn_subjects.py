"""What the QNN bench compiles: stage options as float32 graphs with inputs to calibrate and check on.

These functions run in processes of their own (latency_predictors.isolated): files in, files out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Calibrated on all but the last, which checks the numerics.
NUM_SAMPLES = 5
NUM_TOKENS = 77
_PROMPTS = ("a photograph of a cat on a chair", "a red house by the sea")


def sample_names(num_inputs: int) -> tuple[str, ...]:
    """Names of a stage's inputs in the exported graph: h and skips, time embedding, text context."""
    return (*(f"in{i}" for i in range(num_inputs - 2)), "time_embedding", "context")


def export_random(space: str, stage: str, option: str, seed: int, graph: str, samples: str) -> dict[str, Any]:
    """Exports one option in SD 1.5's shapes (64x64 latents, 77 tokens) with random weights.

    Only the option itself is in memory: the teacher stays on the meta device. Weights are those that torch
    gives new layers (uniform, variance 1 / (3 fan-in)), inputs are standard normal.
    """
    import torch
    from diffusers import UNet2DConditionModel

    from latency_predictors.qnn import write_samples
    from nas.random_teacher import SD15_UNET
    from search_spaces.space_file import load_space
    from search_spaces.surgery import build_stage

    torch.set_num_threads(1)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15_UNET)
    torch.manual_seed(seed)
    module = build_stage(unet, stage, option).to_empty(device="cpu")
    for layer in module.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
    shapes, num_outputs = _interface(unet, load_space(space), stage)
    generator = torch.Generator().manual_seed(seed)
    inputs = [tuple(torch.randn(shape, generator=generator) for shape in shapes) for _ in range(NUM_SAMPLES)]
    names = sample_names(len(shapes))
    write_samples(Path(samples), [{n: t.numpy() for n, t in zip(names, one, strict=True)} for one in inputs])
    return _export(module, inputs[0], num_outputs, Path(graph))


def export_teachers(teacher: str, stage: str, option: str, samples: str, graph: str) -> dict[str, Any]:
    """Exports one option with a teacher's weights; `samples` is the stage's file of :func:`record`."""
    import torch

    from latency_predictors.qnn import read_samples
    from nas.teacher import load_teacher
    from search_spaces.surgery import build_stage

    torch.set_num_threads(1)
    unet = load_teacher(teacher).unet
    module = build_stage(unet, stage, option)
    del unet
    sample = read_samples(Path(samples))[0]
    inputs = tuple(torch.from_numpy(sample[name]) for name in sample_names(len(sample)))
    with torch.no_grad():
        num_outputs = len(module.eval()(*inputs))
    return _export(module, inputs, num_outputs, Path(graph))


def record(teacher: str, space: str, folder: str, seed: int) -> dict[str, Any]:
    """Writes what enters each stage when the space's first candidate denoises: `folder`/STAGE.safetensors.

    Real inputs: latents along the teacher's DDIM trajectory, its own text embeddings. The samples to calibrate on
    are the steps of one trajectory, so they cover the timesteps; the one to check on is the middle of another,
    with other noise and another prompt.
    """
    import torch

    from latency_predictors.qnn import write_samples
    from nas.sampling import ddim_sample
    from nas.teacher import load_teacher
    from search_spaces.space_file import load_space
    from search_spaces.surgery import assemble

    torch.set_num_threads(1)
    loaded = load_teacher(teacher)
    chosen = load_space(space)
    network = assemble(loaded.unet, chosen.decode([0] * len(chosen.sizes)), copy=False)
    contexts = loaded.encode_prompts(list(_PROMPTS))
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[dict[str, Any]]] = {}

    def denoise(context: Any, num_steps: int, kept: range) -> None:
        """One trajectory; what enters the stages in the steps `kept` is added to `found`."""
        number = 0

        def step(latents: Any, timestep: Any, encoder_hidden_states: Any) -> Any:
            nonlocal number
            if number in kept:
                stages: dict[str, Any] = {}
                network(latents, timestep, encoder_hidden_states, record=stages)
                for stage, io in stages.items():
                    names = sample_names(len(io.inputs))
                    sample = {name: tensor.numpy() for name, tensor in zip(names, io.inputs, strict=True)}
                    found.setdefault(stage, []).append(sample)
            number += 1
            return loaded.unet(latents, timestep, encoder_hidden_states=encoder_hidden_states)

        shape = (1, loaded.latent_channels, loaded.latent_size, loaded.latent_size)
        noise = torch.randn(shape, generator=generator)
        ddim_sample(step, loaded.scheduler.config, noise, context, context, num_steps)

    with torch.no_grad():
        denoise(contexts[:1], NUM_SAMPLES - 1, range(NUM_SAMPLES - 1))
        denoise(contexts[1:], 3, range(1, 2))
    for stage, samples in found.items():
        write_samples(Path(folder) / f"{stage}.safetensors", samples)
    return {"teacher_key": loaded.key, "num_samples": NUM_SAMPLES}


def _interface(unet: Any, space: Any, stage: str) -> tuple[list[Any], int]:
    """Shapes of a stage's inputs and the number of its outputs, from a pass on the meta device."""
    import torch

    from search_spaces.surgery import assemble

    size = int(unet.config.sample_size)
    inputs = (
        torch.empty(1, int(unet.config.in_channels), size, size, device="meta"),
        torch.ones(1, dtype=torch.int64, device="meta"),
        torch.empty(1, NUM_TOKENS, int(unet.config.cross_attention_dim), device="meta"),
    )
    stages: dict[str, Any] = {}
    with torch.no_grad():
        assemble(unet, space.decode([0] * len(space.sizes)), copy=False)(*inputs, record=stages)
    return [tensor.shape for tensor in stages[stage].inputs], len(stages[stage].outputs)


def _export(module: Any, inputs: tuple[Any, ...], num_outputs: int, graph: Path) -> dict[str, Any]:
    from latency_predictors.graphs import export_onnx

    module.eval()
    names = sample_names(len(inputs))
    export_onnx(module, inputs, graph, names, [f"out{i}" for i in range(num_outputs)])
    return {"num_params": sum(p.numel() for p in module.parameters())}
