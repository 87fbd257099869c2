"""The two packages and their one door."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The wings that stand on both packages: commands, what is behind them, and what opens `.nir` files. Errors have one
# parent, and files are written in one way. What is trained on a chip's integers is rounded by the compiler's own functions:
# one code decides every integer. Loops are compiled, and their code kept, in one way.
BOTH = {"cli", "deploy", "exchange", "precision", "compiled.py", "errors.py", "files.py"}


# Cores are counted in one way by every wing.
FOR_ALL = "hardware.machine"


def imports(path: Path) -> set[str]:
    """The packages that a file imports, but for `FOR_ALL` of `hardware` in the other one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module not in (None, FOR_ALL) and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "hardware").rglob("*.py")), ids=lambda p: p.name)
def test_hardware_never_imports_the_learning_side(path):
    assert not imports(path) & {"torch", "torchvision", "norse", "tonic", "dpap_neuro"}


def test_only_the_command_line_stands_on_both():
    package = ROOT / "dpap_neuro"
    both = {p.relative_to(package).parts[0] for p in package.rglob("*.py") if "hardware" in imports(p)}
    assert both == BOTH


def test_torchvision_is_never_imported():
    for package in ("dpap_neuro", "hardware"):
        for path in (ROOT / package).rglob("*.py"):
            assert "torchvision" not in imports(path), path.name
