"""All forms of a layer compute the same."""

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

import decompose
from decompose import Choice, DecomposeError, Plan
from decompose.algebra import macs, run
from decompose.compression.reconstruction.repair import repair_
from decompose.layers.discovery import find_layers
from decompose.layers.execution_forms import DEFAULT_FORM, FORMS, get_form
from decompose.layers.modules import DecomposedLayer, to_conv
from decompose.methods import METHODS
from decompose.models.conversion import plan_of, set_forms_
from tests.support.strategies import Case, Mixed, conv_cases

EXAMPLE = torch.randn(2, 3, 32, 32)
NESTED = Choice("spatial", 9, (Choice("pw_dw", 2), Choice("dw_pw", 3)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(conv_cases(), st.data())
def test_a_form_is_equal_to_what_the_method_made(case: Case, data: st.DataObject) -> None:
    module, x = case
    conv = to_conv(module)
    able = [method for method in METHODS.values() if method.why_not(conv) is None]
    assume(able)
    method = data.draw(st.sampled_from(able))
    rank = data.draw(st.integers(1, min(4, method.max_rank(conv))))
    layer = DecomposedLayer(module, method(conv, rank), Choice(method.name, rank)).double()
    expected = layer(x)
    for form in ("merged", "branches-whole", "merged-whole", "branches", "merged", "dense"):
        layer.take_form(form)
        torch.testing.assert_close(layer(x), expected, rtol=1e-8, atol=1e-8)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_flow_through_every_form(method: str, form: str) -> None:
    module = nn.Conv2d(3, 4, 1 if method == "svd" else 3, padding=1, stride=2).double()
    layer = DecomposedLayer(module, METHODS[method](to_conv(module), 2), Choice(method, 2)).double()
    layer.take_form(form)
    names, values = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert gradcheck(call, (x, *values))


def test_a_nested_choice_is_merged_inside_and_split_again() -> None:
    module = nn.Conv2d(8, 8, 3, padding=1).double()
    x = torch.randn(1, 8, 7, 7, dtype=torch.float64)
    made = NESTED.rewrite(to_conv(module))
    layer = DecomposedLayer(module, made, NESTED)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.take_form("merged")
    assert len(list(layer.parameters())) < len(before)
    assert macs(layer.expression, (7, 7)) == macs(made, (7, 7))
    torch.testing.assert_close(layer(x), run(made, x))
    layer.take_form("branches")
    after = layer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_what_was_multiplied_back_stays_dense() -> None:
    module = nn.Conv2d(4, 6, 3)
    layer = DecomposedLayer(module, METHODS["pw_dw"](to_conv(module), 2), Choice("pw_dw", 2))
    layer.take_form("dense")
    with pytest.raises(DecomposeError, match="for good"):
        layer.take_form("branches")
    with pytest.raises(DecomposeError, match="form 'wide' does not exist; there are: branches"):
        get_form("wide")


def test_a_form_keeps_mode_gradients_and_memory_format() -> None:
    model = Mixed().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    small = decompose.apply(decompose.plan(model, EXAMPLE, rank=2), model)
    set_forms_(small, {"blocks.0.0": "merged"})
    layer = find_layers(small)["blocks.0.0"]
    assert not any(module.training for module in layer.modules())
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    # A layer that is used twice is the same in both places.
    assert small.get_submodule("heads.edge.0") is layer


def test_forms_are_saved_and_loaded(tmp_path: Path) -> None:
    model = Mixed().eval()
    plan = decompose.plan(model, EXAMPLE, rank=2)
    forms = dict(zip(plan.layers, FORMS, strict=False))
    plan = Plan(plan.layers, plan.dense, forms=forms)
    small = decompose.apply(Plan.from_json(plan.to_json()), model)
    decompose.save(small, tmp_path / "small.safetensors")
    again = decompose.load(tmp_path / "small.safetensors", Mixed()).eval()
    kept = {name: form for name, form in forms.items() if form != DEFAULT_FORM}
    assert len(kept) > 1
    assert plan_of(small).forms == plan_of(again).forms == kept
    assert torch.equal(small(EXAMPLE), again(EXAMPLE))


@pytest.mark.parametrize("form", ["merged", "dense"])
def test_a_layer_is_repaired_in_its_form(form: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False)).eval()
    images = torch.randn(6, 3, 8, 8)
    small = decompose.apply(decompose.plan(model, images, rank=1), model)
    set_forms_(small, {"0": form})
    before = (small(images) - model(images)).square().mean()
    repair_(small, model, images)
    assert plan_of(small).forms == {"0": form}
    assert (small(images) - model(images)).square().mean() < before


def test_forms_of_layers_that_are_not_rewritten_are_refused() -> None:
    with pytest.raises(DecomposeError, match="conv2 has a form, but is not rewritten"):
        Plan.from_json(
            '{"format": "decompose-plan", "version": 1, "layers": {}, "forms": {"conv2": "merged"}}'
        )
    with pytest.raises(DecomposeError, match="form 3 does not exist"):
        Plan.from_json(
            '{"format": "decompose-plan", "version": 1, "layers": '
            '{"a": {"method": "pw_dw", "rank": 1}}, "forms": {"a": 3}}'
        )
    model = Mixed()
    with pytest.raises(DecomposeError, match="layer stem has no form"):
        set_forms_(model, {"stem": "merged"})
