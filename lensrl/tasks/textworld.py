"""TextWorld (Cote et al. 2018, arXiv 1806.11532): text games made on this machine, a task in turns for an agent.

A turn shows the result of the last command, the room, the inventory and the possible commands:

    You take the key from the trunk.

    -= Attic =-
    You are in an attic. ...
    You are carrying: a key.
    Commands: close trunk; examine trunk; go west; open locker with key
    >

The reward is 1 at the end of the quest. GiGPO compares turns by a state. The state is this text without its first
paragraph, which tells the result of a command and not the situation.

Making a game compiles it, which takes seconds. Games are kept in `$XDG_CACHE_HOME/lensrl/textworld` (`~/.cache` by
default).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lensrl.errors import LensrlError, RecipeError, reason
from lensrl.recipe import TextWorldTask
from lensrl.tasks.protocol import Item, Split, Turn

try:
    import textworld
    from textworld.generator import GameOptions, compile_game, make_game
except ImportError as error:
    raise RecipeError(f"task textworld needs TextWorld ({reason(error)}): pip install 'lensrl[agentic]'") from None

TEST_SEEDS = 500_000  # first seed of the held-out games, far from the seeds of the training games


@dataclass(frozen=True)
class _View:
    """The text of one turn: the result of the last command, and the state."""

    feedback: str
    state: str

    @property
    def text(self) -> str:
        return f"{self.feedback}\n\n{self.state}" if self.feedback else self.state


class Game:
    """One game in progress. Its `opening` is the prompt of an item: the objective and the first state."""

    def __init__(self, file: Path, penalty: float) -> None:
        wanted = textworld.EnvInfos(
            objective=True, description=True, inventory=True, admissible_commands=True, won=True, lost=True,
            policy_commands=True,
        )  # fmt: skip
        self._penalty = penalty
        self._game: Any = textworld.start(str(file), wanted)
        self._now: Any = self._game.reset()
        self.opening = f"{tidy(self._now.objective)}\n\n{self._view('').text}"

    @property
    def anchor(self) -> str:
        """The text of the current state."""
        return self._view("").state

    @property
    def score(self) -> float:
        """1 if the quest is finished, 0 otherwise."""
        return float(bool(self._now.won))

    @property
    def walkthrough(self) -> list[str]:
        """Commands that finish the quest from the current state."""
        return list(self._now.policy_commands)

    def step(self, action: str) -> Turn:
        """Execute a command. An impossible command costs the penalty and changes nothing."""
        if action not in self._now.admissible_commands:
            return Turn(self._view("That cannot be done.").text, -self._penalty, done=False)
        self._now, _, done = self._game.step(action)
        if done:
            self._game.close()
            return Turn("", self.score, done=True)
        return Turn(self._view(self._now.feedback).text, 0.0, done=False)

    def _view(self, feedback: str) -> _View:
        now = self._now
        commands = "; ".join(sorted(now.admissible_commands))
        return _View(tidy(feedback), f"{tidy(now.description)}\n{tidy(now.inventory)}\nCommands: {commands}\n>")


class TextWorld:
    """The task: finish the quest of a game."""

    def __init__(self, settings: TextWorldTask) -> None:
        self.max_turns = settings.max_turns
        self._settings = settings
        self._files: dict[str, Path] = {}

    def items(self, split: Split) -> list[Item]:
        """Return the games of a split. The first call makes the games that are not in the cache."""
        return self._train if split == "train" else self._test

    def reset(self, item: Item) -> Game:
        """Return a new game of an item."""
        return Game(self._files[item.id], self._settings.invalid_penalty)

    @cached_property
    def _train(self) -> list[Item]:
        return [self._item("train", seed) for seed in range(self._settings.train_games)]

    @cached_property
    def _test(self) -> list[Item]:
        return [self._item("test", TEST_SEEDS + seed) for seed in range(self._settings.test_games)]

    def _item(self, split: Split, seed: int) -> Item:
        """Make the item of a game, with its walkthrough as the reference."""
        name = f"{split}-{seed}"
        self._files[name] = file = game_file(self._settings, seed)
        game = Game(file, 0.0)
        turns: list[str] = []
        for command in game.walkthrough:
            answer = game.step(command)
            turns += [command] if answer.done else [f"{command}\n", answer.text]
        if not game.score:
            raise LensrlError(
                f"TextWorld's own walkthrough does not end the quest of {file}: remove the file, run again"
            )
        return Item(name, Game(file, 0.0).opening, tuple(turns), "textworld")


def game_file(settings: TextWorldTask, seed: int) -> Path:
    """Return the compiled game of a seed; make it if it does not exist. Raises RecipeError for an impossible quest."""
    options = GameOptions()
    options.seeds = number = settings.seed * 1_000_000 + seed
    options.nb_rooms, options.nb_objects = settings.rooms, settings.objects
    options.quest_length = settings.quest_length
    shape = f"rooms-{settings.rooms}-objects-{settings.objects}-quest-{settings.quest_length}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lensrl" / "textworld" / shape
    file = folder / f"seed-{number}.z8"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            compiled = folder / f"making-{os.getpid()}-{file.name}"
            options.path = str(compiled)
            compile_game(make_game(options), options)
        except Exception as error:  # TextWorld raises bare exceptions of many kinds
            raise RecipeError(
                f"task textworld: no game of {settings.rooms} rooms, {settings.objects} objects and a quest of "
                f"{settings.quest_length} can be made ({reason(error)})"
            ) from None
        for made in (compiled.with_suffix(".json"), compiled):  # the game last: its existence marks completion
            made.rename(file.with_suffix(made.suffix))
        compiled.with_suffix(".ni").unlink(missing_ok=True)
    return file


def tidy(text: str) -> str:
    """Remove blank lines, prompts, status lines and surplus spaces from a game's text."""
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.replace(">", " ").split("\n"))
    return "\n".join(line for line in lines if line and not re.fullmatch(r"-= .* =- ?\d+/\d+", line))
