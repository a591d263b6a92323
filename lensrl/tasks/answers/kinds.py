r"""Answers that are no single number: times, dates, ratios, ranges, numbers of another base, options, sets on the line.

Each kind is a NamedTuple and a function that reads all of a cleaned text as this kind, or returns None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from lensrl.tasks.answers.parts import split
from lensrl.tasks.answers.regions import Region, constant, same_regions
from lensrl.tasks.answers.spelling import cleaned
from lensrl.tasks.answers.units import Quantity, quantity
from lensrl.tasks.answers.values import close, inexact


class Clock(NamedTuple):
    """A time of day in seconds. `half` is am, pm, or empty where it is not said."""

    seconds: int
    half: str


class Date(NamedTuple):
    """A date. Zero is a year or day that is not said."""

    year: int
    month: int
    day: int


class Ratio(NamedTuple):
    """`2:3`. `clock`: it may be a time, `3:30`."""

    terms: tuple[Any, ...]
    clock: bool


class Range(NamedTuple):
    """`5 to 10`, as two quantities."""

    low: Quantity
    high: Quantity


class Based(NamedTuple):
    """Digits in a base: `2516_8`."""

    digits: str
    base: int


class Option(NamedTuple):
    """An option of multiple choice: its letter, and the text after it."""

    letter: str
    text: str


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>(?:january|february|march|april|(?-i:May)|june|july|august|september|october|november|december"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b)\.?"
)
_DAY = r"(?P<day>\d{1,2})(?:\s*\^?\s*\{?\s*(?:st|nd|rd|th)\s*\}?)?"
_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day\s*,?\s*)?"
_YEAR = r"(?P<year>\d{4})"
CLOCK = r"(?P<hour>\d{1,2})(?:\s*:\s*(?P<minute>\d{2}))?(?:\s*:\s*(?P<second>\d{2}))?"
HALF = r"(?:(?P<half>[ap])\.?\s?m\b\.?|in the (?P<part>morning|afternoon|evening)|(?P<oclock>o'clock))"
_WEEKDAYS = re.compile(r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b", re.IGNORECASE)
_MONTH_NAMES = re.compile(  # without a day
    r"(?<!\d )(?<!\dth )(?<! of )\b(?:january|february|march|april|(?-i:May)|june|july|august|september|october"
    r"|november|december)\b(?!\.? \d)",
    re.IGNORECASE,
)
PAST = (
    r"(?:an?\s+)?(?P<minutes>quarter|half|\d{1,2}\s+min(?:ute)?s?|\d{1,2}(?=\s+past))\s+"
    r"(?P<side>past|after|to|till|before)"
)
DATES = (
    rf"{_WEEKDAY}{_MONTH}\s*(?:the\s*)?{_DAY}(?:(?:\s*,\s*|\s+){_YEAR})?",
    rf"{_WEEKDAY}(?:the\s+)?{_DAY}\s*(?:of\s+)?{_MONTH}(?:(?:\s*,\s*|\s+){_YEAR})?",
    rf"{_YEAR}-(?P<month>\d\d)-{_DAY}",
    rf"{_MONTH}\s*,?\s*{_YEAR}",
)


def clock(text: str) -> Clock | None:
    """Read `3:30 p.m.`, `15:30`, `5 PM`, `noon`, `quarter past 3`, `10 minutes to 4 p.m.`."""
    named = {
        "noon": Clock(12 * 3600, "pm"),
        "12 noon": Clock(12 * 3600, "pm"),
        "midnight": Clock(0, "am"),
        "12 midnight": Clock(0, "am"),
    }
    if text.lower() in named:
        return named[text.lower()]
    if spoken := re.fullmatch(rf"{PAST}\s+(?P<rest>(?:1[0-2]|[1-9])\b(?!:).*)", text, re.IGNORECASE):
        minutes = {"quarter": 15, "half": 30}.get(spoken["minutes"].lower()) or int(
            re.sub(r"\D", "", spoken["minutes"])
        )
        hour = clock(spoken["rest"]) or clock(f"{spoken['rest']} o'clock")
        before = spoken["side"].lower() not in ("past", "after")
        if hour is None or minutes > 59 or (before and spoken["minutes"].lower() == "half"):
            return None
        seconds = (hour.seconds + 60 * (-minutes if before else minutes)) % 86400
        return Clock(seconds, hour.half and ("pm" if seconds >= 43200 else "am"))
    match = re.fullmatch(rf"{CLOCK}\s*{HALF}?", text, re.IGNORECASE)
    if not match or not (match["minute"] or match["half"] or match["part"] or match["oclock"]):
        return None
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    half = (match["half"] or {"m": "a", "a": "p", "e": "p"}.get((match["part"] or " ")[0].lower(), "")).lower()
    if hour > 24 or minute > 59 or second > 59 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + 12 * (half == "p")
    elif hour > 12 or hour == 0:
        hour, half = hour % 24, "p" if hour > 12 else "a"
    return Clock(3600 * hour + 60 * minute + second, half and half + "m")


def names_like(gold: str) -> re.Pattern[str] | None:
    """Return the names of which a gold is one, weekdays or months; None for other golds."""
    text = cleaned(gold)
    return next((names for names in (_WEEKDAYS, _MONTH_NAMES) if names.fullmatch(text)), None)


def date(text: str) -> Date | None:
    """Read `February 3rd`, `3 Feb 2020`, `2020-02-03`, `June 2020`."""
    for pattern in DATES:
        if match := re.fullmatch(pattern, text, re.IGNORECASE):
            found = match.groupdict()
            month = found["month"]
            number = int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) + 1
            return Date(int(found.get("year") or 0), number, int(found.get("day") or 0))
    return None


def ratio(text: str) -> Ratio | None:
    """Read `5:1`, `1:2:3`, `3 : 4`."""
    terms = [constant(term) for term in split(text, ":")]
    if len(terms) < 2 or None in terms:
        return None
    return Ratio(tuple(terms), bool(re.fullmatch(r"\d{1,2}\s*:\s*\d{2}", text)))


def range_(text: str) -> Range | None:
    r"""Read `5 to 10 minutes`, `from 5 to 10`, `between 5 and 10`, `5–10`; `5-10` if 5 is the smaller one."""
    match = (
        re.fullmatch(r"between\s+(?P<low>.+?)\s+and\s+(?P<high>.+)", text, re.IGNORECASE)
        or re.fullmatch(
            r"(?:from\s+)?(?P<low>.+?)\s*(?:--|\bto\b|\\sim(?![A-Za-z])|~|through)\s*(?P<high>.+)", text, re.IGNORECASE
        )
        or re.fullmatch(r"(?P<low>\\?\$?\d[\d,.]*)(?P<sign>-)(?P<high>\\?\$?\d[\d,.]*(?:\s*%|\s+[A-Za-z].*)?)", text)
        or re.fullmatch(r"(?P<low>\d[\d,.]*) (?P<sign>-) (?P<high>\d[\d,.]*\s+[A-Za-z]{2,}.*)", text)  # 5 - 10 years
    )
    low, high = (quantity(match["low"]), quantity(match["high"])) if match else (None, None)
    if not match or low is None or high is None:
        return None
    ends = constant(low.number), constant(high.number)
    if None in ends or (match.groupdict().get("sign") and not ends[0] < ends[1]):
        return None
    return Range(low, high)


def based(text: str) -> Based | None:
    """Read `2516_8`, `2516_{8}`, `2516 (base 8)`."""
    match = re.fullmatch(
        r"\(?(\d[\dA-Fa-f ,]*|[A-Fa-f]\d[\dA-Fa-f]*)\)?\s*_\s*\{?\s*(?:base )?(\d{1,2})\s*\}?", text
    ) or re.fullmatch(r"(\d[\dA-F]*)\s*,?\s*\(?(?:in )?base (\d{1,2})\)?", text)
    return Based(re.sub("[ ,]", "", match[1]).upper(), int(match[2])) if match else None


_OPTION = (
    re.compile(
        r"(?:(?:option|choice|answer)\s*)?[(\[]\s*(?P<letter>[A-Ja-j])\s*[)\]]\s*[.:,]?\s*(?P<text>.*)", re.IGNORECASE
    ),
    re.compile(r"(?:option|choice|answer)\s+(?P<letter>[A-J])(?:\s*[).:]\s*(?P<text>.*))?", re.IGNORECASE),
    re.compile(r"(?P<letter>[A-J])\s*(?:[):.]\s*(?P<text>.*))?"),
    re.compile(r"(?P<letter>[a-j])(?P<text>)"),
)


def option(text: str) -> Option | None:
    r"""Read `C`, `(C)`, `C: 12`, `C. 12`, `option C`, `\textbf{(C)}\ 12`."""
    for pattern in _OPTION:
        if match := pattern.fullmatch(text):
            return Option(match["letter"].upper(), (match["text"] or "").strip())
    return None


def options(text: str) -> frozenset[str] | None:
    """Read several letters of multiple choice: `A, C`, `A and C`, `AC`."""
    if re.fullmatch(r"[A-J]{2,5}", text):
        return frozenset(text) if list(text) == sorted(set(text)) else None
    letters = [option(part) for part in split(text, ",", ";", "and", "&") if part]
    if len(letters) < 2 or any(letter is None or letter.text for letter in letters):
        return None
    return frozenset(letter.letter for letter in letters if letter)


KINDS: tuple[Callable[[str], Any], ...] = (clock, date, range_, ratio, based)


def same(gold: Any, other: Any) -> bool | None:
    """Compare two readings of a kind here. None if they are of different kinds."""
    match gold, other:
        case Clock(), Clock():
            return gold.seconds % 43200 == other.seconds % 43200 if not gold.half else gold == other
        case Date(), Date():
            return all(a in (0, b) for a, b in zip(gold, other, strict=True))
        case Ratio(), Ratio():
            if len(gold.terms) != len(other.terms) or (gold.clock and other.clock and gold != other):
                return False
            first = [inexact(ratio.terms[0]) for ratio in (gold, other)]
            return any(first) and all(
                close(a * first[1], b * first[0]) for a, b in zip(gold.terms, other.terms, strict=True)
            )
        case Based(), Based():
            return gold == other
        case Region(), Region():
            return same_regions(gold, other)
        case _:
            return None
