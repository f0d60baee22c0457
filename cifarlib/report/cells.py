"""The cells of a notebook as HTML of plain elements, read as Jupyter reads them.

Markdown goes through nbconvert's parser, so that dollars, lists and headings are what Jupyter
shows. What a page on paper cannot hold (scripts, players, remote pictures) gives way to a line that
names it. Each cell is parsed by itself: a tag left open in one does not reach the next."""

import base64
import binascii
import html
import re
from itertools import groupby
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from bs4 import BeautifulSoup, Comment, NavigableString, Tag
from mistune import HTMLRenderer
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from cifarlib.report import pictures
from cifarlib.report.formulas import MATH, Macros, modern

MAX_LINES, MAX_CHARACTERS, MAX_ROWS = 1000, 200_000, 1000  # of one output
ANSI = re.compile(
    r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\^_])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
NOT_SHOWN = [
    "style",
    "link",
    "meta",
    "title",
    "base",
    "noscript",
    "template",
    "button",
    "select",
    "textarea",
    "input",
]
INVISIBLE = re.compile(r"<!--.*?-->|<(style|script)\b.*?</\1\s*>", re.DOTALL)
PLAYERS = ["iframe", "video", "audio", "object", "embed", "canvas"]


PLACE = re.compile("\ue000(\\d+)\ue001")  # of a formula while Markdown is read


class _Renderer(IPythonRenderer):
    """HTML of Markdown with plain code blocks, and pictures by their addresses."""

    def block_code(self, code: str, info: str | None = None) -> str:
        return _preformatted(code, (info or "").partition(" ")[0].strip("{}."))

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return HTMLRenderer.image(self, text, url, title)


def _preformatted(text: str, language: str = "") -> str:
    return f'<pre class="{html.escape(language)}"><code>{html.escape(text)}</code></pre>'


