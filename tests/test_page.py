"""The report page: one file without addresses, whatever the names in strangers' files are."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import nir
import numpy as np
import pytest
from command_line import fails, run
from graph_samples import graph, inp, lif, out
from typer.testing import CliRunner

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from dpap_neuro.cli import app
from dpap_neuro.deploy import drawings
from dpap_neuro.deploy.page import _curve
from hardware.graph.parsing import read_graph
from hardware.network.integer import Network
from hardware.placement import place
from hardware.placement.budget import fullest_per_core, shares_per_core

EVIL = "<img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Seen(HTMLParser):
    """Tags, their attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    for name, kept in (("dense", 1.0), ("pruned", 0.4)):
        weight = rng.normal(size=(3, 2, 3, 3)) * (rng.random((3, 2, 3, 3)) < kept)
        conv = nir.Conv2d((6, 6), weight, 1, 0, 1, 1, np.zeros(3))
        nodes = {"input": inp(2, 6, 6), "conv": conv, EVIL: lif(3, 4, 4, tau=0.01, r=4.0)}
        nodes |= {"flat": nir.Flatten({"input": np.array([3, 4, 4])}, 0, -1)}
        nodes |= {"fc": nir.Linear(rng.normal(size=(4, 48))), "n": lif(4, tau=0.01, r=2.0), "output": out(4)}
        nir.write(folder / f"{name}.nir", graph(nodes, dt=0.001, bins=5))
    np.savez(folder / "x.npz", input=rng.integers(0, 2, (6, 5, 2, 6, 6)), labels=[0, 1, 2, 3, 0, 1])
    epochs = [
        {"epoch": e, "accuracy": 0.5 + 0.1 * e, "synapses_remaining": 100 - 30 * e, "synapses": 100}
        for e in range(3)
    ]
    layered = [{**e, "layers": {EVIL: [50 - 10 * e["epoch"], 50], "fc": [50, 50]}} for e in epochs]
    record = {
        "history": {"dense": epochs, "pruned": layered},
        "seed": 7,
        "pruner": {"text": f"dpap {EVIL}", "goal": {}},
        "command": "dpap-neuro x",
    }
    (folder / "summary.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def page(files):
    arguments = ["report", str(files), "--input", str(files / "x.npz"), "--out", str(files / "report.html")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return (files / "report.html").read_text(encoding="utf-8")


def test_one_small_file_without_addresses(page):
    seen = Seen(page)
    assert len(page.encode()) < 2_000_000
    assert "http" not in page and "//" not in re.sub(r"data:[^\"]*", "", page)
    for tag, name, value in seen.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:")), (tag, name, value[:80])
    assert not {"link", "iframe", "object", "embed"} - {"link"} & set(seen.tags)
    ids = [value for _, name, value in seen.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {v[1:] for _, n, v in seen.attributes if n == "href" and v.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]*)\)", page))
    assert used <= set(ids)


def test_markup_in_names_is_text(page):
    seen = Seen(page)
    assert "img" not in seen.tags
    assert not any(name.startswith("on") for _, name, _ in seen.attributes)
    assert EVIL in " ".join(seen.text)


def test_it_says_what_the_commands_say(page, files):
    seen = " ".join(" ".join(Seen(page).text).split())
    shown = ["--input", str(files / "x.npz"), "--json"]
    for name in ("dense", "pruned"):
        model = str(files / f"{name}.nir")
        found = json.loads(CliRunner().invoke(app, ["fidelity", model, *shown]).stdout)
        assert f"{found['accuracy_fixed']:.2%}" in seen and f"{found['agreement']:.2%}" in seen
        placed = json.loads(CliRunner().invoke(app, ["cores", model, "--json"]).stdout)
        assert f"{placed['synapses']:,}" in seen
    for part in ("seed 7; pruner dpap", "dpap-neuro x", "sha256", "Training", "Comparison", "core 0"):
        assert part in seen


def test_parameters_removed_by_layer_and_epoch(page, files):
    assert page.count("Parameters removed by layer and epoch in pruned") == 1
    assert "by layer and epoch in dense" not in page
    history = json.loads((files / "summary.json").read_text())["history"]
    found = {name: _curve("x", files / f"{name}.nir", {"history": history}) for name in history}
    assert found["dense"].layers == {}
    named = _curve("x", files / "pruned.nir", {"history": history}, ["fc_linear", "fcc"])
    assert list(named.layers) == [EVIL, "fc_linear"]
    assert found["pruned"].layers == {EVIL: pytest.approx((0, 20, 40)), "fc": (0, 0, 0)}
    for broken in ({"fc": [1, 0]}, {"fc": 3}, {"fc": ["a", 2]}):
        epochs = [{**e, "layers": broken} for e in history["dense"]]
        assert _curve("x", files / "dense.nir", {"history": {"dense": epochs}}) is None


def test_without_recordings_and_with_one_network(files, tmp_path):
    done = CliRunner().invoke(
        app, ["report", str(files / "dense.nir"), "--out", str(tmp_path / "one.html")], catch_exceptions=False
    )
    text = (tmp_path / "one.html").read_text()
    assert done.exit_code == 0 and "Comparison" not in text and 'id="spikes"' not in text


def test_what_is_no_network_or_no_page_is_one_line(files, tmp_path, monkeypatch, capsys):
    assert "model.nir" in fails(monkeypatch, capsys, "report", tmp_path, "--out", tmp_path / "r.html")
    assert ".html" in fails(monkeypatch, capsys, "report", files, "--out", tmp_path / "r.png")
    assert "integers" in fails(monkeypatch, capsys, "report", files / "a.net", "--out", tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_first_weights_are_of_the_first_layer(files):
    found = drawings.first_weights(read_graph(files / "dense.nir"))
    assert found is not None and found.shape == (3, 2, 3, 3)
    assert np.array_equal(found, nir.read(files / "dense.nir").nodes["conv"].weight)


def test_shares_of_cores_are_what_is_taken_over_what_there_is(files):
    from hardware.compile.compiler import compile_graph

    network, _ = compile_graph(read_graph(files / "dense.nir"), "loihi1")
    assert isinstance(network, Network)
    placement = place(network, "loihi1")
    shares = shares_per_core(placement)
    assert shares["neurons"].tolist() == [n / 1024 for n in placement.neurons_per_core]
    assert fullest_per_core(placement)[0] == max(share[0] for share in shares.values())


def test_time_and_energy_are_those_that_the_command_energy_counts(files, page):
    shown = ["--input", str(files / "x.npz"), "--chip", "loihi2"]
    found = run("energy", files / "dense.nir", *shown)
    rows = re.findall(r'<th scope="row">(time|energy) per recording, u[sJ]</th><td>([^<]*)</td>', page)
    values = {name: float(text.replace(",", "")) for name, text in rows}
    assert values["time"] == pytest.approx(1e6 * found["latency_s"], rel=1e-3)
    assert values["energy"] == pytest.approx(1e6 * found["energy_j"], rel=1e-3)
    assert "Left out: static power" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_narrow_and_wide_sorts_by_keyboard_and_has_nothing_to_complain_of(page, tmp_path):
    script = """
    const found = {};
    const frames = [...document.querySelectorAll("iframe")];
    addEventListener("load", () => {
      for (const frame of frames) {
        const page = frame.contentDocument;
        found[frame.width] = page.documentElement.scrollWidth;
      }
      const page = frames[0].contentDocument;
      const buttons = [...page.querySelectorAll("table.sortable th button")];
      const first = () => page.querySelector("table.sortable tbody td").textContent;
      buttons[4].focus(); found.focus = page.activeElement === buttons[4];
      buttons[4].click(); found.least = first();
      buttons[4].click(); found.most = first();
      document.getElementById("found").textContent = JSON.stringify(found);
    });
    """
    frames = "".join(
        f'<iframe width="{w}" height="800" srcdoc="{html.escape(page)}"></iframe>' for w in (400, 1400)
    )
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<!DOCTYPE html><link rel="icon" href="data:,"><pre id="found"></pre>{frames}<script>{script}</script>'
    )
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [
            CHROMIUM,
            *options,
            "--enable-logging=stderr",
            "--dump-dom",
            "--virtual-time-budget=10000",
            outer.as_uri(),
        ],
        capture_output=True,
        text=True,
    )
    said = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert said is not None, done.stderr[-2000:]
    found = json.loads(html.unescape(said[1]))
    assert found["400"] <= 400 and found["1400"] <= 1400
    assert found["focus"] and found["least"] == "pruned.nir" and found["most"] == "dense.nir"
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
