"""A task of your own: a class in a file beside the recipe, `my_task.py:MyTask`, checked before anything is trained.

The class takes no arguments and has the methods of `lensrl.tasks.Task` (or of `AgentTask`, for a task in turns). The
file is the user's program and runs without a sandbox, with imports from the modules beside it. A study remembers the
sha256 of the file, and refuses to continue if the file has changed. It does not see changes of imported modules.

`Own` checks every reward and score. Both wrappers turn an error in the user's file into one line with its place.
"""

from __future__ import annotations

import hashlib
import math
import sys
import traceback
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from lensrl.errors import LensrlError, RecipeError, did_you_mean, reason
from lensrl.recipe import OwnTask
from lensrl.tasks import batch
from lensrl.tasks.protocol import AgentTask, Episode, Item, Split, Task, Turn

METHODS = {"items": "items(split)", "reward": "reward(item, completion)", "score": "score(item, completion)"}
AGENT = {"items": "items(split)", "reset": "reset(item)", "max_turns": "max_turns"}


def load_own(settings: OwnTask) -> Task | AgentTask:
    """Load the task in a user's file.

    Raises RecipeError if the file has changed, or if the class is not a task. An error in the file itself is a
    LensrlError with the file, the line and Python's own message.
    """
    path = settings.path
    module = _load_module(path, settings.sha256)
    cls = vars(module).get(settings.class_name)
    if not isinstance(cls, type):
        classes = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise RecipeError(f"{path} has no class {settings.class_name!r}{did_you_mean(settings.class_name, classes)}")
    with _located_errors(path):
        task: Any = cls()
    # A task in turns has `reset`, any other task `reward` and `score`.
    needed = AGENT if hasattr(task, "reset") else METHODS
    for name, signature in needed.items():
        if not hasattr(task, name):
            raise RecipeError(
                f"{settings.name} has no {signature}; a task has {', '.join(METHODS)}, one in turns {', '.join(AGENT)}"
            )
    in_turns = needed is AGENT
    if in_turns and (not isinstance(task.max_turns, int) or isinstance(task.max_turns, bool) or task.max_turns < 1):
        raise RecipeError(f"{settings.name}: max_turns is {task.max_turns!r}; a whole number from 1 is needed")
    # Ask for the items twice: every run of a study must get the same ones.
    for split in ("train", "test"):
        with _located_errors(path):
            items, again = task.items(split), task.items(split)
        _check_items(items, again, f"{settings.name}: items({split!r})", in_turns=in_turns)
    if in_turns:
        return OwnInTurns(task, path)
    return OwnWithAnswers(task, path) if isinstance(task, batch.AnswerTask) else Own(task, path)


