"""An executed notebook as one HTML file, readable offline, and as a typeset PDF.

    python -m cifarlib export outputs/report.ipynb            # report.html and report.pdf beside it

nbconvert turns cells and outputs into Markdown, pandoc makes HTML or Typst of it, typst sets the pages. The same notebook
gives the same bytes: neither file holds a date. Cells tagged ``authors`` and ``abstract`` go into the title block; tags
``remove-cell``, ``remove-input`` and ``remove-output`` do what they say; the PDF leaves code out, the HTML folds it away.
"""

import base64
import html
import importlib.util
import io
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pypandoc
import typst
from fontTools import subset
from nbconvert.exporters import MarkdownExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from traitlets.config import Config

from cifarlib import InputError, project_root
from cifarlib.records import write_atomically

FOLDER = Path(__file__).parent  # of export.css and export.typ
CELLS = """{% extends 'markdown/index.md.j2' %}
{% block input %}
:::: code
```python
{{ cell.source }}
```
::::
{% endblock input %}
{% block stream %}
```
{{ output.text | strip_ansi }}
```
{% endblock stream %}"""
READ = "markdown-implicit_header_references+pipe_tables+fenced_divs"


def _read(path: Path) -> nbformat.NotebookNode:
    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise InputError(f"no notebook {path}") from None
    except Exception as error:  # nbformat and json raise several kinds for a file that is no notebook
        raise InputError(f"{path} is not a notebook: {error}") from None
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if code and not any(cell.outputs for cell in code):
        raise InputError(f"{path} holds no outputs: execute it first, as with `papermill {path} executed.ipynb`")
    return notebook


def _tagged(notebook: nbformat.NotebookNode, tag: str) -> str:
    """The Markdown that the cells of a tag gave out; they leave the notebook."""
    cells = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    notebook.cells = [cell for cell in notebook.cells if cell not in cells]
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    texts += [o.get("data", {}).get("text/markdown", "") for cell in cells for o in cell.get("outputs", [])]
    return "\n\n".join(filter(None, texts))


def article(path: Path, prefer: str = "text/html") -> tuple[str, dict, dict[str, bytes]]:
    """The notebook's text in pandoc's Markdown, its title block, and its figures by file name. prefer: the form of an
    output that has neither Markdown nor a picture."""
    notebook, figures = _read(path), {}
    authors = [name.strip() for name in _tagged(notebook, "authors").split(";") if name.strip()]
    meta = {"authors": authors, "abstract": _tagged(notebook, "abstract"), "title": path.stem}
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            meta["title"], _, cell.source = cell.source[2:].partition("\n")
            break
    for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
        content = output.get("data", {})
        name = re.search(r"\]\(([\w-]+\.svg)\)", content.get("text/markdown", ""))
        picture = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', content.get("text/html", ""))
        if name and picture:
            figures[name[1]] = base64.b64decode(picture[1])
    forms = ["text/markdown", "image/svg+xml", "image/png", "image/jpeg", prefer, "text/html", "text/plain"]
    settings = Config({"NbConvertBase": {"display_data_priority": forms}})
    exporter = MarkdownExporter(raw_template=CELLS, config=settings)
    tags = [set(cell.metadata.get("tags", [])) for cell in notebook.cells]
    injected = {"injected-parameters"} if any({"parameters", "remove-cell"} <= of_cell for of_cell in tags) else set()
    remove = TagRemovePreprocessor(
        remove_cell_tags={"remove-cell"} | injected,  # papermill's cell goes where the one it follows goes
        remove_input_tags={"remove-input"}, remove_all_outputs_tags={"remove-output"},
    )  # fmt: skip
    exporter.register_preprocessor(remove, enabled=True)
    text, resources = exporter.from_notebook_node(notebook)
    figures |= resources.get("outputs", {})
    return _with_references(text), meta, figures


