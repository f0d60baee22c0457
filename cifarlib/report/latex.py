"""An executed notebook as LaTeX source with its figures as PDF and a bibliography, to be moved into
a conference's style.

``python -m cifarlib export outputs/report.ipynb --to tex`` makes ``outputs/tex/``, which compiles
as it is with pdflatex and bibtex. LaTeX numbers figures, tables and sections itself; code is left
out."""

import io
import re
import shutil
import tempfile
from pathlib import Path

import typst
from bs4 import BeautifulSoup, Tag
from PIL import Image

from cifarlib import project_root
from cifarlib.records import write_atomically, write_text
from cifarlib.report import notebook

# what pdflatex has no character for by itself
CHARACTERS = {
    "−": "-",
    "×": r"\times",
    "±": r"\pm",
    "→": r"\rightarrow",
    "←": r"\leftarrow",
    "≤": r"\leq",
    "≥": r"\geq",
    "≈": r"\approx",
    "≠": r"\neq",
    "∞": r"\infty",
    "√": r"\surd",
    "∈": r"\in",
    "·": r"\cdot",
    "°": r"{}^\circ",
    "ᵃ": "{}^a",
    "²": "{}^2",
    "³": "{}^3",
    "☐": r"\square",
    "☑": r"\boxtimes",
    "✓": r"\checkmark",
    "\u2060": "",
    "\u200b": "",
    "α": r"\alpha",
    "β": r"\beta",
    "γ": r"\gamma",
    "δ": r"\delta",
    "ε": r"\varepsilon",
    "λ": r"\lambda",
    "μ": r"\mu",
    "π": r"\pi",
    "σ": r"\sigma",
    "τ": r"\tau",
    "φ": r"\phi",
    "ω": r"\omega",
    "Δ": r"\Delta",
    "Σ": r"\Sigma",
    "Ω": r"\Omega",
}
PUNCTUATION = "–—\u2018\u2019“”„…•†‡‰€™"  # which pdflatex knows, beside Latin letters
BIBLIOGRAPHY = "THE-LIST-OF-REFERENCES"
WIDE = 95  # characters in a table's row from which its columns get widths and wrap


def to_tex(path: Path, output: Path) -> list[str]:
    """``output`` (.tex) and, beside it, references.bib and figures/. Returns what had to be left
    out, one line each."""
    contents = notebook.article(path)
    notebook.leave_out_code(contents, "LaTeX")
    contents.title = BeautifulSoup(contents.title, "html.parser").get_text()
    for caption in contents.all(["figcaption", "caption"]):
        number = caption.find("b")
        if number and re.fullmatch(r"(Figure|Table) \d+\.", number.get_text()):
            number.extract()  # LaTeX counts
    for table in contents.all("table"):
        _set_widths(table)
    _place_bibliography(contents)
    (output.parent / "figures").mkdir(parents=True, exist_ok=True)
    _write_figures(contents, output.parent / "figures")
    with tempfile.TemporaryDirectory() as temporary:
        options = [
            f"--template={notebook.FOLDER / 'export.tex'}",
            "--syntax-highlighting=none",
            f"--variable=stem:{output.stem}",
        ]
        text = notebook.naming_cell(
            contents,
            lambda part: notebook.pandoc(part, Path(temporary), "latex", *options, cite="--natbib"),
        )
    text = re.sub(r"\\pandocbounded\{(\\includegraphics\[.*?\]\{.*?\})\}", r"\1", text)
    text = re.sub(
        r"\\hyperref\[((?:fig|tbl)-[\w-]+)\]\{(Figure|Table) \d+\}", r"\2~\\ref{\1}", text
    )
    text = text.replace(BIBLIOGRAPHY, "\\bibliographystyle{plainnat}\n\\bibliography{references}")
    declarations, notes = _declare_characters(text)
    write_text(output, text.replace("% CHARACTERS", declarations))
    shutil.copy(project_root() / "notebooks" / "references.bib", output.parent)
    return contents.cells.notes + notes


def _set_widths(table: Tag) -> None:
    """Columns of a wide table share the line, so that their text wraps."""
    rows = [row.find_all(["th", "td"], recursive=False) for row in table.find_all("tr")]
    longest = [max(len(cell.get_text()) for cell in column) for column in zip(*rows, strict=False)]
    if sum(longest) <= WIDE:
        return
    shares = [min(length, 60) + 2 for length in longest]
    columns = BeautifulSoup("<colgroup></colgroup>", "html.parser")
    for share in shares:
        columns.colgroup.append(
            Tag(name="col", attrs={"style": f"width:{100 * share / sum(shares):.1f}%"})
        )
    table.insert(1 if table.caption else 0, columns)


def _place_bibliography(contents: notebook.Article) -> None:
    """BibTeX makes the list of references, with its own heading, where the report has it."""
    for place in contents.all("div", id="refs"):
        heading = place.find_previous_sibling("h1")
        place.name, place.string = "p", BIBLIOGRAPHY
        del place["id"]
        heading.extract()


def _write_figures(contents: notebook.Article, folder: Path) -> None:
    """Each picture as a file that pdflatex reads, vector figures as PDF, named after its figure's
    label."""
    pictures = contents.cells.pictures
    for image in contents.all("img"):
        figure, name = image.find_parent("figure", id=True), Path(image["src"])
        content, ending = pictures[image["src"]], name.suffix
        if ending == ".svg":
            page = b'#set page(width: auto, height: auto, margin: 0pt)\n#image("picture.svg")'
            with tempfile.TemporaryDirectory() as temporary:
                (Path(temporary) / "picture.svg").write_bytes(content)
                (Path(temporary) / "page.typ").write_bytes(page)
                content, ending = (
                    typst.compile(Path(temporary) / "page.typ", font_paths=notebook.FONTS),
                    ".pdf",
                )
        elif ending not in (".png", ".jpeg"):
            with Image.open(io.BytesIO(content)) as picture:
                picture.convert("RGBA").save(file := io.BytesIO(), "PNG")
            content, ending = file.getvalue(), ".png"
        file_name = f"{figure['id'] if figure else name.stem}{ending}"
        write_atomically(folder / file_name, lambda file, content=content: file.write(content))
        image.attrs = {"src": f"figures/{file_name}", "alt": "", "width": f"{image['data-share']}%"}


def _declare_characters(text: str) -> tuple[str, list[str]]:
    """Declarations of the characters that pdflatex does not know by itself, and a note of those
    that nothing is known for."""
    lines, unknown = [], []
    for character in sorted(
        set(text) & set(CHARACTERS) | {c for c in text if ord(c) > 0x17F and c not in PUNCTUATION}
    ):
        meaning = CHARACTERS.get(character)
        if meaning is None:
            unknown.append(f"{character} (U+{ord(character):04X})")
            meaning = r"\fbox{?}"
        lines.append(
            rf"\DeclareUnicodeCharacter{{{ord(character):04X}}}{{\ensuremath{{{meaning}}}}}"
        )
    note = f"no LaTeX for {len(unknown)} character(s), a box stands in their place: {' '.join(unknown[:20])}"
    return "\n".join(lines), [note] if unknown else []
