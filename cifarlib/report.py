"""What the report says: every table and sentence that depends on results, computed from the records under outputs/.

Each function takes ``Results`` and gives something to display; what has no record yet is named with the command that
makes it.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from IPython.display import display
from torch import Tensor

from cifarlib import InputError, bench, plots, records, stats
from cifarlib.data import CLASSES, load_cifar10
from cifarlib.evaluate import smoothing_floor
from cifarlib.notebook import Table, Text, duration, show
from cifarlib.params import PAPER_EPOCHS, TRAIN_IMAGES, load_params, load_published, run_names
from cifarlib.preprocess import channel_statistics

TABLE_1 = tuple(f"run{i}" for i in range(1, 8))
SCHEDULE = ("epochs", "stop_epoch", "train_images")


def as_published(record: dict) -> bool:
    """Whether a record has the settings of its params file, the schedule and the seed apart."""
    if record["run"] not in run_names():
        return False
    own, free = load_params(record["run"]).settings(), {*SCHEDULE, "seed"}
    return all(record["parameters"].get(k) == v for k, v in own.items() if k not in free)


@dataclass(frozen=True)
class Results:
    """The records of one schedule, by run and in the order of their seeds, and beside them those of other schedules.

    A record carries its folder as ``record["folder"]``.
    """

    schedule: dict  # epochs, stop_epoch, train_images
    runs: dict[str, list[dict]]
    others: list[dict]

    def values(self, run: str, name: str = "validation_accuracy") -> list[float]:
        """One value a seed; accuracies in per cent."""
        return [100 * r[name] if name.endswith("accuracy") else r[name] for r in self.runs.get(run, [])]

    @property
    def options(self) -> str:
        """The schedule as the Makefile takes it."""
        names = {"epochs": "EPOCHS", "stop_epoch": "STOP", "train_images": "IMAGES"}
        usual = {"epochs": PAPER_EPOCHS, "stop_epoch": None, "train_images": TRAIN_IMAGES}
        return "".join(f" {names[k]}={v}" for k, v in self.schedule.items() if v != usual[k])

    @property
    def title(self) -> str:
        """ "the paper's 200 epochs", "the paper's schedule squeezed into 8 epochs" ..."""
        epochs, stop, images = (self.schedule[k] for k in SCHEDULE)
        text = f"the paper's {PAPER_EPOCHS} epochs"
        if epochs != PAPER_EPOCHS:
            text = f"the paper's schedule squeezed into {epochs} epoch{'s' * (epochs > 1)}"
        text += f", stopped after {stop}" if stop else ""
        return text + (f", on {images:,} of {TRAIN_IMAGES:,} training images" if images != TRAIN_IMAGES else "")

    @property
    def is_the_papers(self) -> bool:
        return not self.options

    def best_run7(self) -> dict | None:
        """Run 7 as far as it went: the record with the most epochs on the most images, of its seeds the first."""
        found = [r for r in [*self.runs.get("run7", []), *self.others] if r["run"] == "run7" and as_published(r)]
        return max(found, key=lambda r: (r["train_images"], r["epochs_trained"], -r["seed"]), default=None)


def collect(
    output_folder: str | Path | None = None, epochs: int | None = None, stop_epoch: int | None = None
) -> Results:
    """Reads all records below ``output_folder``. The schedule is the one asked for, else the one under which most runs
    have a record, of several the longest. A run counts only with the settings of its params file."""
    found = records.finished(output_folder)
    clean = [r for r in found if as_published(r)]
    by_schedule: dict[tuple, set] = {}
    for r in clean:
        if epochs in (None, r["epochs"]) and (stop_epoch == r["stop_epoch"] or (epochs is None and stop_epoch is None)):
            by_schedule.setdefault(tuple(r[k] for k in SCHEDULE), set()).add(r["run"])
    if by_schedule:
        chosen = max(by_schedule, key=lambda s: (s[2], len(by_schedule[s]), s[1] or s[0]))
    elif epochs is None and stop_epoch is None:
        chosen = (PAPER_EPOCHS, None, TRAIN_IMAGES)
    else:
        raise InputError(
            f"epochs = {epochs}, stop_epoch = {stop_epoch}: no record below {output_folder or 'outputs'} has this schedule"
        )
    runs: dict[str, list[dict]] = {}
    for r in sorted(clean, key=lambda r: r["seed"]):
        if tuple(r[k] for k in SCHEDULE) == chosen:
            runs.setdefault(r["run"], []).append(r)
    here = [id(r) for some in runs.values() for r in some]
    return Results(dict(zip(SCHEDULE, chosen, strict=True)), runs, [r for r in found if id(r) not in here])


def number(value: float, digits: int = 2) -> str:
    """With a true minus sign; a dash for what is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    return number(value, digits) if value < 0 or math.isnan(value) else f"+{value:.{digits}f}"