def _with_references(text: str) -> str:
    """``[Figure](#label)`` and ``[Table](#label)`` get the number that stands in the caption of that label."""
    numbers = {}
    for number, label in re.findall(r"!\[\*\*(Figure \d+)\.\*\*.*?\{#([\w-]+)", text):
        numbers[label] = number
    for label, number in re.findall(r"::: \{#([\w-]+)\}\n.*?\*\*(Table \d+)\.\*\*", text, flags=re.DOTALL):
        numbers[label] = number

    def put(match: re.Match) -> str:
        return f"[{numbers[match[2]]}](#{match[2]})" if match[2] in numbers else f"the {match[1].lower()} left out here"

    text = re.sub(r"\[(Figure|Table)\]\(#([\w-]+)\)", put, text)
    text = re.sub(r"^(#+ Appendix.*)$", r"\1 {.unnumbered}", text, flags=re.MULTILINE)
    if re.search(r"\[-?@", text):  # references stand before the appendix
        body, appendix, rest = text.partition("## Appendix")
        text = f"{body}\n## References {{.unnumbered}}\n\n::: {{#refs}}\n:::\n\n{appendix}{rest}"
    return text


def _pandoc(text: str, meta: dict, figures: dict[str, bytes], folder: Path, to: str, *options: str) -> str:
    """The text with its figures, which are left in the folder, as HTML or Typst."""
    for name, content in figures.items():
        (folder / name).write_bytes(content)
    bibliography = project_root() / "notebooks" / "references.bib"
    title_block = {"title": meta["title"], "lang": "en", "link-citations": True, "author": meta["authors"]}
    title_block |= {"abstract": meta["abstract"]} if meta["abstract"] else {}
    title_block |= {"bibliography": str(bibliography)} if bibliography.exists() else {}
    (folder / "metadata.json").write_text(json.dumps(title_block))
    options = ["--standalone", "--wrap=none", "--citeproc", "--shift-heading-level-by=-1", f"--resource-path={folder}",
               f"--metadata-file={folder / 'metadata.json'}", *options]  # fmt: skip
    return pypandoc.convert_text(text, to, format=READ, extra_args=options)


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


def to_html(path: Path, output: Path) -> None:
    """One file that asks nothing of the network."""
    text, meta, figures = article(path)
    switch = '<label class="switch"><input type="checkbox" id="show-code"> show code</label>'
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "switch.html").write_text(switch if ":::: code" in text else "")
        options = ["--embed-resources", "--mathml", "--toc", "--toc-depth=2", "--number-sections",
                   f"--css={FOLDER / 'export.css'}", f"--include-before-body={folder / 'switch.html'}"]  # fmt: skip
        page = _pandoc(text, meta, figures, folder, "html5", *options)
    if formulas := "".join(re.findall(r"<math.*?</math>", page, flags=re.DOTALL)):
        source = base64.b64encode(_math_font(formulas)).decode()
        face = f'@font-face {{ font-family: "STIX Two Math"; src: url(data:font/ttf;base64,{source}); }}'
        page = page.replace("</head>", f"<style>{face}</style>\n</head>", 1)
    write_atomically(output, lambda file: file.write(page.encode()))


def to_pdf(path: Path, output: Path) -> None:
    """Typeset, with vector figures, their alternative text and embedded fonts; code is left out."""
    text, meta, figures = article(path, prefer="text/plain")  # a table in HTML would fall to pieces
    text = re.sub(r"^:::: code\n.*?\n::::$", "", text, flags=re.DOTALL | re.MULTILINE)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # a string of JSON is one of Typst's, too: for the file's properties, which hold no markup
        strings = [("title-string", meta["title"]), *(("author-string", name) for name in meta["authors"])]
        options = [f"--variable={key}:{json.dumps(value, ensure_ascii=False)}" for key, value in strings]
        source = _pandoc(text, meta, figures, folder, "typst", f"--template={FOLDER / 'export.typ'}", *options)
        for name, alt in re.findall(r'\]\(([\w-]+\.svg)\)\{[^\n]*?alt="([^"]*)"', text):  # which pandoc leaves out
            alt = json.dumps(html.unescape(alt), ensure_ascii=False)
            source = source.replace(f'("{name}"', f'("{name}", alt: {alt}')
        (folder / "article.typ").write_text(source, encoding="utf-8")
        pdf = typst.compile(folder / "article.typ", ignore_system_fonts=True)
    write_atomically(output, lambda file: file.write(pdf))


def export(path: Path, kinds: Sequence[str]) -> None:
    """The notebook as "html", "pdf" or both, beside it. Raises InputError where it cannot be."""
    for kind in kinds:
        output = path.with_suffix(f".{kind}")
        try:
            {"html": to_html, "pdf": to_pdf}[kind](path, output)
        except RuntimeError as error:  # pandoc's and Typst's
            raise InputError(f"{path} cannot be exported: {error}") from None
        print(f"{output} ({output.stat().st_size / 1e6:.2f} MB)")
