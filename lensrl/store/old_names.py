"""Names of older versions, which still work and give a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed(**new_names: str) -> Callable[[Function], Function]:
    """Let a function take keywords by their old names: `@renamed(one="from_run")`."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            for old, new in new_names.items():
                if old in options:
                    warnings.warn(f"{function.__name__}: {old} is called {new} now", DeprecationWarning, stacklevel=2)
                    options[new] = options.pop(old)
            return function(*args, **options)

        return cast(Function, call)

    return decorate


class _NotCalled:
    """What `run.scores` is. A call returns the table; any other use takes the table, too, with a warning."""

    def __init__(self, method: MethodType) -> None:
        self._method, self._name, self.__doc__ = method, method.__name__, method.__doc__

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._method(*args, **options)

    def _table(self) -> Any:
        warnings.warn(f"run.{self._name} is a method: type run.{self._name}()", DeprecationWarning, stacklevel=3)
        return self._method()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks for these itself, to copy or to inspect
            raise AttributeError(name)
        return getattr(self._table(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._table()[key]

    def __len__(self) -> int:
        return len(self._table())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._table())

    def __repr__(self) -> str:
        return repr(self._table())


class _TableMethod:
    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, run: object | None, owner: type) -> Any:
        return self._method if run is None else _NotCalled(MethodType(self._method, run))


if TYPE_CHECKING:

    def table_method(method: Function) -> Function:
        """Make a method that returns a table, and that may be read without a call, as the property of version 0.2."""
        return method
else:
    table_method = _TableMethod
