"""A notebook as an article: its cells as HTML trees (cells.py) with title block, captions, anchors
and citations resolved, and pandoc's page of them."""

import bisect
import html
import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pypandoc
from bs4 import BeautifulSoup, NavigableString, Tag

from cifarlib import InputError, project_root
from cifarlib.report.cells import Cells

FOLDER = Path(__file__).parent  # of export.css, export.lua, export.tex and export.typ
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
    # nbformat and json raise several kinds for a file that is no notebook
    except Exception as error:
        raise InputError(f"{path} is not a notebook: {error}") from None


@dataclass
class Article:
    """A notebook as HTML: its title block, a tree for each cell that is shown, and what these trees
    refer to."""

    title: str
    authors: list[str]
    abstract: str
    cells: Cells
    pages: dict[int, BeautifulSoup] = field(default_factory=dict)  # by the number of the cell

    def all(self, *names, **attributes) -> list[Tag]:
        return [
            element
            for page in self.pages.values()
            for element in page.find_all(*names, **attributes)
        ]


def article(path: Path) -> Article:
    """The parts of a notebook that its tags leave, with references resolved."""
    notebook = _read(path)
    language = notebook.metadata.get("language_info", {}).get("name") or "python"
    cells = Cells(path.parent, language)
    result = Article(html.escape(path.stem), [], "", cells)
    code = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "".join(cell.get("source") or "").strip()
    ]
    if code and not any(cell.get("execution_count") or cell.get("outputs") for cell in code):
        cells.notes.append(
            "it has not been executed, so there are no results in it: run all its cells and save it"
        )
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
                shown = {
                    "code": "remove-input" not in of_cell,
                    "outputs": "remove-output" not in of_cell,
                }
                result.pages[number] = cells.page(number, cell, **shown)
        except Exception as error:  # a cell may hold anything
            line = (cell.get("source") or "").strip().partition("\n")[0][:80]
            raise InputError(
                f"{path}: cell {number}, {line!r}, cannot be read: {error!r}"
            ) from None
    _set_title(result)
    _resolve_captions(result)
    _resolve_anchors(result)
    _resolve_citations(result)
    _keep_with_number(result)
    return result


def _given(cell: nbformat.NotebookNode) -> str:
    """The Markdown that a cell is or gave out."""
    if cell.cell_type == "markdown":
        return cell.source
    return "\n\n".join(
        filter(None, (o.get("data", {}).get("text/markdown") for o in cell.get("outputs", [])))
    )


def _set_title(article: Article) -> None:
    """The first heading of the first rank becomes the title, unless sections stand before several
    of them."""
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
    """``[Figure](#label)`` and ``[Table](#label)`` get the number that stands in the caption of
    that label."""
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
    wanted, known = (
        {target for _, target in links},
        set(re.findall('<span id="(.*?)">', article.title)),
    )
    for element in article.all(lambda tag: tag.get("id") or (tag.name == "a" and tag.get("name"))):
        name = element.get("id") or element["name"]
        del element["id"], element["name"]
        if name not in known and (name in wanted or element.name in [*HEADINGS, "figure", "table"]):
            known.add(name)
            if element.name in [*HEADINGS, "figure", "table"]:
                element["id"] = name
                continue
            place = Tag(name="span", attrs={"id": name})
            # no width; pandoc and Typst lose the place where there is nothing
            place.string = "\u2060"
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
    """``[@key]``, ``[-@key]`` and ``@key`` become citations where notebooks/references.bib has the
    key; the references stand before the appendix."""
    bibliography = project_root() / "notebooks" / "references.bib"
    known = (
        set(re.findall(r"^@\w+\{([^,\s]+)", bibliography.read_text(), re.MULTILINE))
        if bibliography.exists()
        else set()
    )
    cited = False
    for text in [
        text for page in article.pages.values() for text in page.find_all(string=re.compile("@"))
    ]:
        if text.find_parent(["pre", "code", "script", "a"]):
            continue
        parts = re.split(r"(\[[^\[\]]*@[^\[\]]*\]|(?<![\w.@])@[\w:-]*\w)", text)
        for i in range(1, len(parts), 2):
            keys = re.findall(r"@([\w:-]*\w)", parts[i])
            if keys and set(keys) <= known:
                span = Tag(name="span", attrs={"class": "citation"})
                span.string, cited = parts[i], True
                parts[i] = span
        text.replace_with(
            *(NavigableString(part) if isinstance(part, str) else part for part in parts)
        )
    if cited:
        references = BeautifulSoup(
            '<h1 class="unnumbered">References</h1><div id="refs"></div>', "html.parser"
        )
        appendix = next((h for h in article.all("h1") if h.get_text().startswith("Appendix")), None)
        if appendix:
            appendix.insert_before(references)
        else:
            article.pages[max(article.pages) + 1] = references


