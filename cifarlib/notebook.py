"""What the notebooks show: their parameters checked, tables, numbered figures with caption and alt text, progress."""

import ast
import base64
import html
import logging
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import HTML, Markdown, clear_output, display
from ipywidgets import HBox, Layout, ValueWidget
from matplotlib.figure import Figure
from tqdm import tqdm

from cifarlib import InputError, plots, project_root, records
from cifarlib.loop import estimate_epoch_seconds, pick_device, pick_precision
from cifarlib.model import build_model, layer_table
from cifarlib.params import PAPER_EPOCHS, TRAIN_IMAGES, RunParams, did_you_mean
from cifarlib.stats import binomial_interval

NUMBER = re.compile(r"[-+−–\d.,% ]*(to [-+−–\d., ]*)?(ᵃ| s)?")  # also an interval, a note, seconds
_numbers = {"Figure": 0, "Table": 0}


def check_parameters(known: str) -> None:
    """Raises InputError where a parameter was given that is not among the names in ``known``, separated by spaces.

    papermill injects a mistyped name without complaint. Here the cells run just before this one are read, as far as
    they only assign plain values (the parameters cell and papermill's). What a notebook itself assigns elsewhere is no
    parameter, so a second pass over all cells stays quiet. Figures are numbered from 1 again, and what the package
    logs is shown.
    """
    _numbers.update(Figure=0, Table=0)
    logger = logging.getLogger("cifarlib")
    if not logger.handlers:  # what the package says belongs to the text, not into a red box
        logger.addHandler(logging.StreamHandler(sys.stdout))
        logger.setLevel(logging.INFO)
        logger.propagate = False
    shell = get_ipython()
    for source in shell.user_ns["In"][-3:-1] if shell else ():
        for name in _plain_assignments(source):
            if name not in known.split():
                raise InputError(f"parameter {did_you_mean(name, known.split())}")


def _plain_assignments(source: str) -> list[str]:
    """The names that a cell of nothing but assignments of plain values sets; none for any other cell."""
    names = []
    try:
        for statement in ast.parse(source).body:
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            names.append(target.id)
            if any(isinstance(node, (ast.Attribute, ast.Subscript, ast.Lambda)) for node in ast.walk(statement.value)):
                return []  # a call of the notebook's own, not a parameter such as float('nan') or 'a' + 'b'
    except (SyntaxError, AttributeError):
        return []
    return names


def duration(seconds: float) -> str:
    """ "95 s", "9 min", "2 h 45 min"."""
    if seconds < 180:  # 93 s an epoch are not 2 min
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Text(Markdown):
    """Markdown that a terminal (papermill's log) can read as well."""

    def __repr__(self) -> str:
        return self.data


class Table(HTML):
    """Rows as a table, in a terminal and in an export too; numbered where it has a caption. A dict becomes a table of
    name and value. ``[Table](#label)`` in the text refers to it."""

    def __init__(self, rows: list[dict] | dict, caption: str = "", label: str = ""):
        named = isinstance(rows, dict)
        self.frame = pd.DataFrame([{"": k, "value": str(v)} for k, v in rows.items()] if named else rows)
        self.label = label
        if caption:
            _numbers["Table"] += 1
            caption = f"**Table {_numbers['Table']}.** {caption}"
        self.caption = caption
        # text to the left: all of names and values, otherwise the first column
        cell = r"<t([dh])>" if named else r"(?<=<tr>)\s*<t([dh])>"
        table = re.sub(cell, r'<t\1 style="text-align:left">', self.frame.to_html(index=False, border=0))
        above = re.sub(r"\*\*(.*?)\*\*", r"<b>\1</b>", html.escape(caption))
        super().__init__(f'<p id="{label}">{above}</p>{table}' if caption else table)

    def __repr__(self) -> str:
        return self.frame.to_string(index=False)

    def _repr_markdown_(self) -> str:
        """A pipe table of pandoc's, for exports; its dashes give the widths where a line must wrap."""
        frame = self.frame.astype(str).map(lambda text: text.replace("|", "\\|"))
        numeric = [all(NUMBER.fullmatch(text) for text in frame[c]) for c in frame]
        width = [max(len(c), *map(len, frame[c]), 3) if len(frame) else 3 for c in frame]
        rule = [
            "-" * min(w + 2, 48) + ":" if right else ":" + "-" * min(w + 2, 48)
            for w, right in zip(width, numeric, strict=True)
        ]
        lines = [frame.columns, rule, *frame.itertuples(index=False)]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"::: {{#{self.label}}}\n{text}\n\n: {self.caption}\n:::" if self.caption else text