def _interval(low: float, high: float, show=number, digits: int = 2) -> str:
    return "–" if math.isnan(low) else f"{show(low, digits)} to {show(high, digits)}"


def _seeds(results: Results, runs: Sequence[str]) -> str:
    counts = sorted({len(results.runs.get(run, [])) for run in runs})
    text = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"{text} seed{'s' * (counts != [1])} a run"


def _right(record: dict, part: str = "validation") -> np.ndarray:
    """Which images the run got right, (N,) booleans."""
    said = records.read_predictions(record["folder"])
    return said[part].argmax(1) == said[f"{part}_labels"]


def missing(results: Results) -> list[str]:
    return [run for run in (*TABLE_1, *sorted(set(run_names()) - set(TABLE_1))) if run not in results.runs]


def status(results: Results) -> Text:
    """Which schedule the results are of, and what is missing with the command that makes it."""
    text = f"The results below are of **{results.title}**"
    if not results.is_the_papers:
        text += (
            f", not of the paper's {PAPER_EPOCHS} epochs: its accuracies cannot be expected, and differences may be "
            "others, too. A short schedule favours what learns fast, and with batches of 1,024 a run makes an eighth of "
            "the updates that it makes with batches of 128. Verdicts are on this schedule only"
        )
    count = sum(map(len, results.runs.values()))
    text += f". {count} record{'s' * (count != 1)}, {_seeds(results, list(results.runs) or TABLE_1)}."
    made_by = {(r["device_name"], r["precision"], str(r.get("code"))) for some in results.runs.values() for r in some}
    if len(made_by) > 1:
        text += " **The records differ in device, precision or code; so may what is compared here.**"
    if names := missing(results):
        runs = " ".join(name.removeprefix("run") if name in TABLE_1 else name for name in names)
        text += f"\n\n**No record yet of {', '.join(names)}.** What would need them is left open below. To make them: "
        text += f'`make table RUNS="{runs}"{results.options}`, then `make report`.'
    return Text(text)


def devices(results: Results) -> str:
    return "; ".join(sorted({f"{r['device_name']} ({r['precision']})" for some in results.runs.values() for r in some}))


def table_1(results: Results) -> Table:
    """The paper's Table 1 with its column and ours beside it."""
    published, rows = load_published()["validation_accuracy"], []
    for run in TABLE_1:
        p, values = load_params(run), results.values(run)
        row = {
            "#": run.removeprefix("run"),
            "batch": p.batch_size,
            "whitening": "yes" if p.whitening else "no",
            "padding": p.padding,
            "optimizer": {"adamw": "AdamW", "sgd": "SGD", "sgd-nesterov": "Nesterov"}[p.optimizer],
            "norm.": p.normalization,
            "smoothing": f"{p.label_smoothing:g}" if p.label_smoothing else "no",
            "paper %": number(published[run]),
        }
        test = results.values(run, "test_accuracy")
        row["ours %"] = number(np.mean(values)) if values else "–"
        row["sd"] = number(statistics.stdev(values)) if len(values) > 1 else "–"
        row["n"] = len(values)
        row["95 % interval"] = "–"
        if len(values) > 1:
            row["95 % interval"] = _interval(*stats.mean_interval(values))
        elif values:
            low, high = stats.binomial_interval(values[0] / 100, results.runs[run][0]["validation_images"])
            row["95 % interval"] = _interval(100 * low, 100 * high) + " ᵃ"
        row["difference"] = signed(np.mean(values) - published[run]) if values and results.is_the_papers else "–"
        row["test %"] = number(np.mean(test)) if test else "–"
        rows.append(row)
    caption = (
        f"Table 1 of the paper (validation accuracy after {PAPER_EPOCHS} epochs) beside ours: mean over n seeds after "
        f"{results.title}, standard deviation and 95 % interval of the mean over seeds (Student). "
    )
    if any(len(some) == 1 for some in results.runs.values()):
        caption += "ᵃ One seed: binomial interval, images only. "
    if not results.is_the_papers:
        caption += "No difference is given between accuracies of two schedules. "
    caption += f"Device: {devices(results) or 'none yet'}."
    return Table(rows, caption, "tbl-runs")


