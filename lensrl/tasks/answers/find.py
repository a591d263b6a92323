r"""Find the part of a completion that is its answer.

1. `<think>...</think>` does not count, also unclosed or opened in the prompt.
2. The last `<answer>...</answer>`, and the rules below in it.
3. Else the last `\boxed{}` or `####`, whichever comes later.
4. Else the sentence after the last "answer is".
5. Else the text itself if it can be read, else its last number, with the signs and numbers around it.
"""

from __future__ import annotations

import re

from lensrl.tasks.answers import kinds
from lensrl.tasks.answers.numerals import in_digits
from lensrl.tasks.answers.spelling import unmarked
from lensrl.tasks.marks import final_answer
from lensrl.tasks.tags import last_tagged, without_thoughts

_CALCULATED = re.compile(r"<<[^<>\n]*>>")  # GSM8K's marks for a calculator
LONGEST = 300  # characters of a text that may be nothing but an answer
_STATED = re.compile(
    r"\b(?:answers?|correct (?:option|choice))\b(?:\s+(?:to|for|of)\s[^.:\n]{1,80}?)?\s*"
    r"(?:\b(?:is|are|was|were|equals|will be|would be|should be|must be|comes out to)\b\s*[:=]?|:|=)\s*"
    r"(?:(?:therefore|thus|hence|simply|then|also|indeed|clearly)\b,?\s*)?",
    re.IGNORECASE,
)
_END = re.compile(r"\n|[!?](?=\s|$)|(?<![ap]\.m)(?<!\bRs)\.(?=\s|$)|(?<=[ap]\.m)\.(?=\s+[A-Z]|$)")
_AFTERWARDS = re.compile(
    r"(?:\s*[,;(]?\s+|\s*\()"
    r"(?:because|since|as|so|which|where|when|if|but|after|with|given|assuming|for|by|making|meaning|i\.e\."
    r"|that|in total|altogether|each)\b.*",
    re.DOTALL,
)
_DENIED = re.compile(r"\b(?:not|no|never|less|more|fewer|least|most|than|cannot|unless|except)\b|n't\b", re.IGNORECASE)
_REFUSED = re.compile(r"\bnot\s+(?:on\s+)?(?:an?\s+)?\Z", re.IGNORECASE)
_DISPLAY = re.compile(r"\\\[\s*|\s*\\\]|\\[()]|\$\$\s*(?=[^\s$])|\s*\$\$")
_NUMBER = re.compile(r"\d")
_DIGITS = r"(?<![\d,.])\d[\d,.]*"
_TIME = r"(?:weeks?|days?|hours?|hrs?|minutes?|mins?|seconds?|secs?)\b"
_WHOLE = re.compile(
    "|".join(
        (
            *(
                re.sub(r"\?P<\w+>", "?:", pattern)
                for pattern in (
                    *kinds.DATES,
                    rf"{kinds.CLOCK}\s*{kinds.HALF}",
                    rf"\b{kinds.PAST}\s+\d{{1,2}}(?:\s*{kinds.HALF})?",
                )
            ),
            r"(?:\\?\$\s*\d[\d.]*|\d[\d.]*\s+dollars?),?\s+(?:and\s+)?\d+\s+cents?\b",
            rf"\bbetween\s+\\?\$?{_DIGITS}\s+and\s+\\?\$?\d[\d,.]*",
            rf"{_DIGITS}\s+to\s+\$?\d[\d,.]*(?:\s+[a-z]+)?",  # 3 to 4 hours
            r"(?<![\d,.])\d{1,3}(?: \d{3})+(?!\d)",  # 10 000
            r"(?<![\d,./])\d{1,3} \d{1,2}/\d{1,2}(?![\d/])",  # 1 1/2
            rf"{_DIGITS}\s+{_TIME}(?:,?\s+(?:and\s+)?\d[\d,.]*\s+{_TIME})*",  # 3 hours and 30 minutes
            rf"{_DIGITS}(?:(?:\s*:\s*\d+)+|\s+(?:hundred|thousand|million|billion|trillion)\b|\s*(?:\\?%|percent\b))",
        )
    ),
    re.IGNORECASE,
)
_TOKEN = re.compile(r"(?<![\w$])\$(?=[^\s$])[^$\n]{0,300}?(?<=[^\s$])\$(?!\d)|(?:\\[A-Za-z]+\{[^{}\n]{0,200}\}|\S)+")
_LISTED = re.compile(r"\$[^$]*\$|\\?\$?-?\d[\d,./]*%?|\([^()]*\)")
_UNKNOWN = re.compile(r"(?<![A-Za-z\\])(?!(?<=\d)x\d)[A-Za-z](?![A-Za-z])|[<>]")
_RELATION = re.compile(r"[<>≤≥]|\\[lg]eq?(?![a-z])")
_WHOLE_NUMBERS = re.compile(r"\b(?:integers?|whole numbers?|natural numbers?)\b", re.IGNORECASE)
_SIGN = re.compile(r"[-+*/=<>≤≥×÷·^]|\\(?:times|cdot|div|le|ge|pm|approx)")


def answers_in(completion: str) -> list[str]:
    """Return the texts that may be the answer, the most complete first. The first that can be read decides."""
    text = _spoken(completion)
    marked = final_answer(text)
    if marked is not None:
        return [marked, *_stated(unmarked(marked))]
    text = _plain(text)
    if len(set(re.findall(r"\(([A-J])\)", text))) > 1 and re.search(r"\w\.\s", text):
        # It talks about several options: "(A) is too small. Thus (D)."
        last = re.search(r"(\([A-J]\))\W*\Z", text)
        return _stated(text) or ([last[1]] if last else _last_number(text))
    return _stated(text) or [*([text] if len(text) <= LONGEST else []), *_last_number(text)]


