"""What --help shows at 80 columns: panels in order, required options first, paragraphs that are broken once."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.cli.commands import COMMANDS
from dpap_neuro.cli.panels import PANELS, unbroken

# `data` is a group, whose options are its commands'.
SINGLE = [name for name in COMMANDS if name != "data"]


def shown(command: str) -> list[str]:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


@pytest.mark.parametrize("command", SINGLE)
def test_panels_are_in_order_and_nothing_is_wider_than_the_terminal(command):
    lines = shown(command)
    assert max(map(len, lines)) <= 80
    panels = [match[1] for line in lines if (match := re.match(r"╭─ (\w+) ", line))]
    assert panels[: len(panels) - len(set(panels) & set(PANELS))] in (["Options"], ["Arguments", "Options"])
    own = [panel for panel in panels if panel in PANELS]
    assert own == [panel for panel in PANELS if panel in own] and own


@pytest.mark.parametrize("command", SINGLE)
def test_a_paragraph_is_broken_only_where_the_next_word_does_not_fit(command):
    lines = shown(command)
    text = [line.rstrip() for line in lines[: next(n for n, line in enumerate(lines) if line[:1] == "╭")]]
    broken = [(a, b) for a, b in pairwise(text) if a.strip() and b.strip()]
    for a, b in broken:
        # One column on the left is the help's; the last one stays free.
        assert len(a) + 1 + len(b.split()[0]) > 79, (a, b)


def test_finetune_says_its_own_defaults_and_not_trains():
    text = re.sub(r"[│\s]+", " ", "\n".join(shown("finetune")))
    said = {
        name: re.search(rf"--{name} <.*?\[default: (.*?)\] ", text)[1]
        for name in ("pruner", "epochs", "learning-rate")
    }
    assert said == {"pruner": "none", "epochs": "5", "learning-rate": "0.001"}
    trained = re.sub(r"[│\s]+", " ", "\n".join(shown("train")))
    assert re.search(r"--learning-rate <.*?\[default: (.*?)\] ", trained)[1] == "(by data set, 0.003 of most)"


def test_the_list_of_commands_has_the_first_paragraphs_of_their_own_pages():
    group = get_command(app)
    assert group.list_commands(None) == list(COMMANDS)
    for name, (_, first) in COMMANDS.items():
        assert group.get_command(None, name).help.split("\n\n")[0] == first, name
    lines = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80", "NO_COLOR": "1"}).output.splitlines()
    assert max(map(len, lines)) <= 80
    listed = [line.split()[1] for line in lines if re.match(r"│ \w", line)]
    assert listed == list(COMMANDS)
    assert all(option in "\n".join(lines) for option in ("--version", "--install-completion", "--help"))


def test_a_misspelt_command_is_answered_with_those_that_are_near():
    result = CliRunner().invoke(app, ["core"])
    assert result.exit_code == 2 and "'cores'" in result.output


def test_options_are_where_a_reader_looks_for_them():
    text = "\n".join(shown("train"))
    panels = re.split(r"╭─ (\w+) ", text)
    panel = dict(zip(panels[1::2], panels[2::2], strict=True))
    for name, options in {
        "Options": ["--out"],
        "Data": ["--dataset", "--bins", "--cache-dir"],
        "Network": ["--model", "--neuron", "--surrogate"],
        "Training": ["--epochs", "--precision"],
        "Pruning": ["--pruner", "--sparsity", "--keep-bins"],
        "Chip": ["--chip", "--max-cores"],
        "Run": ["--seed", "--resume", "--device"],
    }.items():
        for option in options:
            assert re.search(rf"{option}\b", panel[name]), (name, option)


def test_lines_of_a_docstring_become_paragraphs():
    assert unbroken("One\n    line.\n\n    Two.\n    ") == "One line.\n\nTwo."
    assert unbroken(None) == ""
