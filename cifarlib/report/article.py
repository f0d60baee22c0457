"""What notebooks/report.ipynb says of results: tables and sentences that are computed. What is
always true, captions and the calls of figures stand in the notebook."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy import stats
from torch import Tensor

from cifarlib import InputError, records
from cifarlib.benchmark.contestants import twin
from cifarlib.benchmark.record import epoch_seconds, ratios
from cifarlib.data import Cifar10, load_cifar10
from cifarlib.grid import made_differently
from cifarlib.params import DECAY_EPOCHS, PAPER_EPOCHS, load_params
from cifarlib.report import statistics
from cifarlib.report.claims import MARGIN, Claim, Judged, load_published
from cifarlib.report.display import Table, Text, duration
from cifarlib.report.figures_old import Contrast
from cifarlib.report.results import TABLE_1, Results, all_runs

FAST_TABLE = "make table RUNS='fast*' SEEDS='0 1 2'"


@contextlib.contextmanager
def missing_note() -> Iterator[None]:
    """``with missing_note():`` shows what is there; of what is missing it says so instead, and what
    makes it."""
    try:
        yield
    except InputError as error:
        display(Text(f"*Left out: {error}.*"))


def load_images(data_folder: str | Path | None = None) -> Cifar10:
    """CIFAR-10 for pictures."""
    try:
        return load_cifar10(data_folder)
    except InputError:
        raise InputError("CIFAR-10 is not there, `make data` fetches it") from None


def number(value: float, digits: int = 2) -> str:
    """With a true minus sign; a dash for what is not known."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    return number(value, digits) if value < 0 or math.isnan(value) else f"+{value:.{digits}f}"


def interval_text(interval: tuple[float, float], form: Callable = number, digits: int = 2) -> str:
    low, high = interval
    return "–" if math.isnan(low) else f"{form(low, digits)} to {form(high, digits)}"


def by_run(results: Results) -> pd.DataFrame:
    """mean, sd and n of the seeds' validation accuracies and mean test accuracy of each run, in per
    cent, nan where there are too few seeds; interval: 95 %, over the seeds with the deviation of
    all runs, at one seed over the images."""
    rows, pooled = {}, statistics.pooled_variance([results.values(run) for run in results.runs])
    for run in all_runs(results.schedule):
        values = pd.Series(results.values(run), dtype=float)
        tests = pd.Series(results.values(run, "test_accuracy"), dtype=float)
        interval = (
            statistics.mean_interval(values, pooled) if len(values) > 1 else (math.nan, math.nan)
        )
        if len(values) == 1:
            images = results.of(run)["validation_images"].iloc[0]
            interval = tuple(
                100 * end for end in statistics.binomial_interval(values[0] / 100, images)
            )
        rows[run] = (values.mean(), values.std(), len(values), interval, tests.mean())
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["mean", "sd", "n", "interval", "test"]
    )


def status(results: Results) -> Text:
    """Which schedule the results are of, how their records differ, and what is missing, with what
    makes it."""
    counts = sorted(set(results.table.groupby("run").size()))
    text = f"The results below are those after **{results.schedule}**: {(n := len(results.table))} record{'s' * (n != 1)}"
    text += f", seeds a run: {' or '.join(map(str, counts))}." if counts else "."
    if differ := made_differently(results.table.to_dict("records")):
        text += f" The records differ in what rounding depends on: {differ}."
    if results.schedule.is_the_papers and results.schedule.stop_epoch:
        text += f" {since_the_third_fall(results)}"
    if missing := [run for run in all_runs(results.schedule) if run not in results.runs]:
        text += f"\n\n**No record yet of {', '.join(missing)}.** What would need them is left open below. To make them: "
        command = 'make table RUNS="' + " ".join(missing) + '"' + results.schedule.options
        text += f"`{command}`, then `make report`."
    return Text(text)


def since_the_third_fall(results: Results) -> str:
    """What accuracy did after the learning rate's last fall before these records were stopped."""
    first, last = 3 * DECAY_EPOCHS + 1, results.schedule.last_epoch
    histories = [records.read_history(folder) for folder in results.table["folder"]]
    moves = [
        100 * (h[last - 1]["validation_accuracy"] - h[first - 1]["validation_accuracy"])
        for h in histories
    ]
    return (
        f"By then the rate has fallen three times, to a thousandth of its start. From epoch {first} to {last} validation accuracy "
        f"moved by {signed(min(moves))} to {signed(max(moves))} points; what the other {PAPER_EPOCHS - last} epochs would add is not measured."
    )


