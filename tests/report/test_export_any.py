"""Notebooks as others write them, exported to both formats: one notebook with an example of each
kind, and small ones."""

import base64
import io
import json
import re
import time
from html import unescape

import nbformat
import pytest
from PIL import Image
from pypdf import PdfReader

from cifarlib import InputError
from cifarlib.report import export

file = io.BytesIO()
Image.new("RGB", (60, 30), "red").save(file, "PNG")
PNG = base64.b64encode(file.getvalue()).decode()
text, new_output = nbformat.v4.new_markdown_cell, nbformat.v4.new_output


def code(source="1", *outputs, **forms):
    """A code cell with outputs, or with one of several forms: text__plain="3"."""
    data = {kind.replace("__", "/"): form for kind, form in forms.items()}
    return nbformat.v4.new_code_cell(
        source, outputs=[*outputs, *([new_output("display_data", data)] if data else [])]
    )


def stream(*texts):
    return [new_output("stream", name="stderr", text=text) for text in texts]


def pasted(source, **attachments):
    cell = text(source)
    cell["attachments"] = {
        f"{name}.png": {"image/png": content} for name, content in attachments.items()
    }
    return cell


WIDE = "".join(f"<td>{value}.123456</td>" for value in range(30))
OPEN = "<table><tr><td>open<td>cells<tr><td>of<td>1. a - table</table>\n\n| x | y |\n|---|---|\n| $P(a|b)$ | - z |"
INTERACTIVE = {
    "application/vnd.plotly.v1+json": {},
    "text/html": "<div><script>draw()</script></div>",
}
CELLS = [
    text('# First 😀 "quoted" É'),
    text('Ada "A" L 😀; B_1_ @c', metadata={"tags": ["authors"]}),
    text('Of \U0001d518, 😀 and "quotes", x_1_2', metadata={"tags": ["abstract"]}),
    text(
        "# Second\n\nTo [Method](#Method), [2. Data](#2.-Data), [my place](#place), [nowhere](#nowhere)."
    ),
    text("---\nafter a rule"),
    text("---"),
    text("a list\n- one item\n- two items\n## Method\nafter a heading"),
    text("# 2. Data\n\n<a id='place'></a>here"),
    text(
        "spaced $ u + v $ and\n\\begin{align}\np_1 &= q \\\\\n&= r\n\\end{align}\nthen $$\ns\n= t\n$$"
    ),
    text(r"$\newcommand{\half}[1]{\frac{#1}{2}}$ macro $\half{w}$ and $\nosuchmacro{k}$"),
    code(text__latex=r"$\displaystyle \hat{m}$", text__plain="<IPython.core.display.Math object>"),
    code(
        text__latex=r"\begin{equation} l_1 \end{equation}",
        text__plain="<IPython.core.display.Latex object>",
    ),
    text(r"C:\Users\new\x.txt, __init__.py, **bold**.step, [a](https://x.org).Name, `a``b`"),
    text("@name, @torch.no_grad(), me@example.org, [@nobody], [@he2016]"),
    text(
        '![by mark](<my picture.png>) <img src="my picture.png" width="30">\n\n![](data:image/png;base64,'
        + PNG
        + ")"
    ),
    text("[![badge](https://img.example.org/b.svg)](https://x.org)"),
    pasted("![p](attachment:kept.png) ![lost](attachment:gone.png)", kept=PNG),
    code('s = """\n```\n"""', *stream("```\n````\n</pre>")),
    code(image__png=PNG, text__plain="<Figure>"),
    code(
        **{
            "image__svg+xml": '<svg width="9" height="9"><rect width="9" height="9"/></svg>',
            "text__plain": "<SVG>",
        }
    ),
    code(
        text__html='<table class="dataframe"><tr><th>seen</th><th>told</th></tr><tr><td>1.5</td><td>20</td></tr></table>'
    ),
    code(text__html=f"<table><tr>{WIDE}</tr></table>"),
    code(text__html=f"<table>{''.join(f'<tr><td>row {n}</td></tr>' for n in range(200))}</table>"),
    text(OPEN),
    code("bar", *stream("\r 0%|  | 0/2", "\r 50%|# | 1/2", "\r100%|##| 2/2\n")),
    code(text__plain="\x1b[31mSignature:\x1b[39m f(x)"),
    code("plot", new_output("display_data", INTERACTIVE)),
    code("plot", new_output("display_data", INTERACTIVE | {"image/png": PNG})),
    code(**{"application__vnd.jupyter.widget-view+json": {}, "text__plain": "IntSlider(value=7)"}),
    code(text__html='<iframe src="https://example.org/film"></iframe>'),
    text("éőł αβ Жд"),
    code("many", *stream("".join(f"line {n}\n" for n in range(100_000)))),
    text("<div><b>never closed"),
    text("## Last"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The page without its pictures' bytes, the PDF's text and its reader, and the notes on what
    was left out."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "my picture.png").write_bytes(file.getvalue())
    nbformat.write(nbformat.v4.new_notebook(cells=CELLS), folder / "any.ipynb")
    start = time.monotonic()
    notes = export.to_html(folder / "any.ipynb", folder / "any.html")
    notes += export.to_pdf(folder / "any.ipynb", folder / "any.pdf")
    reader = PdfReader(folder / "any.pdf")
    page = re.sub(r"base64,[^\"')]*", "", unescape((folder / "any.html").read_text()))
    pdf = " ".join(" ".join(sheet.extract_text() for sheet in reader.pages).split())
    return {
        "html": page,
        "pdf": pdf,
        "reader": reader,
        "notes": notes,
        "seconds": time.monotonic() - start,
    }


def in_both(exported, *texts):
    plain = " ".join(re.sub(r"<[^>]*>", " ", exported["html"]).split())
    return all(part in plain and part in exported["pdf"] for part in texts)


def test_the_first_heading_is_the_title_and_the_others_are_sections(exported):
    assert re.search(r'<h1 class="title">.*First 😀 "quoted" É', exported["html"])
    for name in ("Second", "2.-Data"):
        assert f'<h1 id="{name}">' in exported["html"]
        assert f'href="#{name}" id="toc' in exported["html"]
    for name in ("Method", "Last"):
        assert f'<h2 id="{name}">' in exported["html"]


def test_title_authors_and_abstract_are_as_written(exported):
    assert in_both(
        exported,
        'First 😀 "quoted" É',
        'Ada "A" L 😀',
        "B_1_ @c",
        'Of \U0001d518, 😀 and "quotes", x_1_2',
    )
    assert exported["reader"].metadata.title == 'First 😀 "quoted" É'
    assert exported["reader"].metadata.author == 'Ada "A" L 😀, B_1_ @c'


def test_rules_lists_and_headings_need_no_blank_line(exported):
    assert exported["html"].count("<hr />") == 2
    assert in_both(exported, "after a rule", "one item", "after a heading")
    assert "<li>one item</li>" in exported["html"]
    assert "##" not in exported["pdf"].replace("|##|", "")


def test_formulas_are_set_in_both(exported):
    assert exported["html"].count("<math") == 7
    assert "$ u" not in exported["pdf"]
    for letter in "𝑢𝑣𝑝𝑞𝑟𝑠𝑡𝑤𝑚𝑙":
        assert letter in exported["pdf"]
    assert not re.search("display.(Math|Latex) object", exported["html"])
    assert sum("its source is shown: \\nosuchmacro{k}" in note for note in exported["notes"]) == 2
    assert "$\\nosuchmacro{k}$" in exported["pdf"]


def test_text_that_looks_like_markup_stays_text(exported):
    assert in_both(exported, "C:\\Users\\new\\x.txt")
    assert "init.py, bold.step, a.Name," in exported["pdf"]
    assert in_both(exported, "@name, @torch.no_grad(), me@example.org, [@nobody],")
    assert "He et al. 2016" in exported["pdf"]


def test_links_lead_to_jupyters_anchors_or_are_text(exported):
    ids = set(re.findall(r'\bid="([^"]+)"', exported["html"]))
    targets = set(re.findall(r'href="#([^"]+)"', exported["html"]))
    assert {"Method", "2.-Data", "place"} <= targets <= ids
    assert in_both(exported, "nowhere")
    links = [
        note.get_object() for sheet in exported["reader"].pages for note in sheet.get("/Annots", [])
    ]
    assert sum("/Dest" in link or "/D" in link.get("/A", {}) for link in links) >= 4


def test_pictures_are_embedded_and_remote_ones_named(exported):
    assert len(re.findall(r"<img[^>]* src=\"data:image", exported["html"])) == 7
    assert in_both(
        exported, "[badge: https://img.example.org/b.svg]", "[lost: attachment:gone.png]"
    )
    assert 'src="http' not in exported["html"]
    assert any(
        "https://img.example.org/b.svg is remote, not fetched" in note for note in exported["notes"]
    )
    assert any(
        note.startswith("cell 17: the picture attachment:gone.png") for note in exported["notes"]
    )


def test_backticks_and_open_tags_stay_in_their_cell(exported):
    assert in_both(exported, "``` ````", "never closed")
    assert "````\n</pre></code></pre>" in exported["html"]  # which is read without its escapes here
    assert re.search('never closed.*<h2 id="Last">', exported["html"], re.DOTALL)


def test_pictures_from_outputs_have_no_caption(exported):
    assert "<figcaption" not in exported["html"]
    assert not re.search(
        r"\b(png|svg)\b",
        exported["pdf"].replace("picture.png", "").replace("b.svg", "").replace(".png", ""),
    )


def test_tables_are_tables_in_both(exported):
    assert "seen told 1.5 20" in exported["pdf"]
    assert all(f"row {n} " in exported["pdf"] for n in range(200))
    assert "open cells of 1. a - table" in exported["pdf"]
    assert re.search(r"<td[^>]*>cells</td>", exported["html"])
    assert set(re.findall(r"\d+\.123456", exported["pdf"])) == {
        f"{value}.123456" for value in range(30)
    }
    assert "\U0001d443" in exported["pdf"]


def test_a_progress_bar_shows_its_last_state_and_colours_leave_no_codes(exported):
    assert in_both(exported, "100%|##| 2/2", "Signature: f(x)")
    assert "50%" not in exported["html"]
    assert "\x1b" not in exported["html"]
    assert "[31m" not in exported["html"]


def test_what_is_interactive_is_a_picture_or_a_line(exported):
    assert in_both(
        exported,
        "not shown here: plotly.v1",
        "widget-view: IntSlider(value=7)",
        "[iframe: https://example.org/film]",
    )
    assert exported["html"].count("not shown here: plotly") == 1
    assert "draw()" not in exported["html"]
    for said in ("plotly.v1", "IntSlider(value=7)", "iframe: https://example.org/film"):
        assert any(said in note for note in exported["notes"])


def test_very_long_output_is_cut_and_says_so(exported):
    assert in_both(exported, "line 0", "[… 99,000 lines left out here …]", "line 99999")
    assert "line 50000" not in exported["html"]
    assert any(
        note.endswith("99,000 lines of an output are left out") for note in exported["notes"]
    )
    assert exported["seconds"] < 60
    assert len(exported["html"]) < 1e6


def test_the_pdf_has_accents_and_says_that_code_is_left_out(exported):
    assert in_both(exported, "éőł αβ Жд")
    assert 's = """' not in exported["pdf"]
    assert any("leaves out the code of" in note for note in exported["notes"])


def made(folder, *cells):
    """Notes and text of the PDF of a small notebook."""
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), folder / "small.ipynb")
    notes = export.to_pdf(folder / "small.ipynb", folder / "small.pdf")
    return notes, " ".join(page.extract_text() for page in PdfReader(folder / "small.pdf").pages)