def other_schedules(results: Results) -> Table | Text:
    """Records that Table 1 must not mix in, labelled."""
    if not results.others:
        return Text("There are no records of other schedules.")
    rows = [
        {
            "run": r["run"],
            "seed": r["seed"],
            "schedule": f"{r['epochs_trained']} of {r['epochs']} epochs, {r['train_images']:,} images",
            "validation %": number(100 * r["validation_accuracy"]),
            "test %": number(100 * r["test_accuracy"]),
            "device": f"{r['device']} ({r['precision']})",
        }
        for r in results.others
    ]
    return Table(rows, "Runs on another schedule, on part of the data or with settings of their own.", "tbl-others")


@dataclass(frozen=True)
class Claim:
    """One statement as a weighted sum of runs' means. sign: where the paper sees it; 0: alike. ours: a comparison that
    the paper does not make."""

    says: str
    arms: tuple[tuple[float, str], ...]
    sign: int = 1
    measure: str = "validation_accuracy"
    ours: bool = False

    @property
    def name(self) -> str:
        signs = ["− " if weight < 0 else "+ " for weight, _ in self.arms]
        factors = ["" if abs(weight) == 1 else f"{abs(weight):g}·" for weight, _ in self.arms]
        parts = zip(signs, factors, self.arms, strict=True)
        return " ".join(f"{a}{b}{run.removeprefix('run')}" for a, b, (_, run) in parts).removeprefix("+ ")

    def published(self) -> float:
        """Points, from the paper's Table 1; nan where it has no such number."""
        if self.arms == difference("run7", "run7-preprocessed"):
            return load_published()["accuracy_drop_of_preprocessed_images"]
        paper = load_published()["validation_accuracy"]
        if self.measure != "validation_accuracy" or any(run not in paper for _, run in self.arms):
            return math.nan
        return sum(weight * paper[run] for weight, run in self.arms)


def difference(of: str, minus: str) -> tuple[tuple[float, str], ...]:
    return ((1.0, of), (-1.0, minus))


CLAIMS = (
    Claim("SGD ends above AdamW", difference("run2", "run1")),
    Claim("AdamW converges early (training loss over the first 15 % of the epochs, nats)", difference("run2", "run1"), 1, "early_loss"),
    Claim("patch whitening helps", difference("run4", "run3")),
    Claim("reflect padding (with Nesterov) helps", difference("run5", "run4")),
    Claim("normalising by channel beats by length", difference("run6", "run5")),
    Claim("label smoothing (with the summed loss) helps", difference("run7", "run6")),
    Claim("its gain exceeds that of channel over length, the next in size from run 3 on", ((1.0, "run7"), (-2.0, "run6"), (1.0, "run5"))),
    Claim("fresh augmentation beats images pre-processed once", difference("run7", "run7-preprocessed")),
)  # fmt: skip
ALIKE = Claim("batch sizes 128 and 1024 perform alike", difference("run3", "run2"), 0)
PADDING = (
    Claim("reflect padding alone", difference("run4-reflect", "run4")),
    Claim("Nesterov momentum alone", difference("run4-nesterov", "run4"), ours=True),
    Claim("reflect padding, given Nesterov", difference("run5", "run4-nesterov")),
    Claim("Nesterov momentum, given reflect padding", difference("run5", "run4-reflect"), ours=True),
)
SMOOTHING = (
    Claim("smoothing alone (mean loss)", difference("run7-mean", "run6")),
    Claim("summing the loss alone (no smoothing)", difference("run6-sum", "run6"), ours=True),
    Claim("smoothing, given the summed loss", difference("run7", "run6-sum")),
    Claim("summing the loss, given smoothing", difference("run7", "run7-mean"), ours=True),
    Claim(
        "both together beyond the sum of each alone",
        ((1.0, "run7"), (-1.0, "run7-mean"), (-1.0, "run6-sum"), (1.0, "run6")),
        ours=True,
    ),
)
NORMALISATION = (
    Claim(
        "the other reading of “channel”: each image's own statistics",
        difference("run6-image-channel", "run6"),
        ours=True,
    ),
)


