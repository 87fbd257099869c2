"""What a command imports before it answers, and what it says where an import fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nir
import numpy as np
import pytest
from graph_samples import graph, inp, lif, out

from dpap_neuro.cli.commands import COMMANDS
from hardware import ahead

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "norse", "sklearn", "tonic", "matplotlib")
# Runs the command line, then says which heavy packages it imported.
PROBE = f"""
import sys
from dpap_neuro.cli import main
try:
    main()
    code = 0
except SystemExit as end:
    code = end.code
print("imported:", *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def command(*arguments, code: str = PROBE, path: Path | None = None) -> subprocess.CompletedProcess:
    where = os.pathsep.join(str(p) for p in (path, ROOT) if p is not None)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=path,  # not the project's folder, whose own packages would go first
        env={**os.environ, "PYTHONPATH": where},
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    nodes = {
        "input": inp(3),
        "fc": nir.Linear(rng.normal(size=(2, 3))),
        "n": lif(2, tau=0.01, r=2.0),
        "output": out(2),
    }
    nir.write(folder / "m.nir", graph(nodes, dt=0.001, bins=4))
    sparse = np.where(rng.random((40, 3)) < 0.1, 1.0, 0.0)
    pruned = {**nodes, "fc": nir.Linear(sparse), "n": lif(40, tau=0.01, r=2.0), "output": out(40)}
    nir.write(folder / "pruned.nir", graph(pruned, dt=0.001, bins=4))
    np.savez(folder / "x.npz", input=rng.integers(0, 2, (2, 4, 3)), labels=[0, 1])
    return folder


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--help",), 0, "Usage"),
        (("--version",), 0, "dpap-neuro "),
        (("report", "{f}/m.nir", "--out", "{f}/r.png"), 2, "expected a name that ends in .html"),
        (("train", "--help"), 0, "weighted"),
        (("sweep", "--help"), 0, "rigl"),
        (("inspect", "{f}/m.nir"), 0, "synapses"),
        (("cores", "{f}/m.nir"), 0, "core"),
        (("compile", "{f}/m.nir", "--out", "{f}/m.net"), 0, "Written"),
        (("simulate", "{f}/m.nir", "--input", "{f}/x.npz", "--json"), 0, '"samples": 2'),
        (("evaluate", "{f}/m.nir", "--input", "{f}/x.npz"), 0, "of 2"),
        (("evaluate", "{f}/m.nir", "--dataset", "cats"), 2, "error: dataset: found 'cats'"),
        (("train", "--dataset", "cats", "--out", "{f}/run"), 2, "error: dataset: found 'cats'"),
        (("train", "--pruner", "axe", "--dataset", "cats", "--out", "{f}/run"), 2, "cats"),
    ],
    ids=lambda value: value[0] + str(len(value)) if isinstance(value, tuple) else None,
)
def test_commands_that_do_not_learn_import_nothing_that_does(files, arguments, status, says):
    done = command(*(a.format(f=files) for a in arguments))
    assert done.returncode == status, done.stderr
    assert says in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "imported:"


LIGHT = """
import sys
sys.argv = ["dpap-neuro", *sys.argv[1:]]
from dpap_neuro.cli import main
try:
    main()
finally:
    print("imported:", *[n for n in ("numpy", "numba", "scipy", "h5py", "nir", "typer.rich_utils", "rich.markdown", "hardware.chip") if n in sys.modules], file=sys.stderr)
"""
PLACING = """
import sys
from dpap_neuro.cli import main
try:
    main()
finally:
    heavy = ("scipy.optimize", "scipy.sparse", "hardware.simulate", "dpap_neuro.deploy.evaluation", "rich.progress")
    print("imported:", *[n for n in heavy if n in sys.modules], file=sys.stderr)
"""


def test_the_list_of_commands_imports_none_of_what_they_need():
    done = command("--help", code=LIGHT)
    assert all(name in done.stdout for name in COMMANDS)
    assert done.stderr.splitlines()[-1] == "imported:", done.stderr


def test_cores_are_counted_without_simulators_and_the_large_parts_of_scipy(files):
    done = command("cores", files / "m.nir", code=PLACING)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "imported:", done.stderr


@pytest.mark.skipif(ahead.linker() is None, reason="no machine code is linked on this system")
@pytest.mark.parametrize("model", ["m", "pruned"])
def test_cores_are_counted_without_numba_once_its_code_is_there(files, model):
    code = PLACING.replace("heavy = (", 'heavy = ("numba", ')
    for _ in range(2):
        done = command("cores", files / f"{model}.nir", code=code)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "imported:", done.stderr


@pytest.mark.parametrize("model", ["m", "pruned"])
def test_a_network_is_compiled_and_shown_without_numba(files, tmp_path, model):
    """It takes half as long again to import, and as long to be ready for the first compiled loop."""
    code = PLACING.replace("heavy = (", 'heavy = ("numba", ')
    done = command("compile", files / f"{model}.nir", "--out", tmp_path / "m.h5", code=code)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "imported:", done.stderr
    done = command("inspect", tmp_path / "m.h5", code=code)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "imported:", done.stderr


def one_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.endswith(f"{said}\n")
    return said


def test_another_package_named_hardware_is_one_line(tmp_path):
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "__init__.py").write_text("")
    said = one_line(command("--help", code="from dpap_neuro.cli import main; main()", path=tmp_path))
    assert "another package named hardware" in said and str(tmp_path / "hardware" / "__init__.py") in said


@pytest.mark.parametrize(
    ("missing", "extra", "arguments"),
    [
        ("torch", "learn", ("train", "--out", "{t}/run")),
        ("sklearn", "learn", ("evaluate", "{f}/m.nir", "--dataset", "digits")),
        ("matplotlib", "pictures", ("compare", "{f}/m.nir", "{f}/m.nir", "--out", "{t}/cores.png")),
        ("jinja2", "pictures", ("report", "{f}/m.nir", "--out", "{t}/report.html")),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(files, tmp_path, missing, extra, arguments):
    code = f"import sys; sys.modules[{missing!r}] = None; from dpap_neuro.cli import main; main()"
    said = one_line(command(*(a.format(f=files, t=tmp_path) for a in arguments), code=code))
    assert missing in said and f"pip install 'dpap-neuro[{extra}]'" in said
    assert list(tmp_path.iterdir()) == []
