"""Tables of INT8 models say what their records say."""

from typing import Any

from experiments.int8.table import summarize


def record(*, is_error: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "macs": 2_000_000,
        "bytes": 1_500_000,
        "value": [0.5, 0.25, 0.75],
        "change": [-0.01, -0.02, 0.0],
        "milliseconds": {"ONNX Runtime, batch 1": 1.25},
    }
    return {
        "title": "Model",
        "is_error": is_error,
        "num_test": 1200,
        "machine": "a CPU",
        "weight_bits": 7,
        "versions": {"onnxruntime": "1.0"},
        "rows": [
            {"name": "dense, float", **row},
            {"name": "dense, INT8", **row},
        ],
    }


def test_accuracies_are_in_percent_and_errors_as_they_are() -> None:
    (table,) = summarize({"a": record(is_error=False), "b": record(is_error=True)})
    assert [row[0] for row in table.rows] == [
        "Model, 1,200 images: dense, float",
        "Model, 1,200 images: dense, INT8",
    ] * 2
    assert table.rows[0][1:4] == ("2", "1.50", "50.00 (25.00 to 75.00)")
    # A float model's change from itself says nothing.
    assert table.rows[0][4] == ""
    assert table.rows[1][4] == "-1.00 (-2.00 to +0.00)"
    assert table.rows[3][3:5] == ("0.5000 (0.2500 to 0.7500)", "-0.0100 (-0.0200 to +0.0000)")
    assert table.rows[0][-1] == "1.25"


def test_multiples_have_a_table_of_their_own() -> None:
    row = {"macs": 7e6, "error": 0.1, "float, ms": 2.0, "INT8, ms": 1.0}
    tables = summarize(
        {
            "a": record(is_error=True),
            "multiples": {"title": "a", "num_test": 9, "ratio": 2.0, "rows": {"8": row}},
        }
    )
    assert tables[1].rows == [("8", "7", "0.1000", "2.0", "1.0")]
