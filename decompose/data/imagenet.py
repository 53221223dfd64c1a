"""Label images of ImageNet's classes by their synset names.

The classes of ILSVRC 2012 (Russakovsky et al. 2015, arXiv 1409.0575) are synsets of WordNet; class i is
the i-th of the sorted names in ``imagenet_synsets.txt``. Imagenette and other subsets keep the names of
the folders, so a model of all thousand classes can be evaluated on them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from importlib import resources

from decompose.data.images import ImageDataset
from decompose.utils.errors import DecomposeError

NUM_CLASSES = 1000


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """Names of ImageNet's classes by label.

    >>> imagenet_synsets()[0]
    'n01440764'
    """
    text = resources.files("decompose.data").joinpath("imagenet_synsets.txt").read_text("ascii")
    return tuple(text.split())


def is_imagenet_subset(classes: Sequence[str]) -> bool:
    """Whether classes are some of ImageNet's, but not all.

    >>> is_imagenet_subset(["n01440764", "n01443537"]), is_imagenet_subset(["cat", "dog"])
    (True, False)
    """
    return 0 < len(classes) < NUM_CLASSES and set(classes) <= set(imagenet_synsets())


def with_imagenet_labels(images: ImageDataset) -> ImageDataset:
    """Give images of some of ImageNet's classes the labels that these have among all thousand.

    Args:
        images: labelled in the order of their own classes; left as they are.

    Raises:
        DecomposeError: a class is none of ImageNet's.
    """
    labels = {synset: label for label, synset in enumerate(imagenet_synsets())}
    if unknown := [name for name in images.classes if name not in labels]:
        raise DecomposeError(f"class {unknown[0]}: is none of ImageNet's thousand")
    relabelled = copy.copy(images)
    relabelled.samples = [(path, labels[images.classes[label]]) for path, label in images.samples]
    relabelled.classes = imagenet_synsets()
    return relabelled
