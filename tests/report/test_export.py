import re
import shutil
import subprocess
import sys
from html import unescape

import nbformat
import papermill
import pytest
from made_up import make_grid, make_record
from PIL import Image
from playwright.sync_api import sync_playwright
from pypdf import PdfReader

from cifarlib import InputError, project_root
from cifarlib.report import export

FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of made-up records, executed by papermill and exported from a shell."""
    folder = tmp_path_factory.mktemp("report")
    make_grid(folder / "outputs")
    for run in ("fast", "fast-sgd"):
        make_record(folder / "outputs", run, accuracy=0.934)
    parameters = {"output_folder": str(folder / "outputs"), "authors": "Ada Lovelace; Alan Turing"}
    papermill.execute_notebook(
        project_root() / "notebooks" / "report.ipynb",
        folder / "report.ipynb",
        parameters,
        cwd=str(folder),
    )
    done = subprocess.run(
        [sys.executable, "-m", "cifarlib", "export", folder / "report.ipynb"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    return folder


def test_the_same_notebook_gives_the_same_bytes(folder):
    for kind, write in (("html", export.to_html), ("pdf", export.to_pdf)):
        write(folder / "report.ipynb", folder / f"again.{kind}")
        assert (folder / f"again.{kind}").read_bytes() == (folder / f"report.{kind}").read_bytes()


def test_the_page_asks_nothing_of_the_network_and_fits_a_phone(folder):
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS.split()
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        asked = []
        page.on("request", lambda r: None if r.url.startswith("data:") else asked.append(r.url))
        page.goto(f"file://{folder}/report.html")
        page.wait_for_timeout(500)
        assert asked == [f"file://{folder}/report.html"]
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(
            "[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt.length > 20)"
        )
        assert page.evaluate(
            "[...document.querySelectorAll('a[href^=\"#\"]')].every(a => document.getElementById("
            "decodeURIComponent(a.hash.slice(1))))"
        )
        assert page.evaluate("document.querySelectorAll('math').length") > 5
        assert page.evaluate("document.fonts.check('16px \"STIX Two Math\"', 'λ√')")
        code = page.locator(".code").first
        assert not code.is_visible()
        page.check("#show-code")
        assert code.is_visible()
        browser.close()


def alternative_texts(node):
    """Of all figures below a node of a PDF's tree of structure."""
    kids = node.get("/K", [])
    kids = [k.get_object() for k in (kids if isinstance(kids, list) else [kids])]
    below = [alt for kid in kids if isinstance(kid, dict) for alt in alternative_texts(kid)]
    return [str(node["/Alt"]), *below] if "/Alt" in node else below


def test_the_pdf_is_a_paper(folder):
    reader = PdfReader(folder / "report.pdf")
    assert len(reader.pages) <= 12
    assert reader.metadata.title == "A student's CIFAR-10 report, reproduced and judged"
    assert reader.metadata.author == "Ada Lovelace, Alan Turing"
    pictures = export.article(folder / "report.ipynb").cells.pictures
    assert sum(
        len(alt) > 20 for alt in alternative_texts(reader.trailer["/Root"]["/StructTreeRoot"])
    ) == len(pictures)
    text = "\n".join(page.extract_text() for page in reader.pages)
    for word in (
        "Abstract.",
        "1 Model and methods",
        "References",
        "Appendix: model structure",
        "Figure 1.",
        "Table 3.",
    ):
        assert word in text
    assert "papermill" not in text.partition("Appendix")[0]  # code is left out
    for page in reader.pages:
        for font in page["/Resources"].get("/Font", {}).values():
            descriptor = (
                font.get_object()["/DescendantFonts"][0]
                .get_object()["/FontDescriptor"]
                .get_object()
            )
            assert any(key.startswith("/FontFile") for key in descriptor)
        # vector figures; pictures of pixels are small
        for picture in page["/Resources"].get("/XObject", {}).values():
            if picture.get_object()["/Subtype"] == "/Image":
                assert picture.get_object()["/Width"] <= 400


def test_every_figure_and_table_is_numbered_once_and_referred_to_by_its_number(folder):
    article = export.article(folder / "report.ipynb")
    labels = {}
    for kind, element in (("Figure", "figure"), ("Table", "table")):
        captioned = [one for one in article.all(element) if one.find(["figcaption", "caption"])]
        captions = [one.find(["figcaption", "caption"]).get_text() for one in captioned]
        assert [caption.partition(".")[0] for caption in captions] == [
            f"{kind} {n + 1}" for n in range(len(captions))
        ]
        labels |= {
            f"#{one['id']}": text.partition(".")[0]
            for one, text in zip(captioned, captions, strict=True)
        }
    links = [link for link in article.all("a") if re.match("(Figure|Table)", link.get_text())]
    assert len(links) > 5
    assert all(labels[link["href"]] == link.get_text() for link in links)
    assert "left out here" not in str(article.pages)
    assert len(article.cells.pictures) == len(article.all("figure"))


