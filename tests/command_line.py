"""The command line as tests call it."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from dpap_neuro.cli import app, main


def run(*arguments, code: int = 0) -> dict:
    """What a command prints with --json."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == code, (result.output, result.exception)
    return json.loads(result.stdout)


def fails(monkeypatch, capsys, *arguments) -> str:
    """The one line of an error, with exit status 2 and nothing on stdout."""
    monkeypatch.setattr(sys, "argv", ["dpap-neuro", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and printed.out == ""
    line = printed.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line
