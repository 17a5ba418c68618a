"""What a page consists of, and the page itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmrecnext.files import write_file

NOTHING = '-'
"""Stands where there is no figure."""


@dataclass
class Cell:
    """A cell of a table.

    Args:
        text: what stands in it.
        change: ``more`` or ``less`` where it tells one.
        is_text: whether it is no figure.
    """

    text: str
    change: str = ''
    is_text: bool = True


@dataclass
class Table:
    """A table.

    Args:
        head: titles of its columns, or none.
        rows: of cells.
        kind: ``sortable``, or ``facts``.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    kind: str = 'sortable'


@dataclass
class Shown:
    """A picture or a plot: its file, relative to the page, and what it shows."""

    file: str
    caption: str


@dataclass
class Section:
    """A part of the page.

    Args:
        title: stands above it, and in the list of parts.
        text: stands below the title.
        cards: figures, as name and value.
        plots: stand beside each other, and beside the tables.
        tables: likewise.
        pictures: in rows of as many as fit, or of two.
        in_pairs: whether of two.
    """

    title: str
    text: str = ''
    cards: Sequence[tuple[str, str]] = ()
    plots: list[Shown] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Shown] = field(default_factory=list)
    in_pairs: bool = False

    @property
    def id(self) -> str:
        """Its anchor."""
        return self.title.lower().replace(' ', '-')


def number(value: float, digits: int = 3) -> Cell:
    """Return a cell of a figure, with so many digits behind the point."""
    text = f'{value:.{digits}f}' if math.isfinite(value) else NOTHING
    return Cell(text, is_text=False)


def change(value: float, digits: int = 3) -> Cell:
    """Return a cell of a difference."""
    if not math.isfinite(value):
        return number(value)
    text = f'{value:+.{digits}f}'
    way = '' if float(text) == 0 else 'more' if value > 0 else 'less'
    return Cell(text, way, is_text=False)


def write_page(
    file: Path, title: str, subtitle: str, sections: Iterable[Section]
) -> None:
    """Write a page of HTML, which names what it shows relative to its own folder.

    Args:
        file: where to.
        title: of the page.
        subtitle: stands below.
        sections: its parts.

    Raises:
        OSError: where it cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
    )
    template = environment.get_template('page.html')
    page = template.render(title=title, subtitle=subtitle, sections=[*sections])
    write_file(file, page.encode())
