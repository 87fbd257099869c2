"""Commands killed with SIGKILL at random moments and started again: every file whole or absent, every result that of a run that
nobody disturbed.

`python tests/robustness/kills.py --kills 100` prints a table; tests/test_robustness.py does a few. One process imports everything and
forks a child per start, so that a kill costs no start of the interpreter.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import event_files as files  # noqa: E402
import torch  # noqa: E402

from dpap_neuro.data import digits  # noqa: E402
from dpap_neuro.files import read_sealed  # noqa: E402
from dpap_neuro.train import runs, sweeps  # noqa: E402
from dpap_neuro.train.checkpoint import peek  # noqa: E402
from hardware.graph.parsing import read_graph  # noqa: E402

# A fork does not take threads along.
torch.set_num_threads(1)


def few_digits(number: int = 100) -> None:
    """The demo's camera records only so many, and its test set is of as few: kills meet what comes behind it too."""
    images, labels = (part[:number] for part in digits._images())
    digits._images = lambda: (images, labels)  # type: ignore[assignment]


def start(arguments: list[str]) -> int:
    """The command in a child; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with (
            open(os.devnull, "w") as nothing,
            contextlib.redirect_stdout(nothing),
            contextlib.redirect_stderr(nothing),
        ):
            from dpap_neuro.cli import main

            sys.argv = ["dpap-neuro", *arguments]
            try:
                main()
                code = 0
            except SystemExit as stopped:
                code = int(stopped.code or 0)
    finally:
        os._exit(code)


def run(arguments: list[str], kill_after: float | None = None) -> bool:
    """Whether it came to its end; False: it was killed. Raises RuntimeError where it failed by itself."""
    child = start(arguments)
    begin = time.perf_counter()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if kill_after is not None and time.perf_counter() - begin > kill_after:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    if os.WIFSIGNALED(status):
        return False
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{' '.join(arguments)}: exit status {os.waitstatus_to_exitcode(status)}")
    return True


# --- what a command leaves ---------------------------------------------------------------------------------


def _train(data: Path, out: Path) -> list[str]:
    return ["train", "--dataset", "nmnist", "--data-dir", str(data), "--out", str(out), "--model", "mlp", "--epochs", "4",
            "--batch", "8", "--bins", "6", "--downsample", "4", "--pruner", "dpap", "--sparsity", "0.6", "--resume",
            "--cache-dir", str(out.parent / "cache"), "--device", "cpu"]  # fmt: skip


def _sweep(data: Path, out: Path) -> list[str]:
    return ["sweep", "--dataset", "nmnist", "--data-dir", str(data), "--out", str(out), "--model", "mlp", "--epochs", "2",
            "--batch", "8", "--bins", "6", "--downsample", "4", "--pruner", "none", "--pruner", "magnitude", "--sparsity", "0.6",
            "--seeds", "2", "--cache-dir", str(out.parent / "cache"), "--device", "cpu"]  # fmt: skip


def _demo(data: Path, out: Path) -> list[str]:
    return ["demo", "--out", str(out), "--epochs", "1", "--device", "cpu"]


def _export(data: Path, out: Path) -> list[str]:
    return ["export", str(data / "run"), "--out", str(out / "a.nir")]


def _compile(data: Path, out: Path) -> list[str]:
    return ["compile", str(data / "run" / "model.nir"), "--out", str(out / "a.h5"), "--chip", "loihi1"]


def _whole_train(out: Path) -> None:
    if (out / "checkpoint" / "checkpoint.json").exists():
        peek(out / "checkpoint")
    if (out / "run.json").exists():
        runs.load_run(out)


def _whole_sweep(out: Path) -> None:
    if (out / "runs.csv").exists():
        sweeps.read_table(out / "runs.csv")


def _whole_demo(out: Path) -> None:
    """Each file by itself: they are written one by one."""
    for graph in out.glob("*.nir"):
        read_graph(graph)
    if (out / "summary.json").exists():
        read_sealed(out / "summary.json", "a summary")
    for name, end in (("demo.png", b"IEND\xaeB`\x82"), ("report.html", b"</html>")):
        if (out / name).exists() and not (out / name).read_bytes().rstrip().endswith(end):
            raise ValueError(f"{name} is cut off")


def _result_demo(out: Path) -> Any:
    """All but times, and what shows them: the report."""
    summary = read_sealed(out / "summary.json", "a summary")
    for key in ("seconds", "dpap_overhead"):
        summary.pop(key)
    for epoch in [epoch for history in summary["history"].values() for epoch in history]:
        epoch.pop("seconds")
    graphs = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.glob("*.nir")}
    names = sorted(p.name for p in out.iterdir() if not p.name.endswith(".part"))
    return summary, graphs, names


def _result_train(out: Path) -> Any:
    record = json.loads((out / "run.json").read_text())
    history = [
        {key: value for key, value in epoch.items() if key != "seconds"} for epoch in record["history"]
    ]
    return history, record["sha256"]["weights.safetensors"], record["model"]


def _result_sweep(out: Path) -> Any:
    return [
        (r.pruner, r.seed, r.correct, r.remaining, r.synapses_remaining)
        for r in sweeps.read_table(out / "runs.csv")
    ]


def _files(out: Path) -> Any:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in out.iterdir()
        if not p.name.endswith(".part")
    }


def _any(out: Path) -> None:
    """A file that is there is the whole one: looked at by the digest at the end."""


COMMANDS: dict[
    str, tuple[Callable[[Path, Path], list[str]], Callable[[Path], None], Callable[[Path], Any]]
] = {
    "train": (_train, _whole_train, _result_train),
    "sweep": (_sweep, _whole_sweep, _result_sweep),
    "demo": (_demo, _whole_demo, _result_demo),
    "export": (_export, _any, _files),
    "compile": (_compile, _any, _files),
}


def make_data(root: Path, finished: bool) -> Path:
    """24 recordings of two classes in N-MNIST's format for training, 8 for testing; and a finished run."""
    for split in ("Train", "Test"):
        for label in range(2):
            for number in range(12 if split == "Train" else 4):
                seed = label + 2 * number + 100 * (split == "Test")
                events = files.random_events(seed, 60 + 60 * label, 34, 34, 100_000)
                files.write_atis(root / f"NMNIST/{split}/{label}/{number:05}.bin", events)
    if finished:
        run(_train(root, root / "run"))
    return root


