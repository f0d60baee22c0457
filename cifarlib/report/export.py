"""An executed notebook as one HTML file, readable offline, and as a typeset PDF.

    python -m cifarlib export outputs/report.ipynb            # report.html and report.pdf beside it

cells.py turns cells and outputs into plain HTML, pandoc makes the page or Typst of it, typst sets
the PDF. The same notebook gives the same bytes: neither file holds a date. Cells tagged ``authors``
and ``abstract`` go into the title block; tags ``remove-cell``, ``remove-input`` and
``remove-output`` do what they say; the PDF leaves code out, the HTML folds it away. ``[@key]``
cites from notebooks/references.bib, ``[Figure](#label)`` gets the number of that caption."""

import base64
import importlib.util
import io
import json
import re
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from copy import copy
from itertools import accumulate, pairwise, zip_longest
from pathlib import Path

import matplotlib
import pypandoc
import typst
from bs4 import BeautifulSoup, Tag
from fontTools import subset
from fontTools.ttLib import TTCollection, TTFont

from cifarlib import InputError
from cifarlib.records import write_atomically
from cifarlib.report.latex import to_tex
from cifarlib.report.notebook import (
    FOLDER,
    FONTS,
    FORMULA,
    HEADINGS,
    Article,
    article,
    leave_out_code,
    naming_cell,
    note_formulas,
    pandoc,
)

# characters in a line of a table, and the most that smaller type makes room for
LINE, MAX_TABLE = 120, 180


def _math_font(text: str) -> bytes:
    """Of STIX Two Math, the characters of a text, so that a browser sets formulas without any font
    of its own."""
    (package,) = importlib.util.find_spec("ziamath").submodule_search_locations
    options = subset.Options()
    font = subset.load_font(f"{package}/fonts/STIXTwoMath-Regular.ttf", options)
    subsetter = subset.Subsetter(options)
    # a root is an element, not a character
    subsetter.populate(text="".join(sorted(set(text + "√"))))
    subsetter.subset(font)
    font.save(file := io.BytesIO())
    return file.getvalue()


def to_html(path: Path, output: Path) -> list[str]:
    """One file that asks nothing of the network. Returns what had to be left out, one line each."""
    contents = article(path)
    for image in contents.all("img"):
        del image["data-share"]
    switch = '<label class="switch"><input type="checkbox" id="show-code"> show code</label>'
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "switch.html").write_text(switch if contents.all("div", class_="code") else "")
        options = [
            "--embed-resources",
            "--mathml",
            *_numbering(contents),
            f"--css={FOLDER / 'export.css'}",
            f"--include-before-body={folder / 'switch.html'}",
        ]
        page = naming_cell(contents, lambda part: pandoc(part, folder, "html5", *options))
    if formulas := "".join(re.findall(r"<math.*?</math>", page, flags=re.DOTALL)):
        source = base64.b64encode(_math_font(formulas)).decode()
        face = f'@font-face {{ font-family: "STIX Two Math"; src: url(data:font/ttf;base64,{source}); }}'
        page = page.replace("</head>", f"<style>{face}</style>\n</head>", 1)
    write_atomically(output, lambda file: file.write(page.encode()))
    return contents.cells.notes


def _numbering(article: Article) -> list[str]:
    """Contents, and numbers for sections that nest and have none of their own."""
    headings = article.all(HEADINGS)
    contents = ["--toc", "--toc-depth=2"] if headings else []
    ranks = [0, *(int(heading.name[1]) for heading in headings)]
    nest = all(rank <= before + 1 for before, rank in pairwise(ranks))
    own = any(re.match(r"\s*\d", heading.get_text()) for heading in headings)
    return contents if own or not nest else [*contents, "--number-sections", "--variable=numbered"]


def to_pdf(path: Path, output: Path) -> list[str]:
    """Typeset, with vector figures, their alternative text and embedded fonts; code is left out.
    Returns what else had to be left out, one line each."""
    contents = article(path)
    leave_out_code(contents, "PDF")
    for table in contents.all("table"):
        _fit(table)
    for image in contents.all("img"):
        image["width"] = f"{image['data-share']}%"
        del image["data-share"], image["height"]
    with tempfile.TemporaryDirectory() as temporary:
        try:
            pdf = _typeset(contents, Path(temporary))
        except RuntimeError:
            _spell_out_formulas(contents)
            pdf = naming_cell(contents, lambda part: _typeset(part, Path(temporary)))
    contents.cells.notes += _not_in_fonts(contents)
    write_atomically(output, lambda file: file.write(pdf))
    return contents.cells.notes


