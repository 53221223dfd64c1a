"""Images in tar shards, whole and damaged."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from decompose.data.folders import labelled_images
from decompose.data.webdataset import is_shards, labelled_shards
from decompose.utils.errors import DecomposeError
from tests.data.cases import photograph

FILES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def to_tensor(image: Image.Image) -> Tensor:
    """Preprocess as simply as can be."""
    return pil_to_tensor(image.resize((16, 16))).float()


def write_shard(path: Path, samples: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def jpeg(file: str) -> bytes:
    """One of scikit-image's photographs, made small."""
    content = io.BytesIO()
    photograph(file, 48).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards with two photographs each, labelled by number and by JSON."""
    images = {file: jpeg(file) for file in FILES}
    first = [("val/0.cls", b"3"), ("val/0.jpg", images[FILES[0]])]
    first += [("val/1.JPG", images[FILES[1]]), ("val/1.cls", b"0\n")]
    second = [("2.jpg", images[FILES[2]]), ("2.json", json.dumps({"label": 1}).encode())]
    second += [("3.jpg", images[FILES[3]]), ("3.cls", b"2"), ("3.txt", b"a rocket")]
    write_shard(tmp_path / "val-000.tar", first)
    write_shard(tmp_path / "val-001.tar", second)
    return tmp_path


def test_labels_and_images_are_read(shards: Path) -> None:
    dataset = labelled_images(shards, to_tensor)
    assert [label for _, label in dataset.samples] == [3, 0, 1, 2]
    (batch,) = dataset.batches(8)
    for image, file in zip(batch.images, FILES, strict=True):
        assert torch.equal(image, to_tensor(Image.open(io.BytesIO(jpeg(file)))))
    (again,) = dataset.batches(8, workers=2)
    assert torch.equal(again.images, batch.images)


@pytest.mark.parametrize("name", ["{0}", "{0}/val-*.tar", "file://{0}/val-*.tar"])
def test_shards_are_named_by_folder_pattern_or_address(shards: Path, name: str) -> None:
    assert len(labelled_images(name.format(shards), to_tensor)) == 4


def test_one_shard(shards: Path) -> None:
    assert len(labelled_images(shards / "val-001.tar", to_tensor)) == 2
    assert len(labelled_images(f"file://{shards}/val-001.tar", to_tensor)) == 2
    assert not is_shards(str(shards / "missing"))


@pytest.mark.parametrize("lost", [1, 600, 1100, 1600])
def test_a_truncated_shard_gives_what_is_whole(shards: Path, lost: int) -> None:
    path = shards / "val-001.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    end = members[2].offset_data + members[2].size
    path.write_bytes(path.read_bytes()[: end - lost])
    images = labelled_images(shards, to_tensor)
    assert [label for _, label in images.samples] == [3, 0, 1]
    assert list(images.damaged) == [str(path)]
    assert "cannot be read further" in images.damaged[str(path)]
    (batch,) = images.batches(8)
    assert not batch.unreadable


def test_a_corrupt_image_in_a_shard_is_named(shards: Path) -> None:
    write_shard(shards / "val-002.tar", [("4.jpg", b"no image"), ("4.cls", b"1")])
    (batch,) = labelled_images(shards, to_tensor).batches(8)
    assert batch.unreadable == {f"{shards}/val-002.tar/4.jpg": "is no image"}


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([("4.jpg", b"x")], "4: has no label"),
        ([("4.jpg", b"x"), ("4.cls", b"cat")], r"4\.cls: holds no label"),
        ([("4.jpg", b"x"), ("4.json", b"{}")], r"4\.json: holds no label"),
        ([("4.jpg", b"x"), ("4.cls", b"-1")], r"4\.cls: holds no label"),
        ([("4.jpg", b"x"), ("4.cls", b"1.7")], r"4\.cls: holds no label"),
        ([("4.jpg", b"x"), ("4.cls", b"true")], r"4\.cls: holds no label"),
        ([("4.jpg", b"x"), ("4.cls", b"Infinity")], r"4\.cls: holds no label"),
        ([("4.jpg", b"x"), ("4.cls", b"%d" % 2**63)], r"4\.cls: holds no label"),
        ([("4.jpg", b"x"), ("4.json", b"[" * 200_000)], r"4\.json: holds no label"),
        ([("4.jpg", b"x"), ("4.json", b"[]")], r"4\.json: holds no label"),
        ([("4.txt", b"x")], "hold no labelled image"),
    ],
)
def test_shards_without_labels(
    tmp_path: Path, samples: list[tuple[str, bytes]], reason: str
) -> None:
    write_shard(tmp_path / "a.tar", samples)
    with pytest.raises(DecomposeError, match=reason):
        labelled_shards(str(tmp_path / "a.tar"), to_tensor)


def test_a_name_that_steers_a_terminal_is_not_repeated(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("\x1b[31m\n.png", b"abc"), ("\x1b[31m\n.cls", b"0")])
    (batch,) = labelled_shards(str(tmp_path / "a.tar"), to_tensor).batches(1)
    assert list(batch.unreadable.values()) == ["is no image"]


def test_shards_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DecomposeError, match="no such shards"):
        labelled_images(tmp_path / "missing.tar", to_tensor)
    with pytest.raises(DecomposeError, match="cannot be fetched"):
        labelled_images("nowhere://val.tar", to_tensor)
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DecomposeError, match=r"a\.tar: cannot be read further"):
        labelled_images(tmp_path / "a.tar", to_tensor)


def test_what_macos_adds_is_no_sample(shards: Path) -> None:
    write_shard(shards / "val-002.tar", [("__MACOSX/a/0.jpg", b"x"), ("a/._0.jpg", b"x")])
    assert len(labelled_images(shards, to_tensor)) == 4


def test_a_label_may_be_written_as_text(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("4.jpg", b"x"), ("4.json", b'{"label": "7"}')])
    assert labelled_shards(str(tmp_path / "a.tar"), to_tensor).samples[0][1] == 7
