"""Texts on which models are compared without a task: nothing is sampled, and nothing is scored.

A text is an item with an empty prompt. It is the item's reference, so its log-probability is measured from its second
token on, and its end of sequence counts, as with any reference.
"""

from __future__ import annotations

from pathlib import Path

from lensrl.errors import RecipeError, reason
from lensrl.tasks.protocol import Item, Split
from lensrl.tasks.rows import pick, place, read_rows

BENCHMARK = "texts"
FEWEST = 2  # sequences are the sample of every interval

# Sentences, sums and code, eight each. They are short, so that a bridge of a small machine holds their activations.
BUILT_IN = (
    "The ferry left the harbour before sunrise, and nobody noticed that the dog had stayed behind.",
    "Water boils at a lower temperature on a mountain because the air presses less on its surface.",
    "She counted the coins twice, put them back into the jar and wrote the sum on a piece of paper.",
    "A court may set the contract aside if one of the parties was misled about its main terms.",
    "Leaves turn yellow in autumn when the green pigment is broken down and taken back into the tree.",
    "If every baker in town closes on Sunday, then anyone who wants bread must buy it on Saturday.",
    "The old bridge was too narrow for two carts, so the drivers waited for each other at both ends.",
    "Please tell me in one sentence why the moon looks larger when it is close to the horizon.",
    "17 + 26 = 43",
    "9 * 14 = 126",
    "Tom has 12 apples and gives 5 of them away. He has 12 - 5 = 7 apples left.",
    "A train covers 180 km in 3 hours. Its speed is 180 / 3 = 60 km per hour.",
    "2x + 6 = 20, so 2x = 14 and x = 7.",
    "The sum of the first 10 natural numbers is 10 * 11 / 2 = 55.",
    "A shirt costs 40 euros. With 25 % off it costs 40 * 0.75 = 30 euros.",
    "Three quarters of 48 is 36, and one third of 36 is 12.",
    "def square(x):\n    return x * x",
    "for i in range(10):\n    if i % 2 == 0:\n        print(i)",
    'def greet(name):\n    return f"Hello, {name}!"',
    "words = sorted(set(text.lower().split()))",
    "while left < right:\n    middle = (left + right) // 2",
    "try:\n    value = int(line)\nexcept ValueError:\n    value = 0",
    "SELECT name, COUNT(*) FROM orders GROUP BY name;",
    "total = sum(price * count for price, count in basket)",
)


class Texts:
    """Texts of a file, or `BUILT_IN`: items without a judge."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file

    def items(self, split: Split) -> list[Item]:
        """Return every text in the order of its file. There are no training items.

        Raises RecipeError for a file that cannot be read, and for fewer than two texts.
        """
        if split == "train":
            return []
        texts = BUILT_IN if self.file is None else read_texts(self.file)
        return [Item(f"text-{number}", "", text, BENCHMARK) for number, text in enumerate(texts, start=1)]


def read_texts(file: Path) -> list[str]:
    """Read a text a line from a `.txt` file, or the key `text` of every row of a `.jsonl` file, without blank texts.

    Raises RecipeError for another kind of file, one that cannot be read, and one with fewer than two texts.
    """
    if file.suffix == ".txt":
        try:
            found = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"texts {file} cannot be read: {reason(error)}") from None
    elif file.name.endswith((".jsonl", ".jsonl.gz")):
        found = [str(pick(row, ("text",), place(file, number))) for number, row in read_rows(file)]
    else:
        raise RecipeError(f'texts {file}: give a .txt file with a text a line, or a .jsonl file with {{"text": ...}}')
    texts = [text for text in found if text.strip()]
    if len(texts) < FEWEST:
        raise RecipeError(f"texts {file} holds {len(texts)} texts: give {FEWEST} or more, better 16")
    return texts