def _keep_with_number(article: Article) -> None:
    """No line ends between a number and its "%"."""
    for text in [
        text
        for page in article.pages.values()
        for text in page.find_all(string=re.compile(r"\d %"))
    ]:
        if not text.find_parent(["pre", "code", "script"]):
            text.replace_with(re.sub(r"(?<=\d) %", "\u00a0%", text))


def leave_out_code(article: Article, kind: str) -> None:
    """What is to be read on paper has no code; a note says so."""
    if code := article.all("div", class_="code"):
        article.cells.notes.append(f"the {kind} leaves out the code of {len(code)} cell(s)")
    for element in code:
        element.extract()


def pandoc(article: Article, folder: Path, to: str, *options: str, cite: str = "--citeproc") -> str:
    """The article as HTML, Typst or LaTeX; its pictures are left in the folder. Formulas that
    pandoc cannot read are noted."""
    for name, content in article.cells.pictures.items():
        (folder / name).write_bytes(content)
    authors = "".join(f"<p>{html.escape(name)}</p>" for name in article.authors)
    source = f'<div id="meta-title"><p>{article.title}</p></div>'
    source += f'<div id="meta-authors">{authors}</div>' if authors else ""
    source += f'<div id="meta-abstract">{article.abstract}</div>' if article.abstract else ""
    source += "\n".join(map(str, article.pages.values()))
    log, bibliography = folder / "log.json", project_root() / "notebooks" / "references.bib"
    options = [
        "--standalone",
        "--wrap=none",
        f"--lua-filter={FOLDER / 'export.lua'}",
        cite,
        "--metadata=lang:en",
        "--metadata=link-citations",
        f"--resource-path={folder}",
        "--quiet",
        f"--log={log}",
        *([f"--bibliography={bibliography}"] if bibliography.exists() else []),
        *options,
    ]
    text = pypandoc.convert_text(source, to, format="html", extra_args=options)
    unread = {
        entry["contents"].strip()
        for entry in json.loads(log.read_text())
        if "TeXMath" in entry["type"]
    }
    note_formulas(article, unread, "pandoc")
    return text


def note_formulas(article: Article, formulas: set[str], reader: str) -> None:
    for number, page in article.pages.items():
        for formula in page.find_all(FORMULA):
            if formula.string.strip() in formulas:
                line = formula.string.strip().splitlines()[0][:100]
                article.cells.notes.append(
                    f"cell {number}: {reader} cannot read a formula, its source is shown: {line}"
                )


def naming_cell(article: Article, make: Callable[[Article], str | bytes]) -> str | bytes:
    """``make(article)``. Where that raises RuntimeError, another one names the first cell without
    which it would not."""
    try:
        return make(article)
    except RuntimeError as error:
        for link in article.all("a", href=re.compile("^#")):
            link.unwrap()  # it may lead to a later cell
        notes, numbers = list(article.cells.notes), list(article.pages)
        parts = [
            replace(article, pages={n: article.pages[n] for n in numbers[: end + 1]})
            for end in range(len(numbers))
        ]
        first = bisect.bisect_left(parts, True, key=lambda part: _fails(part, make))
        article.cells.notes[:] = notes
        if first == len(parts):
            raise
        line = (article.pages[numbers[first]].get_text().strip().splitlines() or ["(a picture)"])[0]
        raise RuntimeError(
            f"cell {numbers[first]}, {line[:80]!r}: {str(error).splitlines()[0]}"
        ) from None


def _fails(article: Article, make: Callable[[Article], str | bytes]) -> bool:
    try:
        return not make(article)
    except RuntimeError:
        return True
