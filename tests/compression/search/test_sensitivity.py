"""Corrections by which predicted errors are multiplied."""

import pytest
import torch
from torch import Tensor, nn

import decompose
from decompose import algebra
from decompose.compression.effort import effort_of
from decompose.compression.search import sensitivity
from decompose.compression.search.candidates import find_candidates
from decompose.compression.search.error_prediction import OutputError
from decompose.compression.search.quick_truncations import QuickTruncations
from decompose.compression.search.sensitivity import measuring_sensitivity
from decompose.compression.statistics import gather
from decompose.data.synthetic import synthetic_inputs
from decompose.layers.modules import to_conv
from decompose.layers.survey import survey
from decompose.methods.combinations import parse_combination

EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize("repaired", [False, True])
def test_a_gain_for_every_kind_of_option(repaired: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    inputs = synthetic_inputs(EXAMPLE, num=8)
    known = survey(model, EXAMPLE)
    statistics = gather(model, inputs, known.layers)
    combinations = [
        parse_combination(name) for name in ("pw_dw", "dw_pw", "spatial", "spatial+dw_pw")
    ]
    scored, corrections = {}, {}
    with measuring_sensitivity(known, inputs, effort_of("normal"), repaired=repaired) as measured:
        for name, layer in known.layers.items():
            truncations = QuickTruncations(to_conv(layer))
            error = OutputError(truncations.conv, statistics.layers[name])
            scored[name] = find_candidates(truncations, combinations, algebra.params, error)
            corrections[name] = measured.corrections(name, scored[name], truncations)
    for name, found in scored.items():
        assert set(corrections[name]) == {candidate.label for candidate in found}
        assert all(correction > 0 for correction in corrections[name].values())
    if not repaired:
        # No layer follows the last one, so its corrections come from means and chance.
        assert all(0.3 < correction < 10 for correction in corrections["2"].values())


@pytest.mark.parametrize("num_inputs", [2, 3, 4, 5, 8])
def test_refits_are_judged_on_other_inputs_than_they_were_fitted_to(num_inputs: int) -> None:
    torch.manual_seed(0)
    # So few positions of so many numbers that a refit meets all outputs that it was fitted to.
    example, model = torch.zeros(1, 16, 4, 4), nn.Sequential(nn.Conv2d(16, 4, 3)).eval()
    known, inputs = survey(model, example), torch.randn(num_inputs, 16, 4, 4)
    truncations = QuickTruncations(to_conv(known.layers["0"]))
    error = OutputError(truncations.conv, gather(model, inputs, known.layers).layers["0"])
    found = find_candidates(truncations, [parse_combination("pw_dw")], algebra.params, error)
    with measuring_sensitivity(known, inputs, effort_of("normal"), repaired=True) as measured:
        corrections = measured.corrections("0", found, truncations)
    assert corrections["pw_dw"] > 0.5


@pytest.mark.parametrize(("head", "num_inputs"), [(nn.Flatten(1), 1), (nn.AdaptiveAvgPool2d(1), 2)])
def test_maps_of_many_numbers_need_one_input(head: nn.Module, num_inputs: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), head).eval()
    example = torch.zeros(1, 3, 256, 256)
    known, inputs = survey(model, example), synthetic_inputs(example, num=4)
    truncations = QuickTruncations(to_conv(known.layers["0"]))
    error = OutputError(truncations.conv, gather(model, inputs, known.layers).layers["0"])
    found = find_candidates(truncations, [parse_combination("pw_dw")], algebra.params, error)
    seen: list[int] = []
    with measuring_sensitivity(known, inputs, effort_of("normal"), repaired=False) as measured:
        model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        assert measured.corrections("0", found, truncations)
    assert sum(seen) == num_inputs


def test_of_many_inputs_all_factors_are_refitted(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 8, generator=generator) * torch.logspace(0, -1.5, 8)
    inputs = torch.einsum("nchw,dc->ndhw", torch.randn(48, 8, 10, 10, generator=generator), mixing)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    known = survey(model, inputs[:1])
    truncations = QuickTruncations(to_conv(known.layers["0"]))
    error = OutputError(truncations.conv, gather(model, inputs, known.layers).layers["0"])
    found = find_candidates(truncations, [parse_combination("pw_dw")], algebra.params, error)

    def correction() -> float:
        with measuring_sensitivity(known, inputs, effort_of("normal"), repaired=True) as measured:
            return measured.corrections("0", found, truncations)["pw_dw"]

    together = correction()
    monkeypatch.setattr(sensitivity, "are_many", lambda inputs: False)
    # The last factors of PW+DW are depthwise, and have few weights.
    assert together < 0.9 * correction()


class OftenInfinite(nn.Module):
    """A layer that sees nothing finite of inputs that hold a large number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to ``(batch, 16, H - 4, W - 4)``."""
        scale = torch.where(x.amax((1, 2, 3), keepdim=True) > 100, torch.inf, 1.0)
        return torch.nan_to_num(self.last(self.first(x) * scale), 0, 0, 0)


def test_a_layer_that_sees_nothing_finite_where_it_would_be_refitted_is_judged_as_it_is() -> None:
    torch.manual_seed(0)
    model, inputs = OftenInfinite().eval(), torch.randn(64, 3, 12, 12)
    inputs[:48, 0, 0, 0] = 200
    assert decompose.plan(model, inputs[:1], macs=0.6, calibrate=inputs).layers