def _fit(table: Tag) -> None:
    """Smaller type for a wide table; a very wide one without spans becomes several, each with the
    first column."""
    rows = [row.find_all(["th", "td"], recursive=False) for row in table.find_all("tr")]
    # longer words are broken
    lengths = [[min(len(cell.get_text()), 11) + 2 for cell in row] for row in rows]
    needed = [max(column) for column in zip_longest(*lengths, fillvalue=0)]
    plain = len({len(row) for row in rows}) == 1 and not table.find(
        ["th", "td"], attrs={"colspan": True, "rowspan": True}
    )
    if plain and len(needed) > 2 and sum(needed) > MAX_TABLE:
        end = max(2, sum(total <= MAX_TABLE for total in accumulate(needed)))
        rest = copy(table)
        for row, other in zip(rows, rest.find_all("tr"), strict=True):
            for cell in [*row[end:], *other.find_all(["th", "td"], recursive=False)[1:end]]:
                cell.extract()
        table.insert_after(rest)
        _fit(rest)
        needed = needed[:end]
    longest = 10 if sum(needed) > LINE else 30
    for text in table.find_all(string=re.compile(rf"\S{{{longest + 1}}}")):
        if text.parent.name != FORMULA:
            text.replace_with(re.sub(rf"\S{{{longest}}}(?=\S)", "\\g<0>\u200b", text))
    if sum(needed) > LINE:
        size = 7.8 * LINE / sum(needed)
        table["data-typst:text:size"], table["data-typst:inset"] = (
            f"{size:.1f}pt",
            f"(x: {size / 2:.1f}pt, y: {size / 3:.1f}pt)",
        )


def _typeset(article: Article, folder: Path) -> bytes:
    """The PDF. Raises RuntimeError where Typst refuses."""
    # a string of JSON is one of Typst's, too: for the file's properties, which hold no markup
    title = BeautifulSoup(article.title, "html.parser").get_text()
    strings = [("title-string", title), *(("author-string", name) for name in article.authors)]
    options = [
        f"--variable={key}:{json.dumps(value, ensure_ascii=False)}" for key, value in strings
    ]
    text = "".join(page.get_text() for page in article.pages.values())
    script = (
        "JP"
        if re.search("[\u3040-\u30ff]", text)
        else "KR"
        if re.search("[\uac00-\ud7a3]", text)
        else "SC"
    )
    options += [
        f"--template={FOLDER / 'export.typ'}",
        f"--variable=cjk:{script}",
        *_numbering(article),
    ]
    source = pandoc(article, folder, "typst", *options)
    for image in article.all("img", alt=re.compile(r"\S")):  # which pandoc leaves out
        alt = json.dumps(" ".join(image["alt"].split()), ensure_ascii=False)
        source = source.replace(f'("{image["src"]}"', f'("{image["src"]}", alt: {alt}')
    (folder / "article.typ").write_text(source, encoding="utf-8")
    return typst.compile(folder / "article.typ", ignore_system_fonts=True, font_paths=FONTS)


def _spell_out_formulas(article: Article) -> None:
    """Formulas that Typst does not take, one by one, give way to their source."""
    sources = {formula.string.strip(): str(formula) for formula in article.all(FORMULA)}
    text = pypandoc.convert_text(
        "<hr>".join(sources.values()), "typst", format="html", extra_args=["--quiet"]
    )
    refused = set()
    for source, formula in zip(sources, text.split("#horizontalrule"), strict=bool(sources)):
        try:
            typst.compile(f"{formula}".encode(), ignore_system_fonts=True)
        except RuntimeError:
            refused.add(source)
    note_formulas(article, refused, "Typst")
    for formula in article.all(FORMULA):
        if formula.string.strip() in refused:
            formula.name, formula.attrs = "code", {}
            formula.string = formula.string.strip()


def _not_in_fonts(article: Article) -> list[str]:
    """One line that names the characters of the text which no font has; none if there are none."""
    text = (
        article.title
        + "".join(article.authors)
        + article.abstract
        + "".join(p.get_text() for p in article.pages.values())
    )
    common = ("Cf", "Mn", "Zs", "Zl", "Zp", "Co")  # not drawn
    rare = {c for c in text if ord(c) > 0x24F and unicodedata.category(c) not in common}
    # letters of Typst's own font for formulas
    rare -= {c for c in rare if 0x1D400 <= ord(c) < 0x1D800}
    typsts_own = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
    paths = (
        [typsts_own, *(path for folder in FONTS for path in sorted(folder.glob("*.tt[fc]")))]
        if rare
        else []
    )
    for path in paths:
        for font in (
            TTCollection(path, lazy=True).fonts
            if path.suffix == ".ttc"
            else [TTFont(path, lazy=True)]
        ):
            rare -= {c for c in rare if ord(c) in font.getBestCmap()}
    if not rare:
        return []
    names = " ".join(f"{c} (U+{ord(c):04X})" for c in sorted(rare)[:20])
    return [f"no font for {len(rare)} character(s), in the PDF boxes stand in their place: {names}"]


def export(path: Path, kinds: Sequence[str]) -> None:
    """The notebook as "html" and "pdf" beside it, as "tex" in a folder there; what is left out is
    said. Raises InputError where it cannot be."""
    said = set()
    for kind in kinds:
        output = (
            path.parent / "tex" / f"{path.stem}.tex"
            if kind == "tex"
            else path.with_suffix(f".{kind}")
        )
        try:
            notes = {"html": to_html, "pdf": to_pdf, "tex": to_tex}[kind](path, output)
        except RuntimeError as error:  # pandoc's and Typst's
            raise InputError(f"{path} cannot be exported: {' '.join(str(error).split())}") from None
        except OSError as error:
            raise InputError(f"{output} cannot be written: {error.strerror or error}") from None
        for note in notes:
            if note not in said:
                print(f"{path.name}, {note}", file=sys.stderr)
        said.update(notes)
        print(f"{output} ({output.stat().st_size / 1e6:.2f} MB)")
