"""What any notebook needs to show something: its parameters checked, text, tables, and figures with
number, caption and alternative text."""

import ast
import base64
import html
import logging
import re
import sys
from collections.abc import Callable

import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, Markdown, display
from ipywidgets import HBox, Layout, ValueWidget
from matplotlib.figure import Figure

from cifarlib import InputError
from cifarlib.device.choice import pick_device, pick_precision
from cifarlib.params import did_you_mean
from cifarlib.provenance import code_version, computed_on, device_name, package_versions
from cifarlib.report.figures import as_svg

NUMBER = re.compile(r"[-+−–\d.,% ]*(to [-+−–\d., ]*)?(ᵃ| s)?")  # also an interval, a note, seconds
_numbers = {"Figure": 0, "Table": 0}


def check_parameters(known: str) -> None:
    """Raises InputError where a parameter was given that is not among the names in ``known``,
    separated by spaces.

    papermill injects a mistyped name without complaint. Here the cells run just before this one are
    read, as far as they only assign plain values (the parameters cell and papermill's). What a
    notebook itself assigns elsewhere is no parameter, so a second pass over all cells stays quiet.
    Figures are numbered from 1 again, and what the package logs is shown."""
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
    """The names that a cell of nothing but assignments of plain values sets; none for any other
    cell."""
    names = []
    try:
        for statement in ast.parse(source).body:
            target = (
                statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            )
            names.append(target.id)
            if any(
                isinstance(node, (ast.Attribute, ast.Subscript, ast.Lambda))
                for node in ast.walk(statement.value)
            ):
                # a call of the notebook's own, not a parameter such as float('nan') or 'a' + 'b'
                return []
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
    """Rows as a table, in a terminal and in an export too; numbered where it has a caption. A dict
    becomes a table of name and value. ``[Table](#label)`` in the text refers to it."""

    def __init__(self, rows: list[dict] | dict, caption: str = "", label: str = ""):
        named = isinstance(rows, dict)
        self.frame = pd.DataFrame(
            [{"": k, "value": str(v)} for k, v in rows.items()] if named else rows
        )
        self.label, self.caption = label, _numbered("Table", caption) if caption else ""
        super().__init__(self._table(text_only=named))

    def __repr__(self) -> str:
        return self.frame.to_string(index=False)

    def _table(self, text_only: bool) -> str:
        """HTML, with numbers to the right and all else to the left."""
        frame = self.frame.astype(str)
        sides = [
            "left" if text_only or not all(map(NUMBER.fullmatch, frame[name])) else "right"
            for name in frame
        ]
        caption = (
            f'<caption style="caption-side:top;text-align:left">{_bold(self.caption)}</caption>'
            if self.caption
            else ""
        )
        head, *body = (
            "<tr>"
            + "".join(
                f'<t{kind} style="text-align:{side}">{html.escape(text)}</t{kind}>'
                for side, text in zip(sides, row, strict=True)
            )
            + "</tr>\n"
            for kind, row in [
                ("h", map(str, frame)),
                *(("d", row) for row in frame.itertuples(index=False)),
            ]
        )
        return f'<table id="{self.label}">{caption}<thead>{head}</thead><tbody>{"".join(body)}</tbody></table>'


def _bold(text: str) -> str:
    return re.sub(r"\*\*(.*?)\*\*", r"<b>\1</b>", html.escape(text))


def _numbered(kind: str, caption: str) -> str:
    _numbers[kind] += 1
    return f"**{kind} {_numbers[kind]}.** {caption}"


class NumberedFigure:
    """A number, caption and label under which a figure is shown, and another in its place:
    ``draw``."""

    def __init__(self, caption: str, label: str = ""):
        self.caption = _numbered("Figure", caption)
        self.label, self.handle = label or f"fig-{_numbers['Figure']}", None

    def draw(self, figure: Figure) -> None:
        if self.handle is None:
            self.handle = display(self.bundle(figure), raw=True, display_id=True)
        else:
            self.handle.update(self.bundle(figure), raw=True)

    def bundle(self, figure: Figure) -> dict:
        """A vector picture with caption and alternative text."""
        picture, alt = base64.b64encode(as_svg(figure).encode()).decode(), html.escape(figure.alt)
        text = (
            f'<figure id="{self.label}" style="margin:0"><img src="data:image/svg+xml;base64,{picture}" alt="{alt}" '
            f'style="width:100%"><figcaption>{_bold(self.caption)}</figcaption></figure>'
        )
        return {"text/html": text, "text/plain": self.caption.replace("**", "")}


def show(figure: Figure, caption: str, label: str = "") -> None:
    """A figure of figures.py with its number and caption; ``[Figure](#label)`` in the text refers
    to it."""
    NumberedFigure(caption, label).draw(figure)


def explore(draw: Callable[..., Figure], caption: str, **controls: ValueWidget) -> None:
    """``draw(**values)`` as a figure that follows its controls. It is an output like any other, so
    that the executed notebook shows the picture of the first values without a kernel, too."""
    for name, control in controls.items():
        control.description, control.style = (
            name.replace("_", " "),
            {"description_width": "initial"},
        )
        if hasattr(control, "continuous_update"):
            control.continuous_update = False  # a figure takes longer than a slider's step
    panel = HBox(list(controls.values()), layout=Layout(flex_flow="row wrap"))._repr_mimebundle_()
    display(
        {**panel, "text/plain": f"(controls: {', '.join(controls)}; they need a running kernel)"},
        raw=True,
    )
    numbered = NumberedFigure(caption)

    def follow(_=None) -> None:
        numbered.draw(draw(**{name: control.value for name, control in controls.items()}))

    follow()
    for control in controls.values():
        control.observe(follow, "value")


def provenance(
    device: str, data_sha256: str, record: dict | None = None, precision: str = "auto"
) -> Table:
    """What this notebook runs on: device, commit, versions and data; and what the record's run was
    computed on or, without a record, how a new run will be computed."""
    chosen, version = pick_device(device), code_version()
    precision = pick_precision(chosen) if precision == "auto" else precision
    new = precision
    dirty = {True: ", with changes that are not committed", None: " (changes unknown)", False: ""}[
        version["dirty"]
    ]
    return Table(
        {
            "device": f"{chosen.type}: {device_name(chosen)}",
            "the run's device" if record else "new runs": computed_on(record) if record else new,
            "code": f"{version['commit'] or 'no commit'}{dirty}",
            "packages": ", ".join(
                f"{name} {number}" for name, number in package_versions().items()
            ),
            "data": f"CIFAR-10, SHA-256 {data_sha256}",
        }
    )
