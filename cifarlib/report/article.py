"""What notebooks/report.ipynb says of results: tables and sentences that are computed. What is always true, captions
and the calls of figures stand in the notebook."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from torch import Tensor

from cifarlib import InputError, records
from cifarlib.benchmark.contestants import twin
from cifarlib.benchmark.record import epoch_seconds, ratios
from cifarlib.data import Cifar10, load_cifar10
from cifarlib.grid import made_differently
from cifarlib.params import load_params
from cifarlib.report import statistics
from cifarlib.report.claims import Judged, load_published
from cifarlib.report.display import Table, Text, duration
from cifarlib.report.figures import Contrast
from cifarlib.report.results import TABLE_1, Results, all_runs


@contextlib.contextmanager
def missing_note() -> Iterator[None]:
    """``with missing_note():`` shows what is there; of what is missing it says so instead, and what makes it."""
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
    """mean, sd and n of the seeds' validation accuracies and mean test accuracy of each run, in per cent, nan where there
    are too few seeds; interval: 95 %, over the seeds, at one seed over the images."""
    rows = {}
    for run in all_runs(results.schedule.schedule):
        values = pd.Series(results.values(run), dtype=float)
        tests = pd.Series(results.values(run, "test_accuracy"), dtype=float)
        interval = statistics.mean_interval(values) if len(values) > 1 else (math.nan, math.nan)
        if len(values) == 1:
            images = results.of(run)["validation_images"].iloc[0]
            interval = tuple(100 * end for end in statistics.binomial_interval(values[0] / 100, images))
        rows[run] = (values.mean(), values.std(), len(values), interval, tests.mean())
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "sd", "n", "interval", "test"])


def status(results: Results) -> Text:
    """Which schedule the results are of, how their records differ, and what is missing, with what makes it."""
    counts = sorted(set(results.table.groupby("run").size()))
    text = f"The results below are of **{results.schedule}**: {len(results.table)} records"
    text += f", seeds a run: {' or '.join(map(str, counts))}." if counts else "."
    if differ := made_differently(results.table.to_dict("records")):
        text += f" **The records differ in what rounding depends on, with seeds in brackets: {differ}.**"
    if missing := [run for run in all_runs(results.schedule.schedule) if run not in results.runs]:
        text += (
            f"\n\n**No record yet of {', '.join(missing)}.** What would need them is left open below. To make them: "
        )
        command = 'make table RUNS="' + " ".join(missing) + '"' + results.schedule.options
        text += f"`{command}`, then `make report`."
    return Text(text)


def devices(results: Results) -> str:
    """ "AMD EPYC, 2 threads (bfloat16); ..."."""
    return "; ".join(sorted({f"{r.device_name} ({r.precision})" for r in results.table.itertuples()})) or "none yet"


def table_1(results: Results, caption: str) -> Table:
    """The paper's Table 1 with its column and ours beside it."""
    paper, rows = load_published()["validation_accuracy"], []
    for run, ours in by_run(results).loc[list(TABLE_1)].iterrows():
        p = load_params(run)
        rows.append({
            "#": run.removeprefix("run"), "batch": p.batch_size, "whitening": "yes" if p.whitening else "no",
            "padding": p.padding, "optimizer": {"adamw": "AdamW", "sgd": "SGD", "sgd-nesterov": "Nesterov"}[p.optimizer],
            "norm.": p.normalization, "smoothing": f"{p.label_smoothing:g}" if p.label_smoothing else "no",
            "paper %": number(paper[run]), "ours %": number(ours["mean"]), "sd": number(ours["sd"]), "n": ours["n"],
            "95 % interval": interval_text(ours["interval"]) + " ᵃ" * (ours["n"] == 1),
            "difference": signed(ours["mean"] - paper[run]) if results.schedule.is_the_papers else "–",
            "test %": number(ours["test"]),
        })  # fmt: skip
    return Table(rows, caption, "tbl-runs")


def other_schedules(results: Results, caption: str) -> Table | Text:
    """Records that Table 1 must not mix in, labelled."""
    rows = [
        {"run": r.run, "seed": r.seed, "schedule": r.schedule, "other settings": r.changes or "–",
         "validation %": number(100 * r.validation_accuracy), "test %": number(100 * r.test_accuracy),
         "device": f"{r.device} ({r.precision})"}
        for r in results.others.itertuples()
    ]  # fmt: skip
    return Table(rows, caption, "tbl-others") if rows else Text("There are no records of other schedules.")


def accuracies(results: Results) -> tuple[dict, dict, dict]:
    """What ``figures.run_accuracies`` draws; the paper's values where the schedule is its own."""
    paper = load_published()["validation_accuracy"] if results.schedule.is_the_papers else {}
    intervals = by_run(results)["interval"].loc[needed(results.runs)].to_dict()
    return {run: results.values(run) for run in results.runs}, intervals, paper


def histories(results: Results) -> tuple[dict[str, list[list[dict]]], dict[str, float]]:
    """What ``figures.loss_curves`` draws: of Table 1's runs each seed's history, and the label smoothing."""
    runs = needed([run for run in results.runs if run in TABLE_1])
    smoothing = {run: results.of(run)["label_smoothing"].iloc[0] for run in runs}
    return {run: [records.read_history(folder) for folder in results.of(run)["folder"]] for run in runs}, smoothing


def contrasts(judged: dict[str, Judged]) -> list[Contrast]:
    """What ``figures.contrasts`` draws: the claims about validation accuracy that have their records."""
    drawn = [j for j in judged.values() if j.estimate and j.claim.measure == "validation_accuracy"]
    return [
        Contrast(j.claim.formula, j.estimate.value, j.interval, j.claim.papers_value(), j.verdict)
        for j in needed(drawn)
    ]


