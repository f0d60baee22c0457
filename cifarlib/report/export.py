"""Executed notebooks as an article: exporters of nbconvert, which also stand in JupyterLab's menu.

    jupyter nbconvert --to article report.ipynb      # an HTML file that asks nothing of the network
    jupyter nbconvert --to paper report.ipynb        # a typeset PDF, without code
    jupyter nbconvert --to paper_tex report.ipynb    # LaTeX source and its pictures

nbconvert makes plain HTML of the notebook (article.j2), pandoc a page, Typst or LaTeX of that
(article.lua), typst the PDF. nbconvert imports this whenever it starts: so little is imported here.
"""

import base64
import json
import re
import tempfile
import unicodedata
from html import unescape
from importlib.util import find_spec
from pathlib import Path

from nbconvert.exporters import TemplateExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets import Bool, Unicode
from traitlets.config import Config

FOLDER = Path(__file__).parent
PANDOC = ["--standalone", "--number-sections", "--wrap=none", "--quiet", "-Mlang:en"]
PANDOC.append(f"--lua-filter={FOLDER / 'article.lua'}")
SAID = {"ScriptingWarning": "message", "CouldNotConvertTeXMath": "pretty"}  # in pandoc's log
PACKAGES = [find_spec("manimgx_fonts"), find_spec("manimgx_fonts_cjk")]
FONTS = [Path(found.origin).parent for found in PACKAGES if found]  # that Typst lacks
FORMS = "text/html text/markdown text/latex image/svg+xml image/png image/jpeg image/gif image/webp"
DROPPED = re.compile(r"(?s)<style\b.*?</style>|\x1b\].*?(\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")
ANCHOR = re.compile(r"(<(?:a|span)\s[^>]*\b(?:id|name)=[^>]*>)(?=</)")
PLAYER = re.compile(r"(?i)<(iframe|video|audio|source|embed)\b(?=[^>]*\ssrc\s*=)")


class _Renderer(IPythonRenderer):
    """Markdown with formulas as pandoc finds them in HTML; no line ends before a "%"."""

    def text(self, text: str) -> str:
        return super().text(re.sub(r"(?<=\d) %", "\u00a0%", text))

    def inline_math(self, body: str) -> str:
        return f'<script type="math/tex">{body}</script>'

    def block_math(self, body: str) -> str:
        return f'<script type="math/tex; mode=display">{body}</script>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def _embed_image_or_attachment(self, src: str) -> str:
        known = src.removeprefix("attachment:") in self.attachments  # article.lua names a lost one
        return super()._embed_image_or_attachment(src) if known else src


def _markdown2html(source: str, attachments: dict | None = None) -> str:
    renderer = _Renderer(escape=False, attachments=attachments or {}, anchor_link_text="")
    return MarkdownWithMath(renderer=renderer).render(source)


class Article(TemplateExporter):
    """One HTML file, readable offline."""

    output_mimetype = "text/html"
    file_extension = Unicode(".html").tag(config=True)
    template_name = Unicode("base").tag(config=True, affects_template=True)
    template_file = Unicode("article.j2").tag(config=True, affects_template=True)
    to = "html5"
    options = ("--embed-resources", "--mathml", "--toc", f"--css={FOLDER / 'article.css'}")

    @property
    def default_config(self) -> Config:
        config = super().default_config
        config.TemplateExporter.extra_template_paths = [str(FOLDER)]
        config.TemplateExporter.filters = {"markdown2html": _markdown2html}
        config.NbConvertBase.display_data_priority = [*FORMS.split(), "text/plain"]
        config.CoalesceStreamsPreprocessor.enabled = True  # of a progress bar its last state
        config.TagRemovePreprocessor.remove_cell_tags = {"remove-cell"}
        config.TagRemovePreprocessor.remove_all_outputs_tags = {"remove-output"}
        config.TagRemovePreprocessor.remove_input_tags = {"remove-input"}
        return config

    def from_notebook_node(self, nb, resources=None, **kw):
        page, resources = super().from_notebook_node(nb, resources, **kw)
        code = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source]
        if code and not any(cell.execution_count or cell.outputs for cell in code):
            page += "<p><em>This notebook has not been executed: it has no results.</em></p>"
        page = PLAYER.sub("<img", DROPPED.sub("", page))  # or pandoc would fetch a page in the page
        page = ANCHOR.sub("\\1\u2060", page)  # no width; pandoc and Typst lose an empty place
        with tempfile.TemporaryDirectory() as folder:
            return self.write(page, resources, Path(folder)), resources

    def write(self, page: str, resources: dict, folder: Path) -> str | bytes:
        """Write the file, with STIX Two Math as far as its formulas need it: else no browser
        stretches a bracket."""
        from fontTools import subset

        page = self.pandoc(page, resources, folder)
        formulas = "".join(re.findall(r"<math.*?</math>", page, re.DOTALL))
        font = Path(find_spec("ziamath").origin).parent / "fonts/STIXTwoMath-Regular.ttf"
        subset.main([str(font), f"--text={formulas}√", f"--output-file={folder / 'math.ttf'}"])
        source = base64.b64encode((folder / "math.ttf").read_bytes()).decode()
        style = f'font-family: "STIX Two Math"; src: url(data:font/ttf;base64,{source});'
        return page.replace("</head>", f"<style>@font-face {{ {style} }}</style>\n</head>", 1)

    def pandoc(self, page: str, resources: dict, folder: Path, *options: str) -> str:
        """Write the page in another language, its pictures in the folder; log what it lacks."""
        import pypandoc

        log = folder / "log.json"
        name = resources["metadata"]["name"]
        beside = Path(resources["metadata"].get("path") or ".").resolve()
        options += (*PANDOC, *self.options)
        options += (f"-Mname:{name}", f"--resource-path={beside}", f"--log={log}")
        text = pypandoc.convert_text(page, self.to, "html+raw_html", options, verify_format=False)
        for entry in json.loads(log.read_text(encoding="utf-8")):
            if said := entry.get(SAID.get(entry["type"])):
                self.log.warning("%s: %s", name, " ".join(said.partition(":\n")[0].split()))
        return text