def early_loss(record: dict) -> float:
    """Mean training loss over the first 15 % of the epochs, the paper's first phase of the learning rate."""
    rows = records.read_history(record["folder"])
    return float(np.mean([row["train_loss"] for row in rows[: max(1, round(0.15 * record["epochs"]))]]))


def estimate(results: Results, claim: Claim) -> stats.Estimate | None:
    """None where a run has no record."""
    arms = []
    for weight, run in claim.arms:
        values = results.values(run) if claim.measure != "early_loss" else [*map(early_loss, results.runs.get(run, []))]
        arms.append((weight, values))
    return stats.contrast(arms) if all(values for _, values in arms) else None


@dataclass(frozen=True)
class Judged:
    claim: Claim
    estimate: stats.Estimate | None
    interval: tuple[float, float]  # adjusted for the number of claims; of the images only at one seed
    verdict: str  # "" where none is given
    seeds_needed: int | None


def judge(results: Results, claims: Sequence[Claim]) -> list[Judged]:
    """The claims with Holm-adjusted intervals and verdicts (``stats``)."""
    estimates = [estimate(results, claim) for claim in claims]
    levels = stats.holm_levels([e.p if e else math.nan for e in estimates])
    judged = []
    for claim, e, level in zip(claims, estimates, levels, strict=True):
        interval, verdict, needed = (math.nan, math.nan), "", None
        if e and e.seeds > 1:
            interval = e.interval(level) if claim.sign else e.interval(2 * stats.LEVEL - 1)
            verdict = stats.verdict(e, claim.sign, level) if claim.sign else stats.alike(e)
            needed = stats.seeds_needed(e, level) if verdict == "not resolved" and claim.sign else None
        elif e and claim.measure == "validation_accuracy":
            images = [(weight, np.mean([_right(r) for r in results.runs[run]], axis=0)) for weight, run in claim.arms]
            _, low, high = stats.paired_interval(images)
            interval = 100 * low, 100 * high
        judged.append(Judged(claim, e, interval, verdict, needed))
    return judged


def _verdict_text(j: Judged) -> str:
    words = {"reproduced": "above zero", "contradicted": "below zero"} if j.claim.ours else {}
    return "no record" if j.estimate is None else words.get(j.verdict, j.verdict) or "none (n = 1)"


def contrasts_table(judged: Sequence[Judged], caption: str, label: str) -> Table:
    rows = []
    for j in judged:
        e, digits = j.estimate, 3 if j.claim.measure == "early_loss" else 2
        rows.append(
            {
                "comparison": j.claim.says,
                "runs": j.claim.name,
                "paper": signed(j.claim.published()),
                "ours": signed(e.value, digits) if e else "–",
                "interval": _interval(*j.interval, signed, digits)
                + (" ᵃ" if e and e.seeds < 2 and not math.isnan(j.interval[0]) else ""),
                "n": e.seeds if e else 0,
                "verdict": _verdict_text(j),
                "seeds to resolve": f"{j.seeds_needed}" if j.seeds_needed else "–",
            }
        )
    if any(j.estimate and j.estimate.seeds < 2 for j in judged):
        caption += " ᵃ One seed: 95 % interval of the images' chance alone (paired), not adjusted, and no verdict."
    return Table(rows, caption, label)


def claims_table(results: Results) -> Table:
    judged, alike = judge(results, CLAIMS), judge(results, [ALIKE])
    caption = f"The paper's claims as contrasts, in points of validation accuracy unless said otherwise, after {results.title}."
    if any(j.verdict for j in judged):
        caption += " Intervals are adjusted by Holm's procedure for all directional claims together."
    if alike[0].verdict:
        caption += f" The last row is the equivalence test (90 % interval within ±{stats.MARGIN:g} points)."
    return contrasts_table([*judged, *alike], caption, "tbl-claims")