def needed(results: list, command: str = "make table") -> list:
    """The results, for ``missing_note`` to say what makes them where there are none."""
    if not results:
        raise InputError(f"there is no record yet: `{command}` makes one")
    return results


def verdict_text(j: Judged) -> str:
    """A comparison that the paper does not make has no claim to reproduce."""
    words = {"reproduced": "above zero", "contradicted": "below zero"} if j.claim.ours else {}
    return words.get(j.verdict, j.verdict) or ("none (n = 1)" if j.estimate else "no record")


def claims_table(judged: dict[str, Judged], caption: str, label: str) -> Table:
    """The claims of a group as contrasts."""
    rows = []
    for j in judged.values():
        e, digits = j.estimate, 2 if j.claim.measure == "validation_accuracy" else 3
        of_images = e and e.seeds == 1 and not math.isnan(j.interval[0])
        rows.append({
            "comparison": j.claim.says, "runs": j.claim.formula, "paper": signed(j.claim.papers_value()),
            "ours": signed(e.value, digits) if e else "–",
            "interval": interval_text(j.interval, signed, digits) + (" ᵃ" if of_images else ""), "n": e.seeds if e else 0,
            "verdict": verdict_text(j), "seeds to resolve": f"{j.seeds_needed or '–'}",
        })  # fmt: skip
    return Table(rows, caption, label)


def two_by_two(results: Results, caption: str) -> Table:
    """Smoothing x reduction of the loss: validation accuracy of the four runs."""

    cells = {
        run: f"{number(r['mean'])} ± {number(r['sd'])} ({run}, n = {r['n']})" for run, r in by_run(results).iterrows()
    }
    smoothing = f"smoothing {load_params('run7').label_smoothing:g}"
    rows = [
        {"": name, "mean of the batch": cells[mean], "sum over the batch": cells[total]}
        for name, mean, total in (("no smoothing", "run6", "run6-sum"), (smoothing, "run7-mean", "run7"))
    ]
    return Table(rows, caption, "tbl-two-by-two")


def conclusions(results: Results, judged: dict[str, Judged]) -> str:
    """How many of the paper's claims are reproduced, contradicted, not resolved and not judged."""
    if not results.runs:
        return "No run has a record yet."
    counts = Counter(j.verdict for j in judged.values())
    kinds = "; ".join(f"{kind} {counts[kind]}" for kind in ("reproduced", "contradicted", "not resolved"))
    text = f"Of the paper's {len(judged)} claims after {results.schedule}: {kinds}; not judged yet, for want of seeds"
    text += f" or records, {counts['']}."
    return text if results.schedule.is_the_papers else f"{text} The paper's full schedule may decide otherwise."


def speed_table(benchmarks: Sequence[dict], caption: str) -> Table:
    """The paper's seconds an epoch beside ours on the devices of the benchmark's records, with crops drawn anew and drawn
    once: there the two take turns on an idle machine, while a run shares its machine with others."""
    paper = load_published()["seconds_per_epoch"]
    rows = [
        {"device": "NVIDIA A100 (the paper)", "precision": "–", "fresh augmentation": f"{paper['per_epoch']} s",
         "drawn once": f"{paper['once']} s", "time saved": f"{100 * (1 - paper['once'] / paper['per_epoch']):.0f} %"}
    ]  # fmt: skip
    for record in benchmarks:
        fresh, once = record["base"], twin(record["base"], augmentation="once")
        saved = [100 * (1 - ratio) for ratio in ratios(record, once, fresh)]
        rows.append({
            "device": record["device_name"], "precision": record["precision"],
            "fresh augmentation": f"{np.median(epoch_seconds(record, fresh)):.3g} s",
            "drawn once": f"{np.median(epoch_seconds(record, once)):.3g} s",
            "time saved": f"{number(np.median(saved), 0)} % ({interval_text((min(saved), max(saved)), digits=0)})",
        })  # fmt: skip
    return Table(rows, caption, "tbl-speed")


def reached(results: Results) -> str:
    """What run 7 reached, as far as it went; "" without a record."""
    try:
        best = results.longest(run="run7", changes="")
    except InputError:
        return ""
    shares = f"{100 * best.validation_accuracy:.2f} % validation and {100 * best.test_accuracy:.2f} % test accuracy"
    return f"Our run 7 reaches {shares} after {best.schedule}."


def whitening_of(record: pd.Series) -> tuple[Tensor, Tensor]:
    """Eigenvalues (12,) and eigenvectors (12, 12), one a row, of the patch covariance, had back from the frozen filters
    of a record: a filter's length is 1 / sqrt(eigenvalue + epsilon)."""
    filters = torch.from_numpy(np.load(record.folder / "first_layer.npy")).double()
    filters = filters[: len(filters) // 2].flatten(1)
    length = filters.norm(dim=1, keepdim=True)
    return length.squeeze(1) ** -2 - record.whitening_eps, filters / length


def environment(results: Results) -> Table:
    """What the records of this schedule were made with; several values where they differ."""
    made = [records.read_record(folder, verify=False) for folder in results.table["folder"]]
    packages = pd.DataFrame([record["packages"] for record in made])
    commits = {f"{(r['commit'] or 'unknown')[:10]}{' (changed)' * bool(r['dirty'])}" for r in made}
    rows = {
        "records": len(made),
        "devices": devices(results),
        "packages": ", ".join(f"{name} {' / '.join(sorted(set(v.dropna())))}" for name, v in packages.items()),
        "code commits": ", ".join(sorted(commits)),
        "data": ", ".join(sorted({f"SHA-256 {r['data_sha256'][:16]}…" for r in made})),
        "training time": duration(sum(sum(r["epoch_seconds"]) for r in made)) if made else "none",
    }
    return Table(rows, "What the records of this schedule were made with.", "tbl-environment")
