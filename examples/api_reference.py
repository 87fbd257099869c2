"""The API reference as HTML pages: `python examples/api_reference.py FOLDER` (extra `docs`).

Ends with an error at the first warning of pdoc: a name of `__all__` that does not exist, an annotation that does not resolve.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

PACKAGES = ("dpap_neuro", "hardware")


def modules(package: str) -> list[str]:
    """The package and all modules below it, without those that run something when they are imported."""
    found = importlib.import_module(package)
    below = pkgutil.walk_packages(found.__path__, f"{package}.")
    return [package, *(module.name for module in below if not module.name.endswith("__main__"))]


def resolved(module: str) -> None:
    """Import what a module exports when it is asked for, so that pdoc, which asks the module's dictionary, sees it."""
    found = importlib.import_module(module)
    for name in getattr(found, "__all__", ()):
        setattr(found, name, getattr(found, name))


def main(out: Path) -> None:
    import pdoc

    names, left_out = [], []
    for name in (name for package in PACKAGES for name in modules(package)):
        try:
            resolved(name)
            names.append(name)
        except ModuleNotFoundError as error:
            # Lava's processes need Lava, which has a Python of its own.
            if (error.name or "").partition(".")[0] != "lava":
                raise
            left_out.append(name)
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        pdoc.pdoc(*PACKAGES, *(f"!{name}" for name in left_out), output_directory=out)
    print(f"Written: {out / 'index.html'}, {len(names)} modules; left out: {', '.join(left_out) or 'none'}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/api_reference.py FOLDER")
    main(Path(sys.argv[1]))