def test_chinese_japanese_and_korean_have_a_font(tmp_path):
    notes, pdf = made(tmp_path, text("中文 日本語 한국어 🎉 fine"))
    assert notes == []
    assert re.search(r"中文 日本語 한국어 🎉\s*fine", pdf)


def test_characters_without_a_font_are_named(tmp_path):
    (note,), _ = made(tmp_path, text("cuneiform \U00012000"))
    assert "\U00012000 (U+12000)" in note


@pytest.mark.parametrize("which", ["prints nothing", "no outputs", "version 3", "empty"])
def test_old_and_silent_notebooks_export(which, tmp_path, capsys):
    silent = {"cell_type": "code", "source": "x = 1", "metadata": {}, "execution_count": 1}
    old = {
        "cell_type": "code",
        "input": ["1 + 1"],
        "language": "python",
        "metadata": {},
        "prompt_number": 1,
        "outputs": [{"output_type": "pyout", "prompt_number": 1, "text": ["two"], "metadata": {}}],
    }
    cells = {"prints nothing": [silent | {"outputs": []}], "no outputs": [silent], "empty": []}.get(
        which
    )
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 2}
    if which == "version 3":
        notebook = {
            "worksheets": [{"cells": [old]}],
            "metadata": {"name": "x"},
            "nbformat": 3,
            "nbformat_minor": 0,
        }
    (tmp_path / "mine.ipynb").write_text(json.dumps(notebook))
    export.export(tmp_path / "mine.ipynb", ["html", "pdf"])
    assert ("two" in (tmp_path / "mine.html").read_text()) == (which == "version 3")
    assert (tmp_path / "mine.pdf").stat().st_size > 1000
    assert "mine.pdf (" in capsys.readouterr().out


