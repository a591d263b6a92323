"""Compare two answers, each of them a text that is nothing but the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from lensrl.tasks.answers import kinds, regions
from lensrl.tasks.answers.numerals import in_digits
from lensrl.tasks.answers.parts import Part, bracketed, interchangeable, part, split_answer
from lensrl.tasks.answers.readings import all_same, matched, readings, same_part, same_quantities, same_readings
from lensrl.tasks.answers.sequences import DOTS, same_sequence
from lensrl.tasks.answers.spelling import as_text, cleaned
from lensrl.tasks.answers.units import Quantity, compound, quantity

LENGTH = 2000  # characters; a longer answer is compared as text
PARTS = 60
_NAMED = re.compile(r"^([A-Za-z]{3,}(?: [A-Za-z]+){0,3}) (?=\\?\$?\s*\d)")  # width 5, length 10
_TIMES = re.compile(r"\s*\\times(?![A-Za-z])\s*|(?<=\d)\s*[xX]\s*(?=\d)|(?<=[A-Za-z.]) [xX] (?=\d)")
_LEAD = re.compile(r"^[A-Za-z][A-Za-z' ]{0,60}?(?:\s+(?:is|are|was|equals|be)\b\s*[:=]?|\s*:)\s*(?=\S)", re.IGNORECASE)
_CONDITION = re.compile(r",?\s*\(\s*([A-Za-z] ?\\in(?![A-Za-z])[^()]{1,40})\)$")  # k\pi (k \in Z)
_INTEGER = re.compile(  # k\pi, k \in Z; k\pi where k is an integer; k\pi for any integer k
    r"\s*[,;(]?\s*(?:\b(?:where|for|with)\s+)?(?:(?P<a>[a-z])\s*(?:\\in\s*(?:\\mathbb\s*\{?\s*)?Z(?:\s*\})?"
    r"|is an(?:y| arbitrary)? integer)|(?:any |all |an )?integers? (?P<b>[a-z]))\s*\)?$"
)


def same(gold: str, answer: str) -> bool:
    """Return whether two answers are the same."""
    gold, answer = _answer(gold), _answer(answer)
    if not gold or not answer:
        return False
    if as_text(gold) == as_text(answer):
        return True
    if max(len(gold), len(answer)) > LENGTH:
        return False
    try:
        return _same(gold, answer)
    except RecursionError:  # hundreds of signs in a row
        return False


def readable(answer: str) -> bool:
    """Return whether all of an answer can be read as numbers, formulas or another kind, so that it is no prose."""
    answer = _answer(answer)
    if not answer or len(answer) > LENGTH:
        return False
    if kinds.option(answer) or regions.region(answer) or any(kind(answer) for kind in kinds.KINDS):
        return True
    parts = split_answer(answer)
    return len(parts) <= PARTS and all(readings(value) for each in parts for value in part(each).values)


@lru_cache(maxsize=2**12)
def _answer(text: str) -> str:
    """Return a cleaned answer without the words before `is` or a colon, and without its full stop."""
    if len(text) > 2 * LENGTH:
        return text.strip()
    text = re.sub(r"(?<![ap]\.m)(?<!\\ldots)(?<!\.\.)[.,;]$", "", cleaned(text)).strip()
    text = in_digits(re.sub(r"^(?:at|on)\s+(?=\w)", "", text))
    text = re.sub(r"(^|[,;=] |\b(?:and|or|is) )(?:negative|minus) (?=[\d\\.])", r"\1-", text)
    text = re.sub(r"(?:(?:the )?limit )?does not exist|D\.?N\.?E\.?", "does not exist", text)
    text = re.sub(r"^(?:there are )?infinitely many(?: (?:real )?solutions)?$", "infinitely many", text, flags=re.I)
    text = _CONDITION.sub(r", \1", _any_integer(text))
    lead = _LEAD.match(text)
    if lead and len(split_answer(text)) == 1 and not kinds.option(text) and not regions.region(text):
        text = text[lead.end() :]
    return text


def _any_integer(text: str) -> str:
    """Leave off that a letter of a solution, such as `x = k pi`, is any integer, and call the letter k."""
    said = _INTEGER.search(text)
    if not said:
        return text
    kept, name = text[: said.start()], said["a"] or said["b"]
    letter = re.compile(rf"(?<![A-Za-z\\]){name}(?![A-Za-z])")
    if "=" not in kept or not letter.search(kept):
        return text
    return kept if re.search(r"(?<![A-Za-z\\])k(?![A-Za-z])", kept) else letter.sub("k", kept)


def _same(gold: str, answer: str) -> bool:
    # Options first: their text may have commas.
    several, given_several = kinds.options(gold), kinds.options(answer)
    if several and several == given_several:
        return True
    wanted, given = kinds.option(gold), kinds.option(answer)
    if wanted and given:
        return wanted.letter == given.letter and (
            not (wanted.text and given.text) or _same_text(wanted.text, given.text)
        )
    if (wanted and wanted.text) or (given and given.text):
        return _same_text(wanted.text if wanted else gold, given.text if given else answer)
    return _same_answers(gold, answer)


def _same_text(gold: str, answer: str) -> bool:
    """Compare the texts of two options, which hold no further option."""
    gold, answer = _answer(gold), _answer(answer)
    return bool(gold and answer) and (as_text(gold) == as_text(answer) or _same_answers(gold, answer))


def _same_answers(gold: str, answer: str) -> bool:
    # Kinds that hold `and`, `or` or commas.
    for read in (kinds.date, kinds.range_, regions.region):
        first, second = read(gold), read(answer)
        if first is not None and second is not None and (verdict := same_readings([first], [second])):
            return verdict
    total, other_total = compound(gold), compound(answer)
    first, second = total or quantity(gold), other_total or quantity(answer)
    named = (first and first.unit and second and second.unit) or (total or other_total or Quantity("", None)).is_money
    if (total or other_total) and first and second and named and same_quantities(first, second):
        return True
    if kinds.date(gold) or kinds.range_(gold) or kinds.date(answer) or kinds.range_(answer):
        return same_readings(readings(gold), readings(answer))
    # Parts. Of two lengths, `12 by 5` is also `12 \times 5`.
    if any(re.search(r"\bby\b", text) or _are_lengths(text) for text in (gold, answer)):
        gold, answer = (_TIMES.sub(" by ", text) for text in (gold, answer))
    return _same_parts(gold, answer)


def _are_lengths(text: str) -> bool:
    r"""Return whether a text is several lengths and no product: `8 in \times 12 in`."""
    sides = _TIMES.split(text)
    found = [quantity(side.strip()) for side in sides] if 2 <= len(sides) <= 3 else [None]
    return all(each and each.unit and each.unit.dimensions for each in found)


def _same_parts(gold: str, answer: str) -> bool:
    """Compare the parts of two answers, which must be as many."""
    wanted, given = _parts(gold), _parts(answer)
    if max(len(wanted.parts), len(given.parts)) > PARTS:
        return False
    terms = [[each.text for each in side.parts] for side in (wanted, given)]
    if all(DOTS in side for side in terms) and interchangeable(wanted.kind, given.kind) and same_sequence(*terms):
        return True
    if "{" in (wanted.kind, given.kind) and wanted.kind != given.kind and same_part(wanted.whole, given.whole):
        return True  # an array and a formula, such as 3i - 4j
    if len(wanted.parts) != len(given.parts):
        return False
    if not interchangeable(wanted.kind, given.kind):
        return False
    match _order(wanted, given):
        case "as written":
            return all_same(wanted.parts, given.parts)
        case "alphabetical":  # (2, 3) against y = 3, x = 2
            return all_same(wanted.parts, sorted(given.parts, key=lambda each: str(each.name)))
        case "by name":
            return _same_by_name(wanted, given)
        case "any":
            return matched([(each, None) for each in wanted.parts], [(each, None) for each in given.parts])
        case _:
            return False


def _same_by_name(wanted: _Parts, given: _Parts) -> bool:
    """Compare parts of equal names, or of one name within the other: `adult` and `adult tickets`."""
    words = [[frozenset((label or "").split()) for label in parts.labels] for parts in (wanted, given)]
    alike = [[i for i, theirs in enumerate(words[1]) if own <= theirs or theirs <= own] for own in words[0]]
    if sorted(i for found in alike for i in found) == list(range(len(given.parts))):
        return all_same(wanted.parts, [given.parts[found[0]] for found in alike])
    return matched(*([*zip(side.parts, side.labels, strict=True)] for side in (wanted, given)))


def _order(wanted: _Parts, given: _Parts) -> str:
    """Return the order in which parts are compared; empty if names or units stand on some of the parts alone."""
    names, given_names = set(wanted.labels), set(given.labels)
    if len(names) > 1 and None not in names:
        # Each part of the gold has its own name or unit. They may be left off all parts.
        if len(given_names) == 1:
            return "as written"
        return "" if None in given_names else "by name"
    shared = given.labels[-1] and not any(given.labels[:-1])  # 30 and 40 mph
    if None not in names and None in given_names and len(given_names) > 1 and not shared:
        return ""
    dots = any(DOTS in each.text for each in (*wanted.parts, *given.parts))
    if not dots and (wanted.kind == "{" or len(wanted.parts) == 1):
        return "any"
    if None in names and all(each.name and len(each.name) == 1 for each in given.parts):
        return "alphabetical"
    return "as written"


class _Parts:
    """The parts of an answer, and the brackets around them: `{` also for none."""

    def __init__(self, text: str) -> None:
        self.whole = whole = part(text)
        inside = bracketed(whole.values[0]) if len(whole.values) == 1 else None
        while inside and inside.kind == "{" and len(inside.items) == 1:
            text = inside.items[0]
            inside = bracketed(text)
        self.kind = inside.kind if inside else "{"
        texts: Sequence[str] = inside.items if inside else split_answer(text)
        self.parts = [part(each if len(texts) == 1 else _NAMED.sub(r"\1 = ", each)) for each in texts]
        for i, each in enumerate(self.parts[1:]):  # x = 2, 3
            if self.parts[i].name and not each.name and len(each.sides) == 0:
                self.parts[i + 1] = each._replace(name=self.parts[i].name)
        self.labels = [_label(each) for each in self.parts]


_parts: Callable[[str], _Parts] = lru_cache(maxsize=2**12)(_Parts)


def _label(each: Part) -> str | None:
    if each.name:
        return each.name
    found = quantity(each.values[0]) if each.values else None
    return found.unit.name if found and found.unit else None
