"""An executed notebook as one HTML file, readable offline, and as a typeset PDF.

    python -m cifarlib export outputs/report.ipynb            # report.html and report.pdf beside it

cells.py turns cells and outputs into plain HTML, pandoc makes the page or Typst of it, typst sets the PDF. The same
notebook gives the same bytes: neither file holds a date. Cells tagged ``authors`` and ``abstract`` go into the title
block; tags ``remove-cell``, ``remove-input`` and ``remove-output`` do what they say; the PDF leaves code out, the HTML
folds it away. ``[@key]`` cites from notebooks/references.bib, ``[Figure](#label)`` gets the number of that caption.
"""

import base64
import bisect
import html
import importlib.util
import io
import json
import re
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise, zip_longest
from pathlib import Path
from urllib.parse import unquote

import matplotlib
import nbformat
import pypandoc
import typst
from bs4 import BeautifulSoup, NavigableString, Tag
from fontTools import subset
from fontTools.ttLib import TTCollection, TTFont

from cifarlib import InputError, project_root
from cifarlib.records import write_atomically
from cifarlib.report.cells import Cells

FOLDER = Path(__file__).parent  # of export.css, export.lua and export.typ
LINE, MAX_TABLE = 120, 180  # characters in a line of a table, and the most that smaller type makes room for
HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]
FORMULA = "script"  # all others are gone
FONTS = [
    Path(spec.origin).parent
    for name in ("manimgx_fonts", "manimgx_fonts_cjk")
    if (spec := importlib.util.find_spec(name))
]


