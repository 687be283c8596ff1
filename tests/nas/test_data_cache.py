"""Latents on disk, tar shards and data of the teacher's own. Truth: the same in memory, tarfile, and replay."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import batches, folder_latents, photo_latents
from nas.data.cache import ShardRows, cached, in_memory, is_complete
from nas.data.images import PhotoSource
from nas.data.sources import Place
from nas.data.teacher_made import SAMPLE_AT_ONCE, TeacherSource, read_prompts
from nas.data.webdataset import shard_paths, shard_source
from nas.random_teacher import write_random_teacher
from nas.sampling import ddim_sample
from nas.teacher import Teacher, load_teacher
from search_spaces.errors import UserError


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load_teacher(write_random_teacher("toy", tmp_path_factory.mktemp("teacher") / "toy"))


class Killed(Exception):
    pass


def png(seed: int, size: tuple[int, int] = (80, 70)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_tar(
        folder / "00.tar",
        [
            ("a.png", png(1)),
            ("a.txt", b"a  cat\n"),
            ("b.png", b"\x89PNG broken"),
            ("b.json", b'{"caption": "lost"}'),
            ("sub/c.png", png(2)),
            ("sub/c.json", json.dumps({"text": "a dog", "width": 3}).encode()),
            ("d.txt", b"no image"),
        ],
    )
    write_tar(folder / "01.tar", [("e.jpg", png(3)), ("f.png", png(4)), ("f.json", b"{")])
    return folder


def test_shards_on_disk_are_what_is_in_memory(teacher: Teacher, tmp_path: Path) -> None:
    seen: list[int] = []
    on_disk = cached(tmp_path, "k", lambda: PhotoSource(3, 64), teacher, 20, seen.append, latents_a_shard=8)
    whole = photo_latents(teacher, 20, 3)
    assert seen == [8, 16, 20, 20] and on_disk.captions == whole.captions
    # The encoder rounds otherwise in batches of 8 than of 20; by default shards are of whole batches.
    assert torch.allclose(on_disk.latents[torch.arange(20)], whole.latents, atol=1e-5)
    assert sorted(p.name for p in tmp_path.glob("latents-*")) == [f"latents-0000{i}.safetensors" for i in range(3)]
    on_disk = cached(tmp_path, "k2", lambda: PhotoSource(3, 64), teacher, 20)
    assert on_disk.key == whole.key
    pairs = zip(batches(on_disk, teacher, 6, 1, 4), batches(whole, teacher, 6, 1, 4), strict=True)
    for a, b in itertools.islice(pairs, 3):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert is_complete(tmp_path, "k2") and not is_complete(tmp_path, "k")


def test_a_killed_encoding_goes_on_and_damage_is_mended(teacher: Teacher, tmp_path: Path) -> None:
    whole = cached(tmp_path / "whole", "k", lambda: PhotoSource(3, 64), teacher, 20, latents_a_shard=8)
    begun: list[Place] = []

    class Watched(PhotoSource):
        def items(self, place: Place):
            begun.append(place)
            return super().items(place)

    def kill(done: int) -> None:
        if done == 16:
            raise Killed

    with pytest.raises(Killed):
        cached(tmp_path / "cut", "k", lambda: Watched(3, 64), teacher, 20, kill, latents_a_shard=8)
    begun.clear()
    again = cached(tmp_path / "cut", "k", lambda: Watched(3, 64), teacher, 20, latents_a_shard=8)
    assert begun == [Place(0, 16)] and again.key == whole.key
    begun.clear()
    path = tmp_path / "cut" / "latents-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    again = cached(tmp_path / "cut", "k", lambda: Watched(3, 64), teacher, 20, latents_a_shard=8)
    assert begun == [Place(0, 8)] and again.key == whole.key
    assert torch.equal(again.latents[torch.arange(20)], whole.latents[torch.arange(20)])
    cached(tmp_path / "cut", "other", lambda: Watched(4, 64), teacher, 20, latents_a_shard=8)
    assert begun[1:] == [Place(0, 0), Place(0, 8), Place(0, 16)]


def test_rows_over_several_files_are_those_of_the_whole(tmp_path: Path) -> None:
    from nas.atomic import stream_tensors

    whole = torch.randn(10, 2, 3)
    paths = [
        stream_tensors(tmp_path / f"{i}", {"x": part, "other": torch.ones(i + 1)})
        for i, part in enumerate(whole.split(4))
    ]
    rows = ShardRows(paths, "x")
    index = torch.tensor([9, 0, 4, 4, 3, 8])
    assert torch.equal(rows[index], whole[index]) and tuple(rows.shape) == (10, 2, 3)


def test_tar_shards_in_order_with_captions_and_what_is_unreadable(teacher: Teacher, shards: Path) -> None:
    found = in_memory(shard_source(str(shards), 64, 0), teacher, 4)
    assert found.captions == ["a cat", "a dog", "", ""]
    assert found.skipped == ("00.tar: b", "00.tar: d")
    with Image.open(io.BytesIO(png(2))) as image:  # the centre square, as encoded by hand
        square = image.resize((64, 64), Image.Resampling.LANCZOS, (0, 5, 70, 75))
    x = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert torch.allclose(found.latents[1], teacher.encode_images(x)[0], atol=1e-5)
    # Later turns crop at random, and any place is entered as it would have been reached.
    items = list(itertools.islice(shard_source(str(shards), 64, 0).items(Place()), 13))
    for start in (2, 5, 7):
        resumed = shard_source(str(shards), 64, 0).items(items[start].after)
        for a, b in zip(items[start + 1 :], resumed, strict=False):
            assert a[1:] == b[1:] and np.array_equal(a.value, b.value)


def test_a_tar_cut_short_gives_what_is_before(teacher: Teacher, shards: Path, tmp_path: Path) -> None:
    data = (shards / "00.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(data[: 512 * 3])
    with pytest.raises(UserError, match=r"none of the images"):
        in_memory(shard_source(str(tmp_path), 64, 0), teacher, 1)
    (tmp_path / "y.tar").write_bytes((shards / "01.tar").read_bytes())
    found = in_memory(shard_source(str(tmp_path), 64, 0), teacher, 2)
    assert len(found) == 2 and any("x.tar" in name for name in found.skipped)


def test_names_of_shards(shards: Path, tmp_path: Path) -> None:
    both = [shards / "00.tar", shards / "01.tar"]
    assert shard_paths(str(shards)) == shard_paths(f"{shards}/*.tar") == shard_paths(f"{shards}/{{00..01}}.tar") == both
    assert shard_paths(str(both[1])) == both[1:]
    with pytest.raises(UserError, match=r"02.tar does not exist \(1 of 3"):
        shard_paths(f"{shards}/{{00..02}}.tar")
    with pytest.raises(UserError, match=r"names no \.tar"):
        shard_paths(str(tmp_path / "none"))


def test_the_teachers_own_samples(teacher: Teacher, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("coffee  near\n\ncat far\nclock\n")
    prompts = read_prompts(tmp_path / "p.txt")
    assert prompts == ("coffee near", "cat far", "clock")
    source = TeacherSource(teacher, prompts, seed=1, ddim_steps=2, guidance=2.0)
    items = list(itertools.islice(source.items(Place()), SAMPLE_AT_ONCE + 4))
    assert [item.caption for item in items[:4]] == [*prompts, prompts[0]]
    for start in (5, SAMPLE_AT_ONCE):
        again = next(source.items(items[start].after))
        assert torch.equal(torch.as_tensor(again.value), torch.as_tensor(items[start + 1].value))
    # Without prompts: the empty one, unguided.
    (plain,) = itertools.islice(TeacherSource(teacher, (), 1, 2, 7.5).items(Place()), 1)
    from nas.data import step_generator
    from nas.data.teacher_made import _STREAM

    noise = torch.randn(1, 4, 8, 8, generator=step_generator(1, _STREAM))
    null = teacher.encode_prompts([""])
    one = ddim_sample(teacher.unet, teacher.scheduler.config, noise, null, null, 2)
    assert plain.caption == "" and torch.allclose(torch.as_tensor(plain.value), one[0], atol=1e-4)
    for text, message in (("", "holds no prompt"), (None, "cannot be read")):
        path = tmp_path / "q.txt"
        path.unlink(missing_ok=True) if text is None else path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_prompts(path)


def test_a_folder_through_shards_is_the_folder(teacher: Teacher, tmp_path: Path) -> None:
    from nas.data.images import folder_source

    images = tmp_path / "images"
    images.mkdir()
    for i in range(5):
        (images / f"{i}.png").write_bytes(png(i) if i != 2 else b"no")
    whole = folder_latents(teacher, images, 11, 0)
    on_disk = cached(tmp_path / "c", "k", lambda: folder_source(images, 64, 0), teacher, 11, latents_a_shard=3)
    assert torch.allclose(on_disk.latents[torch.arange(11)], whole.latents, atol=1e-5)
    assert on_disk.captions == whole.captions and on_disk.skipped == whole.skipped == ("2.png",)
