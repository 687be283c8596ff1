"""Feature extractors: known corruptions of real photographs, the published Inception, transformers' CLIP."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from nas.config import load_recipe
from nas.fidelity.clip import ClipFeatures
from nas.fidelity.features import make_features, pooled_latents
from nas.fidelity.frechet import feature_distance
from nas.fidelity.images import image_distances
from nas.fidelity.inception import FidInception, InceptionFeatures, load_inception, resize_as_tensorflow
from nas.photos import photo_crops
from search_spaces.errors import UserError
from tests.nas.fidelity.conftest import published_module

EMBEDDED = ("latents", "vae-encoder", "unet-encoder")


@pytest.fixture(scope="module")
def photos():
    pixels, _ = photo_crops(24, seed=0)
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 255.0).float()


@pytest.fixture(scope="module")
def corrupted(photos):
    """Photographs by kind of corruption, each harder than the one before."""
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))
    blurred = [gaussian_filter(photos.numpy(), (0, 0, s, s)) for s in (0.7, 2.0, 5.6)]
    return {
        "noise": [(photos + s * noise).clamp(0, 1) for s in (0.05, 0.15, 0.4)],
        "blur": [torch.from_numpy(x) for x in blurred],
    }


@pytest.mark.parametrize("kind", EMBEDDED)
def test_distance_grows_with_noise_and_blur(toy, photos, corrupted, kind):
    extractor = make_features(kind, toy)
    clean = extractor.of_images(photos)
    assert clean.shape == (24, extractor.dimension) and clean.dtype == np.float64
    order = np.random.default_rng(0).permutation(24)
    for images in corrupted.values():
        features = [extractor.of_images(x) for x in images]
        distances = [0.0, *(feature_distance(f, clean) for f in features)]
        assert (np.diff(distances) > 0).all(), distances
        assert feature_distance(features[1][order], clean) == pytest.approx(distances[2], rel=1e-9)


def test_image_distances_grow_too(toy, photos, corrupted):
    x = photos[:6]
    same = image_distances(toy.vae, x, x)
    assert same.psnr_db is None and same.ssim == pytest.approx(1.0) and same.perceptual == pytest.approx(0.0, abs=1e-12)
    for images in corrupted.values():
        found = [image_distances(toy.vae, y[:6], x) for y in images]
        assert (np.diff([0.0, *(f.perceptual for f in found)]) > 0).all()
        assert (np.diff([1.0, *(f.ssim for f in found)]) < 0).all()
        assert (np.diff([f.psnr_db for f in found]) < 0).all()
        assert found[-1].perceptual < 4
    one_level = image_distances(toy.vae, x + 0.1, x)
    assert one_level.psnr_db == pytest.approx(20.0, abs=1e-4)


def test_latents_and_images_give_the_same_features(toy, photos):
    """What an extractor makes of latents is what it makes of the images that the teacher decodes of them."""
    latents = toy.encode_images(photos[:3] * 2 - 1)
    np.testing.assert_array_equal(make_features("latents", toy).of_latents(latents), pooled_latents(latents))
    vae = make_features("vae-encoder", toy)
    np.testing.assert_allclose(
        vae.of_latents(latents), vae.of_images(toy.decode_latents(latents)), rtol=1e-4, atol=1e-5
    )
    unet = make_features("unet-encoder", toy)
    np.testing.assert_allclose(unet.of_images(photos[:3]), unet.of_latents(latents), rtol=1e-4, atol=1e-5)


def test_vae_features_are_means_of_the_encoder_s_own_maps(toy, photos):
    """Written out without the project's loop: hooks on a plain pass of the diffusers encoder."""
    maps = []
    hooks = [b.register_forward_hook(lambda _m, _i, out: maps.append(out)) for b in toy.vae.encoder.down_blocks]
    with torch.no_grad():
        toy.vae.encoder(photos[:2] * 2 - 1)
    for hook in hooks:
        hook.remove()
    expected = torch.cat([m.mean((2, 3)) for m in maps], 1).numpy()
    np.testing.assert_allclose(make_features("vae-encoder", toy).of_images(photos[:2]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", ["pixels", "latents:x", "inception", "clip:", ""])
def test_unknown_features_are_refused_with_what_is_legal(toy, spec):
    with pytest.raises(UserError, match=r"legal are latents, .*inception:FILE and clip:FOLDER"):
        make_features(spec, toy)
    with pytest.raises(UserError, match=r"fidelity\.features"):
        load_recipe(None, [f"fidelity.features={spec!r}"])


def test_files_that_are_no_weights_are_refused(toy, tmp_path):
    with pytest.raises(UserError, match=r"no Inception weights at .*6726825d"):
        make_features(f"inception:{tmp_path / 'none.pth'}", toy)
    bad = tmp_path / "bad.pth"
    torch.save({"conv.weight": torch.ones(2)}, bad)
    with pytest.raises(UserError, match="lacks Conv2d_1a_3x3"):
        load_inception(bad)
    torch.save({"x": np.float64}, bad)  # what unpickling would have to run code for
    with pytest.raises(UserError, match="cannot be read as Inception weights"):
        load_inception(bad)
    with pytest.raises(UserError, match="no CLIP model"):
        make_features(f"clip:{tmp_path}", toy)


@pytest.mark.parametrize("size", [(64, 64), (40, 70), (512, 300)])
def test_resizing_is_tensorflow_s(size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 255
    published = published_module("torch_fidelity", "interpolate_compat_tensorflow")
    expected = published.interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    torch.testing.assert_close(resize_as_tensorflow(x), expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights in the true shapes and under the published names, of a size that keeps activations alive."""
    torch.manual_seed(0)
    model = FidInception()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.7, 1.4)
                module.weight.uniform_(0.7, 1.3), module.bias.normal_(0, 0.1)
    state = model.state_dict() | {"fc.weight": torch.randn(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


@pytest.mark.slow
def test_inception_features_are_torch_fidelity_s(inception_file, photos, toy, tmp_path):
    published = published_module("torch_fidelity", "feature_extractor_inceptionv3")
    theirs = published.FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=inception_file)
    ours = InceptionFeatures(inception_file, toy.decode_latents)
    (expected,) = theirs((photos[:12] * 255).round().to(torch.uint8))
    found = ours.of_images(photos[:12])
    assert found.shape == (12, 2048) and found.std() > 0.01
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4 * scale)
    assert feature_distance(found[:6], found[6:]) == pytest.approx(
        feature_distance(expected[:6].double().numpy(), expected[6:].double().numpy()), rel=1e-4
    )
    from safetensors.torch import save_file

    state = torch.load(inception_file, weights_only=True)
    save_file({k: v for k, v in state.items() if not k.startswith("fc.")}, tmp_path / "weights.safetensors")
    again = make_features(f"inception:{tmp_path / 'weights.safetensors'}", toy)
    np.testing.assert_array_equal(again.of_images(photos[:2]), ours.of_images(photos[:2]))
    latents = toy.encode_images(photos[:2] * 2 - 1)
    np.testing.assert_array_equal(again.of_latents(latents), ours.of_images(toy.decode_latents(latents)))


def clip_folder(folder, **config):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    CLIPVisionModelWithProjection(CLIPVisionConfig(**config)).save_pretrained(folder)
    return folder


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 24,
}


def test_clip_embeds_what_transformers_own_preprocessing_gives(tmp_path, toy, photos):
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    folder = clip_folder(tmp_path / "clip", **SMALL)
    ours = make_features(f"clip:{folder}", toy)
    assert ours.dimension == 24 and ours.name == "clip"
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    wide = torch.cat([photos[:4], photos[4:8]], dim=3)  # 64 x 128: cut to its middle
    for images in (photos[:4], wide):
        pixels = [(x.permute(1, 2, 0) * 255).round().byte().numpy() for x in images]
        prepared = processor(pixels, return_tensors="pt").pixel_values
        # Pillow rounds and cuts to 8 bits between rows and columns, which shows where the filter overshoots.
        difference = (ours.prepare(images) - prepared).abs()
        assert difference.mean() < 0.005 and difference.quantile(0.99) < 0.02 and difference.max() < 0.1
        model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
        with torch.no_grad():
            expected = model(pixel_values=ours.prepare(images)).image_embeds.numpy()
        np.testing.assert_allclose(ours.of_images(images), expected, rtol=1e-5, atol=1e-6)


def test_clip_weights_that_are_not_whole_are_refused(tmp_path, toy):
    from safetensors.torch import load_file, save_file

    folder = clip_folder(tmp_path / "clip", **SMALL)
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="cannot be loaded as a CLIP model"):
        ClipFeatures(folder, toy.decode_latents)


@pytest.mark.slow
def test_clip_of_the_true_shapes(tmp_path, toy, photos):
    shapes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    folder = clip_folder(tmp_path / "clip", **shapes, image_size=224, patch_size=32, projection_dim=512)
    found = make_features(f"clip:{folder}", toy).of_images(photos[:2])
    assert found.shape == (2, 512) and np.isfinite(found).all()