def confounds_table(results: Results, claims: Sequence[Claim], what: str, label: str) -> Table:
    judged, caption = judge(results, claims), f"{what} Points of validation accuracy after {results.title}."
    if any(j.verdict for j in judged):
        caption += " Intervals are adjusted by Holm's procedure within this table."
    return contrasts_table(judged, caption, label)


def two_by_two(results: Results) -> Table:
    """Smoothing x reduction of the loss: validation accuracy of the four runs."""

    def cell(run: str) -> str:
        values = results.values(run)
        if not values:
            return f"no record ({run})"
        spread = f" ± {number(statistics.stdev(values))}" if len(values) > 1 else ""
        return f"{number(np.mean(values))}{spread} ({run}, n = {len(values)})"

    rows = [
        {"": "no smoothing", "mean of the batch": cell("run6"), "sum over the batch": cell("run6-sum")},
        {"": "smoothing 0.2", "mean of the batch": cell("run7-mean"), "sum over the batch": cell("run7")},
    ]
    caption = "Label smoothing and the reduction of the loss taken apart: validation accuracy in per cent (± sd)."
    return Table(rows, caption, "tbl-two-by-two")


def speed_table(benchmarks: Sequence[dict]) -> Table:
    """The paper's seconds an epoch beside ours on the devices of the benchmark's records, with crops drawn anew and drawn
    once: there the two take turns on an idle machine, while a run shares its machine with others."""
    paper = load_published()["seconds_per_epoch"]
    rows = [
        {"device": "NVIDIA A100 (the paper)", "precision": "–", "fresh augmentation": f"{paper['per_epoch']} s",
         "drawn once": f"{paper['once']} s", "time saved": f"{_papers_saving():.0f} %"}
    ]  # fmt: skip
    for record in benchmarks:
        names = record["base"], f"{record['base']}, once"
        fresh, once = (statistics.median(bench.epoch_seconds(record, name)) for name in names)
        saved = [100 * (1 - ratio) for ratio in bench.ratios(record, names[1], names[0])]
        rows.append(
            {
                "device": record["device_name"],
                "precision": record["precision"],
                "fresh augmentation": f"{fresh:.3g} s",
                "drawn once": f"{once:.3g} s",
                "time saved": f"{number(statistics.median(saved), 0)} % ({_interval(min(saved), max(saved), digits=0)})",
            }
        )
    caption = (
        f"Seconds an epoch of run 7 ({TRAIN_IMAGES:,} images) takes to train: the paper's average, and of our benchmark the "
        "median; saved, the median, smallest and largest of its repeats. The paper's images drawn once were cropped and flipped "
        "before training; ours are cropped and flipped batch by batch either way, by draws of the first epoch or new ones."
    )
    return Table(rows, caption, "tbl-speed")


def _papers_saving() -> float:
    seconds = load_published()["seconds_per_epoch"]
    return 100 * (1 - seconds["once"] / seconds["per_epoch"])


def speed_text(results: Results) -> Text:
    """Whether the paper's trade-off still exists."""
    judged, paper = judge(results, CLAIMS)[-1], load_published()
    text = (
        f"The paper saves {_papers_saving():.0f} % of an epoch's time (it says 80 %) with images that are cropped and "
        f"flipped once, and loses {number(paper['accuracy_drop_of_preprocessed_images'], 0)} points of accuracy. Here a "
        "whole batch is cropped and flipped in one gather on the device: the table says what drawing once saves, the "
        "benchmark below (“ready”) what images cropped and flipped before the first epoch save. "
    )
    if judged.estimate is None:
        return Text(text + "What it costs in accuracy is open: our records do not hold both runs yet.")
    text += f"One draw for all epochs changes the accuracy by {signed(-judged.estimate.value)} points after {results.title} "
    return Text(text + (f"(a loss: {judged.verdict})." if judged.verdict else "(a run with one seed: no verdict)."))


