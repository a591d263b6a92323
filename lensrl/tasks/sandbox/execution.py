"""The part of the server that a program meets: its namespace, and the packages that it may import.

`server.py` imports this file before it forks, and forgets its name.
"""

from __future__ import annotations

import builtins
import importlib
import os
import random
import sys
import types
from importlib.machinery import ModuleSpec, PathFinder

MOST_BYTES = 300  # bytes of an answer that are read


def run(parts: list[str], *, secret: int, answer: int) -> None:
    """Execute the parts one after another in one namespace, then read the secret and report it.

    All functions that are needed afterwards are bound before: a program that replaces `os.write` or `builtins.all`
    replaces it only for itself. The built-in functions are restored before the next part. A program that exits reports
    nothing.
    """
    read, write, leave = os.read, os.write, os._exit
    execute, compiled, settrace, setprofile = exec, compile, sys.settrace, sys.setprofile
    originals, restore = dict(vars(builtins)), builtins.__dict__.update
    module = types.ModuleType("program")
    namespace = module.__dict__
    sys.modules["program"] = sys.modules["__main__"] = module
    sys.argv[:] = ["program"]
    random.seed(0)  # the same outcome every time
    try:
        try:
            for part in parts:
                execute(compiled(part, "<program>", "exec", dont_inherit=True), namespace)
                settrace(None)
                setprofile(None)
                restore(originals)
            said = read(secret, 32)
        except BaseException as error:
            restore(originals)
            said = describe(error)
        write(answer, said)
    finally:  # also if the program has closed the pipe, or describing its exception raises again
        leave(0)


def describe(error: BaseException) -> bytes:
    """Describe an exception as bytes, at most MOST_BYTES - 1 of them."""
    try:
        return f"{type(error).__name__}: {error}".encode("utf-8", "replace")[: MOST_BYTES - 1]
    except BaseException:  # the program's own exception class may do anything when it is converted to text
        return b"an exception that cannot be shown"


class Packages:
    """The finder of the packages that programs may import. Nothing else of their folders can be imported."""

    def __init__(self, paths: dict[str, str]) -> None:
        self.paths = paths

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find a package by its name, as Python's import system asks for it."""
        if name not in self.paths:
            return None
        return PathFinder.find_spec(name, [os.path.dirname(self.paths[name])])


def load_packages(paths: dict[str, str]) -> str:
    """Import the packages that programs may import. Return the error of one that cannot be imported, else nothing."""
    sys.meta_path.append(Packages(paths))
    for name in paths:
        try:
            importlib.import_module(name)
        except Exception as error:
            return f"{name}: {error}"
    if "numpy" in paths:  # the same outcome every time
        importlib.import_module("numpy.random").seed(0)
    return ""