def devices(results: Results) -> str:
    """ "AMD EPYC, 2 threads (bfloat16); ..."."""
    return (
        "; ".join(sorted({f"{r.device_name} ({r.precision})" for r in results.table.itertuples()}))
        or "none yet"
    )


def table_1(results: Results, caption: str) -> Table:
    """The paper's Table 1 with its column and ours beside it."""
    paper, rows = load_published()["validation_accuracy"], []
    for run, ours in by_run(results).loc[list(TABLE_1)].iterrows():
        p = load_params(run)
        rows.append(
            {
                "#": run.removeprefix("run"),
                "batch": p.batch_size,
                "whitening": "yes" if p.whitening else "no",
                "padding": p.padding,
                "optimizer": {"adamw": "AdamW", "sgd": "SGD", "sgd-nesterov": "Nesterov"}[
                    p.optimizer
                ],
                "norm.": p.normalization,
                "smoothing": f"{p.label_smoothing:g}" if p.label_smoothing else "no",
                "paper %": number(paper[run]),
                "ours %": number(ours["mean"]),
                "sd": number(ours["sd"]),
                "n": ours["n"],
                "95 % interval": interval_text(ours["interval"]) + " ᵃ" * (ours["n"] == 1),
                "difference": signed(ours["mean"] - paper[run])
                if results.schedule.is_the_papers
                else "–",
                "test %": number(ours["test"]),
            }
        )
    return Table(rows, caption, "tbl-runs")


def beside_the_paper(results: Results) -> str:
    """Whether Table 1's runs lie above or below the paper's, and how far they are apart here and
    there; "" without two."""
    ours = by_run(results)["mean"].loc[list(TABLE_1)].dropna()
    if len(ours) < 2 or not results.schedule.is_the_papers:
        return ""
    theirs = pd.Series(load_published()["validation_accuracy"])[ours.index]
    gaps = ours - theirs
    return (
        f"Ours lie above the paper's in {(gaps > 0).sum()} of {len(gaps)} runs; the differences are {signed(gaps.min())} to "
        f"{signed(gaps.max())} points. The lowest and the highest of these runs are {np.ptp(ours):.2f} points "
        f"apart here, {np.ptp(theirs):.2f} in the paper. What causes the differences is open: the paper's code is not public, and "
        "each reading in the section “Choices” may differ from it."
    )


def other_records(compared: Results, fast: Results, caption: str) -> Table | Text:
    """The records that neither comparison takes in, labelled."""
    others = compared.others.drop(fast.table.index)
    rows = [
        {
            "run": r.run,
            "seed": r.seed,
            "schedule": r.schedule,
            "other settings": r.changes or "–",
            "validation %": number(100 * r.validation_accuracy),
            "test %": number(100 * r.test_accuracy),
            "test %, with views": number(100 * r.test_accuracy_views),
            "device": f"{r.device} ({r.precision})",
        }
        for r in others.itertuples()
    ]
    return (
        Table(rows, caption, "tbl-others")
        if rows
        else Text("There are no records of other schedules.")
    )


def accuracies(results: Results) -> tuple[dict, dict, dict]:
    """What ``figures.run_accuracies`` draws; the paper's values where the schedule is its own."""
    paper = load_published()["validation_accuracy"] if results.schedule.is_the_papers else {}
    command = "make table" if results.schedule.schedule == "step" else FAST_TABLE
    intervals = by_run(results)["interval"].loc[needed(results.runs, command)].to_dict()
    return {run: results.values(run) for run in results.runs}, intervals, paper


def histories(results: Results) -> tuple[dict[str, list[list[dict]]], dict[str, float]]:
    """What ``figures.loss_curves`` draws: of Table 1's runs each seed's history, and the label
    smoothing."""
    runs = needed([run for run in results.runs if run in TABLE_1])
    smoothing = {run: results.of(run)["label_smoothing"].iloc[0] for run in runs}
    return {
        run: [records.read_history(folder) for folder in results.of(run)["folder"]] for run in runs
    }, smoothing


