"""Public models, by their names in AI Hub, that transformers and diffusers build by configuration, without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.errors import UserError
from search_spaces.tracing import Trace, record_operators

Network = tuple[Callable[[], Any], list[Tensor]]
"""A call that runs the network, and the tensors that are its inputs."""


def traced(model: str, component: str) -> Trace:
    """Operators of one component of a public model, recorded on the ``meta`` device.

    Raises:
        UserError: a component that is not in the table, with those that are.
    """
    key = f"{model}/{component}"
    if key not in NETWORKS:
        raise UserError(f"no architecture is known for {key!r}; known are {', '.join(NETWORKS)}")
    with torch.device("meta"), torch.no_grad():
        call, inputs = NETWORKS[key]()
        return record_operators(call, inputs)[0]


def _transformers(name: str, inputs: Mapping[str, Tensor | int], /, **config: Any) -> Network:
    """A transformers model class with its default configuration changed by ``config``."""
    import transformers

    cls = getattr(transformers, name)
    settings = cls.config_class(**config)
    settings._attn_implementation = "eager"
    return _called(cls(settings), inputs)


def _called(module: nn.Module, inputs: Mapping[str, Any]) -> Network:
    module = module.eval()
    tensors = [value for value in inputs.values() if isinstance(value, Tensor)]
    return (lambda: module(**inputs)), tensors


def _image(height: int, width: int | None = None) -> dict[str, Tensor]:
    return {"pixel_values": torch.empty(1, 3, height, width or height)}


def _tokens(length: int) -> dict[str, Tensor]:
    return {"input_ids": torch.empty(1, length, dtype=torch.long)}


def _unet(cross: int, heads: Any, linear: bool, residuals: bool = False) -> Network:
    """The U-Net of Stable Diffusion 1.5 or 2.1 at 64 x 64 latents; ``residuals``: it adds a ControlNet's results."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=cross, attention_head_dim=heads, use_linear_projection=linear
    )
    inputs: dict[str, Any] = {
        "sample": torch.empty(1, 4, 64, 64),
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 77, cross),
    }
    call, tensors = _called(unet, inputs)
    if not residuals:
        return call, tensors
    down = tuple(torch.empty(1, *shape) for shape in _SKIPS)
    mid = torch.empty(1, 1280, 8, 8)
    module = unet.eval()
    return (
        lambda: module(**inputs, down_block_additional_residuals=down, mid_block_additional_residual=mid),
        [*tensors, *down, mid],
    )


# Shapes of the twelve skips of SD 1.5's U-Net at 64 x 64 latents.
_SKIPS = (
    *[(320, 64, 64)] * 3,
    (320, 32, 32),
    *[(640, 32, 32)] * 2,
    (640, 16, 16),
    *[(1280, 16, 16)] * 2,
    *[(1280, 8, 8)] * 3,
)


def _controlnet() -> Network:
    from diffusers import ControlNetModel

    net = ControlNetModel(cross_attention_dim=768, attention_head_dim=8)
    inputs = {
        "sample": torch.empty(1, 4, 64, 64),
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 77, 768),
        "controlnet_cond": torch.empty(1, 3, 512, 512),
    }
    return _called(net, inputs)


def _vae_decoder() -> Network:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
    ).eval()
    latents = torch.empty(1, 4, 64, 64)
    return (lambda: vae.decode(latents, return_dict=False)), [latents]


def _clip_text(width: int, layers: int, heads: int, act: str) -> Network:
    return _transformers(
        "CLIPTextModel",
        _tokens(77),
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=act,
    )


def _clip() -> Network:
    return _transformers("CLIPModel", _image(224) | _tokens(77), vision_config={"patch_size": 16})


def _whisper(width: int, layers: int, mels: int = 80) -> Network:
    import transformers

    config = transformers.WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        num_mel_bins=mels,
    )
    config._attn_implementation = "eager"
    encoder = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    return _called(encoder, {"input_features": torch.empty(1, mels, 3000)})


def _marian() -> Network:
    import transformers

    config = transformers.MarianConfig(
        vocab_size=65001,
        d_model=512,
        encoder_layers=6,
        encoder_attention_heads=8,
        encoder_ffn_dim=2048,
        max_position_embeddings=512,
        activation_function="swish",
    )
    config._attn_implementation = "eager"
    encoder = transformers.models.marian.modeling_marian.MarianEncoder(config)
    return _called(encoder, _tokens(256))


