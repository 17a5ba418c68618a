"""Class names of a config beside the categories of an annotation file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmrecnext.errors import DataError, brief, did_you_mean


def classes_of(dataset: Mapping[str, Any], kind: Any) -> tuple[str, ...]:
    """Return the class names of a dataset, those of its type where it sets none.

    Args:
        dataset: its config.
        kind: its type.

    Raises:
        DataError: where they are a string.
    """
    metainfo: dict[str, Any] = dict(dataset.get('metainfo') or {})
    classes: Any = metainfo.get('classes', kind.METAINFO.get('classes', ()))
    if isinstance(classes, str):
        if not os.path.isfile(classes):
            raise DataError(
                f'`metainfo.classes` is the text {classes!r}; write a tuple, for a '
                f'single class ({classes!r},) with a comma'
            )
        with open(classes, encoding='utf-8') as file:
            classes = file.read().splitlines()
    return tuple(classes)


def check_names(
    file: str, categories: Sequence[str], classes: Sequence[str], field: str, given=True
):
    """Check that MMDetection numbers the categories as the class names are.

    It takes the categories whose names are among the classes, and numbers them in the
    order of the file.

    Args:
        file: annotation file.
        categories: names of its categories, in its order.
        classes: names of the config.
        field: which dataset they are of.
        given: whether the config gives them, and not its type of dataset.

    Raises:
        DataError: where they are numbered otherwise, with names that are right.
    """
    kept = [name for name in categories if name in classes]
    if kept == [*classes]:
        return
    unknown = [name for name in classes if name not in categories]
    if unknown:
        told = _describe_unknown(unknown, categories)
        reason = f'{told}, and MMDetection numbers what is left'
    elif twice := [name for name, n in Counter(kept).items() if n > 1]:
        reason = f'{brief(map(repr, twice))} is the name of several categories'
    elif len({*classes}) < len(classes):
        reason = 'a name stands there twice'
    else:
        reason = 'MMDetection numbers classes in the order of the file, not in this one'
    unset = '`metainfo.classes` is not set, so those of its type hold'
    missing = [] if given else [unset]
    right = categories if unknown else [*dict.fromkeys(kept)]
    raise DataError(
        '; '.join(
            [
                *missing,
                f'the class names do not match the categories of {file}: {reason}',
                f'set metainfo=dict(classes={tuple(right)!r}) in {field}',
            ]
        )
    )


def _describe_unknown(unknown: Sequence[str], categories: Sequence[str]) -> str:
    hint = did_you_mean(repr(unknown[0]), map(repr, categories))
    hint = f' ({hint})' if hint else ''
    verb = 'is the name of no category' if len(unknown) == 1 else 'name no category'
    return f'{brief(map(repr, unknown))} {verb}{hint}'
