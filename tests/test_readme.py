"""The README's numbers, verdicts and commands, against the records and the Makefile."""

import re

import pytest

from cifarlib import project_root
from cifarlib.report import claims, figures, results, tables

README = (project_root() / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def frame():
    return results.table()


def test_the_verdicts_and_the_figure_are_those_of_the_records(frame):
    judged = claims.judge(results.of_fast(frame), "paper", "fast")
    lines = [line for line in claims.conclusion(judged).splitlines() if line.startswith("- ")]
    assert [line for line in README.splitlines() if re.match(r"- \*\*\d", line)] == lines
    asked = judged[~judged["ours"]]
    words = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    verdicts = ("reproduced", "contradicted", "not resolved")
    good, bad, open_ = (words[(asked["verdict"] == verdict).sum()] for verdict in verdicts)
    text = " ".join(README[:2000].split())
    assert f"{good} of {words[len(asked)]} claims are reproduced" in text
    assert f"{open_} are not resolved, {bad} is contradicted" in text
    svg = (project_root() / "docs" / "results.svg").read_text(encoding="utf-8")
    drawn = [svg, figures.as_svg(figures.claims(judged))]
    shown, expected = (re.findall(r"<!-- (.*) -->", text) for text in drawn)
    assert shown == expected != []


def test_the_table_holds_the_records_means(frame):
    rows = re.findall(r"^\| `(\w+)` \|(.*?)((?: \| [\d.–]+){4}) \|$", README, re.MULTILINE)
    assert len(rows) == 10
    summary = results.summary(frame[frame["seed"] < claims.JUDGED_SEEDS]).set_index("run")
    for run, text, numbers in rows:
        row = summary.loc[run]
        values = row[["paper", "validation", "test", "views"]].astype(float)
        assert numbers.split(" | ")[1:] == values.map(tables.number).tolist(), run
        assert int("".join(re.findall(r"mean of (\d+) seeds", text)) or 1) == row["n"], run


def test_its_make_targets_and_files_exist():
    makefile = (project_root() / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`|25m )make (?:-k )?([a-z]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:|^\.PHONY:.* {target}\b", makefile, re.MULTILINE), target
    for path in re.findall(r"\]\(((?:docs|outputs)/[^)]+)\)", README):
        assert (project_root() / path).exists(), path
    assert len(README.splitlines()) <= 130