def contrasts(judged: dict[str, Judged], papers: dict[str, Claim]) -> list[Contrast]:
    """What ``figures.contrasts`` draws: the claims about validation accuracy that have their
    records, beside the paper's own differences, around the fast recipe."""
    return needed(
        [
            Contrast(
                j.claim.title,
                j.estimate.value,
                j.interval,
                papers_value(papers, name),
                verdict_text(j),
            )
            for name, j in judged.items()
            if j.estimate and j.claim.measure == "validation_accuracy"
        ],
        FAST_TABLE,
    )


def papers_value(papers: dict[str, Claim], name: str) -> float:
    return papers[name].papers_value() if name in papers else math.nan


def needed(results: list, command: str = "make table") -> list:
    """The results, for ``missing_note`` to say what makes them where there are none."""
    if not results:
        raise InputError(f"there is no record yet: `{command}` makes one")
    return results


def verdict_text(j: Judged, seeds: bool = False) -> str:
    """A comparison that the paper does not make has no claim to reproduce; with the ``seeds`` it
    needs where unresolved."""
    words = {"reproduced": "above zero", "contradicted": "below zero"} if j.claim.ours else {}
    needs = f" (needs n = {j.seeds_needed})" * bool(seeds and j.seeds_needed)
    return (
        words.get(j.verdict, j.verdict) or ("too few seeds" if j.estimate else "no record")
    ) + needs


def estimate_text(j: Judged | None) -> str:
    """ "+1.06 (0.62 to 1.50)", at one seed with a mark at the interval, which is of the images
    alone."""
    if j is None or j.estimate is None:
        return "–"
    digits = 3 if j.claim.measure == "early_loss" else 2
    if math.isnan(j.interval[0]):
        return signed(j.estimate.value, digits)
    of_images = " ᵃ" * (j.estimate.seeds == 1)
    return f"{signed(j.estimate.value, digits)} ({interval_text(j.interval, signed, digits)}){of_images}"


def claims_table(judged: dict[str, Judged], caption: str, label: str) -> Table | Text:
    """The claims of a group as contrasts; one sentence where none has its records."""
    if not any(j.estimate for j in judged.values()):
        return Text(
            f"No record yet for: {', '.join(f'{j.claim.says} ({j.claim.formula})' for j in judged.values())}."
        )
    rows = [
        {
            "comparison": j.claim.says,
            "runs": j.claim.formula,
            "paper": signed(j.claim.papers_value()),
            "ours (interval)": estimate_text(j),
            "n": j.estimate.seeds if j.estimate else 0,
            "verdict": verdict_text(j, seeds=True),
        }
        for j in judged.values()
    ]
    return Table(rows, caption, label)


def both_recipes(paper: dict[str, Judged], fast: dict[str, Judged], caption: str) -> Table:
    """Each claim with both kinds of evidence: on the paper's own schedule and around the fast
    recipe."""
    rows, papers = [], {name: j.claim for name, j in paper.items()}
    for name in paper | fast:
        ours, j = paper.get(name), fast.get(name)
        row = {"claim": (j or ours).claim.says, "paper": signed(papers_value(papers, name))}
        row |= {
            "the paper's schedule": estimate_text(ours),
            "n": ours.estimate.seeds if ours and ours.estimate else 0,
        }
        if any(p.verdict for p in paper.values()):
            row["its verdict"] = verdict_text(ours) if ours else "–"
        row |= {"fast recipe": estimate_text(j), "n ": j.estimate.seeds if j and j.estimate else 0}
        row["verdict"] = verdict_text(j, seeds=True) if j else "not asked"
        rows.append(row)
    return Table(rows, caption, "tbl-claims")


def side(j: Judged | None) -> int:
    """1 where the interval lies wholly on the claim's side, -1 where wholly on the other, else
    0."""
    if j is None or j.estimate is None or not j.claim.sign:
        return 0
    low, high = sorted(end * j.claim.sign for end in j.interval)
    return int(low > 0) - int(high < 0)


def apart(j: Judged, other: Judged | None) -> bool:
    """Whether two intervals have no value in common; False where one is missing."""
    if not j.estimate or other is None or not other.estimate:
        return False
    return j.interval[1] < other.interval[0] or other.interval[1] < j.interval[0]