def kill(name: str, root: Path, data: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill one command so many times in all, over as many runs as that takes; what was found."""
    arguments, whole, result = COMMANDS[name]
    rng = random.Random(f"{name} {seed}")
    clean = root / f"{name}-clean"
    clean.mkdir(parents=True)
    begin = time.perf_counter()
    run(arguments(data, clean))
    duration = time.perf_counter() - begin
    expected = result(clean)
    done, number, wrong = 0, 0, []
    while done < kills:
        out = root / f"{name}-{number}"
        out.mkdir()
        number += 1
        for _ in range(4):
            if done >= kills or run(arguments(data, out), rng.uniform(0, duration)):
                break
            done += 1
            try:
                whole(out)
                if name in ("export", "compile") and not _files(out).items() <= expected.items():
                    raise ValueError("another file")
            except Exception as error:
                wrong.append(f"{name} run {number}, after kill {done}: {type(error).__name__}: {error}")
        run(arguments(data, out))
        if result(out) != expected:
            wrong.append(f"{name} run {number}: ended otherwise than an undisturbed run")
    return {"command": name, "kills": done, "runs": number, "seconds": duration, "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="over all commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", choices=[*COMMANDS], help="only these")
    given = parser.parse_args()
    chosen = given.command or [*COMMANDS]
    wrong: list[str] = []
    few_digits()
    print(f"{'command':10} {'kills':>6} {'runs':>6} {'one run':>9} {'wrong':>6}")
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", bool({"export", "compile"} & set(chosen)))
        for number, name in enumerate(chosen):
            share = given.kills // len(chosen) + (number < given.kills % len(chosen))
            found = kill(name, Path(folder), data, share, given.seed)
            wrong += found["wrong"]
            print(
                f"{name:10} {found['kills']:6} {found['runs']:6} {found['seconds']:7.1f} s {len(found['wrong']):6}",
                flush=True,
            )
    print("\n".join(wrong), file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
