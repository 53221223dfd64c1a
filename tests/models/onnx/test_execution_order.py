"""A graph's nodes run in order, and none that no output depends on."""

from pathlib import Path

import numpy as np
import torch
from onnx import helper

import decompose
from decompose.models.onnx.execution_order import schedule
from decompose.models.onnx.model_file import to_model
from tests.models.onnx.cases import make_model, read, run_onnx, small_cnn


def test_what_no_output_depends_on_does_not_run(tmp_path: Path) -> None:
    node = helper.make_node
    model = small_cnn()
    # Of a layer's output alone; and of a layer that nothing else reads.
    model.graph.node.extend(
        [
            node("Shape", ["a"], ["size"], "dead"),
            node("Conv", ["e", "block.weight"], ["unread"], "side", strides=[2, 2]),
            node("Atan", ["unread"], ["unread too"], "dead as well"),
        ]
    )
    network, x = read(model, tmp_path), torch.randn(2, 3, 16, 16)
    np.testing.assert_allclose(network(x).detach(), run_onnx(model, x)[0], rtol=1e-4, atol=1e-4)
    plan = decompose.plan(network, x[:1], macs=0.6)
    assert set(plan.layers) <= {"stem", "block/1", "up", "head"}
    decompose.apply(plan, network)(x)


def test_steps_free_what_nothing_after_them_reads() -> None:
    node = helper.make_node
    nodes = [
        node("Constant", [], ["one"], value_float=1.0),
        node("Add", ["x", "one"], ["a"]),
        node("Atan", ["a"], ["b"]),
        node("Mul", ["a", "b"], ["y"]),
    ]
    model = to_model(make_model(nodes, {}, ["n", 4], ["n", 4]))
    in_torch = {model.nodes[1]: torch.add, model.nodes[3]: torch.mul}
    steps = schedule(model, in_torch, {"one": np.array(1.0, "f4")}, ["y"])
    assert [list(step.outputs) for step in steps] == [["a"], ["b"], ["y"]]
    assert [set(step.done) for step in steps] == [{"x", "one"}, set(), {"a", "b"}]
