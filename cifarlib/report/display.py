"""What any notebook shows: text, tables, and figures with number, caption and alternative text."""

import base64
import html
import logging
import re
import sys
from collections.abc import Callable, Iterable

import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, Markdown, display
from ipywidgets import HBox, Layout, ValueWidget
from matplotlib.figure import Figure

from cifarlib import InputError
from cifarlib.device.choice import pick_device
from cifarlib.params import did_you_mean
from cifarlib.provenance import code_version, device_name, package_versions
from cifarlib.report.figures import as_svg

NUMBER = re.compile(r"[-+−–\d.,% ]*(to [-+−–\d., ]*)?( s)?")  # also an interval, or seconds
PARAMETERS = re.compile(r"# Parameters\n|\w+: .* = ")  # papermill's cell, the notebook's
_shown = {"Figure": 0, "Table": 0}


def check_parameters(known: str) -> None:
    """Raise InputError where the cell before sets a parameter that is not named in ``known``:
    papermill takes any. Figures are numbered from 1 again; what the package logs is printed."""
    _shown.update(Figure=0, Table=0)
    log = logging.getLogger("cifarlib")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler(sys.stdout)]
    cell = get_ipython().user_ns["In"][-2] if get_ipython() else ""
    names = re.findall(r"(?m)^(\w+)\s*(?::[^=\n]*)?=(?!=)", cell) if PARAMETERS.match(cell) else []
    for name in names:
        if name not in known.split():
            hint = did_you_mean(name, known.split())
            raise InputError(f"parameter {name!r} is unknown: {hint}")


def duration(seconds: float) -> str:
    """Write a duration: "95 s", "9 min", "2 h 45 min"."""
    if seconds < 180:  # 93 s an epoch are not 2 min
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Text(Markdown):
    """Markdown that a terminal (papermill's log) can read as well."""

    def __repr__(self) -> str:
        return re.sub(r"\*\*|`", "", self.data)


class Table(HTML):
    """Rows, or names and values; ``[Table 1](#label)`` in the text refers to it."""

    def __init__(self, rows: pd.DataFrame | list[dict] | dict, caption: str = "", label: str = ""):
        if isinstance(rows, dict):
            rows = pd.DataFrame(rows.items(), columns=["", "value"])
        self.frame = pd.DataFrame(rows)
        texts = self.frame.astype(str)
        self.right = [all(map(NUMBER.fullmatch, texts[name])) for name in texts]
        if caption:
            _shown["Table"] += 1
            caption = f"<b>Table {_shown['Table']}.</b> {html.escape(caption)}"
            caption = f'<caption style="caption-side:top;text-align:left">{caption}</caption>'
        head = f"{caption}<thead>{self._row('th', texts)}</thead>"
        body = "".join(self._row("td", row) for row in texts.itertuples(index=False))
        super().__init__(f'<table id="{label}">{head}<tbody>{body}</tbody></table>')

    def _row(self, kind: str, texts: Iterable[str]) -> str:
        cells = ""
        for text, right in zip(texts, self.right, strict=True):
            side = "right" if right else "left"
            cells += f'<{kind} style="text-align:{side}">{html.escape(text)}</{kind}>'
        return f"<tr>{cells}</tr>\n"


class NumberedFigure:
    """A number, caption and label under which a figure is drawn, and others in its place."""

    def __init__(self, caption: str, label: str = ""):
        _shown["Figure"] += 1
        self.number = f"Figure {_shown['Figure']}."
        self.caption = caption
        self.label = label or f"fig-{_shown['Figure']}"
        self.handle = None

    def draw(self, figure: Figure) -> None:
        """Show a vector picture with its alternative text, as wide as the page."""
        picture = base64.b64encode(as_svg(figure).encode()).decode()
        page = (
            f'<figure id="{self.label}" style="margin:0"><img width="100%" style="max-height:90vh" '
            f'src="data:image/svg+xml;base64,{picture}" alt="{html.escape(figure.alt)}">'
            f"<figcaption><b>{self.number}</b> {html.escape(self.caption)}</figcaption></figure>"
        )
        bundle = {"text/html": page, "text/plain": f"{self.number} {self.caption}"}
        if self.handle:
            self.handle.update(bundle, raw=True)
        else:
            self.handle = display(bundle, raw=True, display_id=True)


def show(figure: Figure, caption: str, label: str = "") -> None:
    """Show a figure of figures.py; ``[Figure 1](#label)`` in the text refers to it."""
    NumberedFigure(caption, label).draw(figure)


def explore(draw: Callable[..., Figure], caption: str, **controls: ValueWidget) -> None:
    """Show ``draw(**values)`` as a figure that follows its controls; without a kernel the executed
    notebook still holds the picture of the first values."""
    numbered = NumberedFigure(caption)

    def follow(_: dict | None = None) -> None:
        try:
            numbered.draw(draw(**{name: control.value for name, control in controls.items()}))
        except InputError as error:
            # JupyterLab hides what a callback raises, such as that an upload cannot be read
            numbered.handle.update(Text(f"**{error}**"))

    for name, control in controls.items():
        control.description = name.replace("_", " ")
        control.style = {"description_width": "initial"}
        control.continuous_update = False  # a figure takes longer than a slider's step
        control.observe(follow, "value")
    panel = HBox(list(controls.values()), layout=Layout(flex_flow="row wrap"))
    text = f"(controls: {', '.join(controls)}; they need a running kernel)".replace("_", " ")
    display({**panel._repr_mimebundle_(), "text/plain": text}, raw=True)
    follow()


def provenance(device: str, data_sha256: str, record: dict | None = None) -> Table:
    """Tabulate what this notebook runs on and, of a record, what its run did, start by start."""
    chosen = pick_device(device)
    version = code_version()
    rows = {"device": f"{chosen.type}: {device_name(chosen)}"}
    rows["code"] = version["commit"] or "no commit"
    if version["dirty"]:
        rows["code"] += ", with changes that are not committed"
    rows["packages"] = ", ".join(map(" ".join, package_versions().items()))
    if record:
        text = "{device} ({device_name}), {precision}, convolutions: {convolutions}; code {commit}"
        made = map(text.format_map, record["sessions"])
        rows["the run was made on"] = "; then ".join(dict.fromkeys(made))
        rows["with the packages"] = ", ".join(map(" ".join, record["packages"].items()))
    return Table(rows | {"data": f"CIFAR-10, SHA-256 {data_sha256}"})
