import json

import papermill
import pytest
from made_up import make_fast, make_grid, make_record

from cifarlib import project_root
from cifarlib.report import claims, results, tables


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
    assert table.loc["1", ["optimizer", "batch", "smoothing"]].tolist() == ["AdamW", "1024", "0"]
    columns = ["paper %", "ours %", "difference", "our test %", "n"]
    assert table.loc["7", columns].tolist() == ["93.20", "94.20", "+1.00", "93.70", 1]
    assert set(tables.paper_runs(none.paper, "").frame["ours %"]) == {"–"}


def test_a_claim_has_both_kinds_of_evidence_in_one_row(both, none):
    table = tables.claims_twice(both.asked, both.judged, "").frame.set_index("claim")
    row = table.loc["SGD ends above AdamW"]
    assert row[["paper", "n", "mark"]].tolist() == ["+3.03", "1", "agrees"]
    assert row[["n ", "verdict"]].tolist() == ["3", "reproduced"]
    assert row["fast recipe"].startswith("+1.00 (+0.")
    assert table.loc["fresh augmentation beats drawing once"].tolist()[1:4] == ["–", "–", "–"]
    empty = tables.claims_twice(none.asked, none.judged, "").frame
    assert set(empty["verdict"]) == set(empty["mark"]) == {"–"}


def test_the_steps_are_taken_apart_as_far_as_runs_are_there(both, none, tmp_path):
    assert tables.parts(none.paper).empty
    assert tables.parts(both.paper).empty
    make_grid(tmp_path)
    make_record(tmp_path, "run7-mean", accuracy=0.922, stop_epoch=95)
    frame = tables.parts(results.of_paper(results.table(tmp_path)))
    assert frame["change (runs)"].str[-13:].tolist() == [" (7-mean − 6)", " (7 − 7-mean)"]
    assert frame["result"].tolist() == ["open", "above"]


def test_the_environment_is_that_of_the_records(both, none):
    made = tables.environment(both.paper, both.fast, "").frame.set_index("")
    assert made.loc["commit"].tolist() == ["1" * 10] * 2
    assert made.loc["records"].tolist() == ["7", str(len(both.fast))]
    empty = tables.environment(none.paper, none.fast, "").frame.set_index("")
    assert empty.loc["records"].tolist() == ["0", "0"]


def test_the_arms_are_listed_by_what_they_change_and_other_runs_by_how_they_were_trained(
    both, none, tmp_path
):
    assert tables.all_runs(none.frame, "").frame["run"].tolist() == ["none"]
    frame = tables.all_runs(both.frame, "").frame.set_index("run")
    assert len(frame) == both.fast["run"].nunique()
    changed = "label smoothing 0, learning rate 0.000637, weight decay 0.7834"
    assert frame.loc["fast-no-smoothing", "what is different"] == changed
    assert frame.loc["fast", ["both %", "n"]].tolist() == ["93.15", 3]
    make_record(tmp_path, "fast", momentum=0.8)
    row = tables.all_runs(results.table(tmp_path), "").frame.iloc[0]
    assert row["what is different"] == "12 epochs; momentum 0.8, now 0.85"
    assert (row["test %"], row["views %"]) == ("89.50", "–")


def executed(folder):
    """Execute the report with the records of a folder, and return all that it shows."""
    path = project_root() / "notebooks" / "report.ipynb"
    settings = {"kernel_name": "python3", "cwd": project_root(), "progress_bar": False}
    cells = papermill.execute_notebook(path, None, {"output_folder": str(folder)}, **settings).cells
    return json.dumps([cell.get("outputs") for cell in cells], ensure_ascii=False)


WARNING = "The sentences of this report were written for other records"


def test_the_report_of_the_committed_records_has_no_warning_and_every_figure():
    text = executed(project_root() / "outputs")
    assert WARNING not in text
    assert "Left out" not in text
    assert all(f"Figure {number}." in text for number in range(1, 7))
    assert all(f"Table {number}." in text for number in range(1, 7))


def test_the_report_builds_with_other_records_and_says_so(tmp_path):
    for run in ("run6", "run7", "run7-mean", "fast94"):
        make_record(tmp_path, run)
    make_record(tmp_path, "best", epochs=2)  # a toy, no record of best
    text = executed(tmp_path)
    assert text.count(WARNING) >= 2  # above the results and above the discussion
    assert "the paper’s 200 epochs, where the text has 95 of the paper’s" in text
    assert "SGD ends above AdamW: without records" in text
    assert "not so: AdamW is ahead of SGD in each of the first 30 epochs" in text
    for run in ("fast", "best"):
        assert f"Left out: there is no record of {run} yet" in text
    assert "smoothing alone, the loss averaged (7-mean − 6)" in text
    make_record(tmp_path / "other", "fast")
    assert "there is no record of run7 yet" in executed(tmp_path / "other")