def announce(params: RunParams, device: str) -> Text:
    """How long the run will take here, measured on a few steps, and how to ask for less."""
    place = pick_device(device)
    epoch = estimate_epoch_seconds(params, place)
    where = {"cpu": "CPU", "mps": "Apple GPU"}.get(place.type, "GPU")
    about = "At most" if place.type == "cuda" else "About"  # steps are measured before they are captured
    text = f"**{about} {duration(epoch * params.last_epoch)} on this {where}** for {params.last_epoch} "
    text += f"epoch{'s' * (params.last_epoch > 1)} of {duration(epoch)}."
    if params.last_epoch > 10:
        text += f" For less: `-p epochs 10` takes about {duration(10 * epoch)} (the schedule squeezed into 10 epochs)."
    return Text(text + " It can be stopped at any time: run again, it goes on.")


def question(params: RunParams) -> Text:
    return Text(f"> **{params.run}**: {params.question or 'its params file asks no question'}")


def parameter_table(params: RunParams) -> Table:
    """What defines the run: the settings of Table 1 and the rest."""
    return Table({name.replace("_", " "): value for name, value in params.settings().items()})


def provenance(device: str, data_sha256: str, precision: str | None = None) -> Table:
    """What it ran on: commit, versions, device and data. precision: what is used here; None: what a new run will use."""
    place, version = pick_device(device), records.code_version()
    used = precision or pick_precision(place)
    dirty = {True: ", with changes that are not committed", None: " (changes unknown)", False: ""}[version["dirty"]]
    packages = ", ".join(f"{name} {number}" for name, number in records.package_versions().items())
    return Table(
        {
            "device": f"{place.type}: {records.device_name(place)}",
            "precision" if precision else "precision of new runs": used + " autocast" * (used != "float32"),
            "code": f"{version['commit'] or 'no commit'}{dirty}",
            "packages": packages,
            "data": f"CIFAR-10, SHA-256 {data_sha256}",
        }
    )


def results_table(record: dict) -> Table:
    """Validation and test accuracy with their binomial 95 % intervals, and loss."""
    rows = []
    for part in ("validation", "test"):
        n, share = record[f"{part}_images"], record[f"{part}_accuracy"]
        low, high = binomial_interval(share, n)
        rows.append(
            {
                "part": part,
                "images": f"{n:,}",
                "accuracy": f"{100 * share:.2f} %",
                "95 % interval (images only)": f"{100 * low:.2f} to {100 * high:.2f} %",
                "loss per image": f"{record[f'{part}_loss']:.4f}",
            }
        )
    return Table(rows)


def verdict(record: dict, published: dict) -> Text:
    """One sentence: what this run reached, and how that may be set beside the paper."""
    ours = 100 * record["validation_accuracy"]
    paper = published["validation_accuracy"].get(record["run"])
    text = f"{record['run']}, seed {record['seed']}: **{ours:.2f} %** of the validation images are right"
    text += f" after {record['epochs_trained']} epoch{'s' * (record['epochs_trained'] > 1)}"
    full = record["epochs"] == record["epochs_trained"] == PAPER_EPOCHS and record["train_images"] == TRAIN_IMAGES
    if paper is None:
        text += "; the paper has no such run."
    elif full:
        text += f"; the paper reports {paper:.2f} %. It is one seed: another will differ."
    else:
        text += (
            f". The paper reports {paper:.2f} % after {PAPER_EPOCHS} epochs on all 40,000 training images: "
            "this run has another schedule or less data and is no comparison."
        )
    return Text(text)


def _bundle(figure: Figure, number: int, caption: str, label: str = "") -> dict:
    source = base64.b64encode(plots.as_svg(figure).encode()).decode()
    label, alt = label or f"fig-{number}", html.escape(figure.alt)
    text = (
        f'<figure id="{label}" style="margin:0"><img src="data:image/svg+xml;base64,{source}" alt="{alt}" '
        f'style="max-width:100%"><figcaption><b>Figure {number}.</b> {html.escape(caption)} '
        f"<small><code>{figure.source}</code></small></figcaption></figure>"
    )
    # for exports, which take the picture itself from the HTML
    width = f"{min(100, 100 * figure.get_figwidth() / 9.5):.0f}%"
    markdown = f'![**Figure {number}.** {caption} `{figure.source}`]({label}.svg){{#{label} width={width} alt="{alt}"}}'
    return {"text/html": text, "text/markdown": markdown, "text/plain": f"Figure {number}. {caption}"}


