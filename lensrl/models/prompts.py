"""What a model reads: the one place that turns an item, or a history of turns, into tokens.

Plain prompts (the default): the prompt of an item as it is. In a task in turns, a line of the model and the next
observation follow one another.

Chat prompts (`prompt.chat = true`): the prompt of an item is a user message, and what the model writes is the answer
of the assistant. The model reads

    tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + assistant_prefix

without further special tokens: the template has written those. In a task in turns, an observation is a user message
and a turn of the model is an assistant message. What the model wrote stays as it was sampled, token for token. So a
template that leaves out the thinking of earlier turns does not change the history here: the trained policy would no
longer be the sampled policy.

An answer ends at the special token that the template writes after the assistant's text (`<|im_end|>`), and at the end
tokens of the tokenizer and of the model. A template that ends the assistant's text by plain text alone adds no end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lensrl.errors import LensrlError, reason
from lensrl.models.generation import stop_tokens, token_ids, turn_ends
from lensrl.recipe import Prompt
from lensrl.tasks import Item, Split
from lensrl.tasks.digest import digests_of, sha256_of
from lensrl.tasks.tags import last_tagged, without_thoughts

_SAID = "lensrl-stands-here"  # takes the place of an assistant's text where the text after it is wanted

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Prompts:
    """The prompts of a study: `tokenizer` is the base model's, `settings` is the table `[prompt]` of the recipe.

    `name` is the model's, for errors. Raises LensrlError in one line for a chat template that is missing, that fails,
    that does not write what the assistant says, or that writes the date of the day.
    """

    tokenizer: PreTrainedTokenizerBase
    settings: Prompt = field(default_factory=Prompt)
    name: str = "the model"

    def __post_init__(self) -> None:
        if self.settings.chat:
            _ = self.closing  # the template is read and used once, so that a wrong one is refused now

    def text(self, item: Item) -> str:
        """Return the text that the model reads before it answers an item."""
        if not self.settings.chat:
            return item.prompt
        return self._render(self._messages(item.prompt)) + self.settings.assistant_prefix

    def tokens(self, text: str) -> list[int]:
        """Tokenise what `text` returned. A plain prompt gets the special tokens of the tokenizer."""
        return token_ids(self.tokenizer, text, start=not self.settings.chat)

    def ids(self, item: Item) -> list[int]:
        """Return the tokens that the model reads before it answers an item."""
        return self.tokens(self.text(item))

    def seen(self, item: Item, written: list[int], observation: str) -> list[int]:
        """Return the tokens between two turns of the model: from the end of `written`, its last turn, to its next.

        In a chat this is the rest of the assistant's message, the observation as a user's message, and the beginning
        of the next answer. In a plain prompt it is the observation, on a line of its own.
        """
        if not self.settings.chat:
            # The model may have stopped, or reached the limit, within its line.
            line_break = "" if "\n" in str(self.tokenizer.decode(written, skip_special_tokens=True)) else "\n"
            return token_ids(self.tokenizer, line_break + observation, start=False)
        between = self._between(item.prompt, observation)
        return between[len(self.closing) :] if self._is_closed(written) else between

    def forced(self, item: Item) -> tuple[list[int], list[bool]]:
        """Return the tokens of an item with its reference and its end, and which of them the model should write.

        In a task in turns, the environment's text in the middle of a reference is read but not written.
        """
        ids = self.ids(item)
        mine = [False] * len(ids)
        for turn, text in enumerate(item.written):
            of_model = turn % 2 == 0
            if of_model and self.settings.chat and len(item.written) > 1:
                text = text.removesuffix("\n")  # a line ends a turn in a plain prompt alone
            if of_model or not self.settings.chat:
                more, count = token_ids(self.tokenizer, text, start=False), None if of_model else 0
            else:
                more, count = self._between(item.prompt, text), len(self.closing)
            ids += more
            mine += [count is None or i < count for i in range(len(more))]
        return [*ids, self.end], [*mine, True]

    @property
    def end(self) -> int:
        """The token that ends an answer: the template's, else the tokenizer's end of sequence."""
        end = self.closing[-1] if self.closing else self.tokenizer.eos_token_id
        assert isinstance(end, int)  # `load_base` makes sure that it exists
        return end

    def turn_ends(self, model: PreTrainedModel) -> list[int]:
        """Return every token that ends a turn of the model: in a chat, what ends a message; else also line breaks."""
        return (stop_tokens if self.settings.chat else turn_ends)(model, self.tokenizer)

    def said(self, completion: str) -> str:
        """Return the text that a task judges: the completion, after the beginning that was written for the model."""
        return self.settings.assistant_prefix + completion

    def action(self, turn: str) -> str:
        """Return the action in a turn of the model.

        In a plain prompt this is the first line. In a chat, `<think>...</think>` is left out, and the action is what
        the last `<action>...</action>` holds, else the last line.
        """
        if not self.settings.chat:
            return turn.partition("\n")[0].strip()
        said = without_thoughts(self.said(turn))
        marked = last_tagged(said, "action")
        lines = [line.strip() for line in said.split("\n") if line.strip()]
        return marked.strip() if marked is not None else lines[-1] if lines else ""

    def digests(self, split: Split | Literal["also"], items: Sequence[Item]) -> dict[str, str]:
        """Return the digests that a run keeps of the items of a split (`lensrl.tasks.digest`).

        In a chat, the entry `SPLIT prompts` covers the text that the model reads, so that another template is noticed.
        """
        found = digests_of(split, items)
        if self.settings.chat:
            between = self._after_answer(self._messages("1") + _answered("2"))
            found[f"{split} prompts"] = sha256_of([*map(self.text, items), between])
        return found

    @cached_property
    def closing(self) -> list[int]:
        """The tokens with which the template ends the assistant's text, up to a special token; empty without one."""
        if not self.settings.chat:
            return []
        after = self._after_answer([*self._messages("1"), {"role": "assistant", "content": _SAID}], generation=False)
        ids = token_ids(self.tokenizer, after, start=False)
        added = self.tokenizer.added_tokens_decoder
        special = {*self.tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        end = next((place for place, token in enumerate(ids) if token in special), None)
        if end is None or str(self.tokenizer.decode(ids[:end])).strip():
            return []
        return ids[: end + 1]

    @cached_property
    def _template(self) -> str:
        """The text of the chat template. Raises LensrlError where there is none that can be used."""
        path = self.settings.template
        if path is None and not self.tokenizer.chat_template:
            raise LensrlError(
                f"prompt.chat: {self.name} has no chat template, as a base model has none; write prompt.template = "
                f"'FILE.jinja' for one of yours, or prompt.chat = false"
            )
        try:
            template = self.tokenizer.get_chat_template() if path is None else path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # no such file, not UTF-8; several templates without a default
            where = f"of {self.name}" if path is None else str(path)
            raise LensrlError(f"prompt.template: the chat template {where} cannot be read ({reason(error)})") from None
        if "strftime_now" in template:
            raise LensrlError(
                f"prompt.chat: the chat template of {self.name} writes the date of the day (strftime_now), so runs of "
                f"one study would read different prompts; write the template with a fixed date into a file, and name "
                f"it: prompt.template = 'FILE.jinja'"
            )
        return template

    def _messages(self, prompt: str) -> Messages:
        system = self.settings.system
        first = [] if system is None else [{"role": "system", "content": system}]
        return [*first, {"role": "user", "content": prompt}]

    def _between(self, prompt: str, observation: str) -> list[int]:
        """Return the tokens from the end of the assistant's text to the beginning of its next, with the prefix."""
        after = self._after_answer(self._messages(prompt) + _answered(observation))
        return token_ids(self.tokenizer, after + self.settings.assistant_prefix, start=False)

    def _is_closed(self, written: list[int]) -> bool:
        return bool(self.closing) and written[-1:] == self.closing[-1:]

    def _after_answer(self, messages: Messages, *, generation: bool = True) -> str:
        """Return what the template writes after the assistant's text `_SAID`."""
        _, found, after = self._render(messages, generation=generation).rpartition(_SAID)
        if not found:
            raise LensrlError(f"prompt.chat: the chat template of {self.name} does not write what the assistant said")
        return after

    def _render(self, messages: Messages, *, generation: bool = True) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, chat_template=self._template, tokenize=False, add_generation_prompt=generation
                )
            )
        except (TemplateError, TypeError, ValueError) as error:  # a template raises its own messages as TemplateError
            roles = ", ".join(message["role"] for message in messages)
            raise LensrlError(
                f"prompt.chat: the chat template of {self.name} fails on the messages {roles} ({reason(error)}); "
                f"leave prompt.system out if it takes none, or name another: prompt.template = 'FILE.jinja'"
            ) from None


def _answered(observation: str) -> Messages:
    return [{"role": "assistant", "content": _SAID}, {"role": "user", "content": observation}]
