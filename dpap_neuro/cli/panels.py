"""How --help is laid out: options in panels by what they are about, and paragraphs that a terminal breaks once."""

from __future__ import annotations

import inspect

# Options of every command by their parameter's name, in the order in which --help shows the panels; others are in the last.
PANELS = {
    "Data": (
        "dataset data_dir split calibrate file sensor bins bin_us clock code clip polarity scale downsample limit steps cache_dir "
        "shift flip drop jitter folds"
    ),
    "Network": (
        "model neuron readout decay current_decay threshold surrogate surrogate_slope reset dt input_layer input_bias peer"
    ),
    "Training": (
        "recipe epochs more_epochs batch learning_rate loss label_smoothing weight_decay warmup amp accumulate rate_target rate_weight precision scales netx"
    ),
    "Pruning": "pruner score allocation regrow sparsity count structured compact keep_bins prune_positions",
    "Chip": (
        "chip max_cores max_synapses max_synapses_per_core max_events max_energy_uj max_step_us weight_bits timing pairs exponents reset_interval reset_offset "
        "backend lava_python anytime margin integers objective effort trade_off sanafe"
    ),
    "Run": "",
}
_PANEL_OF = {option: panel for panel, options in PANELS.items() for option in options.split()}


def panel_of(option: str) -> str:
    """The panel of an option, by its parameter's name."""
    return _PANEL_OF.get(option, "Run")


def in_order(options: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """Parameters of a command in the order of their panels, and as they were within one."""
    panels = list(PANELS)
    return sorted(options, key=lambda parameter: panels.index(panel_of(parameter.name)))


def unbroken(text: str | None) -> str:
    """A docstring with each paragraph on one line: the terminal breaks it at its own width, and only there."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