def _read(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise InputError(f"no notebook {path}") from None
    except Exception as error:  # nbformat and json raise several kinds for a file that is no notebook
        raise InputError(f"{path} is not a notebook: {error}") from None


@dataclass
class Article:
    """A notebook as HTML: its title block, a tree for each cell that is shown, and what these trees refer to."""

    title: str
    authors: list[str]
    abstract: str
    cells: Cells
    pages: dict[int, BeautifulSoup] = field(default_factory=dict)  # by the number of the cell

    def all(self, *names, **attributes) -> list[Tag]:
        return [element for page in self.pages.values() for element in page.find_all(*names, **attributes)]


def article(path: Path) -> Article:
    """The parts of a notebook that its tags leave, with references resolved."""
    notebook = _read(path)
    language = notebook.metadata.get("language_info", {}).get("name") or "python"
    cells = Cells(path.parent, language)
    result = Article(html.escape(path.stem), [], "", cells)
    tags = [set(cell.get("metadata", {}).get("tags", [])) for cell in notebook.cells]
    hidden = {"remove-cell"}
    if any({"parameters", "remove-cell"} <= of_cell for of_cell in tags):
        hidden.add("injected-parameters")  # papermill's cell goes where the one it follows goes
    for number, (cell, of_cell) in enumerate(zip(notebook.cells, tags, strict=True), 1):
        try:
            if "authors" in of_cell:
                result.authors += [name.strip() for name in _given(cell).split(";") if name.strip()]
            elif "abstract" in of_cell:
                result.abstract += str(cells.clean(cells.markdown(_given(cell))))
            elif not of_cell & hidden:
                shown = {"code": "remove-input" not in of_cell, "outputs": "remove-output" not in of_cell}
                result.pages[number] = cells.page(number, cell, **shown)
        except Exception as error:  # a cell may hold anything
            line = (cell.get("source") or "").strip().partition("\n")[0][:80]
            raise InputError(f"{path}: cell {number}, {line!r}, cannot be read: {error!r}") from None
    _set_title(result)
    _resolve_captions(result)
    _resolve_anchors(result)
    _resolve_citations(result)
    return result


def _given(cell: nbformat.NotebookNode) -> str:
    """The Markdown that a cell is or gave out."""
    if cell.cell_type == "markdown":
        return cell.source
    return "\n\n".join(filter(None, (o.get("data", {}).get("text/markdown") for o in cell.get("outputs", []))))


def _set_title(article: Article) -> None:
    """The first heading of the first rank becomes the title, unless sections stand before several of them."""
    for heading in article.all(HEADINGS):
        if heading.find_parent("table"):  # a table for layout
            heading.name = "p"
    headings = [heading for heading in article.all(HEADINGS) if heading.get_text(strip=True)]
    first = [heading for heading in headings if heading.name == "h1"]
    if first and (headings[0] is first[0] or len(first) == 1):
        article.title = f'<span id="{_anchor(first[0])}">{first[0].decode_contents()}</span>'
        headings.remove(first[0])
        first[0].extract()
    rank = min((int(heading.name[1]) for heading in headings), default=1)
    for heading in headings:
        heading.name = f"h{int(heading.name[1]) - rank + 1}"
        if heading.get_text().startswith("Appendix"):
            heading["class"] = "unnumbered"


def _anchor(heading: Tag) -> str:
    return html.escape(heading.get_text().strip().replace(" ", "-"))


def _resolve_captions(article: Article) -> None:
    """``[Figure](#label)`` and ``[Table](#label)`` get the number that stands in the caption of that label."""
    numbers = {}
    for element in article.all(["figure", "table"], id=True):
        caption = element.find(["figcaption", "caption"])
        if number := caption and re.match(r"\s*((?:Figure|Table) \d+)\.", caption.get_text()):
            numbers[f"#{element['id']}"] = number[1]
    for link in article.all("a", href=re.compile("^#(fig|tbl)-"), string=["Figure", "Table"]):
        if link["href"] in numbers:
            link.string = numbers[link["href"]]
        else:
            link.replace_with(f"the {link.string.lower()} left out here")


def _resolve_anchors(article: Article) -> None:
    """Headings get Jupyter's anchors; a link to an anchor that is not there becomes text."""
    for heading in article.all(HEADINGS):
        heading["id"] = heading.get("id") or _anchor(heading)
    links = [(link, unquote(link["href"][1:])) for link in article.all("a", href=re.compile("^#"))]
    wanted, known = {target for _, target in links}, set(re.findall('<span id="(.*?)">', article.title))
    for element in article.all(lambda tag: tag.get("id") or (tag.name == "a" and tag.get("name"))):
        name = element.get("id") or element["name"]
        del element["id"], element["name"]
        if name not in known and (name in wanted or element.name in [*HEADINGS, "figure", "table"]):
            known.add(name)
            if element.name in [*HEADINGS, "figure", "table"]:
                element["id"] = name
                continue
            place = Tag(name="span", attrs={"id": name})
            place.string = "\u2060"  # no width; pandoc and Typst lose the place where there is nothing
            if element.name in ("a", "p", "div", "span", "li", "td", "th", "dt", "dd"):
                element.insert(0, place)
            else:
                element.insert_before(place)
    for element in article.all(lambda tag: tag.name == "a" and not tag.get("href")):
        element.unwrap()
    for link, target in links:
        if target in known:
            link["href"] = f"#{target}"
        else:
            link.unwrap()
    for link in article.all("a", href=re.compile(r"^\s*(javascript:.*)?$")):
        link.unwrap()


def _resolve_citations(article: Article) -> None:
    """``[@key]``, ``[-@key]`` and ``@key`` become citations where notebooks/references.bib has the key; the references
    stand before the appendix."""
    bibliography = project_root() / "notebooks" / "references.bib"
    known = (
        set(re.findall(r"^@\w+\{([^,\s]+)", bibliography.read_text(), re.MULTILINE)) if bibliography.exists() else set()
    )
    cited = False
    for text in [text for page in article.pages.values() for text in page.find_all(string=re.compile("@"))]:
        if text.find_parent(["pre", "code", "script", "a"]):
            continue
        parts = re.split(r"(\[[^\[\]]*@[^\[\]]*\]|(?<![\w.@])@[\w:-]*\w)", text)
        for i in range(1, len(parts), 2):
            keys = re.findall(r"@([\w:-]*\w)", parts[i])
            if keys and set(keys) <= known:
                span = Tag(name="span", attrs={"class": "citation"})
                span.string, cited = parts[i], True
                parts[i] = span
        text.replace_with(*(NavigableString(part) if isinstance(part, str) else part for part in parts))
    if cited:
        references = BeautifulSoup('<h1 class="unnumbered">References</h1><div id="refs"></div>', "html.parser")
        appendix = next((h for h in article.all("h1") if h.get_text().startswith("Appendix")), None)
        if appendix:
            appendix.insert_before(references)
        else:
            article.pages[max(article.pages) + 1] = references


def pandoc(article: Article, folder: Path, to: str, *options: str, cite: str = "--citeproc") -> str:
    """The article as HTML, Typst or LaTeX; its pictures are left in the folder. Formulas that pandoc cannot read are noted."""
    for name, content in article.cells.pictures.items():
        (folder / name).write_bytes(content)
    authors = "".join(f"<p>{html.escape(name)}</p>" for name in article.authors)
    source = f'<div id="meta-title"><p>{article.title}</p></div>'
    source += f'<div id="meta-authors">{authors}</div>' if authors else ""
    source += f'<div id="meta-abstract">{article.abstract}</div>' if article.abstract else ""
    source += "\n".join(map(str, article.pages.values()))
    log, bibliography = folder / "log.json", project_root() / "notebooks" / "references.bib"
    options = ["--standalone", "--wrap=none", f"--lua-filter={FOLDER / 'export.lua'}", cite, "--metadata=lang:en",
               "--metadata=link-citations", f"--resource-path={folder}", "--quiet", f"--log={log}",
               *([f"--bibliography={bibliography}"] if bibliography.exists() else []), *options]  # fmt: skip
    text = pypandoc.convert_text(source, to, format="html", extra_args=options)
    unread = {entry["contents"].strip() for entry in json.loads(log.read_text()) if "TeXMath" in entry["type"]}
    _note_formulas(article, unread, "pandoc")
    return text


def _note_formulas(article: Article, formulas: set[str], reader: str) -> None:
    for number, page in article.pages.items():
        for formula in page.find_all(FORMULA):
            if formula.string.strip() in formulas:
                line = formula.string.strip().splitlines()[0][:100]
                article.cells.notes.append(
                    f"cell {number}: {reader} cannot read a formula, its source is shown: {line}"
                )


def _math_font(text: str) -> bytes:
    """Of STIX Two Math, the characters of a text, so that a browser sets formulas without any font of its own."""
    (package,) = importlib.util.find_spec("ziamath").submodule_search_locations
    options = subset.Options()
    font = subset.load_font(f"{package}/fonts/STIXTwoMath-Regular.ttf", options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(sorted(set(text + "√"))))  # a root is an element, not a character
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
        options = ["--embed-resources", "--mathml", *_numbering(contents), f"--css={FOLDER / 'export.css'}",
                   f"--include-before-body={folder / 'switch.html'}"]  # fmt: skip
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
    """Typeset, with vector figures, their alternative text and embedded fonts; code is left out. Returns what else had
    to be left out, one line each."""
    contents = article(path)
    if code := contents.all("div", class_="code"):
        contents.cells.notes.append(f"the PDF leaves out the code of {len(code)} cell(s)")
    for element in code:
        element.extract()
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
    """Smaller type for a wide table; a very wide one without spans becomes several, each with the first column."""
    rows = [row.find_all(["th", "td"], recursive=False) for row in table.find_all("tr")]
    lengths = [[min(len(cell.get_text()), 11) + 2 for cell in row] for row in rows]  # longer words are broken
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
    options = [f"--variable={key}:{json.dumps(value, ensure_ascii=False)}" for key, value in strings]
    text = "".join(page.get_text() for page in article.pages.values())
    script = "JP" if re.search("[\u3040-\u30ff]", text) else "KR" if re.search("[\uac00-\ud7a3]", text) else "SC"
    options += [f"--template={FOLDER / 'export.typ'}", f"--variable=cjk:{script}", *_numbering(article)]
    source = pandoc(article, folder, "typst", *options)
    for image in article.all("img", alt=re.compile(r"\S")):  # which pandoc leaves out
        alt = json.dumps(" ".join(image["alt"].split()), ensure_ascii=False)
        source = source.replace(f'("{image["src"]}"', f'("{image["src"]}", alt: {alt}')
    (folder / "article.typ").write_text(source, encoding="utf-8")
    return typst.compile(folder / "article.typ", ignore_system_fonts=True, font_paths=FONTS)


def naming_cell(article: Article, make: Callable[[Article], str | bytes]) -> str | bytes:
    """``make(article)``. Where that raises RuntimeError, another one names the first cell without which it would not."""
    try:
        return make(article)
    except RuntimeError as error:
        for link in article.all("a", href=re.compile("^#")):
            link.unwrap()  # it may lead to a later cell
        notes, numbers = list(article.cells.notes), list(article.pages)
        parts = [
            replace(article, pages={n: article.pages[n] for n in numbers[: end + 1]}) for end in range(len(numbers))
        ]
        first = bisect.bisect_left(parts, True, key=lambda part: _fails(part, make))
        article.cells.notes[:] = notes
        if first == len(parts):
            raise
        line = (article.pages[numbers[first]].get_text().strip().splitlines() or ["(a picture)"])[0]
        raise RuntimeError(f"cell {numbers[first]}, {line[:80]!r}: {str(error).splitlines()[0]}") from None


def _fails(article: Article, make: Callable[[Article], str | bytes]) -> bool:
    try:
        return not make(article)
    except RuntimeError:
        return True


def _spell_out_formulas(article: Article) -> None:
    """Formulas that Typst does not take, one by one, give way to their source."""
    sources = {formula.string.strip(): str(formula) for formula in article.all(FORMULA)}
    text = pypandoc.convert_text("<hr>".join(sources.values()), "typst", format="html", extra_args=["--quiet"])
    refused = set()
    for source, formula in zip(sources, text.split("#horizontalrule"), strict=bool(sources)):
        try:
            typst.compile(f"{formula}".encode(), ignore_system_fonts=True)
        except RuntimeError:
            refused.add(source)
    _note_formulas(article, refused, "Typst")
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
    rare -= {c for c in rare if 0x1D400 <= ord(c) < 0x1D800}  # letters of Typst's own font for formulas
    typsts_own = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
    paths = [typsts_own, *(path for folder in FONTS for path in sorted(folder.glob("*.tt[fc]")))] if rare else []
    for path in paths:
        for font in TTCollection(path, lazy=True).fonts if path.suffix == ".ttc" else [TTFont(path, lazy=True)]:
            rare -= {c for c in rare if ord(c) in font.getBestCmap()}
    if not rare:
        return []
    names = " ".join(f"{c} (U+{ord(c):04X})" for c in sorted(rare)[:20])
    return [f"no font for {len(rare)} character(s), in the PDF boxes stand in their place: {names}"]


def export(path: Path, kinds: Sequence[str]) -> None:
    """The notebook as "html" and "pdf" beside it, as "tex" in a folder there; what is left out is said. Raises InputError where it cannot be."""
    said = set()
    for kind in kinds:
        output = path.parent / "tex" / f"{path.stem}.tex" if kind == "tex" else path.with_suffix(f".{kind}")
        try:
            if kind == "tex":
                from cifarlib.report.latex import to_tex

                notes = to_tex(path, output)
            else:
                notes = {"html": to_html, "pdf": to_pdf}[kind](path, output)
        except RuntimeError as error:  # pandoc's and Typst's
            raise InputError(f"{path} cannot be exported: {' '.join(str(error).split())}") from None
        except OSError as error:
            raise InputError(f"{output} cannot be written: {error.strerror or error}") from None
        for note in notes:
            if note not in said:
                print(f"{path.name}, {note}", file=sys.stderr)
        said.update(notes)
        print(f"{output} ({output.stat().st_size / 1e6:.2f} MB)")