def show_benchmark(benchmarks: Sequence[dict]) -> None:
    """The benchmark of every device that has a record (notebooks/benchmark.ipynb)."""
    if not benchmarks:
        display(Text("The benchmark beside other loops has no record yet: `make bench` makes one."))
    for record in benchmarks:
        caption = (
            f"Seconds that an epoch of {TRAIN_IMAGES:,} images takes at the measured rate on {record['device_name']}, batches of "
            f"{record['batch_size']}: median, smallest and largest of {record['repeats']} repeats of {record['train_images']:,} "
            f"images, in turn; and how many times as fast {record['base']} is."
        )
        display(Text(bench.verdict(record)))
        show(plots.benchmark_bars(*bench.bars(record)), caption)


def _count(judged: Sequence[Judged], results: Results) -> str:
    counts = Counter(j.verdict for j in judged)
    kinds = "; ".join(f"{v} {counts[v]}" for v in ("reproduced", "contradicted", "not resolved"))
    text = f"Of the paper's {len(judged)} claims after {results.title}: {kinds}"
    text += f"; not judged yet, for want of seeds or records, {counts['']}. " if counts[""] else ". "
    return text + ("" if results.is_the_papers else "The paper's full schedule may decide otherwise. ")


def abstract(results: Results) -> Text:
    """The abstract, all of its numbers computed."""
    published = load_published()
    text = (
        f"A student's report trains a convolutional network of {published['parameters']:,} parameters on CIFAR-10 in "
        f"seven runs and gives {published['validation_accuracy']['run7']:.2f} % validation and "
        f"{published['test_accuracy']['run7']:.2f} % test accuracy, without a spread over seeds. We rebuild the network "
        "and the runs, add four that take its two confounded comparisons apart, one with its pre-processed images and one "
        "with another reading of its normalisation, and judge each claim by an interval over seeds where there are several. "
    )
    best = results.best_run7()
    if best:
        epochs = f"{best['epochs_trained']} epochs"
        if best["epochs"] != PAPER_EPOCHS:
            epochs = f"the schedule squeezed into {epochs}"
        elif best["stop_epoch"]:
            epochs = f"{epochs} of the paper's {PAPER_EPOCHS}"
        text += (
            f"Our run 7 reaches {100 * best['validation_accuracy']:.2f} % validation and "
            f"{100 * best['test_accuracy']:.2f} % test accuracy after {epochs}. "
        )
    judged = [*judge(results, CLAIMS), *judge(results, [ALIKE])]
    if any(j.verdict for j in judged):
        text += _count(judged, results)
    elif results.runs:
        text += (
            f"As long as each comparison has a run of a single seed ({results.title}), no claim is judged: intervals over "
            "images stand beside the differences. "
        )
    else:
        text += "No run has a record yet. "
    return Text(text + "Every number of ours is computed from records that this project's notebooks left.")


def test_text(results: Results) -> Text:
    """Test accuracy of run 7, and which record the figures below are of."""
    best = results.best_run7()
    if best is None:
        return Text("Run 7 has no record yet: `make train RUN=7 EPOCHS=10` makes one.")
    low, high = stats.binomial_interval(best["test_accuracy"], best["test_images"])
    text = (
        f"Run 7 with seed {best['seed']} after {best['epochs_trained']} of {best['epochs']} epochs, our longest, gets "
        f"**{100 * best['test_accuracy']:.2f} %** of the {best['test_images']:,} test images right (binomial 95 % interval "
        f"{100 * low:.2f} to {100 * high:.2f} %, images only); the paper reports {load_published()['test_accuracy']['run7']:.2f} %"
    )
    if not (best["epochs"] == PAPER_EPOCHS and best["stop_epoch"] is None):
        text += f" after {PAPER_EPOCHS} epochs"
    text += (
        f". Each run reads the test set once, after its last epoch. Mean loss per image {best['test_loss']:.3f} on the test "
        f"images, {best['validation_loss']:.3f} on the validation images (the paper's log: "
        f"{load_published()['validation_loss']['run7'] / 10_000:.3f}); smoothed labels allow no less than "
        f"{smoothing_floor(best['parameters']['label_smoothing']):.3f}. The figures that follow are of this record."
    )
    return Text(text)


