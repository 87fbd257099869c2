"""Commands that ask whether the chip does what was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from dpap_neuro.cli.options import Json, LavaPython, command
from dpap_neuro.cli.shared import plain, progress, say, say_assumed, stdout
from dpap_neuro.deploy.opening import CompileOptions
from dpap_neuro.deploy.recordings import Recordings

if TYPE_CHECKING:
    from hardware.simulate.fidelity_report import Difference, Report


@command()
def fidelity(
    model: Annotated[Path, typer.Argument(help="A .nir file, or the folder of a run.")],
    shown_to: Recordings,
    options: CompileOptions,
    integers: Annotated[
        Path | None,
        typer.Option(
            help="Compare with this .net or .h5 file that was made of it, not with what options compile."
        ),
    ] = None,
    backend: Annotated[str, typer.Option(help="fixed (our simulator) or lava.")] = "fixed",
    lava_python: LavaPython = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Share of spikes to be alike, 0 to 1; exit status 3 below.")
    ] = None,
    within: Annotated[int, typer.Option(help="Steps that a spike may be early or late in 'near'.")] = 1,
    tau: Annotated[float, typer.Option(help="Time constant of van Rossum's distance, in steps.")] = 10.0,
    attribution: Annotated[
        bool, typer.Option("--attribution", help="Also round one thing at a time: what to mend first.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report here (.json).")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the spikes of the worst recording here (.png, .svg, .pdf).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare float and chip population by population, spike by spike.

    alike: spikes in both of those in either; alone: fed with the float spikes of the layers before; near: with spikes that are
    early or late; chance: with trains shifted in time.

    Of a run trained on a chip's integers (train --precision, finetune) every spike and read-out membrane of the training's forward
    pass is compared with the simulator's, and with --backend lava with real Lava's; exit status 1 if any differs.

    Example: dpap-neuro fidelity demo/pruned.nir --dataset digits --limit 50 --plot worst.png
    """
    if model.is_dir():
        if _prove(model, shown_to, backend, lava_python, as_json):
            return
        model = model / "model.nir"
    from dpap_neuro.deploy import fidelity as f
    from dpap_neuro.deploy.opening import check_compiled, open_model
    from dpap_neuro.errors import InputError
    from dpap_neuro.files import check_picture, write_json

    asked = f.Asked(backend, within, tau, min_agreement, attribution, lava_python)
    if plot is not None:
        check_picture(plot)
    if out is not None and out.suffix != ".json":
        raise InputError(f"{out}: expected a name that ends in .json")
    made = None
    if integers is not None:
        check_compiled(integers, replace(options, dt=None, reset=None))
        made = open_model(integers, options.of_integers())
    opened = open_model(model, options, recordings=shown_to)
    say_assumed(opened)
    with progress() as tell:
        found = f.measure(opened, shown_to, asked, lambda done, total: tell("comparing", done, total), made)
    for note in found.notes:
        say(note)
    values: dict[str, Any] = {"model": str(model), "chip": opened.chip.name}
    values |= {"weight_bits": opened.weight_bits} if made is None else {"integers": str(integers)}
    values |= found.to_dict()
    if out is not None:
        write_json(out, values)
    if plot is not None:
        f.draw(found.report.worst, plot, model.name)
    if as_json:
        print(json.dumps(values))
    else:
        _show(f"{model} on {opened.chip.name}", found.report, found.parts)
        for path in (out, plot):
            if path is not None:
                stdout.print(f"Written: {path}", highlight=False, markup=False)
    if not found.reached:
        say(f"agreement {found.report.agreement:.4f} is below {min_agreement:g}")
        raise typer.Exit(3)


def _prove(run: Path, shown_to: Recordings, backend: str, lava_python: str | None, as_json: bool) -> bool:
    """Whether the folder is that of a run on integers, which is proved then."""
    from dpap_neuro.deploy.evaluation import check_backend
    from dpap_neuro.deploy.proof import prove_run

    check_backend(backend, lava_python, ("fixed", "lava"))
    found = prove_run(run, shown_to, backend == "lava", lava_python)
    if found is None:
        return False
    proof, chip = found
    if as_json:
        print(json.dumps({"model": str(run), "chip": chip, **proof.to_dict()}))
    else:
        stdout.print(plain(f"{run}: trained on {chip}'s integers"), highlight=False)
        for line in proof.lines():
            stdout.print(plain(line), highlight=False)
    if proof.differing:
        raise typer.Exit(1)
    return True


def _show(title: str, report: Report, parts: dict[str, float]) -> None:
    spikes = _table(
        f"{title}: spikes alike, {report.n:,} recordings of {report.steps:,} steps",
        ("alike", "alone", f"near {report.within}", "chance", "rate float", "chip"),
        report.populations,
        lambda p: (
            f"{p.agreement:.2%}",
            f"{p.agreement_alone:.2%}",
            f"{p.agreement_within:.2%}",
            f"{p.chance:.2%}",
            f"{p.rate_float:.4f}",
            f"{p.rate_fixed:.4f}",
        ),
    )
    spikes.add_section()
    spikes.add_row("all", f"{report.agreement:.2%}")
    stdout.print(spikes)
    stdout.print(
        _table(
            f"distance of trains (van Rossum, {report.tau:g} steps), membranes, first difference",
            ("distance", "membrane", "wrapped", "at limit", "recording, step, neuron"),
            report.populations,
            lambda p: (
                f"{p.van_rossum:.4f}",
                "" if p.membrane_error is None else f"{p.membrane_error:.3g}",
                f"{p.wrapped:,}",
                f"{p.saturated:,}",
                _where(p.first_difference),
            ),
        )
    )
    lines = []
    if report.accuracy_float is not None and report.accuracy_fixed is not None:
        lines.append(f"accuracy: float {report.accuracy_float:.2%}, chip {report.accuracy_fixed:.2%}")
    lines.append(
        f"predictions alike: {report.predictions_alike:.2%}; spikes that differ: {report.differing_spikes:,}"
    )
    lost = [p for p in report.populations if p.wrapped or p.saturated]
    if lost:
        names = ", ".join(p.name for p in lost)
        lines.append(
            f"currents wrapped or membranes were at their limit in {names}: lower the scale or the input"
        )
    if parts:
        lines.append("one rounding at a time, the others left out, spikes alike (mend the first):")
        lines += [f"  {share:.2%}  {what}" for what, share in parts.items()]
    for line in lines:
        stdout.print(plain(line), highlight=False, soft_wrap=True)


def _table(title, headings, populations, cells):  # type: ignore[no-untyped-def]
    """A row per population, narrow enough for 80 columns."""
    table = Table(title=plain(title), title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("population", overflow="fold", min_width=8)
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    for p in populations:
        table.add_row(plain(p.name), *cells(p))
    return table


def _where(difference: Difference | None) -> str:
    if difference is None:
        return "none"
    neuron = ",".join(map(str, difference.neuron))
    return f"{difference.recording}, {difference.step}, ({neuron})"