def test_a_notebook_that_was_not_executed_is_said_to_be(tmp_path, capsys):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    nbformat.write(notebook, tmp_path / "mine.ipynb")
    export.export(tmp_path / "mine.ipynb", ["html"])
    assert "it has not been executed" in capsys.readouterr().err
    notebook.cells[0].execution_count = 1
    nbformat.write(notebook, tmp_path / "mine.ipynb")
    export.export(tmp_path / "mine.ipynb", ["html"])
    assert capsys.readouterr().err == ""


def test_no_line_ends_between_a_number_and_its_per_cent(tmp_path):
    nbformat.write(
        nbformat.v4.new_notebook(cells=[text("93.1 % and `7 % 2`")]), tmp_path / "mine.ipynb"
    )
    export.export(tmp_path / "mine.ipynb", ["html"])
    page = (tmp_path / "mine.html").read_text()
    assert "93.1\u00a0% and <code>7 % 2</code>" in page


def test_an_error_names_its_cell_and_quotes_its_first_line(tmp_path, monkeypatch):
    cells = [text("# Fine"), text("see [later](#Later)"), text("too bad\n\nmore"), text("## Later")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "bad.ipynb")
    compile = export.typst.compile

    def refuse(source, **options):
        if not isinstance(source, bytes) and "too bad" in source.read_text():
            raise RuntimeError("unknown thing")
        return compile(source, **options)

    monkeypatch.setattr(export.typst, "compile", refuse)
    with pytest.raises(
        InputError, match=r"bad.ipynb cannot be exported: cell 3, 'too bad': unknown thing$"
    ):
        export.export(tmp_path / "bad.ipynb", ["pdf"])
    assert not (tmp_path / "bad.pdf").exists()


