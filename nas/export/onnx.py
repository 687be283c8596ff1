"""A variant as ONNX, accepted only when onnxruntime computes what torch computes.

The graphs come from the exporter that calibration uses, so an exported file is what was measured. All sizes are
fixed, the batch too (1 unless asked otherwise): with a symbolic batch the toy teacher's graph has half as many
nodes again (shape arithmetic that cannot be folded) and took 30 % longer in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.export.folders import cannot_write
from nas.export.variant import OnnxCheck, weights_key

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from search_spaces.unet import StagedUNet

UNET_FILE = "unet.onnx"
VAE_DECODER_FILE = "vae_decoder.onnx"
TOLERANCE = 1e-3
TIMESTEPS = (1, 261, 501, 761, 981)


class OnnxMismatch(RuntimeError):
    """onnxruntime's output is not torch's: an error of the export, never of the user."""


def export_onnx_unet(
    staged: StagedUNet,
    folder: Path | str,
    *,
    num_tokens: int,
    weights: str | None = None,
    batch_size: int = 1,
    tolerance: float = TOLERANCE,
    timesteps: Sequence[int] = TIMESTEPS,
) -> OnnxCheck:
    """Write `folder`/unet.onnx and compare it with torch at several timesteps, other noise and text at each.

    Graph inputs: `sample` (batch, C, h, w) float32, `timestep` (batch,) int64, `encoder_hidden_states`
    (batch, num_tokens, D) float32; output `noise` (batch, C, h, w).

    Args:
        staged: the U-Net.
        folder: existing or new folder.
        num_tokens: length of the text embeddings.
        weights: the U-Net's weights key when known.
        batch_size: batch of the graph; 2 runs both halves of classifier-free guidance at once.
        tolerance: largest legal max|a - b| / max|b|.
        timesteps: timesteps to compare at.

    Raises:
        OnnxMismatch: above the tolerance, or not finite; the file is not left there.
        UserError: the folder cannot be written.
    """
    from latency_predictors.subjects import WholeUNet
    from nas.export.inputs import unet_inputs

    cases = [
        unet_inputs(staged, num_tokens, timestep, batch_size=batch_size, seed=seed)
        for seed, timestep in enumerate(timesteps)
    ]
    return export_checked(
        staged,
        WholeUNet(staged),
        Path(folder) / UNET_FILE,
        "unet",
        cases,
        ("sample", "timestep", "encoder_hidden_states"),
        "noise",
        weights or weights_key(staged.state_dict()),
        tolerance,
    )


def export_onnx_vae_decoder(
    vae: Any, folder: Path | str, *, latent_size: int, batch_size: int = 1, tolerance: float = TOLERANCE
) -> OnnxCheck:
    """Write `folder`/vae_decoder.onnx (`latents` (batch, C, h, w) to `images` (batch, 3, H, W)) and compare it.

    The graph takes latents as the U-Net works on them and divides by the VAE's scaling factor itself;
    images are in [-1, 1].

    Raises:
        OnnxMismatch: above the tolerance, or not finite; the file is not left there.
        UserError: the folder cannot be written.
    """
    import torch

    def latents(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(batch_size, vae.config.latent_channels, latent_size, latent_size, generator=generator),)

    parts = {
        name: tensor for name, tensor in vae.state_dict().items() if name.startswith(("decoder.", "post_quant_conv."))
    }
    return export_checked(
        vae,
        _decoder(vae),
        Path(folder) / VAE_DECODER_FILE,
        "vae_decoder",
        [latents(seed) for seed in range(3)],
        ("latents",),
        "images",
        weights_key(parts),
        tolerance,
    )


def compare(expected: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    """max|a - b| / max|b| and ||a - b|| / ||b|| with b the expected array; not finite counts as infinite."""
    import numpy as np

    if expected.shape != got.shape:
        raise OnnxMismatch(f"onnxruntime gives shape {got.shape} where torch gives {expected.shape}")
    if not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return float("inf"), float("inf")
    difference = got.astype(np.float64) - expected.astype(np.float64)
    tiny = np.finfo(np.float64).tiny
    return (
        float(np.abs(difference).max() / max(float(np.abs(expected).max()), tiny)),
        float(np.linalg.norm(difference) / max(float(np.linalg.norm(expected.astype(np.float64))), tiny)),
    )


def export_checked(
    owner: nn.Module,
    module: nn.Module,
    path: Path,
    subject: Any,
    cases: Sequence[tuple[Tensor, ...]],
    input_names: tuple[str, ...],
    output_name: str,
    weights: str,
    tolerance: float,
) -> OnnxCheck:
    import torch

    from latency_predictors.graphs import OPSET, export_onnx, graph_bytes, remove_onnx

    was_training = owner.training
    owner.eval()
    try:
        try:
            export_onnx(module.eval(), cases[0], path, input_names, (output_name,))
            _declare_unread_inputs(path, dict(zip(input_names, cases[0], strict=True)))
        except OSError as error:
            raise cannot_write(path, error) from error
        with torch.no_grad():
            expected = [module(*case).numpy() for case in cases]
    finally:
        owner.train(was_training)
    try:
        worst, worst_l2 = _run_and_compare(path, cases, expected, input_names)
        if not worst <= tolerance:
            raise OnnxMismatch(
                f"{path.name}: onnxruntime differs from torch by {worst:.1e} of the largest output, "
                f"legal is {tolerance:.0e}"
            )
    except BaseException:
        remove_onnx(path)
        raise
    return OnnxCheck(
        file=path.name,
        subject=subject,
        weights_key=weights,
        num_bytes=graph_bytes(path),
        opset=OPSET,
        batch_size=len(cases[0][0]),
        num_inputs=len(cases),
        tolerance=tolerance,
        max_relative_error=worst,
        relative_l2=worst_l2,
    )


def _declare_unread_inputs(path: Path, inputs: Mapping[str, Tensor]) -> None:
    """Give every graph the same inputs: the exporter drops those that nothing reads, as text in all-R networks."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    present = {value.name: value for value in model.graph.input}
    if set(present) == set(inputs):
        return
    values = []
    for name, tensor in inputs.items():
        kind = onnx.TensorProto.FLOAT if tensor.is_floating_point() else onnx.TensorProto.INT64
        declared = onnx.helper.make_tensor_value_info(name, kind, tensor.shape)
        values.append(present.get(name, declared))
    del model.graph.input[:]
    model.graph.input.extend(values)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(model.SerializeToString())
    temporary.replace(path)


def _run_and_compare(
    path: Path, cases: Sequence[tuple[Tensor, ...]], expected: Sequence[np.ndarray], names: tuple[str, ...]
) -> tuple[float, float]:
    import onnx
    import onnxruntime

    # By path: the checker then also reads weights that lie outside the graph file.
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = worst_l2 = 0.0
    for case, reference in zip(cases, expected, strict=True):
        feed = {name: tensor.numpy() for name, tensor in zip(names, case, strict=True)}
        error, error_l2 = compare(reference, session.run(None, feed)[0])
        worst, worst_l2 = max(worst, error), max(worst_l2, error_l2)
    return worst, worst_l2


def _decoder(vae: Any) -> nn.Module:
    """The VAE's decoder as a function of the U-Net's latents."""
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, latents: Tensor) -> Tensor:
            images: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
            return images

    return Decoder()
