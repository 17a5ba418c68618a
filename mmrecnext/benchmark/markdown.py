"""Tables for documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown, without a last line break."""
    lines: list[list[object]] = [
        [*header],
        ['---'] * len(header),
        *([*row] for row in rows),
    ]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)
