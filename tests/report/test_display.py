"""What notebooks show: parameters checked, numbered figures and tables, sliders, provenance."""

import re
from types import SimpleNamespace

import pandas as pd
import pytest
from ipywidgets import Dropdown, IntSlider
from matplotlib.figure import Figure

from cifarlib import InputError
from cifarlib.report import display


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, and what takes its place later."""
    bundles = []

    class Handle:
        def update(self, bundle, raw=False):
            bundles[-1] = bundle

    monkeypatch.setattr(display, "display", lambda bundle, **_: bundles.append(bundle) or Handle())
    display.check_parameters("")  # numbers from 1
    return bundles


def drawn(text="One") -> Figure:
    figure = Figure()
    figure.text(0, 0, text)
    figure.alt = f'The word "{text}".'
    return figure


@pytest.mark.parametrize("cell", ["# Parameters\nepoch = 4\n", "epochs: int = 3  # x\nepoch=4\n"])
def test_a_mistyped_parameter_is_named_with_the_right_one(cell, monkeypatch):
    run = SimpleNamespace(user_ns={"In": ["", cell, "check()"]})
    monkeypatch.setattr(display, "get_ipython", lambda: run)
    with pytest.raises(InputError, match="parameter 'epoch' is unknown: did you mean 'epochs'"):
        display.check_parameters("epochs seed")
    display.check_parameters("epochs epoch")
    run.user_ns["In"].append("check()")  # run again by itself, it stands below no parameters
    display.check_parameters("epochs seed")


def test_durations_are_read_at_a_glance():
    texts = {0.2: "1 s", 95: "95 s", 200: "3 min", 3599: "1 h 0 min", 9900: "2 h 45 min"}
    assert {seconds: display.duration(seconds) for seconds in texts} == texts


def test_a_terminal_shows_text_without_markup():
    assert repr(display.Text("**93.1 %** of `all`")) == "93.1 % of all"


def test_figures_and_tables_are_numbered_apart(shown):
    display.show(drawn(), "One.")
    first, second = (display.Table([{"a": 1}], f"{name}.", f"tbl-{name}") for name in ("x", "y"))
    display.show(drawn(), "Two <3.", "fig-two")
    assert [bundle["text/plain"] for bundle in shown] == ["Figure 1. One.", "Figure 2. Two <3."]
    assert '<table id="tbl-x"><caption' in first.data
    assert "<b>Table 1.</b> x.</caption>" in first.data
    assert "<b>Table 2.</b> y.</caption>" in second.data
    html = shown[1]["text/html"]
    assert '<figure id="fig-two"' in html
    assert "<b>Figure 2.</b> Two &lt;3.</figcaption>" in html
    assert ' alt="The word &quot;One&quot;."' in html


@pytest.mark.parametrize("make", [list, pd.DataFrame])
def test_a_table_aligns_numbers_to_the_right_and_escapes_markup(make):
    table = display.Table(make([{"name": "a<b", "n": "1.5"}, {"name": "c", "n": "−2.25 to 3"}]))
    cells = re.findall(r'text-align:(\w+)">(.*?)</t[dh]>', table.data)
    assert [side for side, _ in cells] == 3 * ["left", "right"]
    assert [text for _, text in cells] == ["name", "n", "a&lt;b", "1.5", "c", "−2.25 to 3"]


def test_a_control_changes_the_picture_under_the_same_number(shown):
    controls = {"some_value": IntSlider(1, 1, 5), "mode": Dropdown(options=["a", "b"])}
    display.explore(lambda some_value, mode: drawn(f"{some_value}{mode}"), "Word.", **controls)
    panel, before = shown
    assert panel["text/plain"] == "(controls: some value, mode; they need a running kernel)"
    assert controls["some_value"].description == "some value"
    controls["some_value"].value = 3
    controls["mode"].value = "b"
    assert len(shown) == 2
    assert "The word &quot;3b&quot;." in shown[1]["text/html"]
    assert shown[1]["text/plain"] == before["text/plain"] == "Figure 1. Word."


def test_what_cannot_be_drawn_is_said_in_the_pictures_place(shown):
    def draw(n):
        if n > 1:
            raise InputError(f"n = {n}: give at most 1")
        return drawn()

    control = IntSlider(1, 1, 5)
    display.explore(draw, "Word.", n=control)
    control.value = 2
    assert shown[1].data == "**n = 2: give at most 1**"
    control.value = 1
    assert "One" in shown[1]["text/html"]


def test_provenance_names_device_code_packages_data_and_the_runs_own():
    session = {"device": "cpu", "device_name": "a CPU", "precision": "float32", "commit": "abc"}
    record = {"sessions": [session | {"convolutions": "Winograd"}], "packages": {"torch": "2.1"}}
    table = display.provenance("cpu", "0" * 64, record).frame.set_index("")["value"]
    made = "cpu (a CPU), float32, convolutions: Winograd; code abc"
    assert (table["the run was made on"], table["with the packages"]) == (made, "torch 2.1")
    assert re.match(r"cpu: .*\d threads?$", table["device"])
    assert re.search(r"\btorch 2[\d.]+,", table["packages"])
    assert table["data"] == f"CIFAR-10, SHA-256 {'0' * 64}"
