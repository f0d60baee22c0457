"""Exporters: notebooks of every kind keep their words in both formats, on a terminal and in Lab."""

import base64
import io
import logging
import re
import shutil
import subprocess
import sys
import threading
from html import unescape
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import typst
from nbconvert.exporters import get_exporter
from nbconvert.writers import FilesWriter
from PIL import Image
from pypdf import PdfReader

from cifarlib import project_root

ROOT = project_root()
text, new_output = nbformat.v4.new_markdown_cell, nbformat.v4.new_output


def picture(kind: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (60, 30), "red").save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def code(source="1", *outputs, tags=(), **forms):
    """A code cell with outputs, or with one of several forms: text__plain="3"."""
    data = {kind.replace("__", "/"): form for kind, form in forms.items()}
    outputs = [*outputs, *([new_output("display_data", data)] if data else [])]
    return nbformat.v4.new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


def stream(*texts):
    return [new_output("stream", name="stderr", text=text) for text in texts]


def write(folder: Path, *cells, name="mine") -> Path:
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def export(notebook: Path, to: str) -> Path:
    """Write what ``jupyter nbconvert --to TO`` would, and log to where tests look."""
    exporter = get_exporter(to)(log=logging.getLogger("cifarlib"))
    writer = FilesWriter(build_directory=str(notebook.parent))
    return Path(writer.write(*exporter.from_filename(str(notebook)), notebook.stem))


def words_of(path: Path) -> str:
    """The text of an exported page or PDF, without markup, styles and pictures."""
    if path.suffix == ".pdf":
        page = " ".join(sheet.extract_text() for sheet in PdfReader(path).pages)
    else:
        page = re.sub(r"<(style|head)\b.*?</\1>", " ", path.read_text(), flags=re.DOTALL)
        page = unescape(re.sub(r"<[^>]*>", " ", page))
    return " ".join(re.sub("[\u2060\u200b\u00ad]", "", page).replace("\u00a0", " ").split())


