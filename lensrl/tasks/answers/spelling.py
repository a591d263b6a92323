r"""Bring the spellings of one answer together: Unicode, Markdown, HTML and LaTeX that only changes how a text looks.

`cleaned` keeps the meaning: `\left`, `\color{red}`, `\text{}`, `**` and spaces of LaTeX go, `−`, `√`, `²` and `½` are
written as LaTeX, and `\dfrac` becomes `\frac`. `as_text` is for the comparison of answers that are no formulas.
"""

from __future__ import annotations

import re
import unicodedata

_ROW, _MONEY = "\x01", "\x02"  # stand for two backslashes and for a dollar of money
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SIGNS = str.maketrans(
    {
        "−": "-", "‐": "-", "‑": "-", "–": "-", "—": "-", "∶": ":", "ℓ": "l",
        "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"',
    }
    | {
        sign: f"\\{name} "
        for sign, name in {
            "×": "times", "✕": "times", "÷": "div", "·": "cdot", "⋅": "cdot", "∙": "cdot", "√": "sqrt", "∛": "sqrt[3]",
            "∞": "infty", "≤": "le", "≥": "ge", "⩽": "le", "⩾": "ge", "≠": "ne", "≈": "approx", "∪": "cup", "∩": "cap",
            "∈": "in", "∅": "emptyset", "Ø": "emptyset", "°": "degree", "±": "pm", "∓": "mp", "…": "ldots",
            "⋯": "ldots",
            "⟨": "langle", "⟩": "rangle", "⌊": "lfloor", "⌋": "rfloor", "⌈": "lceil", "⌉": "rceil", "ℝ": "reals",
        }.items()
    }
    | {"¢": " cents "}
)  # fmt: skip
_TAGS = r"b|strong|em|i|u|p|br|hr|code|big|small|mark|center|s|h[1-6]|span|font|div|sub|sup|answer|final_answer|think"
_HTML = re.compile(rf"""</?(?:{_TAGS})(?:\s+[a-z-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|\w+))*\s*/?>""", re.IGNORECASE)
_RAISED = re.compile(r"<(?:(?P<up>sup)|sub)>([^<>\n]{1,20})</su[bp]>", re.IGNORECASE)  # x<sup>2</sup>
_SPECIAL = re.compile(r"<\|\w{1,40}\|>|</?s>")  # <|im_end|>
_BOLD = (
    re.compile(r"(?<![\w)*])(\*\*\*|\*\*|\*)(?=[^\s*])([^*\n]{0,400}?[^\s*])\1(?![\w(*])"),
    re.compile(r"(?<![\w\\}])(__|_)(?=[^\s_{])([^_\n]{0,400}?[^\s_])\1(?![\w({])"),
    re.compile(r"(?<![\w`])(`{1,3})(?=[^\s`])([^`\n]{0,400}?)\1(?![\w`])"),
)