def _depth_anything() -> Network:
    import transformers

    backbone = transformers.Dinov2Config(
        image_size=518,
        patch_size=14,
        hidden_size=384,
        num_attention_heads=6,
        num_hidden_layers=12,
        out_features=["stage3", "stage6", "stage9", "stage12"],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    return _transformers(
        "DepthAnythingForDepthEstimation",
        _image(518),
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
    )


def _resnet(depths: list[int], basic: bool = False) -> Network:
    widths, kind = ([64, 128, 256, 512], "basic") if basic else ([256, 512, 1024, 2048], "bottleneck")
    return _transformers(
        "ResNetForImageClassification", _image(224), depths=depths, hidden_sizes=widths, layer_type=kind
    )


def _regnet(kind: str, depths: list[int], widths: list[int], group: int) -> Network:
    return _transformers(
        "RegNetForImageClassification",
        _image(224),
        depths=depths,
        hidden_sizes=widths,
        groups_width=group,
        layer_type=kind,
    )


def _efficientnet(width: float, depth: float, size: int, channels: int) -> Network:
    return _transformers(
        "EfficientNetForImageClassification",
        _image(size),
        width_coefficient=width,
        depth_coefficient=depth,
        image_size=size,
        hidden_dim=channels,
    )


def _convnext(depths: list[int], widths: list[int]) -> Network:
    return _transformers("ConvNextForImageClassification", _image(224), depths=depths, hidden_sizes=widths)


_SD15 = (768, 8, False)
NETWORKS: Mapping[str, Callable[[], Network]] = {
    "stable_diffusion_v1_5/unet": lambda: _unet(*_SD15),
    "stable_diffusion_v1_5/vae": _vae_decoder,
    "stable_diffusion_v1_5/text_encoder": lambda: _clip_text(768, 12, 12, "quick_gelu"),
    "stable_diffusion_v2_1/unet": lambda: _unet(1024, (5, 10, 20, 20), True),
    "stable_diffusion_v2_1/vae": _vae_decoder,
    "stable_diffusion_v2_1/text_encoder": lambda: _clip_text(1024, 23, 16, "gelu"),
    "controlnet_canny/unet": lambda: _unet(*_SD15, residuals=True),
    "controlnet_canny/controlnet": _controlnet,
    "controlnet_canny/vae": _vae_decoder,
    "controlnet_canny/text_encoder": lambda: _clip_text(768, 12, 12, "quick_gelu"),
    "albert_base_v2_hf/Albert-Base-V2-Hf": lambda: _transformers(
        "AlbertForMaskedLM",
        _tokens(384),
        vocab_size=30000,
        embedding_size=128,
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
    ),
    "bert_base_uncased_hf/Bert-Base-Uncased-Hf": lambda: _transformers("BertForMaskedLM", _tokens(384)),
    "distil_bert_base_uncased_hf/Distil-Bert-Base-Uncased-Hf": lambda: _transformers(
        "DistilBertForMaskedLM", _tokens(384)
    ),
    "electra_bert_base_discrim_google/Electra-Bert-Base-Discrim-Google": lambda: _transformers(
        "ElectraForPreTraining",
        _tokens(384),
        embedding_size=768,
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
    ),
    "mobile_bert_uncased_google/Mobile-Bert-Uncased-Google": lambda: _transformers(
        "MobileBertForMaskedLM", _tokens(384)
    ),
    "whisper_tiny/HfWhisperEncoder": lambda: _whisper(384, 4),
    "whisper_base/HfWhisperEncoder": lambda: _whisper(512, 6),
    "whisper_small/HfWhisperEncoder": lambda: _whisper(768, 12),
    "whisper_small_quantized/WhisperSmallEncoderQuantizable": lambda: _whisper(768, 12),
    "whisper_large_v3_turbo/HfWhisperEncoder": lambda: _whisper(1280, 32, 128),
    **dict.fromkeys((f"opus_mt_{pair}/OpusMTEncoder" for pair in ("en_es", "en_zh", "es_en", "zh_en")), _marian),
    "openai_clip/OpenAI-Clip": _clip,
    "vit/VIT": lambda: _transformers("ViTForImageClassification", _image(224), num_labels=1000),
    "beit/Beit": lambda: _transformers(
        "BeitForImageClassification", _image(224), use_relative_position_bias=True, num_labels=1000
    ),
    "trocr/TrOCREncoder": lambda: _transformers(
        "DeiTModel",
        _image(384),
        image_size=384,
        hidden_size=384,
        num_attention_heads=6,
        intermediate_size=1536,
    ),
    "levit/LeViT": lambda: _transformers(
        "LevitForImageClassification", _image(224), depths=[2, 3, 4], num_attention_heads=[4, 6, 8], num_labels=1000
    ),
    "mobile_vit/Mobile-VIT": lambda: _transformers("MobileViTForImageClassification", _image(256), num_labels=1000),
    "segformer_base/Segformer-Base": lambda: _transformers(
        "SegformerForSemanticSegmentation", _image(512), num_labels=150
    ),
    "cvt/CVT": lambda: _transformers("CvtForImageClassification", _image(224), num_labels=1000),
    "video_mae/Video-MAE": lambda: _transformers(
        "VideoMAEForVideoClassification", {"pixel_values": torch.empty(1, 16, 3, 224, 224)}, num_labels=400
    ),
    "depth_anything/Depth-Anything": _depth_anything,
    "depth_anything_v2/Depth-Anything-V2": _depth_anything,
    "resnet18/ResNet18": lambda: _resnet([2, 2, 2, 2], basic=True),
    "resnet50/ResNet50": lambda: _resnet([3, 4, 6, 3]),
    "resnet101/ResNet101": lambda: _resnet([3, 4, 23, 3]),
    "regnet/RegNet": lambda: _regnet("x", [2, 6, 15, 2], [96, 192, 432, 1008], 48),
    "regnet_y_800mf/RegNet-Y-800MF": lambda: _regnet("y", [1, 3, 8, 2], [64, 144, 320, 784], 16),
    "convnext_tiny/ConvNext-Tiny": lambda: _convnext([3, 3, 9, 3], [96, 192, 384, 768]),
    "convnext_base/ConvNext-Base": lambda: _convnext([3, 3, 27, 3], [128, 256, 512, 1024]),
    "mobilenet_v2/MobileNet-v2": lambda: _transformers("MobileNetV2ForImageClassification", _image(224)),
    "efficientnet_b0/EfficientNet-B0": lambda: _efficientnet(1.0, 1.0, 224, 1280),
    "efficientnet_b4/EfficientNet-B4": lambda: _efficientnet(1.4, 1.8, 380, 1792),
}