class Paper(Article):
    """A typeset PDF with vector figures and their alternative texts."""

    output_mimetype = "application/pdf"
    file_extension = Unicode(".pdf").tag(config=True)
    exclude_input = Bool(True).tag(config=True)
    to = "typst-smart"  # quotes as they are; Typst makes a prime of that in "CIFAR-10’s"
    options = (f"--template={FOLDER / 'article.typ'}",)

    def write(self, page: str, resources: dict, folder: Path) -> bytes:
        text = unescape(re.sub(r"<script.*?</script>|<[^>]*>", "", page, flags=re.DOTALL))
        rare = {ord(c) for c in text if c > "\u024f" and unicodedata.category(c)[0] not in "CMZ"}
        names = [f"{chr(code)} (U+{code:04X})" for code in sorted(rare - _typst_codes())]
        if names:
            hint = "pip install manimgx-fonts-cjk brings CJK"
            self.log.warning("no font for %s; %s", " ".join(names), hint)
        media = f"--extract-media={folder}"
        try:
            return _set(self.pandoc(page, resources, folder, media), folder)
        except RuntimeError as error:
            self.log.warning("Typst failed, so formulas are shown as source: %s", error)
            return _set(self.pandoc(page, resources, folder, media, "-Mspelled:true"), folder)


class PaperTex(Paper):
    """LaTeX source for pdflatex; its pictures lie beside it."""

    output_mimetype = "text/latex"
    file_extension = Unicode(".tex").tag(config=True)
    to = "latex"
    options = (f"--template={FOLDER / 'article.tex'}", "--syntax-highlighting=none")

    def write(self, page: str, resources: dict, folder: Path) -> str:
        text = self.pandoc(page, resources, folder, f"--extract-media={folder}")
        sheet = "#set document(date: none)\n#set page(width: auto, height: auto, margin: 0pt)\n"
        for file in sorted(folder.glob("*-*")):
            if file.suffix not in (".png", ".jpeg"):
                pdf = _set(f'{sheet}#image("{file.name}")', folder)
                file = file.with_suffix(".pdf")
                file.write_bytes(pdf)
            # nbconvert's writer makes each file's folder, and fails where a name has none
            resources.setdefault("outputs", {})[f"./{file.name}"] = file.read_bytes()
        return text


def _typst_codes() -> set[int]:
    from fontTools.ttLib import TTFont

    own = Path(find_spec("matplotlib").origin).parent / "mpl-data/fonts/ttf/DejaVuSansMono.ttf"
    files = [own, *(file for folder in FONTS for file in folder.glob("*.tt[fc]"))]
    fonts = [TTFont(file, fontNumber=0, lazy=True) for file in files]
    formulas = range(0x1D400, 0x1D800)  # of Typst's own font
    return set(formulas).union(*(font.getBestCmap() for font in fonts))


def _set(source: str, folder: Path) -> bytes:
    import typst

    return typst.compile(source.encode(), root=folder, ignore_system_fonts=True, font_paths=FONTS)