_FONTS = (
    "text|textbf|textit|textrm|textsf|texttt|textnormal|emph|mathrm|mathbf|mathit|mathsf|mathtt|mathcal|boldsymbol|bm|"
    "mbox|hbox|operatorname|underline|uline|boxed|fbox|mathord|ensuremath|bold|pmb|hat|widehat|vec|overrightarrow"
)
_NAMES = {
    name: new
    for new, names in {
        "frac": "dfrac tfrac cfrac", "binom": "dbinom tbinom", "le": "leq leqslant leqq", "ge": "geq geqslant geqq",
        "ne": "neq", "<": "lt", ">": "gt", "emptyset": "varnothing O", "ldots": "dots cdots dotsc dotsb", "{": "lbrace",
        "}": "rbrace", "[": "lbrack", "]": "rbrack", "|": "lvert rvert vert mid lVert rVert", "*": "ast", ":": "colon",
        "phi": "varphi", "epsilon": "varepsilon", "theta": "vartheta", "and": "land wedge", "or": "lor vee iff",
        "approx": "simeq", "overline": "bar", "degree": "textdegree", "$": "textdollar", "infty": "infin", "reals": "R",
        "^": "sp", "_": "sb", "i": "imath", "j": "jmath",
    }.items()
    for name in names.split()
}  # fmt: skip
_COMMAND = re.compile(rf"\\({'|'.join(sorted(_NAMES, key=len, reverse=True))})(?![A-Za-z])")
_PLAIN = {"<", ">", "[", "]", "|", "*", ":", "$", "^", "_", "i", "j"}
_GROUP = r"((?:[^{}]|\{[^{}]*\})*?)"
_INFIX = re.compile(rf"\{{{_GROUP}\\(over|choose)(?![A-Za-z]){_GROUP}\}}")  # {3 \over 4}
_OVER = re.compile(r"((?:[^={}]*=)?)([^={}]*\\(?:over|choose)(?![A-Za-z])[^={}]*)")  # 3 \over 4, without braces
_PRIMES = re.compile(r"\^\s*(?:\{\s*((?:\\prime\s*)+)\}|(\\prime)(?![A-Za-z]))")
_DOTTED = re.compile(r"(?<=\.)(\d*)\\dot\s*\{?\s*(\d)\s*\}?(?:(\d*)\\dot\s*\{?\s*(\d)\s*\}?)?")  # 0.1\dot{6}
# Units of one letter that is also a symbol: a font and a space before it say that it is a unit.
_UNIT_LETTER = re.compile(
    r"(?<=[\d}])(?<!circ\})(?=(?:\s|~|\\[,; ]|\\(?:text|textrm|mathrm|rm)\s*\{(?:\s|~|\\[,; ]))(?:\s|~|\\[,; ])*)"
    r"(?:\s|~|\\[,; ])*\\(?:text|textrm|mathrm)\s*\{(?:\s|~|\\[,; ])*([ACFHT])\s*\}(?!\s*[_^(\w])"
)
_UNIT_NAMES = {"A": "ampere", "C": "coulomb", "F": "farad", "H": "henry", "T": "tesla"}
_CHOSEN = re.compile(  # C(5, 2), {}_5C_2, C_5^2
    r"\bC\s*\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)|(?:\{\s*\}\s*)?[_^]\s*\{?(\d{1,4})\}?\s*C\s*_\s*\{?(\d{1,4})\}?"
    r"|\bC\s*_\s*\{?(\d{1,4})\}?\s*\^\s*\{?(\d{1,4})\}?"
)
# An interval as in French books, alone or in a union: ]3,\infty[, [3;5[
_INTERVAL = r"([(\[\]])([^\[\],;]{1,80}[,;][^\[\],;]{1,80})([)\[\]])"
_INTERVALS = re.compile(rf"(?<![^\s=]){_INTERVAL}(?:\s*(?:\\cup|\\cap|U)\s*{_INTERVAL})*(?![^\s.])")
_SPACE = (
    r"\\[,;:! >]|\\q?quad(?![A-Za-z])|~|\\(?:hspace|vspace|phantom|hphantom)\*?\{[^{}]*\}|\\(?:thinspace|enspace)\b"
)
_LOOKS = re.compile(
    r"\\(?:left|right|[bB]ig{1,2}[lrm]?|displaystyle|textstyle|limits|nolimits|rm|bf|it|sf|tt|normalsize|large|Large"
    r"|protect|strut|hfill|centering|nobreak)(?![A-Za-z])\s*(?:\.(?!\d))?"
)
_COLOURED = re.compile(r"\\(?:color|textcolor|colorbox|definecolor)\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}")
_FONT_GROUP = re.compile(rf"\\(?:{_FONTS})\*?\s*\{{((?:[^{{}}]|\^\{{-?\d\}})*)\}}")  # also \mathrm{s^{-1}}
_FONT_LETTER = re.compile(rf"\\(?:{_FONTS})\s*([A-Za-z0-9](?![A-Za-z])|\\[A-Za-z]+)")
# Unit vectors after a factor: the argument of \cos t \mathbf{i} is t.
_ARROW = r"\\(?:mathbf|boldsymbol|bm|hat|widehat|vec)"
_UNIT_VECTOR = re.compile(
    r"(?<=[\w)}])(?<!and \})(?<!or \})(?:\s|\\,)*"
    rf"(?:{_ARROW}\s*\{{\s*{_ARROW}\s*\{{\s*\\?([ijk])\s*\}}\s*\}}|{_ARROW}\s*\{{\s*\\?([ijk])(?:math)?\s*\}}"
    rf"|{_ARROW}\s*\\?([ijk])(?:math)?(?![A-Za-z]))"
)
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])")
# 1{,}000, 10,\!000, 1\,000, 1 000 -> 1,000: groups of three digits, at most three before them
_GROUPS = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:\{,\}|,\\! ?|\\[,:; ]|~|[ \u00a0\u2009\u202f])\d{3}(?!\d))+(?![\d])",
)


def unmarked(text: str) -> str:
    """Remove tags of HTML and the marks of Markdown's bold, italics and code. A tag becomes a space."""
    text = _RAISED.sub(lambda match: f"{'^' if match['up'] else '_'}{{{match[2]}}}", text)
    text = _HTML.sub(" ", _SPECIAL.sub(" ", text))
    for pattern in _BOLD:
        text = pattern.sub(r"\2", text)
    return text