def test_a_formula_that_typst_refuses_is_shown_as_its_source(tmp_path, monkeypatch):
    compile = export.typst.compile

    def refuse(source, **options):
        if "psi" in (source.decode() if isinstance(source, bytes) else source.read_text()).replace(
            "`\\psi", ""
        ):
            raise RuntimeError("unknown thing")
        return compile(source, **options)

    monkeypatch.setattr(export.typst, "compile", refuse)
    (note,), pdf = made(tmp_path, text(r"$\phi$ and $\psi$"))
    assert note == r"cell 1: Typst cannot read a formula, its source is shown: \psi"
    assert "\\psi" in pdf
    assert "𝜙" in pdf or "𝜑" in pdf or "ϕ" in pdf


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "mine.ipynb")

    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_atomically", full)
    with pytest.raises(InputError, match=r"mine.html cannot be written: No space left on device$"):
        export.export(tmp_path / "mine.ipynb", ["html"])


def test_what_is_left_out_is_said_once_on_the_terminal(tmp_path, capsys):
    nbformat.write(
        nbformat.v4.new_notebook(cells=[text("![x](https://e.org/x.png)")]), tmp_path / "mine.ipynb"
    )
    export.export(tmp_path / "mine.ipynb", ["html", "pdf"])
    assert (
        capsys.readouterr().err
        == "mine.ipynb, cell 1: the picture https://e.org/x.png is remote, not fetched\n"
    )
