"""What notebooks show: tables, figures, what a run was computed on, and one sentence beside the
paper."""

import re

import pytest
import torch
from ipywidgets import IntSlider

from cifarlib.params import PAPER_EPOCHS, TRAIN_IMAGES, load_params
from cifarlib.report import display, figures, train_page
from cifarlib.report.claims import load_published


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
    return figures.eigenvalue_spectrum(torch.tensor([first, 0.1]))


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
    assert "<b>Figure 2.</b> Two &lt;3. <small><code>figures.eigenvalue_spectrum</code>" in html
    assert ' alt="Eigenvalues of the patch' in html


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
    assert new in {
        f"{p}, convolutions: {c}" for p in ("float32", "bfloat16") for c in ("Winograd", "PyTorch")
    }


FULL = {
    "run": "run7",
    "seed": 0,
    "epochs": PAPER_EPOCHS,
    "epochs_trained": PAPER_EPOCHS,
    "train_images": TRAIN_IMAGES,
    "validation_accuracy": 0.9345,
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {},
            "right after 200 epochs; the paper reports 93.20 %. It is one seed: another will differ.",
        ),
        (
            {"epochs_trained": 95},
            "95 epochs. The paper reports 93.20 % after 200 epochs on all 40,000 training images: ",
        ),
        ({"train_images": 256}, "this run has another schedule or less data and is no comparison."),
        (
            {"run": "run6-sum", "epochs_trained": 1},
            "after 1 epoch; the paper has no such run, its best has 93.20 %",
        ),
    ],
)
def test_a_result_stands_beside_the_paper_only_where_it_is_comparable(changes, says):
    text = train_page.beside_the_paper(FULL | changes, load_published()).data
    assert "**93.45 %** of the validation images are right" in text
    assert says in text


def test_a_run_that_validated_on_nothing_says_so():
    record = FULL | {
        "run": "fast94",
        "train_images": 50_000,
        "validation_accuracy": None,
        "validation_images": 0,
        "test_images": 10_000,
        "test_accuracy": 0.9345,
        "test_loss": 0.98,
        "test_accuracy_views": 0.9412,
    }
    text = train_page.beside_the_paper(record, load_published()).data
    assert (
        "trained on all 50,000 images, so that none is left to validate on: **93.45 %** of the test images"
        in text
    )
    (row,) = train_page.results_table(record).frame.to_dict("records")
    assert (row["part"], row["accuracy"], row["accuracy over six views"]) == (
        "test",
        "93.45 %",
        "94.12 %",
    )


def test_a_record_without_views_has_a_dash_for_them():
    parts = {
        f"{part}_{k}": v
        for part in ("validation", "test")
        for k, v in (("images", 100), ("accuracy", 0.9), ("loss", 1.0))
    }
    assert list(train_page.results_table(parts).frame["accuracy over six views"]) == ["–", "–"]


def test_the_layers_add_up_to_the_papers_parameters():
    table = train_page.layers(load_params(7)).frame
    assert table.iloc[-1].tolist() == [
        "all",
        "",
        "",
        "1,972,792",
        f"{1_972_792 - 288 - 2 * (64 + 256 + 256):,}",
    ]
    assert table.iloc[0].tolist() == ["0", "Conv2d", "24x31x31", "312", "24"]


def test_progress_ends_as_one_line_and_one_figure(shown, monkeypatch, capsys):
    monkeypatch.setattr(train_page, "clear_output", lambda wait: shown.clear())
    progress = train_page.Progress(load_params(7, epochs=2))
    row = {
        "train_loss": 1.5,
        "train_accuracy": 0.5,
        "validation_loss": 1.6,
        "validation_accuracy": 0.4,
        "train_seconds": 3.0,
        "validation_seconds": 0.5,
    }
    history = []
    progress(0.0, history)
    for epoch in (1, 2):
        progress(epoch - 0.5, history)
        history.append({"epoch": epoch, **row})
        progress(float(epoch), history)
    assert [bundle["text/plain"][:9] for bundle in shown] == ["Figure 1."]
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(
        "run7 seed 0: epoch 2.0 of 2, loss 1.5000, validation 40.00 %, 3.5 s an epoch"
    )