def disagreements(paper: dict[str, Judged], fast: dict[str, Judged]) -> str:
    """For which claims the two recipes give intervals without a common value, and which they put on
    the same side of zero."""
    lines = [
        f"- *{j.claim.says}*: {estimate_text(j)} around the fast recipe ({verdict_text(j)}), {estimate_text(paper[name])} on the "
        f"paper's schedule, n = {paper[name].estimate.seeds}."
        for name, j in fast.items()
        if apart(j, paper.get(name))
    ]
    same = ", ".join(
        f"{j.claim.title} (n = {paper[name].estimate.seeds} on the paper's schedule)"
        for name, j in fast.items()
        if side(j) * side(paper.get(name)) > 0
    )
    texts = (
        ["Not the same around both recipes, as the intervals do not meet:\n\n" + "\n".join(lines)]
        if lines
        else []
    )
    return "\n\n".join(
        texts + [f"Both recipes' intervals lie on the same side of zero for: {same}."] * bool(same)
    )


def by_pooling_alone(judged: dict[str, Judged], unpooled: dict[str, Judged]) -> list[Claim]:
    """The claims whose verdict Welch's intervals, of each run's own deviation, would leave open."""
    resolved = {
        name: j.claim for name, j in judged.items() if j.verdict in ("reproduced", "contradicted")
    }
    return [claim for name, claim in resolved.items() if unpooled[name].verdict == "not resolved"]


def by_images(judged: dict[str, Judged], tested: dict[str, Judged]) -> dict[str, Judged]:
    """The claims on which the test images, judged in the same way, give another verdict."""
    return {name: j for name, j in tested.items() if j.verdict != judged[name].verdict}


def on_test_images(judged: dict[str, Judged], tested: dict[str, Judged]) -> str:
    """Which verdicts the test images share, and what they give for the others."""
    others = [
        f"- *{j.claim.title}*: {estimate_text(j)}, {verdict_text(j)}"
        for j in by_images(judged, tested).values()
    ]
    if not any(j.verdict for j in judged.values()):
        return ""
    text = f"The same procedure on the test images gives the same verdict for {len(tested) - len(others)} of {len(tested)} comparisons"
    if not others:
        return f"{text}."
    return (
        f"{text}, and another for these, whose verdict rests on which 10,000 images were taken:\n\n"
        + "\n".join(others)
    )


def deviation(results: Results, judged: dict[str, Judged], unpooled: dict[str, Judged]) -> str:
    """The pooled deviation between seeds, whether the runs' own differ, and which verdicts rest on
    it."""
    several = [values for run in results.runs if len(values := results.values(run)) > 1]
    if len(several) < 2:
        return ""
    variance, freedom = statistics.pooled_variance(several)
    own, varied = (
        [np.std(values, ddof=1) for values in several],
        [values for values in several if np.ptp(values)],
    )
    p = stats.bartlett(*varied).pvalue if len(varied) > 1 else 1.0
    bartlett = "does not tell them apart" if p >= 0.05 else "calls them unequal"
    open_ones = ", ".join(claim.title for claim in by_pooling_alone(judged, unpooled))
    return (
        f"Between seeds of one run validation accuracy deviates by {math.sqrt(variance):.2f} points (pooled over the runs, {freedom} "
        f"degrees of freedom). The runs' own deviations lie between {min(own):.2f} and {max(own):.2f}; Bartlett's test [@bartlett1937] "
        f"{bartlett} (p = {p:.2g}){', which with few seeds says little' if p >= 0.05 else ''}. Welch's intervals would leave "
        f"{f'open: {open_ones}' if open_ones else 'no verdict open'}."
    )


def sizes(fast: dict[str, Judged], papers: dict[str, Claim]) -> str:
    """For which claims the paper's size differs from ours by more than chance, if its single runs
    deviate as our seeds do."""
    others = []
    for name, j in fast.items():
        if j.verdict and j.claim.sign and name in papers:
            weights = [
                sum(weight**2 for weight in claim.arms.values())
                for claim in (papers[name], j.claim)
            ]
            error = math.hypot(
                j.estimate.error, j.estimate.error_of_one * math.sqrt(weights[0] / weights[1])
            )
            if abs(papers[name].papers_value() - j.estimate.value) > error * stats.t.ppf(
                0.975, j.estimate.freedom
            ):
                others.append(f"{j.claim.title} ({signed(papers[name].papers_value())})")
    return (
        "A verdict is on the sign alone. The paper's sizes that differ from ours by more than chance (95 %, if its single runs "
        f"deviate as our seeds do): {', '.join(others)}." * bool(others)
    )