def show(figure: Figure, caption: str, label: str = "") -> None:
    """A vector figure with its number, caption, alternative text and the function that drew it; ``[Figure](#label)``
    in the text refers to it."""
    _numbers["Figure"] += 1
    display(_bundle(figure, _numbers["Figure"], caption, label), raw=True)


def explore(draw: Callable[..., Figure], caption: str, **controls: ValueWidget) -> None:
    """``draw(**values)`` as a figure that follows its controls. It is an output like any other, so that the executed
    notebook shows the picture of the first values without a kernel, too."""
    _numbers["Figure"] += 1
    number = _numbers["Figure"]

    def picture() -> dict:
        return _bundle(draw(**{name: control.value for name, control in controls.items()}), number, caption)

    for name, control in controls.items():
        control.description, control.style = name.replace("_", " "), {"description_width": "initial"}
        if hasattr(control, "continuous_update"):
            control.continuous_update = False  # a figure takes longer than a slider's step
    panel = HBox(list(controls.values()), layout=Layout(flex_flow="row wrap"))._repr_mimebundle_()
    display({**panel, "text/plain": f"(controls: {', '.join(controls)}; they need a running kernel)"}, raw=True)
    handle = display(picture(), raw=True, display_id=True)
    for control in controls.values():
        control.observe(lambda _: handle.update(picture(), raw=True), "value")


class Progress:
    """One line of progress and, below it, the curves so far; at the end both are replaced by their final form.

    The line goes to stdout, so that ``papermill --log-output`` shows it in a terminal, too.
    """

    def __init__(self, params: RunParams):
        _numbers["Figure"] += 1
        self.params, self.number = params, _numbers["Figure"]
        self.bar, self.handle, self.shown, self.drawn = None, None, 0, 0.0

    def __call__(self, epochs: float, history: list[dict]) -> None:
        total = self.params.last_epoch
        if self.bar is None:
            self.bar = tqdm(
                desc=f"{self.params.run} seed {self.params.seed}", initial=epochs, total=total, file=sys.stdout,
                mininterval=10 if pick_device().type == "cpu" else 2, miniters=0, smoothing=0,
                bar_format="{desc}: epoch {n:.1f} of {total}{postfix}, {elapsed} passed, {remaining} left",
            )  # fmt: skip
        if len(history) > self.shown:
            row = history[-1]
            text = f"loss {row['train_loss']:.4f}, validation {100 * row['validation_accuracy']:.2f} %"
            self.bar.set_postfix_str(f"{text}, {row['train_seconds']:.1f} s an epoch", refresh=False)
            self.shown = len(history)
            if len(history) < total and time.perf_counter() - self.drawn > 5:
                self._draw(history)
        self.bar.update(epochs - self.bar.n)
        if len(history) == total:
            line = str(self.bar)
            self.bar.close()
            clear_output(wait=True)
            print(line)
            self.handle = None
            self._draw(history)

    def _draw(self, history: list[dict]) -> None:
        figure = plots.training_curves(history, self.params.last_epoch, self.params.label_smoothing)
        caption = (
            "Loss per image and accuracy after each epoch; the training values are those met during the epoch, on "
            "augmented images."
        )
        bundle = _bundle(figure, self.number, caption)
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)
        self.drawn = time.perf_counter()


def layers(params: RunParams) -> Table:
    """The network, layer by layer, with a line of totals."""
    rows = layer_table(build_model(params.seed, torch.zeros(24, 3, 2, 2) if params.whitening else None))
    counts = ("parameters", "trained")
    rows.append({"layer": "all", "output": ""} | {k: sum(row[k] for row in rows) for k in counts})
    return Table([row | {k: f"{row[k]:,}" for k in counts} for row in rows])


def left_behind(folder: Path) -> Text:
    """What the run left, and how to read it."""
    names = [*records.read_record(folder)["files"], "record.json"]
    text = "".join(f"\n- `{name}` ({(folder / name).stat().st_size / 1000:,.0f} kB)" for name in names)
    shown = folder.relative_to(project_root()) if folder.is_relative_to(project_root()) else folder
    return Text(
        f"The record lies in `{shown}`:\n{text}\n\nRead it with `records.read_record(folder)`, the logits with "
        "`records.read_predictions(folder)`, the model with `evaluate.load_model(folder)`."
    )
