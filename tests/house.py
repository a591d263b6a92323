"""The import graph of lensrl, read from its source: python -m tests.house draws its rooms, floor by floor.

A room is a folder or a file directly in `lensrl/`; `cli` and `analyses` are rooms, too. Imports inside functions and
under TYPE_CHECKING count as any other: they would hide a circle.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTSIDE = {"lensrl_cli": ROOT / "cli" / "lensrl_cli", "analyses": ROOT / "analyses"}

Graph = Mapping[str, Collection[str]]


def modules() -> dict[str, Path]:
    """Module name -> file, of lensrl, the command line and the analyses."""
    roots = {"lensrl": ROOT / "lensrl"} | OUTSIDE
    return {
        ".".join((name, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
        for name, root in roots.items()
        for path in sorted(root.rglob("*.py"))
    }


def imports() -> dict[str, set[str]]:
    """Module -> the modules of this repository that it imports anywhere in its source.

    `import lensrl` and `from lensrl import verdict` count as an import of `lensrl` itself, the front door. A string
    that is the name of a module counts, too: `import_module("lensrl.train.study")` needs one.
    """
    files = modules()
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                package = _package(module, path, node.level)
                source = ".".join(filter(None, (package, node.module)))
                inside = {f"{source}.{alias.name}" for alias in node.names}
                named |= {name if name in files else source for name in inside}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
                named.add(node.value)
        found[module] = {name for name in named if name in files} - {module}
    return found


def _package(module: str, path: Path, level: int) -> str:
    """Return the package that `level` dots before an import mean in a module; "" for an absolute import."""
    if level == 0:
        return ""
    parts = module.split(".")
    inside = parts if path.name == "__init__.py" else parts[:-1]
    return ".".join(inside[: len(inside) - level + 1])


def room(module: str) -> str:
    """`store` for `lensrl.store.file.seal`; `__init__` for lensrl itself; `cli`, `analyses`."""
    first, *rest = module.split(".")
    return {"lensrl_cli": "cli", "analyses": "analyses"}.get(first, rest[0] if rest else "__init__")


def rooms(graph: Graph) -> dict[str, set[str]]:
    """Room -> the rooms that it imports."""
    found: dict[str, set[str]] = {room(module): set() for module in graph}
    for module, named in graph.items():
        found[room(module)] |= {room(name) for name in named} - {room(module)}
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Every set of two or more nodes that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in index:
            visit(node)
    return [component for component in found if len(component) > 1]


def floors(graph: Graph) -> dict[str, int]:
    """Node -> its floor: 0 for a node that imports nothing, else one above the highest that it imports.

    The graph has no circle.
    """
    found: dict[str, int] = {}

    def floor(node: str) -> int:
        if node not in found:
            found[node] = max((floor(other) + 1 for other in graph[node]), default=0)
        return found[node]

    for node in graph:
        floor(node)
    return found


def main() -> None:
    """Draw the rooms, the top floor first."""
    graph = imports()
    arrows = rooms(graph)
    levels = floors(arrows)
    for level in sorted(set(levels.values()), reverse=True):
        for name in sorted(name for name in levels if levels[name] == level):
            print(
                f"{level:>2}  {name:<10} -> {', '.join(sorted(arrows[name], key=lambda other: -levels[other])) or '-'}"
            )
    print(
        f"{len(levels)} rooms on {max(levels.values()) + 1} floors, {sum(map(len, arrows.values()))} arrows; "
        f"{len(graph)} files, {len(circles(graph))} circles of files"
    )


if __name__ == "__main__":
    main()
