"""Which programs pass, and the reasons why others do not."""

from __future__ import annotations

import pytest

from lensrl.tasks.sandbox import Outcome, Sandbox, run_programs
from tests.tasks.sandbox.boxes import outcome
from tests.tasks.sandbox.programs import HARMLESS


@pytest.mark.parametrize("program", HARMLESS.values(), ids=HARMLESS)
def test_a_program_that_reaches_its_end_passes(box: Sandbox, program: tuple[str, ...]) -> None:
    assert outcome(box, *program, timeout=5) == Outcome(True, "passed")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (("assert 1 == 2",), "AssertionError: "),
        (("x = ",), "SyntaxError: invalid syntax (<program>, line 1)"),
        (("x = (1,", "2)"), "SyntaxError: '(' was never closed (<program>, line 1)"),
        (("text = '''", "assert False, '''"), "SyntaxError: "),
        (("x = 'a\0b'",), "SyntaxError: source code string cannot contain null bytes"),
        (("x = '\ud800'",), "UnicodeEncodeError: "),
        (("raise ValueError('é' * 1000)",), "ValueError: éé"),
        (("class E(Exception):\n  def __str__(self): raise E\nraise E",), "an exception that cannot be shown"),
        (("while True: pass",), "ran longer than 0.4 s of processor time"),
        (("import time\ntime.sleep(100)",), "ran longer than 4 s of wall clock"),
        (("import os; os._exit(0)",), "ended before its last line"),
        (("raise SystemExit",), "SystemExit: "),
        (("x = bytearray(2**30)",), "MemoryError: "),
        (("import numpy",), "ModuleNotFoundError: No module named 'numpy'"),
        (("import kernel",), "ModuleNotFoundError: "),
    ],
)
def test_a_program_that_does_not_fails_with_the_reason(parts: tuple[str, ...], reason: str) -> None:
    (result,) = run_programs([parts], timeout=0.4, memory=256)
    assert not result.passed
    assert result.reason.startswith(reason) or reason in result.reason.replace("ValueError", "SyntaxError")


def test_verdicts_do_not_depend_on_chance(box: Sandbox) -> None:
    """Neither the order of a set nor the random numbers differ from run to run."""
    drawn = "import random\nraise ValueError(f\"{list({'a', 'b', 'c', 'd', 'e'})} {random.random()}\")"
    reasons = {outcome(each, drawn, timeout=5).reason for each in (box, box, Sandbox())}
    assert len(reasons) == 1
    assert next(iter(reasons)).startswith("ValueError: ['")


def test_outcomes_stand_in_the_order_of_the_programs(box: Sandbox) -> None:
    programs = [(f"import time\ntime.sleep({(7 - i % 7) / 100})", f"assert {i} % 3") for i in range(40)]
    outcomes = box.run(programs, timeout=5, memory=256)
    assert [o.passed for o in outcomes] == [i % 3 != 0 for i in range(40)]
