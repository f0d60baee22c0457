import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from made_up import make_fast, make_grid, make_record

from cifarlib import project_root
from cifarlib.report import claims, results, tables
from cifarlib.whitening import patch_covariance, whitening_filters


class Judged:
    """The two comparisons of a folder, as the report's first cell has them."""

    def __init__(self, folder):
        self.frame = results.table(folder)
        self.paper = results.of_paper(self.frame)
        self.fast = results.of_fast(self.frame)
        self.asked = claims.judge(self.paper)
        self.judged = claims.judge(self.fast, recipe="fast")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    make_grid(folder, spread=0, gain=0.01)
    make_fast(folder)
    return Judged(folder)


@pytest.fixture(scope="module")
def none(tmp_path_factory):
    return Judged(tmp_path_factory.mktemp("none"))


def test_the_papers_table_stands_beside_our_means(both, none):
    table = tables.paper_runs(both.paper, "").frame.set_index("run")
    assert table.loc["1", ["optimizer", "batch", "normal.", "smoothing"]].tolist() == [
        "AdamW",
        1024,
        "length",
        "0",
    ]
    columns = ["paper %", "ours %", "difference", "test %", "n"]
    assert table.loc["7", columns].tolist() == ["93.20", "94.20", "+1.00", "93.70", "1"]
    assert set(tables.paper_runs(none.paper, "").frame["ours %"]) == {"–"}


def test_a_claim_has_both_kinds_of_evidence_in_one_row(both, none):
    table = tables.claims_twice(both.asked, both.judged, "").frame.set_index("claim")
    row = table.loc["SGD ends above AdamW"].tolist()
    assert row[0] == "+3.03"
    assert row[1].startswith("+3.0")
    assert row[2:4] == ["1", "agrees"]
    assert row[4].startswith("+1.00 (+0.")
    assert row[5:] == ["3", "reproduced*"]
    assert table.loc["AdamW converges early"].tolist()[-3:] == ["–", "–", "–"]
    ours = both.judged[both.judged["ours"]]["says"].tolist()
    assert table.index.tolist()[-len(ours) :] == ours
    empty = tables.claims_twice(none.asked, none.judged, "").frame
    assert set(empty["verdict"]) == set(empty["mark"]) == {"–"}


def test_the_steps_are_taken_apart_as_far_as_runs_are_there(both, tmp_path):
    assert len(tables.parts(both.paper, "").frame) == 1
    make_grid(tmp_path)
    make_record(tmp_path, "run7-mean", accuracy=0.922, stop_epoch=95)
    paper = results.of_paper(results.table(tmp_path))
    frame = tables.parts(paper, "").frame
    assert frame["runs"].tolist() == ["7-mean − 6", "7 − 7-mean"]
    assert frame["result"].tolist() == ["open", "above"]


def test_the_sentences_numbers_are_those_of_the_records(both, none):
    said = tables.numbers(both.paper, both.fast, both.judged)
    assert (said.claims, said.contradicted) == (8, 0)
    assert said.reproduced + said.not_resolved == 8
    assert said.gain["optimizer"] == "+1.00"
    assert (said.above, said.gaps) == ("7 of our 7", "1.0 to 1.0")
    assert said.validation["run7"] == "94.20"
    assert said.time["fast"] == "162 s on a made-up device"
    nothing = tables.numbers(none.paper, none.fast, none.judged)
    assert (nothing.reproduced, nothing.gain["optimizer"]) == (0, "–")
    assert (nothing.test["fast"], nothing.time["run7"]) == ("–", "–")


def test_the_guard_names_what_the_text_does_not_expect(both, none):
    expected = {name: row.verdict for name, row in both.judged.iterrows()}
    marks = {name: row["mark"] for name, row in both.asked.iterrows() if row["mark"]}
    marks["length"] = "95 of the paper's 200 epochs"
    data = (both.paper, both.asked, both.judged, marks)
    assert tables.guard(*data, expected) is None
    changed = tables.guard(*data, expected | {"whitening": "contradicted"}).data
    assert "patch whitening helps: reproduced, where the text has contradicted" in changed
    assert "optimizer" not in changed
    silent = tables.guard(none.paper, none.asked, none.judged, marks, expected).data
    assert "SGD ends above AdamW: without records" in silent
    assert "no training yet, where the text has 95 of the paper's 200 epochs" in silent