def environment(results: Results) -> Table:
    """What the records of this schedule were made with; several values where they differ."""
    found = [r for some in results.runs.values() for r in some]
    versions: dict[str, set] = {}
    for r in found:
        for name, version in r["packages"].items():
            versions.setdefault(name, set()).add(version)
    rows = {
        "records": f"{len(found)}",
        "devices": devices(results) or "–",
        "packages": ", ".join(f"{name} {' / '.join(sorted(some))}" for name, some in versions.items()) or "–",
        "code commits": ", ".join(
            sorted({f"{(r['commit'] or 'unknown')[:10]}{' (changed)' * bool(r['dirty'])}" for r in found})
        )
        or "–",
        "data": ", ".join(sorted({f"SHA-256 {r['data_sha256'][:16]}…" for r in found})) or "–",
        "training time": duration(sum(sum(r["epoch_seconds"]) for r in found)) if found else "–",
    }
    return Table(rows, "What the records of this schedule were made with.", "tbl-environment")


def log_excerpt(results: Results, lines: int = 11) -> Text:
    """The end of run 7's log, in the paper's format."""
    best = results.best_run7()
    if best is None:
        return Text("Run 7 has no record yet.")
    tail = (best["folder"] / "log.txt").read_text().splitlines()[-lines:]
    return Text("```\n" + "\n".join(tail) + "\n```")