def conclusions(
    fast: dict[str, Judged],
    unpooled: dict[str, Judged],
    tested: dict[str, Judged],
    papers: dict[str, Claim],
    brief: bool = False,
) -> str:
    """How many and which of the paper's claims are reproduced, contradicted, not resolved and not
    judged around the fast recipe, each with our difference and the paper's, the largest first: a
    list; brief: a sentence, and of those without a verdict only how many."""
    by_verdict: dict[str, list[tuple[str, Judged]]] = {}
    for name, j in fast.items():
        if not j.claim.ours:
            by_verdict.setdefault(j.verdict or "not judged yet, for want of seeds", []).append(
                (name, j)
            )
    texts = []
    for kind in ("reproduced", "contradicted", "not resolved", "not judged yet, for want of seeds"):
        group = sorted(
            by_verdict.get(kind, []),
            key=lambda named: -abs(named[1].estimate.value) if named[1].estimate else 0,
        )
        text = f"**{len(group) or 'none'} {kind}**"
        if group and not (brief and kind.startswith("not")):
            text += f": {', '.join(j.claim.title + difference_text(j, papers_value(papers, name)) for name, j in group)}"
        if group or kind == "contradicted":
            texts.append(text)
    pooling = [claim.title for claim in by_pooling_alone(fast, unpooled) if not claim.ours]
    images = [j.claim.title for j in by_images(fast, tested).values() if not j.claim.ours]
    if brief:
        notes = [f"{len(pooling)} hold only with the deviation pooled over all runs"] * bool(
            pooling
        )
        notes += [f"{len(images)} would change on the test images"] * bool(images)
        return "; ".join(texts) + "." + f" Of these verdicts {' and '.join(notes)}." * bool(notes)
    notes = [f"Only with the deviation pooled over all runs: {', '.join(pooling)}."] * bool(pooling)
    notes += [f"Another verdict on the test images: {', '.join(images)}."] * bool(images)
    return "\n\n".join(["\n".join(f"- {text}" for text in texts), *notes])


def still_open(compared: Results, fast: dict[str, Judged]) -> str:
    """What no record answers yet."""
    parts = ["the claims that are not resolved"] * any(
        j.verdict == "not resolved" for j in fast.values()
    )
    parts += ["those without a verdict"] * any(not j.verdict for j in fast.values())
    parts += ["all that rests on one seed of the paper's own schedule"] * (
        1 in set(compared.table.groupby("run").size())
    )
    missing = [run for run in all_runs(compared.schedule) if run not in compared.runs]
    parts += [f"what needs records that are not there ({', '.join(missing)})"] * bool(missing)
    parts += [f"what its epochs after {compared.schedule.stop_epoch} would add"] * bool(
        compared.schedule.stop_epoch
    )
    return f"Still open: {', '.join([*parts, 'the private test set of the course'])}."


def difference_text(j: Judged, paper: float) -> str:
    """ " (+2.66 points, the paper +4.00)"; "" without an estimate."""
    if not j.estimate:
        return ""
    beside = f", the paper {signed(paper)}" * (not math.isnan(paper))
    within = f", within ±{MARGIN:g}" * (not j.claim.sign and j.verdict == "reproduced")
    return f" ({signed(j.estimate.value)} points{within}{beside})"


def seconds_by_device(results: Results, run: str) -> pd.Series:
    """The median time of the run's training on each device, the shortest first."""
    made = results.of(run)
    seconds = [
        sum(records.read_record(folder, verify=False)["epoch_seconds"]) for folder in made["folder"]
    ]
    return pd.Series(seconds, made["device_name"]).groupby(level=0).median().sort_values()


def costs(compared: Results, fast: Results, caption: str) -> Table:
    """What a run costs and reaches: the paper's, ours on its schedule, and the fast recipe."""
    paper, rows = load_published(), []
    seconds = PAPER_EPOCHS * paper["seconds_per_epoch"]["per_epoch"]
    rows.append(
        {
            "run": "run 7, the paper",
            "epochs": PAPER_EPOCHS,
            "a run": duration(seconds),
            "device": "NVIDIA A100",
            "validation %": number(paper["validation_accuracy"]["run7"]),
            "test %": number(paper["test_accuracy"]["run7"]),
            "n": 1,
        }
    )
    for results, run in ((compared, "run7"), (fast, "fast")):
        if run in results.runs:
            made, times = results.of(run), seconds_by_device(results, run)
            rows.append(
                {
                    "run": run,
                    "epochs": results.schedule.last_epoch,
                    "a run": "; ".join(map(duration, times)),
                    "device": "; ".join(times.index),
                    "validation %": number(100 * made["validation_accuracy"].mean()),
                    "test %": number(100 * made["test_accuracy"].mean()),
                    "n": len(made),
                }
            )
    return Table(rows, caption, "tbl-costs")