PNG = picture("PNG")
PASTED = {"kept.png": {"image/png": PNG}}
SVG = '<svg width="9" height="9"><rect width="9" height="9"/></svg>'
FRAME = pd.DataFrame({"seen": [1.5], "told": [20]})
BOTH, FIRST = (pd.MultiIndex.from_product([[n], list("lr")]) for n in ("both", "first"))
INDEX = pd.DataFrame([[11, 12], [21, 22]], FIRST, BOTH).to_html()
STYLER = pd.DataFrame({"styled": [3]}).style.to_html()
SCRIPT = "<div><script>draw()</script></div>"
INTERACTIVE = {"application/vnd.plotly.v1+json": {}, "text/html": SCRIPT}
TRACEBACK = ["\x1b[0;31mZeroDivisionError\x1b[0m: by zero"]
ERROR = new_output("error", ename="Error", evalue="", traceback=TRACEBACK)
AUTHORS = 'Ada "A" L; B_1_ @c\n\n1 May, [code](https://x.org)'
ALIGN = "\\begin{align}\np_1 &= q \\\\\n&= r\n\\end{align}"
OPEN = "<table><tr><td>open<td>cells<tr><td>of<td>1. a - table</table>"
WIDGET = {"application__vnd.jupyter.widget-view+json": {}, "text__plain": "IntSlider(value=7)"}
REMOTE = """![badge](ADDRESS/a.svg) <img src='ADDRESS/b.png'> <img src="ADDRESS/c.png"> and
<iframe src='ADDRESS/one'></iframe><iframe width="1" src="ADDRESS/two"></iframe>
<video controls><source src=ADDRESS/three></video>"""
CELLS = [
    text('# First 😀 "quoted" É'),
    code("a", text__markdown=AUTHORS, tags=["authors"]),
    text('Of \U0001d518, 😀 and "quotes", x_1_2', metadata={"tags": ["abstract"]}),
    text("# Second\n\n[Method](#Method), [2. Data](#2.-Data), [place](#place), [lost](#lost)."),
    text("---\nafter a rule\n- one item\n- two items\n## Method\nafter a heading\n***\n"),
    text("# 2. Data\n\n<a id='place'></a>here @name, @torch.no_grad(), me@example.org, [@he2016]"),
    text(f"spaced $ u + v $ and\n{ALIGN}\nthen $$\ns\n= t\n$$"),
    text(r"$\newcommand{\half}[1]{\frac{#1}{2}}$ macro $\half{w}$ and $\nosuchmacro{k}$"),
    code(text__latex=r"$\displaystyle \hat{m}$", text__plain="<IPython.core.display.Math object>"),
    code(text__latex=r"\begin{equation} l_1 \end{equation}", text__plain="Latex object"),
    text("93.1 % and `7 % 2`"),
    text(r"C:\Users\new\x.txt, __init__.py, **bold**.step, [a](https://x.org).Name, `a``b`"),
    text("![mark](<my picture.png>) <img src='my picture.png' width='30'>"),
    text(f"![](data:image/png;base64,{PNG})"),
    text("![p](attachment:kept.png) ![lost](gone.png)", attachments=PASTED),
    code('s = """\n```\n"""', *stream("```\n````\n</pre>")),
    code(image__png=PNG, text__plain="<Figure>"),
    code(image__gif=picture("GIF"), text__plain="<GIF>"),
    code(**{"image__svg+xml": SVG, "text__plain": "<SVG>"}),
    code(text__html=FRAME.to_html()),
    code(text__html=INDEX),
    code(text__html=STYLER),
    text(f"{OPEN}\n\n| x | y |\n|-|-|\n| $P$ | - z |"),
    code("bar", *stream("\r 0%|  | 0/2", "\r 50%|# | 1/2", "\r100%|##| 2/2\n")),
    code(text__plain="\x1b[31mSignature:\x1b[39m f(x)"),
    code("1/0", ERROR),
    code("plot", new_output("display_data", INTERACTIVE)),
    code("plot", new_output("display_data", INTERACTIVE | {"image/png": PNG})),
    code("plot", new_output("display_data", {"application/vnd.some+json": {}})),
    code(**WIDGET),
    text("éőł αβ Жд"),
    text("on a screen alone", metadata={"tags": ["html-only"]}),
    text("<details><summary>Answer</summary>\n\nfolded away\n\n</details>\n\nbelow it"),
    text("<div><b>never closed"),
    text("## Last"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A notebook with an example of each kind as page, PDF and LaTeX, and what was said of it."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "my picture.png").write_bytes(base64.b64decode(PNG))
    notebook, said = write(folder, *CELLS, name="any"), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("cifarlib").addHandler(handler)
    files = {to: export(notebook, to) for to in ("article", "paper", "paper_tex")}
    logging.getLogger("cifarlib").removeHandler(handler)
    return files | {"said": said}


WORDS = """
First 😀 "quoted" É | Ada "A" L; B_1_ @c 1 May, code | Of \U0001d518, 😀 and "quotes", x_1_2 |
Method, 2. Data, place, lost. | after a rule | one item | two items | after a heading |
here @name, @torch.no_grad(), me@example.org, [@he2016] | macro | $\\nosuchmacro{k}$ |
C:\\Users\\new\\x.txt, init.py, bold.step, a.Name, a``b | [lost: gone.png] | ``` ```` |
</pre> | seen told 0 1.5 20 | both l r | first | l 11 12 | r 21 22 | styled |
open cells | 1. a - table | x y | - z | 100% | Signature: f(x) | ZeroDivisionError: by zero |
[interactive output, not shown here] | [application/vnd.some+json: not shown here] |
IntSlider(value=7) | éőł αβ Жд | Answer folded away below it | never closed | Last
"""


@pytest.mark.parametrize("to", ["article", "paper"])
def test_a_notebook_of_every_kind_keeps_its_words(exported, to):
    said = re.sub(" (?=[,.])|(?<=init) ", "", words_of(exported[to]))
    assert [one for one in re.split(r" \|\s", WORDS.strip()) if one not in said] == []
    assert not re.search("50%|31m|draw\\(\\)|T_1|display.Math|<Figure>|\\x1b", said)
    assert ('s = """' in said) == (to == "article")  # code is left out of the PDF
    assert ("on a screen alone" in said) == (to == "article")


def test_the_page_embeds_pictures_sets_formulas_and_resolves_links(exported):
    page = exported["article"].read_text()
    assert page.count('src="data:image') == 8
    assert page.count("<math") == 7
    assert 'src="http' not in page
    # the answer and every code cell but that of the authors
    assert page.count("<details>") == sum(cell.cell_type == "code" for cell in CELLS)
    assert re.search("<p>folded away</p>\\s*</details>", page)
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= ids
    assert {"Method", "2.-Data", "place"} <= ids
    assert "93.1\u00a0% and <code>7 % 2</code>" in page
    paper = PdfReader(exported["paper"])
    assert all(letter in words_of(exported["paper"]) for letter in "𝑢𝑣𝑝𝑞𝑟𝑠𝑡𝑤𝑚𝑙")
    assert paper.metadata.title == 'First 😀 "quoted" É'
    assert paper.metadata.author == 'Ada "A" L; B_1_ @c'


def test_what_does_not_fit_is_said_once_in_one_line(exported):
    assert list(dict.fromkeys(exported["said"])) == [
        "any: a picture is not shown: gone.png",
        'any: a link leads nowhere: "lost", #lost',
        "any: Could not convert TeX math \\nosuchmacro{k}, rendering as TeX",
    ]


def compiled(source: Path) -> str:
    """The text of the PDF that pdflatex makes, and what it said."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", source.name]
    for _ in range(2):
        done = subprocess.run(command, cwd=source.parent, capture_output=True)
        assert done.returncode == 0, done.stdout[-600:].decode(errors="replace")
    assert b"undefined" not in done.stdout
    return words_of(source.with_suffix(".pdf")) + done.stdout.decode(errors="replace")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
def test_the_latex_compiles_and_counts_by_itself(exported, tmp_path):
    figure = f'<figure id="fig-a"><img src="data:image/png;base64,{PNG}" alt="Red"><figcaption>'
    figure = code(text__html=f"{figure}<b>Figure 1.</b> A square.</figcaption></figure>")
    said = export(write(tmp_path, text("# T\n\n[Figure 1](#fig-a)"), figure), "paper_tex")
    assert "Figure~\\ref{fig-a}" in said.read_text()
    assert "Figure 1: A square." in compiled(said)
    folder = shutil.copytree(exported["paper_tex"].parent, tmp_path / "any")
    cells = [cell for cell in CELLS if "nosuchmacro" not in cell.source]
    said = compiled(export(write(folder, *cells), "paper_tex"))
    assert "both l r" in said
    assert "inputenc Warning: no font for Ж" in said


def test_numbers_that_do_not_fit_their_figure_are_named(tmp_path, caplog):
    page = '<table id="tbl-x"><caption><b>Table 2.</b> X.</caption><tr><td>1</td></tr></table>'
    link = text("[Table 1](#tbl-x), [Table 2](#tbl-x), [this](#tbl-x)")
    for to in ("article", "paper"):
        caplog.clear()
        export(write(tmp_path, link, code(text__html=page)), to)
        assert caplog.messages == ["mine: the text says Table 1, #tbl-x is Table 2"]


def test_nothing_is_fetched(tmp_path, caplog):
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for to in ("article", "paper"):
        path = export(write(tmp_path, text(REMOTE.replace("ADDRESS", address))), to)
        said = words_of(path).replace(" ", "")
        for name in ("a.svg", "b.png", "one", "two", "three"):
            assert f"{address}/{name}" in said
    server.shutdown()
    assert asked == []
    assert f"mine: a picture is not shown: {address}/a.svg" in caplog.messages


def test_characters_without_a_font_are_named_with_their_package(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("cifarlib.report.export.FONTS", [])
    export(write(tmp_path, text("λ → \U00012000 漢 „ő“")), "paper")
    said = "no font for 漢 (U+6F22) \U00012000 (U+12000); pip install manimgx-fonts-cjk brings CJK"
    assert caplog.messages == [said]


def test_a_formula_that_typst_refuses_shows_its_source_and_a_lost_attachment_its_text(
    tmp_path, caplog, monkeypatch
):
    typeset = typst.compile

    def refuse(source, **options):
        if b"psi" in source and b"`\\psi`" not in source:
            raise RuntimeError("unknown thing")
        return typeset(source, **options)

    monkeypatch.setattr(typst, "compile", refuse)
    notebook = write(tmp_path, text(r"A $\psi$ ![lost](attachment:gone.png)"))
    said = words_of(export(notebook, "paper"))
    assert "\\psi" in said
    assert "lost" in said
    assert "Typst failed, so formulas are shown as source: unknown thing" in caplog.messages
    caplog.clear()
    export(write(tmp_path, text(f"![](data:image/png;base64,{PNG})"), name="50% #1"), "paper")
    assert not caplog.messages


def test_a_notebook_that_was_not_executed_says_so(tmp_path):
    cell = nbformat.v4.new_code_cell("x = 1")
    said = "This notebook has not been executed: it has no results."
    for to in ("article", "paper"):
        assert said in words_of(export(write(tmp_path, text("# A"), cell), to))
    cell.execution_count = 1
    assert said not in words_of(export(write(tmp_path, text("# A"), cell), "article"))


def test_nbconvert_starts_without_pandoc_typst_and_fonttools():
    program = "import sys; sys.modules |= dict.fromkeys(['pypandoc', 'typst', 'fontTools']); "
    program += "from cifarlib.report import export; export.Article()"
    subprocess.run([sys.executable, "-c", program], check=True)


def alternative_texts(node):
    """Of all figures below a node of a PDF's tree of structure."""
    kids = node.get("/K", [])
    kids = [k.get_object() for k in (kids if isinstance(kids, list) else [kids])]
    below = [alt for kid in kids if isinstance(kid, dict) for alt in alternative_texts(kid)]
    return [str(node["/Alt"]), *below] if "/Alt" in node else below


@pytest.mark.parametrize("name", ["report", "train"])
def test_a_committed_notebook_is_a_paper_and_fits_a_phone(name, tmp_path, caplog):
    shutil.copy(ROOT / "outputs" / "notebooks" / f"{name}.ipynb", tmp_path)
    page, paper = (export(tmp_path / f"{name}.ipynb", to) for to in ("article", "paper"))
    assert caplog.messages == []  # every link leads somewhere, every number is its figure's
    reader = PdfReader(paper)
    figures = page.read_text().count("<figure")
    alts = alternative_texts(reader.trailer["/Root"]["/StructTreeRoot"])
    assert sum(len(alt) > 20 for alt in alts) == figures > 0
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"))
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        asked = []
        tab.on("request", lambda r: None if r.url.startswith("data:") else asked.append(r.url))
        tab.goto(page.as_uri())
        assert asked == [page.as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        figures = "[...document.querySelectorAll('figure')]"
        assert tab.evaluate(f"{figures}.every(f => f.scrollWidth <= f.clientWidth)")
        shown = "i => i.naturalWidth > 0 && i.alt.length > 20"
        assert tab.evaluate(f"[...document.images].every({shown})")
        summary = tab.locator("summary").first
        assert not tab.locator("details pre").first.is_visible()
        summary.click()
        assert tab.locator("details pre").first.is_visible()
        browser.close()
