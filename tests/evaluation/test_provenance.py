"""Digests change with what they are of, and with nothing else."""

import copy

import torch
from torch import nn

from decompose.evaluation.provenance import in_words
from decompose.utils.environment import environment
from decompose.utils.hashing import weights_digest


def test_weights_have_one_digest() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).bfloat16()
    digest = weights_digest(model)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert weights_digest(other) == digest
    next(other.buffers())[2] += 1
    assert weights_digest(other) != digest


def test_preprocessing_in_words_tells_nothing_of_memory() -> None:
    assert in_words(torch.zeros_like) == in_words(torch.zeros_like)
    assert " at 0x" not in in_words(lambda image: torch.zeros(3))


def test_the_environment_names_versions() -> None:
    assert {"machine", "python", "torch", "torchvision", "decompose"} <= set(environment("cpu"))
