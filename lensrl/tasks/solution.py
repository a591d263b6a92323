"""Find the solution in a completion: which of its code counts.

A model continues the prompt, repeats it, writes a program, or talks and puts code into fences. Reasoning is dropped
first: `<think>...</think>`, also unclosed. The content of the last `<answer>` is looked at before the whole text. The
first of these is the solution:

1. a continuation of the prompt's function, where the prompt begins one;
2. the last fenced block that defines the tested function; code at the very beginning is such a block too;
3. the function outside of fences, without the prose before it;
4. the last fenced block with a `return`, else the last block: it is the body of the function;
5. the whole text, after the prompt.

A body may lack its indentation, or that of its first line, or have another one: of these readings, the one in which the
function is longest counts. Names that a block uses are also taken from earlier blocks. Fences of `~~~` are fences.

A fenced block runs as it is, with its own tests. Elsewhere the solution ends with the function: below it, only
statements are kept that define a name which the function uses. So a tail that the token limit cuts, or that a base
model adds, does no harm.

Other harnesses differ. verl (reward_score/prime_code) takes the last block marked `python`, whatever it defines.
bigcode-evaluation-harness (tasks/humaneval.py) knows no fences and cuts a continuation at fixed words in column 0,
`\\ndef` and `\\n#` among them: it fails a repeated prompt, and a comment in column 0 inside the function. EvalPlus
(sanitize.py) takes the longest run of lines that is Python, and of it the statements that the function needs.

Completions are parsed here, not run. `ast.parse` limits its own depth: too deep a text is no code.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from lensrl.tasks.tags import last_tagged, without_tags, without_thoughts

TRIED = 20  # ends of a block, beginnings of a program, cuts of a text: more are degenerate text
FENCES = 100  # at the end of a text, for the same reason
_OPENING = re.compile(r"^(?:(?!```)[^\n])*`{3,}[^`\n]*(?:\n|\Z)", re.MULTILINE)  # any language name; no inline code
_TILDES = re.compile(r"^([ \t]*)~{3,}", re.MULTILINE)
_END_OF_TEXT = re.compile(r"(?:\s*(?:<\|\w{1,40}\|>|</s>))+\s*\Z")
_MARKS = re.compile(r"`{3,}")
_BEGINNING = re.compile(r"^(?:(?:async +)?def|class|import|from|@|\w+ *=)", re.MULTILINE)
_RETURNS = re.compile(r"^\s*(?:return|yield)\b", re.MULTILINE)


class Block(NamedTuple):
    """A piece of a completion: the content of a fence, or the text between two fences."""

    text: str
    fenced: bool


def function_parts(completion: str, prompt: str, name: str) -> tuple[str, ...]:
    """Return the function `name` of a completion, in parts that run one after another.

    `prompt` ends inside the function: after its `def` line, and usually after its docstring. A program of the
    completion follows what precedes the `def` in the prompt: imports and other functions.
    """
    texts = _texts(completion)
    for text in texts:
        if (whole := _continued(prompt, text, name)) is not None:
            return (whole,)
        if (program := _program(text, {name})) is not None:
            begun = re.search(rf"(?:^@[^\n]*\n)*(?:{_definition(name)})", prompt, re.MULTILINE)
            return prompt[: begun.start() if begun else 0], program
    body = next(filter(None, map(_last_block, texts)), texts[-1])
    source = max(_readings(prompt, body, name), key=lambda source: _last_line(source, name))
    return (trimmed(source, {name}) or source,)


def script(completion: str, names: set[str]) -> str:
    """Return the program of a completion. `names` are the functions and classes that the tests use."""
    texts = _texts(completion)
    programs = (program for text in texts if (program := _program(text, names)) is not None)
    return next(programs, None) or next(filter(None, map(_last_block, texts)), None) or texts[-1]


def defined(source: str) -> set[str]:
    """Return the names that a program defines at its top level."""
    return set().union(*map(_names_of, longest(source).body))


def trimmed(source: str, names: set[str]) -> str | None:
    """Return a program up to the first definition of `names`, and what these use from below; None if it defines none.

    A program ends where it is no longer Python.
    """
    if not _defines(source, names):  # before the parser, which is slower
        return None
    body = longest(source).body
    # Keep all statements up to the definition of the last of the names.
    missing, last = set(names), -1
    for place, node in enumerate(body):
        if missing & _names_of(node):
            missing, last = missing - _names_of(node), place
    if last < 0:
        return None
    kept = [node for node in body[: last + 1] if not _is_prose(node)]
    # From below, keep what defines a name that is used and not yet defined.
    known = set().union(*map(_names_of, kept))
    used = _used(kept)
    for node in body[last + 1 :]:
        if _names_of(node) & used - known:
            kept.append(node)
            known |= _names_of(node)
            used |= _used([node])
    # Take whole lines: statements may share one.
    wanted = {line for node in kept for line in range(_first_line(node), (node.end_lineno or node.lineno) + 1)}
    lines = source.split("\n")
    return "\n".join(lines[line - 1] for line in sorted(wanted)) + "\n"


@lru_cache(maxsize=8)  # one completion asks several times
def longest(source: str) -> ast.Module:
    """Parse the longest beginning of a text that is Python and ends before a statement in column 0."""
    lines = source.split("\n")
    end = len(lines)
    for _ in range(TRIED):
        tree, wrong = _parse("\n".join(lines[:end]))
        if tree is not None:
            return tree
        # Go back to the statement with the error: the last line in column 0 that begins one.
        end = min(end - 1, wrong - 1)
        while end > 0 and (not lines[end] or lines[end][0] in " \t\f#)]}" or lines[end - 1].startswith("@")):
            end -= 1
        if end <= 0:
            break
    return ast.Module([], [])


def blocks(text: str) -> list[Block]:
    """Split a text at its fences. The content of a fence loses its common indentation."""
    found: list[Block] = []
    at = 0
    while opening := _OPENING.search(text, at):
        marks = _MARKS.search(text, opening.start())
        assert marks
        end, after = _end_of_block(text, opening.end())
        found.append(Block(text[at : marks.start()], fenced=False))
        found.append(Block(textwrap.dedent(text[opening.end() : end]), fenced=True))
        at = after
    return [*found, Block(text[at:], fenced=False)]


def _end_of_block(text: str, begin: int) -> tuple[int, int]:
    """Return the end of the block that begins at `begin`, and the place where the text goes on.

    A docstring may hold fences of its own. So the block ends at the first fence at which its content is Python; a fence
    that begins a line comes before one that follows code. If there is none, it ends at the first fence of a line.
    """
    marks = list(islice(_MARKS.finditer(text, begin), 2 * TRIED))
    own_line = [mark for mark in marks if not text[text.rfind("\n", 0, mark.start()) + 1 : mark.start()].strip()]
    python = (mark for mark in own_line + marks if _parse(textwrap.dedent(text[begin : mark.start()]))[0] is not None)
    end = next(python, None) or next(iter(own_line + marks), None)
    if end is None:
        return len(text), len(text)
    opens_another = end in own_line and re.match(r"\w", text[end.end() :])
    return end.start(), end.start() if opens_another else end.end()


def _texts(completion: str) -> list[str]:
    """Return the texts in which to look for the solution: the last answer, then everything but the reasoning."""
    text = without_thoughts(completion.replace("\r\n", "\n").replace("\r", "\n"))
    text = _TILDES.sub(r"\1```", _END_OF_TEXT.sub("", text))
    if len(marks := list(_MARKS.finditer(text))) > FENCES:
        text = text[marks[-FENCES].start() :]
    answer = last_tagged(text, "answer")
    whole = without_tags(text, "answer")
    return [whole] if answer is None else [answer, whole]


def _continued(prompt: str, text: str, name: str) -> str | None:
    """Return the prompt's function with the body that a text begins with; None for a text that does not begin so."""
    begun = len(prompt.rstrip().split("\n"))
    for body in (text, text.partition("```")[0]):  # a fence may be part of a docstring, or end the code
        whole = trimmed(prompt + body, {name})
        if whole is not None and _last_line(prompt + body, name) > begun:
            return whole
    return None


