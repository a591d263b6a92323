"""Hostile completions: none may raise, hang or take the judge with it."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lensrl.errors import LensrlError
from lensrl.tasks.answers import same_answer
from lensrl.tasks.judge import Judge

SAME_ANSWER = "lensrl.tasks.answers:same_answer"
HOSTILE = {
    "number words": "twenty-one hundred and " * 450,
    "half and half": "\\boxed{" + "half a " * 1500 + "}",
    "French intervals": "\\boxed{" + "]1,2[" * 800 + "}",
    "a factor and many cells": "\\boxed{\\frac{1}{7}\\begin{pmatrix}" + "9^{9} & " * 200 + "1 \\\\ 2\\end{pmatrix}}",
    "a power of unit vectors": r"\boxed{(i + j + k)^{200} + j}",
    "raised text": "<sup>" * 3000 + "x" + "</sup>" * 3000,
    "minus signs": "\\boxed{" + "-" * 580 + "1}",
    "weekdays": "Tuesday not " * 1500,
    "a tower": "9**9**9**9",
    "a tower in a box": r"\boxed{9^{9^{9^{9}}}}",
    "factorials": r"\boxed{10!!!!!!}",
    "braces": "{" * 5000 + "}" * 5000,
    "boxes": r"\boxed{" * 1500 + "1" + "}" * 1500,
    "open boxes": r"\boxed{" * 1500,
    "parentheses": "answer is " + "(1," * 3000 + "1" + ")" * 3000,
    "fractions": "$" + r"\frac{" * 500 + "1" + "}{2}" * 500 + "$",
    "digits": "9" * 100_000,
    "spaces": "answer is " + " " * 20_000 + "x",
    "hashes": "####" * 4000,
    "words": "answer " * 3000,
    "a lone surrogate and a zero": "\x00\ud800",
    "lines": "\n\r\u2028" * 100,
    "blank lines": "\n" * 20_000 + "answer is" + "\n" * 20_000,
    "thoughts": "<think>" * 5000,
    "tags": "<answer>" * 5000,
    "stars": "**a " * 5000,
    "commas": r"\boxed{" + "1," * 900 + "1}",
    "signs": r"\boxed{" + r"\pm 1," * 200 + "}",
    "powers": r"\boxed{" + "^".join("9" * 200) + "}",
    "many factorials": r"\boxed{" + "+".join(["2999!"] * 100) + "}",
    "a power of a sum": r"\boxed{(x+1)^{1000000}+(y+z)^{9999}}",
    "exponentials": r"\boxed{e^{e^{e^{e^e}}}}",
    "a sine": r"\boxed{\sin(10^{1000000})}",
    "a matrix": r"\boxed{\begin{pmatrix}" + "1&" * 700 + r"1\end{pmatrix}}",
    "equations": r"\boxed{" + "1=" * 290 + "1}",
    "unions": r"\boxed{" + r"\cup".join(["(1,2)"] * 150) + "}",
    "dates": "June 20 " * 2500,
    "options": r"\boxed{" + "(A)" * 600 + "}",
    "named options": r"\boxed{" + "option A: " * 190 + "}",
    "points left out": r"\boxed{\mathbb{R} \setminus \{" + ",".join(map(str, range(400))) + r"\}}",
    "points one by one": r"\boxed{" + " and ".join(rf"x \ne {i}" for i in range(150)) + "}",
    "a list in prose": " and ".join(["1"] * 3000),
    "infix fractions": r"\boxed{" + "{a" * 900 + r"\over " + "}" * 900 + "}",
    "repeated digits": r"\boxed{0." + "12" * 280 + "3" * 20 + r"\ldots}",
    "more digits than a float": r"\boxed{" + "9" * 599 + "}",
}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(SAME_ANSWER, seconds=1.0)


@pytest.mark.parametrize("completion", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_completion_is_wrong_and_the_next_is_judged_as_ever(judge: Judge, completion: str) -> None:
    assert not judge("18", completion)
    assert judge("18", r"\boxed{18}") is True
    assert judge("18", r"\boxed{19}") is False


@pytest.mark.parametrize("gold", ["18", "x^2+1", r"(-\infty,3)", "2^{2015}-1"])
def test_hostile_completions_cost_the_judge_of_mathematics_little(gold: str) -> None:
    """Two seconds are a bound for the busiest machine: most take a millisecond, and the worst a tenth of a second.

    One took 0.7 on a machine with three busy processes on two cores: a slow core makes processor time longer, too.
    """
    for name, completion in HOSTILE.items():
        before = time.process_time()
        assert not same_answer(gold, completion), name
        assert time.process_time() - before < 2.0, name


def test_a_judgement_ends_within_its_processor_time() -> None:
    judge = Judge("math:factorial", seconds=1.0)
    assert judge(5) == 120
    before = os.times().children_user
    assert judge(10**8) is None  # one long operation in C
    assert judge(5) == 120
    assert os.times().children_user - before < 1.0 + 2.0  # a second, beside what the child took to start


def test_it_works_from_any_thread(judge: Judge) -> None:
    questions = [(str(n), rf"\boxed{{{m}}}") for n in range(6) for m in range(6)]
    with ThreadPoolExecutor(4) as pool:
        same = list(pool.map(lambda question: judge(*question), questions))
    assert same == [gold == completion[7] for gold, completion in questions]


def test_a_child_that_someone_else_killed_is_replaced(judge: Judge) -> None:
    assert judge("18", "18")
    child = judge._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert judge("18", "18")


def test_a_judge_that_cannot_start_says_so_rather_than_scoring_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(LensrlError, match="the process that judges completions did not start: "):
        Judge(SAME_ANSWER)("18", "18")
