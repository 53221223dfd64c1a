"""ImageNet's classes, and data that holds some of them."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from decompose.data import imagenet
from decompose.data.folders import labelled_folder
from decompose.data.imagenet import imagenet_synsets, is_imagenet_subset, with_imagenet_labels
from decompose.utils.errors import DecomposeError
from tests.data.cases import to_tensor, write_class_folders


def test_classes_are_a_thousand_sorted_synsets() -> None:
    synsets = imagenet_synsets()
    assert len({*synsets}) == imagenet.NUM_CLASSES
    assert list(synsets) == sorted(synsets)
    assert not is_imagenet_subset(synsets)
    assert not is_imagenet_subset(())


def test_labels_become_those_among_the_thousand(tmp_path: Path) -> None:
    for name in ("n01440764", "n02102040", "n03888257"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    images = labelled_folder(tmp_path, to_tensor)
    relabelled = with_imagenet_labels(images)
    assert [label for _, label in relabelled.samples] == [0, 217, 701]
    assert [label for _, label in images.samples] == [0, 1, 2]
    assert [path for path, _ in relabelled.samples] == [path for path, _ in images.samples]


def test_other_classes_are_refused(tmp_path: Path) -> None:
    images = labelled_folder(write_class_folders(tmp_path), to_tensor)
    with pytest.raises(DecomposeError, match="cat: is none of ImageNet's"):
        with_imagenet_labels(images)


def test_examples_run() -> None:
    assert doctest.testmod(imagenet).failed == 0