def speed_table(benchmarks: Sequence[dict], caption: str) -> Table:
    """The paper's seconds an epoch beside ours on the devices of the benchmark's records, with
    crops drawn anew and drawn once: there the two take turns on an idle machine, while a run shares
    its machine with others."""
    paper = load_published()["seconds_per_epoch"]
    rows = [
        {
            "device": "NVIDIA A100 (the paper)",
            "precision": "–",
            "fresh augmentation": f"{paper['per_epoch']} s",
            "drawn once": f"{paper['once']} s",
            "time saved": f"{100 * (1 - paper['once'] / paper['per_epoch']):.0f} %",
        }
    ]
    for record in benchmarks:
        fresh, once = record["base"], twin(record["base"], augmentation="once")
        saved = [100 * (1 - ratio) for ratio in ratios(record, once, fresh)]
        rows.append(
            {
                "device": record["device_name"],
                "precision": record["precision"],
                "fresh augmentation": f"{np.median(epoch_seconds(record, fresh)):.3g} s",
                "drawn once": f"{np.median(epoch_seconds(record, once)):.3g} s",
                "time saved": f"{number(np.median(saved), 0)} % ({interval_text((min(saved), max(saved)), digits=0)})",
            }
        )
    return Table(rows, caption, "tbl-speed")


def trained(compared: Results) -> str:
    """ "all 7", or how many of Table 1's runs have a record, "1 of its 7"."""
    n = sum(run in TABLE_1 for run in compared.runs)
    return f"{n} of its {len(TABLE_1)}" if n < len(TABLE_1) else f"all {n}"


def reached(compared: Results, fast: Results) -> str:
    """What run 7 and the fast recipe reached, and in what time; "" without a record."""
    text = ""
    for results, run in ((compared, "run7"), (fast, "fast")):
        if run in results.runs:
            shares, n = (
                results.of(run)[["validation_accuracy", "test_accuracy"]].mean() * 100,
                len(results.of(run)),
            )
            text += f"{'Our run 7' if run == 'run7' else 'The fast recipe'} reaches {shares.iloc[0]:.2f} % validation and "
            times = "; ".join(
                f"{duration(t)} on {device}"
                for device, t in seconds_by_device(results, run).items()
            )
            text += f"{shares.iloc[1]:.2f} % test accuracy after {results.schedule} ({n} seed{'s' * (n > 1)}; {times}). "
    return text


def whitening_of(record: pd.Series) -> tuple[Tensor, Tensor]:
    """Eigenvalues (12,) and eigenvectors (12, 12), one a row, of the patch covariance, had back
    from the frozen filters of a record: a filter's length is 1 / sqrt(eigenvalue + epsilon)."""
    filters = torch.from_numpy(np.load(record.folder / "first_layer.npy")).double()
    filters = filters[: len(filters) // 2].flatten(1)
    length = filters.norm(dim=1, keepdim=True)
    return length.squeeze(1) ** -2 - record.whitening_eps, filters / length


def environment(compared: dict[str, Results], caption: str) -> Table:
    """What the records of each comparison were made with, a column each; several values where they
    differ."""
    columns = {}
    for name, results in compared.items():
        made = [records.read_record(folder, verify=False) for folder in results.table["folder"]]
        packages = pd.DataFrame([record["packages"] for record in made])
        commits = {
            f"{(r['commit'] or 'unknown')[:10]}{' (changed)' * bool(r['dirty'])}" for r in made
        }
        columns[name] = {
            "records": len(made),
            "devices": devices(results),
            "packages": ", ".join(
                f"{package} {' / '.join(sorted(set(v.dropna())))}"
                for package, v in packages.items()
            ),
            "code commits": ", ".join(sorted(commits)),
            "data": ", ".join(sorted({f"SHA-256 {r['data_sha256'][:16]}…" for r in made})),
            "training time": duration(sum(sum(r["epoch_seconds"]) for r in made))
            if made
            else "none",
        }
    return Table(
        pd.DataFrame(columns).rename_axis("").reset_index().to_dict("records"),
        caption,
        "tbl-environment",
    )