def _readings(prompt: str, body: str, name: str) -> list[str]:
    """Return the prompt with a body: indented anew, with its first line alone indented anew, and as it is."""
    found = re.search(r"^[ \t]+(?=\S)", prompt[prompt.rfind(f"def {name}") :], re.MULTILINE)
    margin = found[0] if found else "    "
    first_line = body.lstrip()
    return [prompt + textwrap.indent(textwrap.dedent(body), margin), f"{prompt}{margin}{first_line}", prompt + body]


def _program(text: str, names: set[str]) -> str | None:
    """Return the program of a text: the last block that defines most of `names`, else code after prose, else None."""
    pieces = blocks(text)
    best, most, chosen = None, 0, 0
    for place, (content, fenced) in enumerate(pieces):
        begins = place == 0 and trimmed(content, names) is not None
        count = _defines(content, names)
        if (fenced or begins) and count and count >= most:
            runs = fenced and _parse(content)[0] is not None
            best, most, chosen = content if runs else trimmed(content, names) or content, count, place
    if best is not None:
        return _borrowed(best, [piece.text for piece in pieces[:chosen] if piece.fenced]) + best
    programs = (_after_prose(piece.text, names) for piece in reversed(pieces) if not piece.fenced)
    return next(filter(None, programs), None)


def _borrowed(program: str, earlier: list[str]) -> str:
    """Return the definitions, of earlier blocks, of names that a program uses and does not define."""
    body = longest(program).body
    missing = _used(body) - set().union(*map(_names_of, body))
    found = ""
    for block in reversed(earlier):
        if here := {name for name in missing if _defines(block, [name])}:
            found = (trimmed(block, here) or "") + found
            missing -= here
    return found


