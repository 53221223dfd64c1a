"""Layers see, behind repaired ones, what passes from the start show them, at any bound of memory."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose.compression.reconstruction.folded_batches import FoldedBatches
from decompose.compression.reconstruction.paired_passes import PairedPasses
from decompose.layers.discovery import find_decomposable, find_decomposed
from decompose.layers.hooks import calls_until
from decompose.utils.batches import InputBatches
from tests.support.models import Remembering, Viewing
from tests.support.strategies import Mixed

EXAMPLE = torch.zeros(1, 3, 24, 24)


@pytest.mark.parametrize("most_bytes", [0, 60_000, 2**30])
@pytest.mark.parametrize("kind", [Mixed, Remembering])
def test_layers_see_what_passes_from_the_start_show(kind: type[nn.Module], most_bytes: int) -> None:
    model = kind().eval()
    small = decompose.apply(decompose.plan(model, EXAMPLE, method="spatial", rank=2), model)
    originals, decomposed = find_decomposable(model), find_decomposed(small)
    layers = {name: (layer, originals[name]) for name, layer in decomposed.items()}
    calls: Mapping[str, int] = {n: 2 if n == "blocks.0.0" else 1 for n in layers}
    batches = FoldedBatches(InputBatches(torch.randn(3, 3, 24, 24), model), [], size=1)
    contents = [(batches.folds[i], x) for i, x in batches.chosen(range(len(batches)))]
    with PairedPasses(small, model, layers, calls, batches, most_bytes) as passes:
        for name, (layer, original) in layers.items():
            shown = list(passes.behind(name))
            assert len(shown) == 12 * calls[name]
            expected = []
            for fold, x in contents:
                seen = calls_until(small, layer, calls[name], x)
                wanted = calls_until(model, original, calls[name], x)
                pairs = zip(seen, wanted, strict=True)
                expected += [(fold, before, after) for (before, _), (_, after) in pairs]
            for found, right in zip(shown, expected, strict=True):
                assert found.fold == right[0]
                torch.testing.assert_close(found.input, right[1])
                torch.testing.assert_close(found.wanted, right[2])
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.mul_(1.5)  # as a repair would change it


def test_images_pass_with_the_channels_last_where_a_model_takes_them() -> None:
    for model in (nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)).eval(), Viewing()):
        x = torch.randn(3, 3, 8, 8)
        small = decompose.apply(decompose.plan(model, x[:1], method="spatial", rank=2), model)
        originals, decomposed = find_decomposable(model), find_decomposed(small)
        layers = {name: (layer, originals[name]) for name, layer in decomposed.items()}
        batches = FoldedBatches(InputBatches(x, model), [], size=2)
        orders: list[bool] = []

        def keep(_: nn.Module, inputs: tuple[Tensor], orders: list[bool] = orders) -> None:
            orders.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

        *_, last = layers
        with PairedPasses(small, model, layers, dict.fromkeys(layers, 1), batches) as passes:
            originals[last].register_forward_pre_hook(keep)
            calls = list(passes.behind(last))
        assert set(orders) == {not isinstance(model, Viewing)}
        assert all(part.is_contiguous() for call in calls for part in (call.input, call.wanted))