class Own:
    """A user's task with checks of every verdict.

    Its methods raise LensrlError, with the item, for a verdict that is not a finite number.
    """

    def __init__(self, task: Task, path: Path) -> None:
        self.task = task
        self._path = path

    def items(self, split: Split) -> list[Item]:
        """Return the items of the user's task."""
        with _located_errors(self._path):
            return self.task.items(split)

    def reward(self, item: Item, completion: str) -> float:
        """Return the reward of a completion, checked."""
        return self.rewards([item], [completion])[0]

    def score(self, item: Item, completion: str) -> float:
        """Return the score of a completion, checked."""
        return self.scores([item], [completion])[0]

    def rewards(self, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
        """Return the rewards of completions, checked."""
        with _located_errors(self._path):
            rewards = batch.rewards(self.task, items, completions)
        return self._check_finite("reward", rewards, items, completions)

    def scores(self, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
        """Return the scores of completions, checked."""
        with _located_errors(self._path):
            scores = batch.scores(self.task, items, completions)
        return self._check_finite("score", scores, items, completions)

    def _check_finite(
        self, what: str, values: Sequence[Any], items: Sequence[Item], texts: Sequence[str]
    ) -> list[float]:
        if len(values) != len(items):
            raise LensrlError(f"{self._path}: {len(values)} {what}s for {len(items)} completions; one each is needed")
        for value, item, completion in zip(values, items, texts, strict=True):
            if not isinstance(value, Real) or not math.isfinite(value):
                raise LensrlError(
                    f"{self._path}: the {what} of item {item.id!r} for {completion[:40]!r} is {value!r}; "
                    f"a finite number is needed"
                )
        return [float(value) for value in values]


class OwnWithAnswers(Own):
    """A user's task that also names the answers of completions."""

    def answer(self, item: Item, completion: str) -> str | None:
        """Return the answer of a completion, checked."""
        with _located_errors(self._path):
            (answer,) = batch.answers(self.task, [item], [completion])
        if answer is not None and not isinstance(answer, str):
            raise LensrlError(f"{self._path}: the answer of item {item.id!r} is {answer!r}; text or None is needed")
        return answer


class OwnInTurns:
    """A user's task in turns. An error in it becomes one line with its place."""

    def __init__(self, task: AgentTask, path: Path) -> None:
        self.task = task
        self.max_turns = task.max_turns
        self._path = path

    def items(self, split: Split) -> list[Item]:
        """Return the items of the user's task."""
        with _located_errors(self._path):
            return self.task.items(split)

    def reset(self, item: Item) -> Episode:
        """Return a new episode of an item."""
        with _located_errors(self._path):
            return _OwnEpisode(self.task.reset(item), self._path)


class _OwnEpisode:
    """An episode of a user's task. An error in it becomes one line with its place."""

    def __init__(self, episode: Episode, path: Path) -> None:
        self.episode = episode
        self._path = path

    @property
    def anchor(self) -> Hashable:
        with _located_errors(self._path):
            return self.episode.anchor

    @property
    def score(self) -> float:
        with _located_errors(self._path):
            return self.episode.score

    def step(self, action: str) -> Turn:
        with _located_errors(self._path):
            turn = self.episode.step(action)
        if not isinstance(turn, Turn):
            raise LensrlError(f"{self._path}: step({action[:40]!r}) gives {turn!r}; a lensrl.tasks.Turn is needed")
        return turn


def _load_module(path: Path, sha256: str) -> ModuleType:
    """Execute a user's file as a module.

    It compiles exactly the bytes that are hashed. A cached compilation could stem from another version of the file.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"task file {path} cannot be read: {error.strerror}") from None
    now = hashlib.sha256(source).hexdigest()
    if sha256 and sha256 != now:
        raise RecipeError(
            f"task file {path} has changed since the recipe was read (sha256 {sha256[:12]} then, {now[:12]} now): "
            f"restore it, or begin a new study with --out"
        )
    # The module's name carries the hash, so that two versions of a file do not share a name.
    module = ModuleType(f"lensrl_own_{now[:12]}")
    module.__file__ = str(path)
    before = set(sys.modules)
    sys.modules[module.__name__] = module  # dataclasses and pickle look up a class's module here
    sys.path.insert(0, str(path.parent))
    try:
        with _located_errors(path):
            exec(compile(source, str(path), "exec"), vars(module))
    finally:
        sys.path.remove(str(path.parent))
        # Forget the modules beside the file: another task may import another module of the same name.
        for name in set(sys.modules) - before - {module.__name__}:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == path.parent:
                del sys.modules[name]
    return module


@contextmanager
def _located_errors(path: Path) -> Iterator[None]:
    """Turn an error from a user's file into one line with its place."""
    try:
        yield
    except LensrlError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
        if isinstance(error, SyntaxError) and error.filename == str(path):
            line = error.lineno
        where = f"task file {path}" if line is None else f"task file {path}, line {line}"
        raise LensrlError(f"{where}: {type(error).__name__}: {reason(error)}") from error


def _check_items(items: Any, again: Any, where: str, *, in_turns: bool) -> None:
    """Raise RecipeError if `items` are not valid items, or differ from `again`, the items of a second call.

    Items need texts that are not empty, unique ids, and a reference that suits the kind of task.
    """
    if not isinstance(items, list) or not items:
        raise RecipeError(
            f"{where} is {type(items).__name__ if items else 'empty'}; a list of lensrl.tasks.Item is needed"
        )
    # Each item by itself, then its id against the ids before it.
    seen: set[str] = set()
    for number, item in enumerate(items):
        if not isinstance(item, Item):
            raise RecipeError(f"{where}[{number}] is a {type(item).__name__}; make it a lensrl.tasks.Item")
        written = item.reference if isinstance(item.reference, tuple) else (item.reference,)
        texts = (item.id, item.prompt, item.benchmark, *written)
        if not all(isinstance(text, str) and text for text in texts):
            raise RecipeError(
                f"{where}[{number}]: id, prompt, reference and benchmark must be texts, none of them empty"
            )
        if isinstance(item.reference, tuple) and (not in_turns or len(item.reference) % 2 == 0):
            raise RecipeError(
                f"{where}[{number}]: a reference in {len(item.reference)} pieces; "
                + ("the model is first and last: an odd number" if in_turns else "a text is needed")
            )
        if item.id in seen:
            raise RecipeError(
                f"{where}: two items have the id {item.id!r}; scores are paired by id, so make them unique"
            )
        seen.add(item.id)
    # Scores of two runs are paired by item, so the items must not depend on the call.
    if items != again:
        raise RecipeError(
            f"{where} differs between two calls; it must be the same each time: give random numbers a seed"
        )