def _after_prose(text: str, names: set[str]) -> str | None:
    """Return the longest program that begins somewhere in a text and defines one of `names`."""
    if not _defines(text, names):
        return None
    beginnings = islice(_BEGINNING.finditer(text), TRIED)
    return next(filter(None, (trimmed(text[begin.start() :], names) for begin in beginnings)), None)


def _last_block(text: str) -> str | None:
    """Return the last fenced block with a `return`, else the last block."""
    fenced = [block.text for block in reversed(blocks(text)) if block.fenced]
    return next((block for block in fenced if _RETURNS.search(block)), fenced[0] if fenced else None)


def _definition(name: str) -> str:
    return rf"^(?:(?:async +)?def|class) +{name}\b|^{name} *="


def _defines(text: str, names: Iterable[str]) -> int:
    """Return how many of the names a text seems to define."""
    return sum(bool(re.search(_definition(name), text, re.MULTILINE)) for name in names)


def _parse(source: str) -> tuple[ast.Module | None, int]:
    """Parse a text. For a text that is no Python, return None and the line of the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a text with "\d" is still Python
        try:
            return ast.parse(source), 0
        except SyntaxError as error:
            return None, error.lineno or source.count("\n") + 1
        except (ValueError, RecursionError, MemoryError):  # a null byte, half a surrogate pair, too deep
            return None, 1


def _names_of(node: ast.stmt) -> set[str]:
    """Return the names that a statement defines."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Import() | ast.ImportFrom():
            return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        case ast.Assign():
            return {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


def _is_prose(node: ast.stmt) -> bool:
    """Return whether a statement does nothing: a word, or a marker such as `[BEGIN]`."""
    return isinstance(node, ast.Expr) and not any(isinstance(part, ast.Call) for part in ast.walk(node))


def _used(nodes: Iterable[ast.stmt]) -> set[str]:
    return {name.id for node in nodes for name in ast.walk(node) if isinstance(name, ast.Name)}


def _first_line(node: ast.stmt) -> int:
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else []
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _last_line(source: str, name: str) -> int:
    """Return the line in which the first definition of a name ends, 0 without one."""
    ends = (node.end_lineno or 0 for node in longest(source).body if name in _names_of(node))
    return next(ends, 0)
