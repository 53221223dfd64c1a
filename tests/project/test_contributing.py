"""The tree that CONTRIBUTING shows is the tree that lies on disk."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def folders_shown() -> set[Path]:
    """Folders of the tree, by the indentation of their names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.split("## The tree\n\n")[1].split("\n\n")[0]
    shown: set[Path] = set()
    above: list[tuple[int, Path]] = []
    for line in block.splitlines():
        depth = len(line) - len(line.lstrip())
        above = [(other, folder) for other, folder in above if other < depth]
        parent = above[-1][1] if above else ROOT
        for name in line.strip().split("  ")[0].split(", "):
            shown.add(parent / name)
            above.append((depth, parent / name))
    return shown


def packages() -> set[Path]:
    """The packages, and the folders of the checkout that hold more than settings."""
    found = {path.parent for path in (ROOT / "decompose").rglob("__init__.py")}
    return found | {
        ROOT / name for name in ("docs", "notebooks", "experiments", "scripts", "tests")
    }


def test_every_package_is_in_the_tree_and_no_other() -> None:
    assert {folder.relative_to(ROOT) for folder in folders_shown()} == {
        folder.relative_to(ROOT) for folder in packages()
    }
