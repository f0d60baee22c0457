"""Formulas as Jupyter finds them in Markdown, in the TeX that pandoc reads."""

import re

# in the order of precedence: code, a dollar that is none, formulas
MATH = re.compile(
    r"(?P<code>^[ >]*(?P<fence>`{3,}|~{3,}).*?(?:^[ >]*(?P=fence)[`~]*[ \t]*$|\Z)"
    r"|(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=ticks)(?!`)|\\\$)"
    r"|\$\$(?P<display>.+?)\$\$|\\\\\[(?P<brackets>.+?)\\\\\]"
    r"|(?P<environment>\\begin\{(?P<name>[a-zA-Z]+\*?)\}.*?\\end\{(?P=name)\})"
    r"|\$(?P<inline>(?:\\.|(?!\n\s*\n)[^$\\])+)\$|\\\\\((?P<parentheses>.+?)\\\\\)",
    re.DOTALL | re.MULTILINE,
)
BRACES = r"\s*\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}"
MACRO = re.compile(
    r"\\(?P<kind>newcommand|renewcommand|providecommand|def|DeclareMathOperator)\*?\s*\{?\s*\\(?P<name>[a-zA-Z]+)\s*\}?\s*"
    rf"(?:\[(?P<count>\d)\]|(?P<marks>(?:#\d)*)){BRACES}"
)
SIZES = r"\\(tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![a-zA-Z])"
FONTS = {
    "rm": "mathrm",
    "bf": "mathbf",
    "it": "mathit",
    "cal": "mathcal",
    "tt": "mathtt",
    "sf": "mathsf",
}


def modern(text: str) -> str:
    """A formula without the plain TeX that MathJax reads and pandoc does not."""
    text = re.sub(SIZES, "", text).replace(r"\LaTeX", r"\mathrm{LaTeX}")
    text = re.sub(r"\\[Bb]igg?[lrm]?\s*(?=\\\|)", "", text)  # Typst would spell this sign out
    text = re.sub(r"\\cr(?![a-zA-Z])", r"\\\\", text)
    font = rf"\\({'|'.join(FONTS)})(?![a-zA-Z])\s*"
    text = re.sub(rf"\{{\s*{font}([^{{}}]*)\}}", lambda m: rf"{{\{FONTS[m[1]]}{{{m[2]}}}}}", text)
    text = re.sub(font, "", text)
    # lines outside of any environment
    if r"\\" in re.sub(r"\\begin\{.*\\end\{[^}]*\}", "", text, flags=re.DOTALL):
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    return re.sub(r"\n\s*\n", "\n", text).strip()


class Macros:
    """What the formulas of a notebook have defined so far, as MathJax keeps it."""

    def __init__(self):
        self.bodies: dict[str, tuple[int, str]] = {}  # name: number of arguments, body

    def written_out(self, text: str) -> str:
        """A formula without definitions, which are kept, and without calls of macros."""
        for macro in MACRO.finditer(text):
            body = (
                rf"\operatorname{{{macro[5]}}}"
                if macro["kind"] == "DeclareMathOperator"
                else macro[5]
            )
            self.bodies[macro["name"]] = int(macro["count"] or len(macro["marks"] or "") // 2), body
        text = MACRO.sub("", text)
        for _ in range(5):  # macros within macros
            for name, (count, body) in self.bodies.items():
                for call in reversed(
                    list(re.finditer(rf"\\{name}(?![a-zA-Z])" + count * BRACES, text))
                ):
                    written = re.sub(r"#(\d)", lambda m, call=call: call[int(m[1])], body)
                    before = text[: call.start()].rstrip()
                    written = f"{{{written}}}" if before.endswith(("^", "_")) else f"{written} "
                    text = f"{before} {written}{text[call.end() :]}"
        return text
