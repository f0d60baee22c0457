"""What notebooks show: tables, figures, what a run was computed on, and one sentence beside the
paper."""

import re

import pytest
from ipywidgets import IntSlider

from cifarlib.report import display, figures


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, and what takes its place later."""
    bundles = []

    class Handle:
        def update(self, bundle, raw):
            bundles[-1] = bundle

    monkeypatch.setattr(display, "display", lambda bundle, **_: bundles.append(bundle) or Handle())
    display.check_parameters("")  # numbers from 1
    return bundles


def spectrum(first=1.0):
    return figures.lines({"eigenvalues": ([1, 2], [first, 0.1])}, "Eigenvalues. " * 4)


def test_durations_are_read_at_a_glance():
    texts = {0.2: "1 s", 95: "95 s", 200: "3 min", 3599: "1 h 0 min", 9900: "2 h 45 min"}
    assert {seconds: display.duration(seconds) for seconds in texts} == texts


def test_figures_and_tables_are_numbered_apart(shown):
    display.show(spectrum(), "One.")
    first, second = (display.Table([{"a": 1}], f"{name}.", f"tbl-{name}") for name in ("x", "y"))
    display.show(spectrum(), "Two <3.", "fig-two")
    assert [bundle["text/plain"] for bundle in shown] == ["Figure 1. One.", "Figure 2. Two <3."]
    assert '<table id="tbl-x"><caption' in first.data
    assert "<b>Table 1.</b> x.</caption>" in first.data
    assert "<b>Table 2.</b> y.</caption>" in second.data
    html = shown[1]["text/html"]
    assert '<figure id="fig-two"' in html
    assert "<b>Figure 2.</b> Two &lt;3." in html
    assert ' alt="Eigenvalues. ' in html


def test_a_table_aligns_numbers_to_the_right_and_escapes_markup():
    html = display.Table([{"name": "a<b", "n": "1.5"}, {"name": "c", "n": "−2.25 to 3"}]).data
    sides = re.findall(r'text-align:(\w+)">(.*?)</t[dh]>', html)
    assert sides == [
        ("left", "name"),
        ("right", "n"),
        ("left", "a&lt;b"),
        ("right", "1.5"),
        ("left", "c"),
        ("right", "−2.25 to 3"),
    ]


def test_a_control_changes_the_picture_under_the_same_number(shown):
    slider = IntSlider(1, 1, 5)
    display.explore(lambda value: spectrum(float(value)), "Spectrum.", value=slider)
    panel, before = shown
    assert panel["text/plain"] == "(controls: value; they need a running kernel)"
    slider.value = 3
    assert len(shown) == 2
    assert shown[1]["text/html"] != before["text/html"]
    assert shown[1]["text/plain"] == before["text/plain"] == "Figure 1. Spectrum."


def test_a_records_provenance_names_every_device_and_convolution():
    session = {
        "device": "cpu",
        "device_name": "a CPU",
        "precision": "float32",
        "convolutions": "Winograd",
    }
    record = {**session, "sessions": [session, session, {**session, "convolutions": "PyTorch"}]}
    text = "cpu (a CPU), float32, convolutions: Winograd; then cpu (a CPU), float32, convolutions: PyTorch"
    assert display.computed_on(record) == text
    assert text in display.provenance("cpu", "0" * 64, record).data
    del record["convolutions"], record["sessions"]
    assert display.computed_on(record) == "cpu (a CPU), float32, convolutions: unknown"
    new = display.provenance("cpu", "0" * 64).frame.set_index("")["value"]["new runs"]
    assert new in ("float32", "bfloat16")