def _cut(text: str) -> tuple[str, str]:
    """The text without its middle where it is very long, and what was cut: "99,000 lines", or
    ""."""
    cut, lines = "", text.splitlines(keepends=True)
    if len(lines) > MAX_LINES:
        cut = f"{len(lines) - MAX_LINES:,} lines"
        text = "".join(
            [
                *lines[: MAX_LINES // 2],
                f"\n[… {cut} left out here …]\n\n",
                *lines[-MAX_LINES // 2 :],
            ]
        )
    if len(text) > MAX_CHARACTERS:
        cut = f"{cut} and {len(text) - MAX_CHARACTERS:,} characters".removeprefix(" and ")
        text = f"{text[: MAX_CHARACTERS // 2]}\n[… {cut} left out here …]\n{text[-MAX_CHARACTERS // 2 :]}"
    return text, cut


class Cells:
    """Makes an HTML tree of each cell of a notebook in turn. Kept are the ``pictures`` in them by
    file name, the ``macros`` of formulas, and ``notes``, one line each, of what had to be left
    out."""

    def __init__(self, folder: Path, language: str):
        self.folder, self.language, self.number = folder, language, 0
        self.pictures: dict[str, bytes] = {}
        self.notes: list[str] = []
        self.macros = Macros()

    def markdown(self, source: str) -> str:
        """HTML of a Markdown text; formulas, which Markdown must not touch, are ``<script
        type="math/tex">``."""
        formulas: list[re.Match] = []

        def set_aside(match: re.Match) -> str:
            if match["code"]:
                return match[0]
            formulas.append(match)
            return f"\ue000{len(formulas) - 1}\ue001"

        text = MATH.sub(set_aside, source)
        text = MarkdownWithMath(renderer=_Renderer(escape=False, exclude_anchor_links=True)).render(
            text
        )
        page = BeautifulSoup(text, "html.parser")
        for element in page.find_all(
            lambda tag: any(PLACE.search(str(value)) for value in tag.attrs.values())
        ):
            for key, value in element.attrs.items():
                element[key] = PLACE.sub(lambda m: formulas[int(m[1])][0], value)
        for string in page.find_all(string=PLACE):
            if string.find_parent(["code", "pre"]):
                string.replace_with(PLACE.sub(lambda m: formulas[int(m[1])][0], string))
                continue
            parts = PLACE.split(string)
            for i in range(1, len(parts), 2):
                parts[i] = self.formula(page, formulas[int(parts[i])])
            string.replace_with(
                *(
                    part
                    if not isinstance(part, str) or isinstance(part, NavigableString)
                    else page.new_string(part)
                    for part in parts
                )
            )
        return str(page)

    def formula(self, page: BeautifulSoup, match: re.Match) -> Tag | NavigableString:
        inline = match["inline"] or match["parentheses"]
        text = inline or match["display"] or match["brackets"] or match["environment"]
        script = page.new_tag("script", type="math/tex" if inline else "math/tex; mode=display")
        script.string = modern(self.macros.written_out(text))
        return script if script.string else page.new_string("")  # it only defined macros

    def note(self, text: str) -> None:
        self.notes.append(f"cell {self.number}: {text}")

    def page(self, number: int, cell: NotebookNode, code: bool, outputs: bool) -> BeautifulSoup:
        """A cell as a tree of plain elements; code, outputs: whether these parts are wanted."""
        self.number = number
        if cell.cell_type == "markdown":
            return self.clean(self.markdown(cell.source), cell.get("attachments", {}))
        if cell.cell_type != "code":
            return self.clean(_preformatted(cell.source))
        page = BeautifulSoup("", "html.parser")
        if code and cell.source.strip():
            page.append(
                self.clean(f'<div class="code">{_preformatted(cell.source, self.language)}</div>')
            )
        of_stream = groupby(
            cell.get("outputs", []) if outputs else [], lambda output: output.get("name")
        )
        for stream, group in of_stream:
            for part in (
                [self.text("".join(output.text for output in group))]
                if stream
                else map(self.output, group)
            ):
                page.append(part)
        return page

    def output(self, output: NotebookNode) -> BeautifulSoup:
        """Of an output the form that Jupyter shows, or, where that needs a running script, a
        picture of it, or a line."""
        if output.output_type == "error":
            return self.text(
                "\n".join(output.get("traceback") or [f"{output.ename}: {output.evalue}"])
            )
        forms = {
            kind: "".join(form) if isinstance(form, list) else form
            for kind, form in output.get("data", {}).items()
        }
        plain, notes = str(forms.get("text/plain", "")), len(self.notes)
        for kind, read in (
            ("text/html", str),
            ("text/markdown", self.markdown),
            ("text/latex", self.latex),
        ):
            page = self.clean(read(forms.get(kind, "")))
            if page.get_text(strip=True) or page.find(["img", "script", "hr"]):
                return page
        if "text/html" in forms and not re.search(
            r"<(?!style|link|script|meta)\w", INVISIBLE.sub("", forms["text/html"])
        ):
            return self.clean("")  # it sets styles, or prepares for other outputs
        for kind in pictures.PICTURES:
            if kind in forms:
                width = output.get("metadata", {}).get(kind, {}).get("width")
                data = forms[kind] if kind == "image/svg+xml" else re.sub(r"\s", "", forms[kind])
                source = (
                    f"data:{kind},{data}"
                    if kind == "image/svg+xml"
                    else f"data:{kind};base64,{data}"
                )
                image = BeautifulSoup("<p><img></p>", "html.parser")
                image.img.attrs = {"src": source, "alt": ""} | (
                    {"width": str(width)} if width else {}
                )
                return self.embed(image)
        interactive = [
            kind for kind in forms if kind not in ("text/plain", "text/markdown", "text/latex")
        ]
        if not interactive:
            return self.text(plain)
        del self.notes[notes:]
        what = (
            interactive[0].removeprefix("application/").removeprefix("vnd.").removesuffix("+json")
        )
        what = f"{what}: {plain.strip().splitlines()[0][:100]}" if plain.strip() else what
        self.note(f"an interactive output cannot be shown ({what})")
        return self.text(f"[interactive output, not shown here: {what}]")

    def latex(self, text: str) -> str:
        return self.markdown(re.sub(r"\\\[(.*?)\\\]", r"$$\1$$", text, flags=re.DOTALL))

    def text(self, text: str) -> BeautifulSoup:
        # of a progress bar its last state
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\r\n").split("\n")]
        shown, cut = _cut(ANSI.sub("", re.sub(".\x08", "", "\n".join(lines))))
        if cut:
            self.note(f"{cut} of an output are left out")
        return BeautifulSoup(_preformatted(shown) if shown.strip() else "", "html.parser")

    def clean(self, source: str, attachments: dict | None = None) -> BeautifulSoup:
        """The tree of an HTML text without what is no part of a page."""
        rows = source.split("</tr>")
        if len(rows) > MAX_ROWS:
            self.note(f"{len(rows) - MAX_ROWS:,} rows of a table are left out")
            source = (
                "</tr>".join(rows[:MAX_ROWS])
                + f"</tr></table><p>[… {len(rows) - MAX_ROWS:,} rows left out here …]</p>"
            )
        page = BeautifulSoup(source, "html.parser")
        for inner, outer in (
            (["td", "th"], ["tr", "table"]),
            (["tr"], ["table"]),
            (["li"], ["ul", "ol"]),
        ):
            for element in page.find_all(inner):  # as a browser closes what was left open
                if (open_one := element.find_parent([*inner, *outer])) and open_one.name in inner:
                    open_one.insert_after(element)
        for element in page.find_all(string=lambda text: isinstance(text, Comment)):
            element.extract()
        for box in page.find_all("input", type="checkbox"):
            box.replace_with("☑ " if box.has_attr("checked") else "☐ ")
        for element in page.find_all([*NOT_SHOWN, "script"]):
            if not element.get("type", "").startswith("math/tex"):
                element.extract()
        for element in page.find_all(PLAYERS):
            inner = element.find(src=True)
            address = element.get("src") or element.get("data") or (inner and inner["src"]) or ""
            what = (
                element.name
                if address.startswith("data:") or not address
                else f"{element.name}: {address}"
            )
            self.note(f"cannot be shown: {what[:200]}")
            element.replace_with(page.new_string(f"[{what}]"))
        for cell in page.select("table.dataframe :is(th, td)"):
            cell["style"] = "text-align: right"
        for element in page.find_all(["details", "summary"]):
            element.name = "div" if element.name == "details" else "p"
        return self.embed(page, attachments)

    def embed(self, page: BeautifulSoup, attachments: dict | None = None) -> BeautifulSoup:
        """Each picture of a tree becomes a file of ``pictures``, or its alternative text and
        address."""
        for drawing in page.find_all("svg"):
            image = page.new_tag("img", src=f"data:image/svg+xml,{drawing}", alt="")
            drawing.replace_with(image)
        for image in page.find_all("img", src=False):  # a script's
            image.extract()
        for image in page.find_all("img"):
            address, alt = image.get("src", "").strip(), image.get("alt", "")
            picture = pictures.readable(self.content(address, attachments or {}))
            if picture is None:
                named = address.partition(",")[0] if address.startswith("data:") else address
                remote = re.match(r"(https?:)?//", address)
                self.note(
                    f"the picture {named} {'is remote, not fetched' if remote else 'is not there or not readable'}"
                )
                image.replace_with(page.new_string(f"[{alt + ': ' * bool(alt)}{named}]"))
                continue
            content, ending, width, height = picture
            name = f"picture-{len(self.pictures) + 1}.{ending}"
            self.pictures[name] = content
            sizes = {
                key: size
                for key in ("width", "height")
                if (size := pictures.asked_size(image, key))
            }
            image.attrs = {
                "src": name,
                "alt": alt,
                "data-share": f"{pictures.share(sizes, width, height):.1f}",
            } | sizes
        return page

    def content(self, address: str, attachments: dict) -> bytes | None:
        """What an address in the notebook stands for; None where it is not on this machine."""
        try:
            if address.startswith("attachment:"):
                forms = attachments[unquote(address.removeprefix("attachment:"))]
                return base64.b64decode(next(iter(forms.values())))
            if address.startswith("data:"):
                head, _, data = address.partition(",")
                if not head.endswith(";base64"):
                    return (
                        data.encode() if data.lstrip().startswith("<") else unquote_to_bytes(data)
                    )
                return base64.b64decode(unquote(data))
            for name in (address, unquote(address), unquote(address).partition("?")[0]):
                if name and (self.folder / name).is_file():
                    return (self.folder / name).read_bytes()
        except (KeyError, binascii.Error, StopIteration, OSError, ValueError):
            pass  # named by the caller, as what is not there
        return None
