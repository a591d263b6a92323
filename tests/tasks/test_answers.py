"""Spellings of an answer: which count as the same, and which as another."""

from __future__ import annotations

import pytest

from lensrl.tasks.answers import same_answer
from lensrl.tasks.marks import final_answer, gold_answer

EIGHTEEN = [
    r"\boxed{18}", "#### 18", "The answer is 18.", "The answer is $18.", "$18", "18.00", "18 dollars", "**18**",
    r"\boxed{18 dollars}", r"\boxed{\$18}", "#### $18", "#### 18 dollars", r"\boxed{18\text{ dollars}}", "so x = 18",
    r"\boxed{x = 18}", r"\boxed{5} no \boxed{18}", "#### 5\n\\boxed{18}", "\\boxed{5}\n#### 18", r"\boxed{\boxed{18}}",
    r"\boxed{\frac{36}{2}}", "#### Conclusion\nThe answer is 18.", r"\[ \boxed{18} \]", "$$18$$", r"\boxed {18}",
    "#### 18\n\nQuestion: what is 3 + 4?", "Step 1: 9. Step 2: 9 + 9 = 18",
]  # fmt: skip
NOT_EIGHTEEN = [
    "", r"\boxed{}", r"\boxed{81}", "#### 19", "The answer is -18.", "180", r"\boxed{18} so \boxed{19}", "Hm.",
    r"\boxed{18, 19}", r"\boxed{(18, 19)}", r"\boxed{1 8}", "#### 18\n#### 19", r"\boxed{18^2}", r"\boxed{18x}",
]  # fmt: skip
SAME = {
    r"1,000": [r"\boxed{1000}", "1,000", r"\boxed{1{,}000}", r"\boxed{1 000}", r"\boxed{1\,000}", "#### 1,000",
               "1000.0", "The answer is 1,000 apples.", r"\boxed{1000 apples}"],
    r"\frac{1}{2}": ["1/2", "0.5", r"\boxed{\dfrac12}", r"\boxed{.5}", "The answer is 1/2.", r"\boxed{50\%}", "50%",
                     r"\boxed{\frac{2}{4}}"],
    "0.5": [r"\boxed{\frac{1}{2}}", "1/2", "50%", r"\boxed{50\%}"],
    r"50\%": [r"\boxed{50}", "0.5", r"\boxed{50\%}", "50 percent", r"\boxed{50 percent}"],
    "(-1,6)": [r"\boxed{(-1,6)}", "(-1, 6)", r"\boxed{\left(-1, 6\right)}", "The answer is (-1, 6).", "#### (-1,6)",
               "The answer is $(-1,6)$.", r"answer: \(\left(-1,6\right)\)", "The point is $(-1,6)$."],
    r"\left(\frac{1}{2}, 3\right)": ["The answer is (1/2, 3).", r"\boxed{(0.5, 3)}"],
    "[1,2)": [r"\boxed{[1, 2)}", "The answer is [1, 2)."],
    r"\{1,2\}": [r"\boxed{\{2, 1\}}", r"\boxed{1,2}", "The answer is {1, 2}.", r"The answer is $\{1,2\}$."],
    "x = 5": ["5", r"\boxed{5}", "x=5"],
    r"5 \text{ cm}": ["5 cm", r"\boxed{5}", r"\boxed{5\text{ cm}}"],
    "5": [r"\boxed{5 m/s}", "#### 5 km/h", r"\boxed{5 cm^2}", r"\boxed{5 kg/m^3}", r"\boxed{5 L}", "₹5"],
    "5 m/s": [r"\boxed{5}", r"\boxed{5 m/s}", "The answer is 5."],
    "5m^2": [r"\boxed{5 m^2}"],  # algebra
    "1e-05": [r"\boxed{0.00001}", r"\boxed{10^{-5}}"],
    "-3": ["-3", r"\boxed{-3}", "#### -3", r"\boxed{-\frac{6}{2}}"],
    r"3\frac12": [r"\boxed{3 1/2}", "3.5"],
    r"\sqrt{8}": [r"\boxed{2\sqrt{2}}", r"\boxed{2sqrt(2)}"],
    "x^2+1": [r"\boxed{1+x^2}"],
    r"\begin{pmatrix}1\\2\end{pmatrix}": [r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}"],
    "Monday": ["The answer is Monday.", r"\boxed{\text{Monday}}", "monday"],
    r"\text{(B)}": [r"\boxed{B}", r"\boxed{(B)}"],
    "A": [r"\boxed{A}", "The answer is A."],
    "½": ["½", r"\boxed{½}", "0.5", r"\boxed{\frac12}"],
    "The answer is $5$.": ["5"],
}  # fmt: skip
OTHER = {
    "(-1,6)": [r"\boxed{(6,-1)}", "6", "-1", "The answer is (-1, 7).", r"\boxed{[-1,6]}"],
    "6": ["The answer is (-1, 6)."],
    "[1,2)": [r"\boxed{(1, 2]}", r"\boxed{[1,2]}"],
    r"\{1,2\}": [r"\boxed{\{1,3\}}", "2", "1.2"],
    "50": ["0.5"],
    r"50\%": ["5", r"\boxed{500}"],
    r"5 \text{ cm}": [r"\boxed{6\text{ cm}}"],
    "5 m/s": [r"\boxed{6 m/s}", r"\boxed{6}"],
    "5m^2": [r"\boxed{5}", r"\boxed{5m^3}"],
    "-3": ["3", r"\boxed{3}"],
    "2": [r"\boxed{3 1/2}"],
    "x^2+1": [r"\boxed{x^2-1}"],
    "no": ["on", r"\boxed{on}"],
    "Monday": [r"\boxed{Tuesday}", "The answer is Tuesday."],
    "A": ["The answer is B.", r"\boxed{B}"],
    "½": ["0.25", r"\boxed{1}", r"\boxed{2}"],
}


@pytest.mark.parametrize("completion", EIGHTEEN)
def test_eighteen_has_many_spellings(completion: str) -> None:
    assert same_answer("18", completion)
    assert not same_answer("17", completion)


@pytest.mark.parametrize("completion", NOT_EIGHTEEN)
def test_eighteen_is_not_in_everything(completion: str) -> None:
    assert not same_answer("18", completion)


@pytest.mark.parametrize(("gold", "completion"), [(gold, text) for gold, texts in SAME.items() for text in texts])
def test_the_same_answer_in_another_spelling(gold: str, completion: str) -> None:
    assert same_answer(gold, completion)


@pytest.mark.parametrize(("gold", "completion"), [(gold, text) for gold, texts in OTHER.items() for text in texts])
def test_another_answer_in_a_similar_spelling(gold: str, completion: str) -> None:
    assert not same_answer(gold, completion)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a\n#### 42", "42"),
        ("#### 1\n#### 2", "2"),
        ("#### Monday\n", "Monday"),
        ("#### Step 1\nadd", None),
        ("42", None),
        (r"\boxed{\frac{1}{2}} and so on", r"\frac{1}{2}"),
        (r"\boxed{1} \boxed{\{2\}}", r"\{2\}"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"} \boxed{1}}", "1"),
        ("\\boxed{1}\n#### 2", "2"),
        ("#### 2\n\\boxed{1}", "1"),
    ],
)
def test_the_last_mark_counts(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(("solution", "answer"), [("a\n#### 42", "42"), (" x = 3 ", "x = 3"), (r"$\boxed{7}$.", "7")])
def test_a_gold_answer_without_a_mark_is_all_of_it(solution: str, answer: str) -> None:
    assert gold_answer(solution) == answer