def names_in(completion: str, name: re.Pattern[str]) -> list[str]:
    """Return the name, such as a weekday, that is the answer: the only one of the marked or stated answer.

    Without such an answer, it is the last name of the text. `not Wednesday` does not count.
    """
    text = _spoken(completion)
    marked = final_answer(text)
    stated = _stated(_plain(text)) if marked is None else []
    place = marked if marked is not None else stated[0] if stated else _plain(text)[-4000:]
    found = [match for match in name.finditer(place) if not _REFUSED.search(place, 0, match.start())]
    if (marked is not None or stated) and len({match[0].lower() for match in found}) > 1:
        return []
    return [found[-1][0]] if found else []


def _spoken(completion: str) -> str:
    """Return a completion without thoughts and long spaces, or what stands between its last answer tags."""
    text = re.sub(r"\s{3,}", lambda match: "\n" if "\n" in match[0] else " ", without_thoughts(completion))
    tagged = last_tagged(text, "answer")
    return text if tagged is None else tagged.strip()


def _plain(text: str) -> str:
    return _DISPLAY.sub("$", unmarked(_CALCULATED.sub("", text))).strip()


def _stated(text: str) -> list[str]:
    """Return the sentence after the last "answer is", and without a subordinate clause; nothing if there is none."""
    stated = list(_STATED.finditer(text))
    if not stated:
        return []
    tail = text[stated[-1].end() :].strip()
    end = _END.search(tail)
    clause = tail[: end.start() if end else len(tail)].strip()
    if not clause:
        return []
    short = _AFTERWARDS.sub("", clause, count=1)
    found = [clause, short]
    if not _NUMBER.search(short):
        short = in_digits(short, lone_one=False)
    if not _DENIED.search(clause) and len(re.findall(r"\d+(?:[.,]\d+)*", short)) == 1:
        found += _last_number(short)
    return list(dict.fromkeys(found))


def _last_number(text: str) -> list[str]:
    """Return the last number of a text, with all of the formula, date, time or ratio that it is a part of."""
    text = text[-4000:]
    if not _NUMBER.search(text):
        text = in_digits(text, lone_one=False)
    digits = max((match.end() for match in _NUMBER.finditer(text)), default=0)
    for match in _WHOLE.finditer(text):
        if match.start() < digits <= match.end():
            return [match[0]]
    words: list[str] = []
    for token in _TOKEN.finditer(text):
        if words and token[0] in (",", ";", ".", ":"):  # after a formula between dollars
            words[-1] += token[0]
        else:
            words.append(token[0])
    last = max((i for i, word in enumerate(words) if _NUMBER.search(word)), default=None)
    if last is None:
        return []
    # Take the signs and operands on both sides.
    first = _start(words, last)
    while (
        last + 1 < len(words)
        and not words[last].endswith((",", ";", ".", ":"))
        and _joined(words[last], words[last + 1])
    ):
        last += 1
    # Take what is listed before it: `3, 4 and 5`.
    listed = first
    while (before := _listed(words, listed)) is not None:
        listed = _start(words, before)
    if listed < first and _are_values(whole := " ".join(words[listed : last + 1]).rstrip(".,;:!?*\"'")):
        return [whole]
    if _RELATION.search("".join(words[first : last + 1])) and _WHOLE_NUMBERS.search(
        " ".join(words[max(0, first - 5) : first])
    ):
        return []  # all integers x with -2 < x < 7: no interval
    run = " ".join(words[first : last + 1]).rstrip(".,;:!?*\"'")
    run = run if run.count("(") >= run.count(")") else run.rstrip(")")
    run = run if run.count("(") <= run.count(")") else run.lstrip("(")
    left, sign, right = run.rpartition("=")
    if sign and ("=" in left or not _UNKNOWN.search(left)):
        return [right]  # 3 * 6 = 18: arithmetic, not an equation
    return [run]


def _start(words: list[str], at: int) -> int:
    """Return the place of the first token of the formula that ends with a token."""
    while at > 0 and not words[at - 1].endswith((",", ";", ".", ":")) and _joined(words[at - 1], words[at]):
        at -= 1
    return at


def _are_values(text: str) -> bool:
    """Return whether the sides of a list's equations are names: `x = 2 and x = 3`, not `2x = 10 and x = 5`."""
    return all(
        re.fullmatch(r"[\s$]*(?:[A-Za-z](?:_\w)?\s*=)?[^=]*", part) for part in re.split(r"\band\b|\bor\b|[,;]\s", text)
    )


def _listed(words: list[str], at: int) -> int | None:
    """Return the place of the number or formula that `and`, `or` or a comma joins to the one at a place.

    A comma alone joins formulas only: in "In 2010, 18 people came" the number is 18.
    """
    joined = at > 0 and words[at - 1].lower() in ("and", "or")
    before = at - 1 - joined
    if before < 0:
        return None
    bare = words[before].rstrip(",;")
    formulas = bare.startswith("$") and words[at].startswith("$") and words[before] != bare
    return before if (joined or formulas) and _LISTED.fullmatch(bare) else None


def _joined(left: str, right: str) -> bool:
    """Return whether two neighbouring tokens belong to one formula: one of them is a sign or has a command of LaTeX."""
    sign = _SIGN.fullmatch(left.strip("$")) or _SIGN.fullmatch(right.strip("$"))
    sign = sign or "\\" in (left + right).replace(r"\$", "").replace(r"\%", "")
    return bool(sign and _operand(left) and _operand(right))


def _operand(token: str) -> bool:
    bare = token.strip("$.,;:()[]{}")
    return bool(
        _NUMBER.search(token) or _SIGN.fullmatch(token.strip("$")) or "\\" in token or re.fullmatch(r"[A-Za-z]", bare)
    )
