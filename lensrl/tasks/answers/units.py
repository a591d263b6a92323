r"""Read a number with a unit: `5 cm^2`, `\$5`, `18 red apples`, `7 hours 30 minutes`, `107 (ft)`, `3.5 million`.

Known units are converted: 90 minutes are 1.5 hours, and 5 cm are not 5 m. Other words after a number are a unit of that
name. A unit may be left off: 5 cm is 5.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

_METRES = {
    "mm": "0.001",
    "cm": "0.01",
    "dm": "0.1",
    "m": "1",
    "km": "1000",
    "in": "0.0254",
    "ft": "0.3048",
    "yd": "0.9144",
}
_GRAMS = {"mg": "0.001", "g": "1", "kg": "1000", "t": "1000000", "lb": "453.59237", "oz": "28.349523125"}
_SECONDS = {"ms": "0.001", "s": "1", "min": "60", "h": "3600", "day": "86400", "week": "604800"}
_LITRES = {
    "ml": "1e-6", "cl": "1e-5", "l": "1e-3", "gal": "3.785411784e-3", "qt": "0.946352946e-3", "pt": "0.473176473e-3"
}  # fmt: skip
# Units of several dimensions, in metres, grams and seconds: a newton is 1,000 g m/s^2.
_DERIVED = {
    "volume": (("length", 3),),
    "N": (("mass", 1), ("length", 1), ("time", -2)),
    "J": (("mass", 1), ("length", 2), ("time", -2)),
    "W": (("mass", 1), ("length", 2), ("time", -3)),
    "Pa": (("mass", 1), ("length", -1), ("time", -2)),
    "Hz": (("time", -1),),
}
_PHYSICS = {
    name: {name: size, f"k{name}": f"{size}e3", f"M{name}": f"{size}e6"}
    for name, size in {"N": "1000", "J": "1000", "W": "1000", "Pa": "1000", "Hz": "1"}.items()
}
_SINGLE = (
    "month",
    "year",
    "euro",
    "sterling",
    "rupee",
    "yuan",
    "degree",
    "celsius",
    "fahrenheit",
    "rad",
    "%",
)  # dimensions of one unit each
_KNOWN: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(size))
    for dimension, table in (
        ("length", _METRES | {"mi": "1609.344"}), ("mass", _GRAMS), ("time", _SECONDS), ("volume", _LITRES),
        ("money", {"dollar": "1", "cent": "0.01"}), *_PHYSICS.items(), *((name, {name: "1"}) for name in _SINGLE),
    )
    for name, size in table.items()
}  # fmt: skip
_SYNONYMS = {
    word: unit
    for unit, words in {
        "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter decimetre", "m": "meter metre",
        "km": "kilometer kilometre", "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile",
        "mg": "milligram",
        "g": "gram", "kg": "kilogram kilo", "t": "ton tonne", "lb": "pound lbs", "oz": "ounce", "ms": "millisecond",
        "s": "second sec", "min": "minute mins", "h": "hour hr", "week": "wk", "month": "mo", "year": "yr",
        "ml": "milliliter millilitre mL",
        "l": "liter litre L", "gal": "gallon", "qt": "quart", "pt": "pint",
        "dollar": "usd buck", "euro": "eur", "sterling": "gbp", "rupee": "inr", "rad": "radian", "degree": "deg",
        "J": "joule", "kJ": "kilojoule", "N": "newton", "kN": "kilonewton", "W": "watt", "kW": "kilowatt",
        "Pa": "pascal", "Hz": "hertz",
        "%": "percent pct", "mi/h": "mph", "km/h": "kph kmh kmph", "ft/s": "fps", "m/s": "mps",
        "square": "sq", "cubic": "cu", "^2": "squared", "^3": "cubed",
        "child": "children", "person": "people", "man": "men", "woman": "women", "mouse": "mice", "goose": "geese",
        "knife": "knives", "loaf": "loaves", "leaf": "leaves", "half": "halves",
    }.items()
    for word in words.split()
}  # fmt: skip
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Words that do arithmetic, or say that the number is not the answer: no units.
_ARITHMETIC = (
    "sin cos tan sec csc cot log ln lg exp mod pi sqrt or and to times plus minus over factorial choose divided by "
    "equals is not than less more least most infinity am pm if x e i"
)
_NO_UNIT = frozenset(_ARITHMETIC.split())
_CURRENCY = {
    "\\$": "dollar", "US\\$": "dollar", "USD": "dollar", "€": "euro", "EUR": "euro", "£": "sterling", "₹": "rupee",
    "Rs": "rupee", "Rs.": "rupee", "¥": "yuan",
}  # fmt: skip
_SIGNS = "|".join(re.escape(sign) for sign in sorted(_CURRENCY, key=len, reverse=True))
_MONEY = re.compile(rf"([-+]?)\s*({_SIGNS})\s*([-+]?\s*[\d.].*)")
_WORD = r"[^\W\d_]+\.?|%"
_FACTOR = re.compile(r"\s*(?P<over>/?)\s*(?P<word>[^\W\d_]+|%)\s*(?:\^\s*\{?\s*(?P<power>-?\d)\s*\}?)?")
_NUMBER_END = re.compile(r"[\d})!]|\\pi|(?<=\d)\.")
_AFTER = re.compile(
    r"(?:(?P<percent>\s*\\?%)(?:\s+[A-Za-z].*)?|(?P<degree>\s*\\degree)\s*(?P<scale>[CF]?)|\s*(?P<words>\(\s*[A-Za-z][^()]*\)"
    r"|\\(?:Omega|mu)(?![A-Za-z]).*|(?<=\d)(?:[A-Za-z]{2,}\b.*|[mgslLh]$)|(?<=\s)\S.*|(?<=[})!])[A-Za-z]{3,}.*))?"
)
_OF_LATEX = {"degree": "degree", "cdot": " ", "Omega": "ohm", "mu": "micro"}
_LATEX_UNIT = re.compile(rf"\\({'|'.join(_OF_LATEX)})(?![A-Za-z])\s*")
_PIECE = re.compile(r"(?:^|,|\band\b|\s)+\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\.?(?=[\s,]|$)")

_ANGLE = re.compile(r"(\d+)\s*\\degree\s*(\d+(?:\.\d+)?)\s*'(?:\s*(\d+(?:\.\d+)?)\s*(?:''|\")?)?")
_DOLLARS = re.compile(r"\\\$\s*(\d+(?:\.\d+)?)(?=,?\s+(?:and\s+)?\d+\s+cents?$)")  # $3 and 25 cents
_FEET = re.compile(r"(\d+)\s*'\s*(\d+(?:\.\d+)?)\s*(?:''|\")?")


class Quantity(NamedTuple):
    """The text of a number and its unit: a dimension and a size in it, or a name; None without a unit."""

    number: str
    unit: Unit | None
    scale: int = 1

    @property
    def is_money(self) -> bool:
        """Return whether the unit is one of dollars."""
        return self.unit is not None and self.unit.dimensions == (("money", 1),)


class Unit(NamedTuple):
    """A known unit has dimensions, such as ((length, 1), (time, -1)), and a size; another has the name alone."""

    name: str
    dimensions: tuple[tuple[str, int], ...] = ()
    size: Fraction = Fraction(1)


def quantity(text: str) -> Quantity | None:
    """Split a cleaned answer into number and unit. None if the words after the number are no unit."""
    if money := _MONEY.fullmatch(text):
        sign, symbol, rest = money.groups()
        amount = quantity(rest)
        if amount is None:
            return None
        per = amount.unit and amount.unit.name.startswith("/")  # $5 per hour
        name = f"{_CURRENCY[symbol]} {amount.unit.name}" if amount.unit and per else _CURRENCY[symbol]
        return Quantity(sign + amount.number, _unit(name), amount.scale)
    for end in _NUMBER_END.finditer(text):
        number, rest = text[: end.end()].strip(), _AFTER.fullmatch(text, end.end())
        if rest and (found := _with_rest(number, rest)):
            return found
        # `24 \pi cm` has a longer number than 24; `5 m 3 cm` has none.
        if re.search(r"[^\W\d_]", re.sub(r"\\[A-Za-z]+|(?<=\d)[eE](?=[-+]?\d)", "", text[: end.end()])):
            return None
    return None


def _with_rest(number: str, match: re.Match[str]) -> Quantity | None:
    """Return the quantity of a number and what follows it; None if this is no unit."""
    scale = 1
    if match["degree"] and re.search("sin|cos|tan|sec|csc|cot", number):
        return None  # the degrees are the function's argument
    if match["percent"] or match["degree"]:
        degrees = {"C": "celsius", "F": "fahrenheit"}.get(match["scale"], "degree")
        return Quantity(number, _unit("%" if match["percent"] else degrees))
    words = (match["words"] or "").strip()
    if words[:1] == "(" and words[-1:] == ")":
        words = words[1:-1].strip()
    if words:
        first, _, rest = words.partition(" ")
        if first.lower().rstrip("s") in _SCALES:
            scale, words = _SCALES[first.lower().rstrip("s")], rest.strip()
    if not words:
        return Quantity(number, None, scale)
    unit = _unit(words)
    return unit and Quantity(number, unit, scale)


def compound(text: str) -> Quantity | None:
    r"""Read `7 hours and 30 minutes`: two or more quantities of one dimension, as one in the unit of size 1.

    `10\degree 30'` is 10.5 degrees, and `5'8''` is 5 feet and 8 inches.
    """
    if angle := _ANGLE.fullmatch(text):
        degrees, minutes, seconds = (Fraction(number or 0) for number in angle.groups())
        return Quantity(str(degrees + minutes / 60 + seconds / 3600), _unit("degree"))
    if feet := _FEET.fullmatch(text):
        text = f"{feet[1]} ft {feet[2]} in"
    text = _DOLLARS.sub(r"\1 dollars", text)
    pieces = _PIECE.findall(text)
    if len(pieces) < 2 or _PIECE.sub("", text).strip():
        return None
    found = [quantity(f"{number} {word}") for number, word in pieces]
    units = [piece.unit for piece in found if piece and piece.unit and piece.unit.dimensions]
    if (
        len(units) < len(pieces)
        or len({unit.dimensions for unit in units}) > 1
        or len({unit.size for unit in units}) < len(units)
    ):
        return None
    total = sum((Fraction(number) * unit.size for (number, _), unit in zip(pieces, units, strict=True)), Fraction(0))
    return Quantity(str(total), units[0]._replace(name="", size=Fraction(1)))


def _unit(words: str) -> Unit | None:
    """Read a unit: known ones with powers and quotients, else words. None for what is neither."""
    if len(words) > 60:
        return None
    # One spelling: `miles per hour` -> `mi / h`, `square feet` -> `ft^2`.
    text = re.sub(r"\bper\b|(?<=\w) an? (?=\w)", "/", _LATEX_UNIT.sub(lambda match: _OF_LATEX[match[1]], words))
    spelled = [_canonical(word) for word in re.findall(_WORD, text)]
    if not spelled or None in spelled:
        return None
    text = re.sub(_WORD, lambda _: str(spelled.pop(0)), text)
    text = re.sub(r"\b(square|cubic) (\w+)", lambda match: f"{match[2]}^{2 if match[1] == 'square' else 3}", text)
    # Its dimensions and size.
    dimensions: dict[str, int] = {}
    size, sign, at, known = Fraction(1), 1, 0, True
    for factor in _FACTOR.finditer(text):
        if factor.start() != at:
            return None
        at = factor.end()
        sign = -1 if factor["over"] else sign
        kind, own, power = *_KNOWN.get(factor["word"], ("", Fraction(1))), sign * int(factor["power"] or 1)
        known = known and bool(kind)
        for dimension, times in _DERIVED.get(kind, ((kind, 1),)):
            dimensions[dimension] = dimensions.get(dimension, 0) + times * power
        size *= own**power
    if text[at:].strip():
        return None
    name = " ".join(text.split())
    if not known:
        return Unit(name)
    return Unit(name, tuple(sorted((kind, power) for kind, power in dimensions.items() if power)), size)


def _canonical(word: str) -> str | None:
    """Return the one spelling of a word of a unit, or None for words that are no unit."""
    word = word.rstrip(".")
    lower = word.lower()
    for form in (word, lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if form in _SYNONYMS or (form in _KNOWN and (len(form) > 1 or form == word)):
            return _SYNONYMS.get(form, form)
    if lower in _NO_UNIT or (len(word) == 1 and word not in "JNWVK"):  # of physics; other letters are symbols
        return None
    return lower.removesuffix("s") if len(lower) > 3 and not lower.endswith("ss") else lower