def test_a_notebook_of_ones_own_exports_too(tmp_path):
    source = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(
                '# Mine, my "best"\n\nWith *text*, $x^2$ and [a link](https://example.org).'
            ),
            nbformat.v4.new_markdown_cell('Ada "C" L; B', metadata={"tags": ["authors"]}),
            nbformat.v4.new_code_cell(
                "print('told')\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);"
            ),
            nbformat.v4.new_code_cell("{'a | b': 1}"),
            nbformat.v4.new_code_cell(
                "import pandas\npandas.DataFrame({'seen': [1.5], 'told': [20]})"
            ),
        ]
    )
    nbformat.write(source, tmp_path / "mine.ipynb")
    papermill.execute_notebook(
        tmp_path / "mine.ipynb", tmp_path / "done.ipynb", kernel_name="python3"
    )
    export.to_html(tmp_path / "done.ipynb", tmp_path / "done.html")
    export.to_pdf(tmp_path / "done.ipynb", tmp_path / "done.pdf")
    html = unescape((tmp_path / "done.html").read_text())
    assert '<title>Mine, my "best"</title>' in html
    assert re.search(r"<td[^>]*>\s*1\.5\s*</td>", html)
    assert "told" in html
    assert "data:image/png" in html
    reader = PdfReader(tmp_path / "done.pdf")
    assert reader.metadata.title == 'Mine, my "best"'
    assert reader.metadata.author == 'Ada "C" L, B'
    assert re.search(r"seen +told\n0 +1\.5 +20", reader.pages[0].extract_text())


@pytest.mark.parametrize("which", ["missing", "no notebook"])
def test_what_cannot_be_exported_is_one_line(which, tmp_path):
    path = tmp_path / "mine.ipynb"
    if which == "no notebook":
        path.write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "cifarlib", "export", path], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(("kind", "writer"), [("html", "to_html"), ("pdf", "to_pdf")])
def test_what_pandoc_or_typst_refuses_names_the_notebook(kind, writer, tmp_path, monkeypatch):
    def refuse(path, output):
        raise RuntimeError("unknown thing")

    monkeypatch.setattr(export, writer, refuse)
    with pytest.raises(InputError, match=r"mine.ipynb cannot be exported: unknown thing"):
        export.export(tmp_path / "mine.ipynb", [kind])


def test_the_report_runs_without_records_and_without_data(tmp_path, monkeypatch):
    """No cache, no network: npm and the download fail at once, and notes take the pictures'
    place."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    parameters = {"output_folder": str(tmp_path / "none"), "data_folder": str(tmp_path / "data")}
    papermill.execute_notebook(
        project_root() / "notebooks" / "report.ipynb", tmp_path / "report.ipynb", parameters
    )
    assert "CIFAR-10 is not there" in str(export.article(tmp_path / "report.ipynb").pages)
    assert "No record yet of run1, run2" in (tmp_path / "report.ipynb").read_text()


def words(html: str) -> str:
    """The text of a page, numbers and all, without pictures and markup."""
    return " ".join(
        re.sub(r"<[^>]*>", " ", re.sub(r"<(style|head).*?</\1>", "", html, flags=re.DOTALL)).split()
    )


def test_the_committed_report_says_what_the_committed_records_say(tmp_path):
    root = project_root()
    papermill.execute_notebook(
        root / "notebooks" / "report.ipynb", tmp_path / "report.ipynb", cwd=str(tmp_path)
    )
    export.to_html(tmp_path / "report.ipynb", tmp_path / "report.html")
    committed = (root / "outputs" / "report.html").read_text()
    assert words((tmp_path / "report.html").read_text()) == words(committed)
    assert len(committed) < 6e6
    export.to_pdf(tmp_path / "report.ipynb", tmp_path / "report.pdf")
    texts = [
        "".join(page.extract_text() for page in PdfReader(path).pages)
        for path in (tmp_path / "report.pdf", root / "outputs" / "report.pdf")
    ]
    assert re.findall(r"\d+\.\d+", texts[0]) == re.findall(r"\d+\.\d+", texts[1])


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
def test_the_latex_compiles_as_it_is_and_counts_by_itself(folder):
    export.export(folder / "report.ipynb", ["tex"])
    source, text = folder / "tex", (folder / "tex" / "report.tex").read_text()
    assert "Figure~\\ref{fig-losses}" in text
    assert "Figure 1." not in text
    assert "\\citep{jordan2024}" in text
    assert not re.search(r"\.svg|\\includesvg", text)
    for program in ("pdflatex", "bibtex", "pdflatex", "pdflatex"):
        options = ["-interaction=nonstopmode", "-halt-on-error"] if program == "pdflatex" else []
        done = subprocess.run(
            [program, *options, "report"],
            cwd=source,
            capture_output=True,
            text=True,
            errors="replace",
        )
        assert done.returncode == 0, done.stdout[-2000:]
    assert "undefined" not in done.stdout
    pages = [page.extract_text() for page in PdfReader(source / "report.pdf").pages]
    assert len(pages) < 20
    assert "Figure 1: The architecture" in "".join(pages)
    assert "Ada Lovelace" in pages[0]
    assert any("References" in page and "Jordan" in page for page in pages)


def test_the_latex_of_any_notebook_keeps_its_pictures_and_says_what_it_cannot_set(tmp_path, capsys):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red square.webp")
    text = (
        "# Mine\n\n![a square](<red square.webp>) costs 5 € − 漢 at 3 × 4\n\n"
        + "| a | b |\n|-|-|\n"
        + "| word " * 40
        + "| x |"
    )
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]),
        tmp_path / "mine.ipynb",
    )
    export.export(tmp_path / "mine.ipynb", ["tex"])
    assert (
        "no LaTeX for 1 character(s), a box stands in their place: 漢 (U+6F22)"
        in capsys.readouterr().err
    )
    source = (tmp_path / "tex" / "mine.tex").read_text()
    assert "\\includegraphics" in source
    assert [path.suffix for path in (tmp_path / "tex" / "figures").iterdir()] == [".png"]
    if shutil.which("pdflatex"):
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "mine"], cwd=tmp_path / "tex"
        )
        assert done.returncode == 0
