"""Networks of torchvision's and timm's zoos, with random weights at small input sizes.

``pytest -m zoo`` goes through the smallest network of each of their files, in three hours on a core;
``pytest -m whole_zoo`` through all, in a day or two; both leave out what has more than ``LARGEST``
parameters. ``-k`` picks some. Without a mark there are a few small ones, of each kind one.
"""

import warnings
from collections import defaultdict
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import decompose
from decompose import Choice, DecomposeError, Plan
from decompose.algebra import Deviation
from decompose.evaluation.comparison import compare_weights
from decompose.layers.costs import count_params
from decompose.layers.forward import comparable_outputs
from decompose.layers.survey import survey
from decompose.methods import get_method
from decompose.models.architectures import Architecture, architecture_of
from decompose.utils.batches import Example
from decompose.utils.errors import BudgetError
from experiments.zoo import networks

EXACT = "pw_dw", "spatial", "svd", "channel"
"""Methods whose full rank is exact, in the order in which they are tried."""

METHODS = "spatial", "channel", "svd"
LARGEST = 65_000_000
"""Parameters of the largest network of the sweeps."""


def volumes() -> nn.Module:
    """Volumes to scores, in planes and along time by turns, as R(2+1)D does it."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((3, 12, (1, 3, 3)), (12, 16, (3, 1, 1)), (16, 16, (3, 3, 3))):
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        layers += [
            nn.Conv3d(inputs, outputs, kernel, padding=padding),
            nn.BatchNorm3d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 4))


OWN = {
    "3-D": (volumes, torch.zeros(1, 3, 6, 12, 12)),
    "U-Net": (lambda: networks.UNet((4, 8, 16)), torch.zeros(1, 3, 16, 16)),
    "1-D": (lambda: networks.SignalNet(8), torch.zeros(1, 1, 4000)),
}
FEW = [
    "torchvision:squeezenet1_1",
    "timm:test_convnext",
    "timm:test_efficientnet",
    "timm:test_nfnet",
    "timm:test_resnet",
]


def all_names() -> dict[str, list[str]]:
    """The networks of both zoos, by the file that they stand in."""
    names: dict[str, list[str]] = defaultdict(list)
    for name in torchvision.models.list_models():
        if not name.startswith("quantized_"):
            file = torchvision.models.get_model_builder(name).__module__
            names[file].append(f"torchvision:{name}")
    for name in timm.list_models():
        names[timm.model_entrypoint(name).__module__].append(f"timm:{name}")
    return names


NAMES = all_names()


def num_params(name: str) -> float:
    """Parameters of a network; infinitely many where it cannot be built."""
    architecture = Architecture.parse(f"{name},weights=none")
    try:
        return count_params(architecture.sketch() or architecture.build())
    except DecomposeError:
        return inf


def example_for(name: str) -> Example:
    """A small input of a network, or one of its own size where it takes no other."""
    source, _, model = name.partition(":")
    if source == "timm":
        shape = Architecture.parse(name).input_shape()
        fixed = getattr(timm.get_pretrained_cfg(model), "fixed_input_size", False)
        # Halos are of whole blocks.
        return torch.zeros(1, *shape) if fixed or "halo" in model else torch.zeros(1, 3, 96, 96)
    module = torchvision.models.get_model_builder(model).__module__
    if "detection" in module:
        # Two, since what is normalised in the last map is of one place.
        return ([torch.zeros(3, 96, 96)] * 2,)
    if "optical_flow" in module:
        return (torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128))
    if "video" in module:
        own = any(kind in model for kind in ("mvit", "swin", "s3d"))
        return torch.zeros(1, 3, 16, 224, 224) if own else torch.zeros(1, 3, 16, 48, 48)
    if model == "inception_v3":
        return torch.zeros(1, 3, 96, 96)
    return (
        torch.zeros(1, 3, 224, 224)
        if model.startswith(("vit", "maxvit"))
        else torch.zeros(1, 3, 64, 64)
    )


def named(name: str) -> tuple[nn.Module, Example]:
    """A network of a zoo, awake, and an input."""
    options = (
        ",min_size=96,max_size=96" if "rcnn" in name or "retina" in name or "fcos" in name else ""
    )
    network, example = decompose.load(f"{name},weights=none{options}"), example_for(name)
    networks.awaken_(network, example)
    return network.eval(), example


def full_rank(network: nn.Module, example: Example) -> Plan:
    """Each layer that can be rewritten, exactly."""
    known = survey(network, example)
    choices = {}
    for name, conv in known.convs.items():
        exact = [m for m in map(get_method, EXACT) if m.why_not(conv) is None]
        if exact:
            choices[name] = Choice(exact[0].name, exact[0].max_rank(conv))
    return Plan(choices)


def check(network: nn.Module, example: Example, path: Path) -> None:
    """Full rank is exact, half the MACs are reached or the least is named, files hold it all."""
    seen: Any = decompose.synthetic_inputs(example, network, num=1, seed=3)
    seen = seen if isinstance(seen, Tensor) else seen[0][0]
    whole = full_rank(network, example)
    if whole.layers:
        assert apart(decompose.apply(whole, network), network, seen) < 1e-5
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="left dense")
        try:
            plan = decompose.plan(network, example, macs=0.5, methods=METHODS)
        except BudgetError:
            plan = whole
        else:
            compared = compare_weights(network, decompose.apply(plan, network), example)
            assert compared.macs.after <= 0.5 * compared.macs.before
    small = decompose.apply(plan, network)
    decompose.save(small, path)
    again = decompose.load(path, None if architecture_of(network) else network)
    stored = again.state_dict()
    assert all(torch.equal(stored[key], tensor) for key, tensor in small.state_dict().items())
    # Kernels may lie in memory in another order, in which products round otherwise.
    assert apart(again, small, seen) < 1e-9


def check_if_moderate(name: str, folder: Path) -> None:
    """Check a network of the zoos, unless it is too large for this."""
    size = num_params(name)
    if LARGEST < size < inf:
        pytest.skip(f"{name} has {size / 1e6:.0f} M parameters")
    check(*named(name), folder / "small.safetensors")


def apart(a: nn.Module, b: nn.Module, example: Example) -> float:
    """Relative squared error of all that two networks return."""
    total = Deviation()
    with torch.no_grad():
        for ours, theirs in zip(
            comparable_outputs(a, example), comparable_outputs(b, example), strict=True
        ):
            total += Deviation.between(ours, theirs)
    return total.relative


@pytest.mark.parametrize("name", FEW)
def test_a_few_of_the_zoos(name: str, tmp_path: Path) -> None:
    check(*named(name), tmp_path / "small.safetensors")


@pytest.mark.parametrize(("build", "example"), OWN.values(), ids=OWN)
def test_other_kinds(build: Any, example: Tensor, tmp_path: Path) -> None:
    network = build()
    networks.awaken_(network, example)
    check(network.eval(), example, tmp_path / "small.safetensors")


@pytest.mark.zoo
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("file", NAMES)
def test_the_smallest_of_each_file(file: str, tmp_path: Path) -> None:
    # timm's own test networks are among the few that are always checked.
    names = [name for name in NAMES[file] if not name.startswith("timm:test_")]
    check_if_moderate(min(names, key=num_params), tmp_path)


@pytest.mark.whole_zoo
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", list(chain.from_iterable(NAMES.values())))
def test_all_of_the_zoos(name: str, tmp_path: Path) -> None:
    check_if_moderate(name, tmp_path)
