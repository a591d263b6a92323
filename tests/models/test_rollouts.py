"""Episodes as they are played: what the model reads is what was written, token for token."""

from __future__ import annotations

import pytest

from lensrl.models.base import Base
from lensrl.models.generation import left_padded, pad_id, sampling_settings, token_ids, turn_ends
from lensrl.models.histories import Histories
from lensrl.models.rollouts import play
from lensrl.models.sampler import Pieces, Whole
from lensrl.recipe import CorridorTask
from lensrl.tasks import Item, Turn
from lensrl.tasks.corridor import Corridor

TASK = Corridor(CorridorTask(name="corridor"))
ITEMS = TASK.items("test")[:12]
ROWS = [(0, row) for row in range(len(ITEMS))]


def sampler(base: Base) -> Pieces:
    return Pieces(base.fresh().eval(), base.tokenizer)


def settings(base: Base, *, temperature: float = 1.0, max_tokens: int = 8):
    ends = turn_ends(base.model, base.tokenizer)
    return sampling_settings(ends, base.tokenizer, max_tokens=max_tokens, temperature=temperature)


def test_a_turn_ends_at_a_line_break_or_the_end_of_sequence(base: Base) -> None:
    ends = turn_ends(base.model, base.tokenizer)
    assert [base.tokenizer.decode([i]) for i in ends] == ["<eos>", "\n"]


def test_an_episode_replays_from_its_own_text(base: Base) -> None:
    """Rewards, states and score of every episode, from the decoded text and the task alone."""
    scores = set()
    for rollout in play(sampler(base), base.prompts, TASK, ITEMS, settings(base), ROWS):
        text = str(base.tokenizer.decode(rollout.prompt + rollout.tokens))
        lines = text.replace("<eos>\n", "\n").removesuffix("\n").split("\n")
        game = TASK.reset(rollout.item)
        for turn, line in enumerate(lines):
            seen, _, written = line.partition(">")
            if turn == len(rollout.rewards):  # the turns ran out: what the model would have read next
                assert (written, len(lines)) == ("", TASK.max_turns + 1)
                break
            assert (f"{seen}>", rollout.anchors[turn]) == (game.anchor.observation, game.anchor)
            answer = game.step(written.replace("<eos>", "").strip())
            assert rollout.rewards[turn] == answer.reward
        assert (rollout.score, rollout.done) == (game.score, game.score == 1.0)
        scores.add(rollout.score)
    assert scores == {0.0, 1.0}


def test_every_token_belongs_to_the_model_or_to_the_environment(base: Base) -> None:
    for rollout in play(sampler(base), base.prompts, TASK, ITEMS, settings(base), ROWS):
        assert len(rollout.tokens) == len(rollout.turn)
        assert rollout.length == sum(turn != -1 for turn in rollout.turn)
        for turn in range(len(rollout.rewards)):
            mine = [i for i, t in enumerate(rollout.turn) if t == turn]
            assert mine == [*range(mine[0], mine[-1] + 1)]
            assert "@" not in base.tokenizer.decode([rollout.tokens[i] for i in mine])
        theirs = [token for token, turn in zip(rollout.tokens, rollout.turn, strict=True) if turn == -1]
        assert "<eos>" not in base.tokenizer.decode(theirs)


def test_kept_keys_and_values_change_nothing(base: Base) -> None:
    """Greedy turns equal those of a model that reads each row from its start, alone, at every turn."""
    model = base.fresh().eval()
    greedy = settings(base, temperature=0.0)
    rows = [token_ids(base.tokenizer, item.prompt) for item in ITEMS]
    answers = ["@1 k3 d5>", "\n@2 k* d5>", "@5 k* d1>"]
    histories = Histories(model, pad_id(base.tokenizer), rows, None)
    one = Whole(model, base.tokenizer)
    for turn in range(4):
        kept = [written.tokens for written in histories.continued(greedy)]
        alone = [one.generate([row], greedy, [(0,)])[0].tokens for row in rows]
        assert kept == alone, turn
        going = [row for row in range(len(rows)) if (row + turn) % 4]  # others leave
        seen = [token_ids(base.tokenizer, answers[row % 3], start=False) for row in going]
        rows = [rows[row] + alone[row] + more for row, more in zip(going, seen, strict=True)]
        histories.keep(going)
        histories.extend(seen)


def test_the_environment_begins_a_line_when_the_model_did_not_end_its_own(base: Base) -> None:
    class Echo:
        """Takes anything, answers with what it was given."""

        max_turns = 2

        def __init__(self) -> None:
            self.actions: list[str] = []

        @property
        def anchor(self) -> str:
            return ""

        score = 0.5

        def items(self, split: str) -> list[Item]:
            return []

        def reset(self, item: Item):
            return self

        def step(self, action: str) -> Turn:
            self.actions.append(action)
            return Turn(f"[{action}]", 0.0, done=False)

    echo = Echo()
    greedy = settings(base, temperature=0, max_tokens=2)
    (rollout,) = play(sampler(base), base.prompts, echo, ITEMS[:1], greedy, ROWS[:1])
    text = str(base.tokenizer.decode(rollout.tokens))
    first, second = echo.actions
    assert len(first) == 2  # two characters: the limit fell within the word
    assert text.startswith(f"{first}\n[{first}]")
    assert text.endswith(f"\n[{second}]")
    assert (rollout.done, rollout.score, rollout.length) == (False, 0.5, 4)


def test_padding_goes_to_the_left(base: Base) -> None:
    ids, mask = left_padded([[7], [8, 9, 10]], pad_id(base.tokenizer))
    assert ids.tolist() == [[0, 0, 7], [8, 9, 10]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("rows", [[[]], [[], [5]]])
def test_an_environment_may_say_nothing(rows: list[list[int]]) -> None:
    ids, mask = left_padded(rows, 0)
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows)))
    assert mask.sum(1).tolist() == [len(row) for row in rows]
