"""What a model reads: chat templates of several kinds, against `apply_chat_template` and against text by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lensrl.errors import LensrlError
from lensrl.models.prompts import Prompts
from lensrl.recipe import Prompt
from lensrl.tasks import Item

SPECIAL = ["<pad>", "<eos>", "<bos>", "<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}" + CHATML
)
LLAMA = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
STRIPS_THOUGHT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "A:{{ m.content.split('</think>')[-1] }} <eos>{% else %}{{ m.role }}:{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "default system": DEFAULT_SYSTEM, "llama": LLAMA, "strips thought": STRIPS_THOUGHT}
ITEM = Item("1", " What is 1+2?\n", "It is 3", "b")


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that puts its start of sequence before every text, as Llama's does."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    made.decoder = decoders.ByteLevel()  # pyright: ignore
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["user assistant system think"],
        trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    made.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single="<bos> $A", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", chat_template=template,
        additional_special_tokens=SPECIAL[3:],
    )  # fmt: skip


def chat(template: str, **settings: Any) -> Prompts:
    return Prompts(tokenizer(template), Prompt(chat=True, **settings))


@pytest.mark.parametrize("prefix", ["", "<think>\n"])
@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_text_is_that_of_the_template_and_the_prefix(template: str, system: str | None, prefix: str) -> None:
    prompts = chat(template, system=system, assistant_prefix=prefix)
    messages = [{"role": "system", "content": system}] * (system is not None) + [
        {"role": "user", "content": ITEM.prompt}
    ]
    expected = prompts.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompts.text(ITEM) == str(expected) + prefix
    ids = prompts.ids(ITEM)
    assert prompts.tokenizer.decode(ids) == prompts.text(ITEM)
    assert ids.count(SPECIAL.index("<bos>")) == template.count("bos_token")  # the tokenizer would add another


def test_texts_by_hand() -> None:
    assert chat(CHATML, system="Be brief.").text(ITEM) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n What is 1+2?\n<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (
        chat(DEFAULT_SYSTEM).text(ITEM).startswith("<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user")
    )
    assert chat(LLAMA, assistant_prefix="<think>\n").text(ITEM) == (
        "<bos><|head|>user<|/head|>\n\nWhat is 1+2?<|eot|><|head|>assistant<|/head|>\n\n<think>\n"
    )


@pytest.mark.parametrize(
    ("template", "closing"),
    [
        (CHATML, ["<|im_end|>"]),
        (LLAMA, ["<|eot|>"]),
        (STRIPS_THOUGHT, ["Ġ", "<eos>"]),
        (CHATML.replace("<|im_end|>", ""), []),
    ],
)
def test_an_answer_ends_where_the_template_ends_it(template: str, closing: list[str]) -> None:
    """A template that ends a message by a line break alone adds no end: an answer may have several lines."""
    prompts = chat(template)
    assert prompts.tokenizer.convert_ids_to_tokens(prompts.closing) == closing
    assert prompts.tokenizer.convert_ids_to_tokens(prompts.end) == (closing or ["<eos>"])[-1]


@pytest.mark.parametrize("prefix", ["", "I say: "])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_history_of_turns_is_that_of_the_template(template: str, prefix: str) -> None:
    """Sampled turns that end with the template's token, or at the limit: the whole text is the template's."""
    prompts = chat(template, assistant_prefix=prefix)
    encode = prompts.tokenizer.encode
    ids, messages = prompts.ids(ITEM), [{"role": "user", "content": ITEM.prompt}]
    for said, observation, ended in (("go north", "You are here.", True), ("take key", "Taken.", False)):
        written = encode(said, add_special_tokens=False) + prompts.closing * ended
        ids += written + prompts.seen(ITEM, written, observation)
        messages += [{"role": "assistant", "content": prefix + said}, {"role": "user", "content": observation}]
    expected = prompts.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompts.tokenizer.decode(ids) == str(expected) + prefix


def test_what_was_sampled_stays_where_a_template_leaves_it_out() -> None:
    prompts = chat(STRIPS_THOUGHT)
    written = prompts.tokenizer.encode("<think>north</think>go", add_special_tokens=False) + prompts.closing
    text = prompts.tokenizer.decode(prompts.ids(ITEM) + written + prompts.seen(ITEM, written, "a room"))
    assert text == "<bos>user: What is 1+2?\n\nA:<think>north</think>go <eos>user:a room\nA:"


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_references_are_forced_through_the_template(template: str) -> None:
    """Read: what the template writes. Written: the assistant's texts, and the token that ends each of them."""
    prompts = chat(template)
    end = str(prompts.tokenizer.decode(prompts.closing))
    ids, mine = prompts.forced(Item("1", "start", ("go\n", "room 2", "open"), "b"))
    messages = [{"role": role, "content": text} for role, text in
                zip(("user", "assistant", "user"), ("start", "go", "room 2"), strict=True)]  # fmt: skip
    whole = str(prompts.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)) + "open"
    assert prompts.tokenizer.decode(ids) == whole + end.strip()
    assert prompts.tokenizer.decode([i for i, m in zip(ids, mine, strict=True) if m]) == f"go{end}open{end.strip()}"

    ids, mine = prompts.forced(ITEM)
    assert ids[: -sum(mine)] == prompts.ids(ITEM)
    assert prompts.tokenizer.decode(ids[-sum(mine) :]) == "It is 3" + end.strip()


def test_a_template_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(CHATML, encoding="utf-8")
    for own in (None, LLAMA):
        assert Prompts(tokenizer(own), Prompt(chat=True, template=file)).text(ITEM) == chat(CHATML).text(ITEM)


@pytest.mark.parametrize(
    ("template", "settings", "says"),
    [
        (None, {}, "org/base has no chat template.*prompt.template = 'FILE.jinja'.*prompt.chat = false"),
        (
            "{{ raise_exception('System role not supported') }}",
            {},
            "fails on the messages user, assistant.*System role",
        ),
        ("{% if %}", {}, "fails on the messages"),
        ("{{ messages[0].content }}", {}, "does not write what the assistant said"),
        (CHATML + "{{ strftime_now('%d %b %Y') }}", {}, "date of the day.*prompt.template"),
        (None, {"template": Path("nowhere.jinja")}, "nowhere.jinja cannot be read"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_one_line(
    template: str | None, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(LensrlError, match=says) as refused:
        Prompts(tokenizer(template), Prompt(chat=True, **settings), "org/base")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("prefix", "turn", "action"),
    [
        ("", "go north", "go north"),
        ("", "I am in a room.\n\ngo north\n", "go north"),
        ("", "<think>go west\n</think>\ngo north", "go north"),
        ("<think>\n", "west?\n</think>\ngo north", "go north"),
        ("<think>\n", "west? I do not", ""),
        ("", "<think>x</think><action> go north </action>\nThat is all.", "go north"),
        ("", "", ""),
    ],
)
def test_the_action_in_a_message(prefix: str, turn: str, action: str) -> None:
    assert chat(CHATML, assistant_prefix=prefix).action(turn) == action


def test_digests_notice_another_template_and_plain_prompts_keep_theirs() -> None:
    plain = Prompts(tokenizer(CHATML)).digests("test", [ITEM])
    assert set(plain) == {"test"}
    found = [chat(template).digests("test", [ITEM]) for template in (CHATML, LLAMA, CHATML)]
    assert found[0]["test"] == plain["test"]
    assert found[0] == found[2] != found[1]
