"""Imports run downhill, and importing the package stays light."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "decompose"

ORDER = [
    "utils",
    "algebra",
    "methods",
    "layers",
    "models",
    "data",
    "inference",
    "compression",
    "evaluation",
    "training",
    "cli",
]
"""From the bottom up: a package imports from those before it only."""

ALONE = {"algebra": set(), "methods": {"algebra", "utils"}}
"""Packages that can be lifted into another project with these beside them."""


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(module: str) -> set[str]:
    """Modules of the package that one imports anywhere in its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            within = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in MODULES else node.module for name in within}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & MODULES.keys()) - {module}


def test_the_package_has_these_rooms() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert packages == set(ORDER)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downhill(module: str) -> None:
    package = module.split(".")[1] if "." in module else ""
    if package not in ORDER:
        return
    allowed = ALONE.get(package, set(ORDER[: ORDER.index(package)])) | {package}
    for imported in imported_modules(module) - {"decompose"}:
        assert imported.split(".")[1] in allowed, f"{module} imports {imported}"


def test_no_modules_import_in_a_circle() -> None:
    graph = {module: imported_modules(module) for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


@pytest.mark.parametrize("package", [*ORDER, "compression.search", "models.onnx"])
def test_packages_import_nothing_of_their_own(package: str) -> None:
    if package not in ("algebra", "methods", "cli"):
        assert not imported_modules(f"decompose.{package}")


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
        "nncf",
        "triton",
    ]
    code = f"import decompose, sys; print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == "[]"


def test_compressing_imports_no_compiler() -> None:
    # Torch's takes longer to import than a small model takes to plan and repair.
    code = """
import sys, torch, decompose
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)
).eval()
images = torch.randn(32, 3, 8, 8)
plan = decompose.plan(model, images[:1], macs=0.5, calibrate=images)
decompose.apply(plan, model, calibrate=images)
print([m for m in ("torch._dynamo", "sympy") if m in sys.modules])
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == "[]"


def test_the_public_face_is_short() -> None:
    import decompose

    assert {"plan", "apply", "compare", "save", "load"} <= set(decompose.__all__)
    # One for each thing that is done with a model; what they take and return is found from them.
    assert len(decompose.__all__) < 16