def whitening_of(record: dict) -> tuple[Tensor, Tensor]:
    """Eigenvalues (12,) and eigenvectors (12, 12), one a row, of the patch covariance, had back from the frozen filters
    of a record: a filter's length is 1 / sqrt(eigenvalue + epsilon)."""
    filters = torch.from_numpy(np.load(record["folder"] / "first_layer.npy")).double()
    filters = filters[: len(filters) // 2].flatten(1)
    length = filters.norm(dim=1, keepdim=True)
    return length.squeeze(1) ** -2 - record["parameters"]["whitening_eps"], filters / length


def show_whitening(results: Results) -> None:
    """Spectrum, eigenpatches and covariances, from the first record with frozen filters."""
    every = [*(r for some in results.runs.values() for r in some), *results.others]
    found = [r for r in every if r["parameters"]["whitening"] and r["parameters"]["normalization"] == "channel"]
    if not found:
        display(Text("No record of a run with whitening yet: `make train RUN=7 EPOCHS=10` makes one."))
        return
    record = max(found, key=lambda r: r["train_images"])
    values, vectors = whitening_of(record)
    of = f"From the filters of {record['run']}, seed {record['seed']}."
    show(plots.eigenvalue_spectrum(values), f"Eigenvalues of the covariance of 2×2 patches. {of}", "fig-spectrum")
    caption = (
        "The twelve eigenvectors as colour patches, in the order of their eigenvalues, on one scale; zero is grey."
    )
    show(plots.eigenpatches(values, vectors), caption, "fig-eigenpatches")
    after = (values / (values + record["parameters"]["whitening_eps"])).diag()
    caption = (
        "Covariance of the twelve values of a patch, and of the twelve whitened responses as the formula gives it."
    )
    show(plots.covariances(vectors.T @ values.diag() @ vectors, after), caption, "fig-covariances")


def smoothing_text() -> Text:
    """The paper's smoothing in numbers."""
    p, paper = load_params("run7"), load_published()
    logged = paper["last_batch_loss"]["run7"]
    return Text(
        f"Run 7 smooths with $s$ = {p.label_smoothing:g}: the floor is {smoothing_floor(p.label_smoothing):.3f} per image. "
        f"The paper's log ends at {logged:.1f} for a batch of {p.batch_size}, {logged / p.batch_size:.3f} per image, which is "
        "how the summed loss was recognised."
    )


def show_accuracies(results: Results) -> None:
    """Each run's seeds, mean and interval beside the paper's value; nothing without records."""
    values = {
        run: results.values(run) for run in (*TABLE_1, *sorted(set(run_names()) - set(TABLE_1))) if results.values(run)
    }
    if not values:
        return
    intervals = {}
    for run, some in values.items():
        low, high = stats.binomial_interval(some[0] / 100, results.runs[run][0]["validation_images"])
        intervals[run] = stats.mean_interval(some) if len(some) > 1 else (100 * low, 100 * high)
    published = load_published()["validation_accuracy"] if results.is_the_papers else {}
    caption = f"Validation accuracy of all runs and variants after {results.title}: seeds, mean and 95 % interval"
    caption += " (one seed: images only)." if any(len(some) == 1 for some in values.values()) else "."
    if not published:
        caption += " The paper's values are of its full schedule and are not drawn."
    show(plots.run_accuracies(values, intervals, published), caption, "fig-accuracies")


def show_losses(results: Results) -> None:
    """The paper's Figure 2, run 7 included."""
    histories = {
        run: [records.read_history(r["folder"]) for r in results.runs[run]] for run in TABLE_1 if run in results.runs
    }
    if not histories:
        return
    smoothing = {run: results.runs[run][0]["parameters"]["label_smoothing"] for run in histories}
    seeds = (
        f"mean of {_seeds(results, list(histories))}, each seed thin"
        if any(len(h) > 1 for h in histories.values())
        else "one seed"
    )
    names = ", ".join(run.removeprefix("run") for run in histories)
    caption = (
        f"Training loss per image and validation accuracy of Table 1's runs ({names}) after {results.title}; {seeds}."
    )
    show(plots.loss_curves(histories, smoothing), caption, "fig-losses")


def show_claims(results: Results) -> None:
    """Estimates, intervals and the paper's differences in one picture; nothing where no claim has its records."""
    judged = [
        j for j in [*judge(results, CLAIMS), *judge(results, [ALIKE])] if j.estimate and j.claim.measure != "early_loss"
    ]
    if judged:
        rows = [(j.claim.name, j.estimate.value, j.interval, j.claim.published(), j.verdict) for j in judged]
        caption = (
            "The claims of the table above about validation accuracy: our estimate with its interval, and the paper's."
        )
        show(plots.contrasts(rows), caption, "fig-claims")


def show_test(results: Results) -> None:
    """Run 7's longest record: its curves unless those of Table 1's runs hold them, and on the test images confusion,
    classes and calibration."""
    best = results.best_run7()
    if best is None:
        return
    if best not in results.runs.get("run7", []):
        history, smoothing = records.read_history(best["folder"]), best["parameters"]["label_smoothing"]
        caption = (
            "Loss per image and accuracy of this record after each epoch; training values are those met during it."
        )
        show(plots.training_curves(history, best["epochs_trained"], smoothing), caption, "fig-longest")
    said = records.read_predictions(best["folder"])
    logits, labels = said["test"], said["test_labels"]
    caption = "Confusion on the test images: counts, coloured by the share of the true class."
    show(plots.confusion(logits, labels), caption, "fig-confusion")
    show(
        plots.per_class_accuracy(logits, labels),
        "Test accuracy of each class with its binomial 95 % interval.",
        "fig-classes",
    )
    caption = "Calibration on the test images [@guo2017]: how often answers of a given probability are right."
    show(plots.calibration(logits, labels), caption, "fig-calibration")


class Pictures:
    """What needs the images themselves: without them (no cache, no network) a note takes the pictures' place."""

    def __init__(self, data_folder: str | Path | None = None):
        try:
            self.data, self.why = load_cifar10(data_folder), ""
        except InputError as error:
            self.data, self.why = None, str(error)

    def _ready(self, what: str) -> bool:
        if self.data is None:
            display(Text(f"*{what} is left out: CIFAR-10 is not there (`make data` fetches it).*"))
        return self.data is not None

    def show_preprocessing(self, label: str) -> None:
        if self._ready("The picture of the preprocessing"):
            index = int((self.data.train_labels == CLASSES.index("horse")).nonzero()[0])
            statistics = channel_statistics(self.data.train_images)
            figure = plots.preprocessing(self.data.train_images[index], "horse", statistics, 0)
            show(
                figure,
                "One training image: normalised in three ways, padded in two, and as drawn in several epochs.",
                label,
            )

    def show_mistakes(self, results: Results, label: str) -> None:
        best = results.best_run7()
        if best is not None and self._ready("The picture of typical mistakes"):
            said = records.read_predictions(best["folder"])
            figure = plots.mistakes(self.data.test_images, said["test"], said["test_labels"])
            show(
                figure,
                "The most confident mistakes on the test images: the answer, its probability, and the label.",
                label,
            )