def cleaned(answer: str) -> str:
    """Return an answer without what only changes its look, in one spelling of signs, fractions and spaces."""
    text = unmarked(answer).replace("\\\\", _ROW)  # the end of a row
    text = _GROUPS.sub(lambda match: re.sub(r"\D+", ",", match[0]), text)
    text = _unicode(text)
    text = _PRIMES.sub(lambda match: "'" * match[0].count("prime"), text)
    text = _DOTTED.sub(r"\1\\overline{\2\3\4}", text)
    text = _UNIT_LETTER.sub(lambda match: f" {_UNIT_NAMES[match[1]]}", text)
    text = text.replace(r"\&", " and ").replace("<=", r"\le ").replace(">=", r"\ge ")
    text = re.sub(r"(?<![\d)!])\s*!=", r"\\ne ", text)  # but 3!=6
    text = re.sub(r"\\mathbb\s*\{?\s*R\s*\}?|\\Bbb\s*\{?R\}?", r"\\reals ", text)
    text = _COLOURED.sub("", text)
    text = re.sub(rf"{_ROW}\s*$", "", _LOOKS.sub("", text))
    text = re.sub(_SPACE, lambda match: "" if match[0] == r"\!" else " ", text)
    text = _COMMAND.sub(lambda match: _renamed(match[1]), text)
    if bare := _OVER.fullmatch(text):
        text = f"{bare[1]}{{{bare[2]}}}"
    text = _INFIX.sub(lambda match: rf"\{'frac' if match[2] == 'over' else 'binom'}{{{match[1]}}}{{{match[3]}}}", text)
    text = _UNIT_VECTOR.sub(lambda match: rf" \cdot {match[match.lastindex or 0]} ", text)
    # Fonts and boxes, from the inside out.
    for _ in range(8):
        text, changes = _FONT_GROUP.subn(r" \1 ", text)
        if not changes:
            break
    text = _FONT_LETTER.sub(r" \1 ", text)
    text = re.sub(r"\.\.\.+", r"\\ldots ", re.sub(r"\b[Ii]nfinity\b", r"\\infty ", text))
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times ", text)
    text = _DEGREE.sub(r"\\degree ", text)
    text = _CHOSEN.sub(lambda match: r"\binom" + "".join(f"{{{group}}}" for group in match.groups() if group), text)
    text = re.sub(r"(?<=\d)\s*\^\s*\{?\s*(st|nd|rd|th)\b\s*\}?", r"\1", text)
    text = re.sub(r"\{\s*([,:])\s*\}", r"\1", text)
    text = _money(text)
    text = _INTERVALS.sub(_rounded, text).replace(_ROW, "\\\\ ")
    return re.sub(r"\s+", " ", text).strip().strip('"`').strip()


def _rounded(intervals: re.Match[str]) -> str:
    r"""Write the open ends of intervals with round brackets: `]3,\infty[` is `(3,\infty)`."""
    return re.sub(
        _INTERVAL,
        lambda ends: f"{'[' if ends[1] == '[' else '('}{ends[2]}{']' if ends[3] == ']' else ')'}",
        intervals[0],
    )


def _renamed(name: str) -> str:
    new = _NAMES[name]
    if new in ("and", "or"):
        return f" {new} "
    return new if new in _PLAIN else f"\\{new}" if new in ("{", "}") else f"\\{new} "


def _money(text: str) -> str:
    r"""Write a dollar that is money as `\$`, and remove dollars around formulas. A single dollar is money."""
    text = text.replace(r"\$", _MONEY)
    if text.count("$") % 2:
        text = re.sub(r"\$(?=\s*[-+]?[.\d])", _MONEY, text, count=1)
    return text.replace("$", " ").replace(_MONEY, r"\$")


def _unicode(text: str) -> str:
    """Write superscripts, vulgar fractions, Greek letters and signs as LaTeX does."""
    if text.isascii():
        return text
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda match: f"_{{{match[0].translate(_SUBSCRIPTS)}}}", text)
    text = re.sub(r"(?<=\d)\s*[–—]\s*(?=\d)", "--", text)  # a range, never a difference
    text = re.sub(r"[¼-¾⅐-⅞]", lambda match: _vulgar(match[0]), text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS))
    return re.sub(r"[α-ωΑ-Ω]", lambda match: _greek(match[0]), text)


def _vulgar(sign: str) -> str:
    over, under = unicodedata.normalize("NFKC", sign).split("\u2044")
    return rf"\frac{{{over}}}{{{under}}}"


def _greek(letter: str) -> str:
    name = unicodedata.name(letter).split()[-1].replace("LAMDA", "LAMBDA")
    return f"\\{name.lower() if letter.islower() else name.capitalize()} "


def as_text(answer: str) -> str:
    """Return the form in which answers are compared as text, of a cleaned answer: no case, full stop or idle spaces."""
    text = re.sub(r"\\\$|^(?:the|a|an)\s+(?=[a-z]{2})", "", answer.strip(), flags=re.IGNORECASE).replace(r"\%", "%")
    text = re.sub(r"^([\"'])(.*)\1$", r"\2", text)
    text = re.sub(r",\s+(?=\d{3})", ";", re.sub(r"\{\s*(\\?\w)\s*\}", r"\1", text))  # `1, 000` is not `1,000`
    text = re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", text.rstrip("."))
    return re.sub(r"(?<![\\A-Za-z])[^\W\d_]{2,}", lambda word: word[0].casefold(), text)  # but `x` is not `X`