def test_costs_and_environment_come_from_the_records(both, none):
    rows = tables.costs(both.paper, both.fast, "").frame.set_index("run")
    assert rows.loc["run7", ["epochs", "validation %", "n"]].tolist() == [95, "94.20", 1]
    assert rows.loc["fast", "time and device"] == "162 s on a made-up device"
    assert rows.loc["run 7, the paper", "time and device"] == "45 min on NVIDIA A100"
    assert len(tables.costs(none.paper, none.fast, "").frame) == 1
    made = tables.environment(both.paper, both.fast, "").frame.set_index("")
    assert made.loc["commit"].tolist() == ["1" * 10] * 2
    assert made.loc["records"].tolist() == ["7", str(len(both.fast))]
    assert tables.made(both.frame) == "28 November 2026 (newest record) · Code, commit `1111111111`"
    assert tables.made(none.frame, "https://x.org") == "[Code](https://x.org)"


def test_other_runs_are_listed(both, tmp_path):
    assert tables.other_runs(both.frame, "").frame["run"].tolist() == ["none"]
    make_record(tmp_path, "fast", momentum=0.8)
    row = tables.other_runs(results.table(tmp_path), "").frame.iloc[0]
    assert row["other settings"] == "momentum 0.8, now 0.85"
    assert (row["test %"], row["test %, with views"]) == ("89.50", "–")


def test_the_settings_are_those_of_the_params_files():
    table = tables.hyperparameters("").frame.set_index("")
    assert table.loc["learning rate"].tolist() == ["0.08", "0.001", "0.001465", "0.002"]
    assert table.loc["optimizer"].tolist() == ["Nesterov", "AdamW", "Nesterov", "AdamW"]
    assert table.loc["lookahead"].tolist() == ["no", "no", "yes", "yes"]


def test_what_figures_draw_is_what_the_records_say(both):
    seeds, means = tables.accuracies(both.fast)
    assert means.index[0] == "fast"
    assert (seeds["run"] == "fast").sum() == 3
    assert means.loc["fast", "mean"] == pytest.approx(93.15)
    assert (means["low"] < means["mean"]).all()
    histories = tables.histories(both.paper)
    assert set(histories["run"]) == set(claims.PAPER_RUNS)
    assert len(histories) == 7 * 95


def test_the_spectrum_of_the_filters_is_the_covariances(cifar10, tmp_path):
    folder = make_record(tmp_path, "run7", stop_epoch=95)
    covariance = patch_covariance([cifar10.train.images[:500].float() / 255])
    filters = whitening_filters(covariance)
    record = results.table(tmp_path).iloc[0]
    np.save(folder / "first_layer.npy", filters.numpy())
    values, vectors = tables.whitening_of(record)
    again = vectors.T @ values.diag() @ vectors
    torch.testing.assert_close(again, covariance.double(), atol=1e-4, rtol=1e-3)


def executed(folder, tmp_path):
    """Execute the report with the records of a folder, and return its cells and all their text."""
    path = tmp_path / "report.ipynb"
    command = [sys.executable, "-m", "papermill", "notebooks/report.ipynb", str(path)]
    command += ["-k", "python3", "-r", "output_folder", str(folder), "--log-level", "ERROR"]
    data_folder = os.environ.get("CIFARLIB_DATA")
    if data_folder:
        command += ["-r", "data_folder", data_folder]
    subprocess.run(command, cwd=project_root(), check=True, capture_output=True)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "".join(json.dumps(cell.get("outputs", [])) for cell in cells)


WARNING = "The sentences of this report were written for other records"


def test_the_report_of_the_committed_records_has_no_warning_and_every_figure(tmp_path):
    text = executed(project_root() / "outputs", tmp_path)
    assert WARNING not in text
    assert "Left out" not in text
    assert all(f"Figure {number}." in text for number in range(1, 8))
    assert all(f"Table {number}." in text for number in (1, 2, 3, 5, 6))


@pytest.mark.parametrize("records", ["none", "one run", "a hundred"])
def test_the_report_builds_with_other_records_and_says_so(tmp_path, records):
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    if records == "one run":
        make_record(outputs, "run7", stop_epoch=95)
    if records == "a hundred":
        make_grid(outputs, stop_epoch=None)
        make_fast(outputs, seeds=8)
    text = executed(outputs, tmp_path)
    assert text.count(WARNING) >= 2  # above the results and above the discussion
    if records == "none":
        assert "Left out: there is no record of run7 yet" in text
    if records == "a hundred":
        assert "the paper's 200 epochs, where the text has 95 of the paper's" in text
        assert "reproduced*" not in text
