"""Imports run downhill, and importing the package stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "decompose"

LEVELS = [
    {"errors", "intervals", "processes", "standings", "calls", "detectors", "digests"},
    {
        "files",
        "memory",
        "progress",
        "silence",
        "tables",
        "patterns",
        "algebra",
        "inputs",
        "views",
        "extras",
        "hooks",
    },
    {"picture_formats", "timm_models", "vgg16", "state_dicts"},
    {
        "methods",
        "architectures",
        "regression",
        "strips",
        "forms",
        "outcomes",
        "pruning",
        "annotations",
        "precision",
    },
    {"choices", "synthetic", "refitting", "pictures", "ledgers", "order", "checkpoints"},
    {"wishes", "budget", "plans", "shards", "scenes", "augmentation", "recipes", "losses"},
    {"candidates", "modules", "throughput"},
    {"layers", "mixtures", "fused", "onnx"},
    {
        "readers",
        "rewritten",
        "statistics",
        "rectification",
        "export",
        "norms",
        "sampling",
        "successions",
    },
    {"marginals", "rectified", "prediction", "factors", "folding"},
    {
        "cross_validation",
        "lookahead",
        "engines",
        "lessons",
        "blockwise",
        "schedules",
        "reconstruction",
        "lasso",
    },
    {"repair", "probing", "timing"},
    {"weighing", "latencies", "convert", "provenance"},
    {"tuning", "workpiece"},
    {"pacing", "treatments"},
    {"search", "comparison", "inspection"},
    {"models", "data", "benchmark", "figures"},
    {"evaluation", "model_cards"},
    {"judging", "detection", "publishing"},
    {"training"},
    {"finetuning"},
    {"report"},
    {"records"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up: a room may import from those below it and from its own."""

LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
INSIDE = {
    "onnx": [
        {"external"},
        {"files"},
        {"graph", "writing"},
        {"nodes", "layers"},
        {"shapes", "operators", "segments"},
        {"schedule"},
        {"network"},
        {"rewriting"},
    ]
}
"""The same of the files of a room that is a folder."""

ALONE = {"algebra": {"algebra"}, "methods": {"algebra", "methods", "errors"}}
"""Rooms that can be lifted into another project with these beside them."""


def imported_rooms(path: Path) -> set[str]:
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "decompose":
            parts = (node.module or "").split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("decompose.")}
    return rooms


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_its_level() -> None:
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_run_downhill(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for imported in imported_rooms(path):
        assert imported == room or LEVEL[imported] < LEVEL[room], f"{room} imports {imported}"
        assert imported in ALONE.get(room, LEVEL)


@pytest.mark.parametrize("room", INSIDE)
def test_imports_run_downhill_inside(room: str) -> None:
    level = {name: level for level, names in enumerate(INSIDE[room]) for name in names}
    paths = {path.stem: path for path in (PACKAGE / room).glob("*.py")}
    assert paths.keys() == level.keys() | {"__init__"}
    for name, of_file in level.items():
        for node in ast.walk(ast.parse(paths[name].read_text(encoding="utf-8"))):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if module.startswith(f"decompose.{room}."):
                imported = module.split(".")[2]
                assert level[imported] < of_file, f"{name} imports {imported}"


def test_nothing_imports_from_the_experiments_scripts_or_tests() -> None:
    for path in PACKAGE.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line.startswith(("from experiments", "from scripts", "from tests"))


def test_the_bare_import_is_lean() -> None:
    heavy = [
        "torchvision",
        "torchmetrics",
        "pycocotools",
        "huggingface_hub",
        "matplotlib",
        "onnx",
        "timm",
        "sklearn",
        "skimage",
        "tensorly",
        "onnxruntime",
        "openvino",
        "triton",
    ]
    code = f"import decompose, sys; print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == "[]"


def test_the_public_face_is_short() -> None:
    import decompose

    assert {"plan", "apply", "compare", "save", "load"} <= set(decompose.__all__)
    assert len(decompose.__all__) < 15
