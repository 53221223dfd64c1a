"""Reports made up without models, for tests of the page."""

from __future__ import annotations

from decompose.evaluation.accuracy import Accuracy, Evaluation
from decompose.evaluation.comparison import Change, Comparison, LayerComparison
from decompose.evaluation.confidence_intervals import Estimate
from decompose.evaluation.provenance import Provenance
from decompose.evaluation.report.contents import Report
from decompose.evaluation.report.spectra import LayerSpectra, SpectrumPoint
from decompose.inference.benchmark import Benchmark, Latency
from decompose.methods.choices import Choice, Note
from decompose.models.plans import Plan

HOSTILE = "</script><script>window.broken = true</script><img src=x onerror='window.broken = true'>"
"""A name that would run code in a page that takes names for markup."""


def layer_name(index: int) -> str:
    """The name of a made-up layer: the first is hostile."""
    return HOSTILE if index == 0 else f"features.{index}"


def made_up_report(
    num_layers: int = 6, names: tuple[str, ...] = ("half.safetensors",), *, labelled: bool = True
) -> Report:
    """A report of layers whose MACs rise and whose errors fall with their index."""
    layers = tuple(
        LayerComparison(
            layer_name(index),
            "dense" if index % 3 == 2 else ("pw_dw", "spatial")[index % 3],
            "" if index % 3 == 2 else "3",
            Change(1000 * (index + 1), 400 * (index + 1)),
            Change(100 * (index + 1), 50 * (index + 1)),
            weight_error=float("inf") if index == 1 else 0.01,
            output_error=1 / (index + 2),
        )
        for index in range(num_layers)
    )
    choices = {layer.name: Choice(layer.method, 3) for layer in layers if layer.method != "dense"}
    plan = Plan(choices, notes={layer_name(0): Note(400, "MACs", 0.003, "spatial", 0.004)})
    curve = tuple(SpectrumPoint(rank, rank / 9, 1 - 0.5**rank) for rank in range(1, 10))
    spectra = {
        layer.name: LayerSpectra("3x3 8→8", {"pw_dw": curve, "spatial": curve[:5]})
        if layer.method != "dense"
        else LayerSpectra("8→8", why_none="no method rewrites a layer of this kind")
        for layer in layers
    }
    macs = Change(sum(x.macs.before for x in layers), sum(x.macs.after for x in layers))
    params = Change(sum(x.params.before for x in layers), sum(x.params.after for x in layers))
    comparisons = {
        name: Comparison(
            layers,
            macs,
            Change(params.before, params.after + position),
            0.02,
            output_error=0.05 + 0.1 * position,
            agreement=0.9 - 0.1 * position,
            num_inputs=40,
            output_interval=(0.04, 0.06 + 0.1 * position),
        )
        for position, name in enumerate(names)
    }
    latencies = tuple(
        Latency(name, "eager", 1, ms, 0.4, macs.before)
        for name, ms in zip(("original", *names), (20.0, 12.0, 9.0, 8.0), strict=False)
    )
    return Report(
        original="original",
        comparisons=comparisons,
        plans=dict.fromkeys(names, plan),
        spectra=spectra,
        images="40 made-up images",
        benchmark=Benchmark(latencies, (3, 32, 32), 7, 2, "a machine", {"eager": "2.6"}),
        evaluation=_evaluation(names) if labelled else None,
        machine="a machine",
    )


def _evaluation(names: tuple[str, ...]) -> Evaluation:
    whole = Accuracy(
        Estimate(0.76, 0.74, 0.78), Estimate(0.93, 0.92, 0.94), _NOTHING, _NOTHING, 1.0
    )
    small = Accuracy(
        Estimate(0.75, 0.73, 0.77),
        Estimate(0.92, 0.91, 0.93),
        Estimate(-0.01, -0.02, 0.001),
        Estimate(-0.01, -0.02, 0.001),
        0.9,
    )
    accuracies = {"original": whole, **dict.fromkeys(names, small)}
    return Evaluation(accuracies, 2000, 10, {}, None, Provenance({}, {}, "", "own"))


_NOTHING = Estimate(0.0, 0.0, 0.0)
