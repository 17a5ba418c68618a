#!/usr/bin/env python
"""Write docs/api.md, the public names, from the docstrings of the source."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs/api.md'
WIDTH = 88

PUBLIC = {
    'mmrecnext': None,
    'mmrecnext.archs': ('Arch', 'MLLAArch', 'get_arch', 'get_mlla_arch'),
    'mmrecnext.pretrained': ('Pretrained', 'get_pretrained'),
    'mmrecnext.models': None,
    'mmrecnext.models.fusion': ('switch_to_deploy',),
    'mmrecnext.checkpoint': None,
    'mmrecnext.swap': (
        'swap_backbone',
        'changes',
        'write_config',
        'DepthwiseReplacement',
        'ReplacedConv',
    ),
    'mmrecnext.engine.configs': ('load_config', 'read_config'),
    'mmrecnext.engine.prepare': ('prepare', 'move_data_root'),
    'mmrecnext.engine.build': ('build_network', 'build_runner', 'fit_cpu'),
    'mmrecnext.engine.runner': ('Runner',),
    'mmrecnext.engine.optim': ('RecNeXtLayerDecay',),
    'mmrecnext.engine.predictor': ('Predictor',),
    'mmrecnext.engine.boxes': ('DetectedBoxes', 'ListedBoxes'),
    'mmrecnext.classification': None,
    'mmrecnext.export': None,
    'mmrecnext.mmcv_ext': None,
    'mmrecnext.errors': (
        'UserError',
        'OptionError',
        'CheckpointError',
        'ConfigError',
        'DataError',
        'ExportError',
    ),
}
"""Modules, in the order of the page, and their public names; None for ``__all__``."""

INTRODUCTION = """\
# Public names

Written by `make api` from the docstrings; a test compares the two. Shapes are written
`[N, C, H, W]`; what is not told here is not promised to stay as it is.
"""

WITHOUT_METHODS = ('Runner', 'RecNeXtLayerDecay', 'RecNeXtPretrainedInit')
"""Classes whose methods are those of MMEngine's class that they are made of."""


def page(package: griffe.Module) -> str:
    """Return the page, each name once: where it comes first."""
    lines = [INTRODUCTION]
    told: set[str] = set()
    sections: list[str] = []
    for path, names in PUBLIC.items():
        module = package[path.partition('.')[2]] if '.' in path else package
        found = {
            name: module[name].final_target if module[name].is_alias else module[name]
            for name in names or module.exports
            if not name.startswith('_')
        }
        new = {name: each for name, each in found.items() if each.path not in told}
        told |= {each.path for each in new.values()}
        links = [f'[`{name}`](#{name.lower()})' for name in new]
        lines.append(f'- [`{path}`](#{path.replace(".", "")}): {", ".join(links)}')
        sections += [f'## {path}', summary(module)]
        for name, each in new.items():
            sections += [f'### {name}', *entry(each)]
    return '\n'.join([*lines, '']) + '\n' + '\n\n'.join(sections) + '\n'


def summary(each: griffe.Object) -> str:
    """Return the first paragraph of a docstring."""
    return marked_down(each.docstring.value.partition('\n\n')[0])


def entry(each: griffe.Object) -> Iterator[str]:
    """Yield the paragraphs of a class, a function or a constant."""
    if each.is_function or (each.is_class and each.parameters):
        yield f'```text\n{signature(each)}\n```'
    yield from docstring(each)
    if each.is_class and each.name not in WITHOUT_METHODS:
        for name, method in each.members.items():
            is_public = not name.startswith('_') or name == '__call__'
            if is_public and method.docstring and not method.is_alias:
                yield f'#### {each.name}.{name}'
                yield from entry(method)


def signature(each: griffe.Class | griffe.Function) -> str:
    """Return a call: names of parameters, and their defaults."""
    parts, star = [], ''
    for parameter in each.parameters:
        kind = parameter.kind
        if parameter.name == 'self':
            continue
        if kind is griffe.ParameterKind.keyword_only and not star:
            parts.append('*')
        star = star or {
            griffe.ParameterKind.var_positional: '*',
            griffe.ParameterKind.keyword_only: '*',
        }.get(kind, '')
        if kind is griffe.ParameterKind.var_positional:
            parts.append(f'*{parameter.name}')
        elif kind is griffe.ParameterKind.var_keyword:
            parts.append(f'**{parameter.name}')
        elif parameter.required:
            parts.append(parameter.name)
        else:
            parts.append(f'{parameter.name}={parameter.default}')
    line = f'{each.name}({", ".join(parts)})'
    if len(line) <= WIDTH:
        return line
    return '\n    '.join([f'{each.name}(', *(f'{part},' for part in parts)]) + '\n)'


def docstring(each: griffe.Object) -> Iterator[str]:
    """Yield the paragraphs of a docstring, sections as lists."""
    if each.docstring is None:
        raise ValueError(f'{each.path} is public and has no docstring')
    for section in each.docstring.parse(
        'google',
        returns_multiple_items=False,
        returns_named_value=False,
        warn_missing_types=False,
        warn_unknown_params=False,  # those of a base
    ):
        kind, value = section.kind.value, section.value
        if kind == 'text':
            yield marked_down(value)
        elif kind == 'examples':
            code = '\n\n'.join(text for _, text in value)
            yield f'```pycon\n{code}\n```'
        elif kind in ('parameters', 'attributes'):
            items = [item(x.description, x.name, x.annotation) for x in value]
            yield f'{kind.capitalize()}:'
            yield '\n'.join(items)
        elif kind == 'raises':
            yield 'Raises:'
            yield '\n'.join(item(x.description, str(x.annotation)) for x in value)
        elif kind == 'returns':
            yield returned(value[0], each)
        else:
            raise ValueError(f'{each.path}: a docstring has a section {kind}')


def item(description: str, name: str, annotation: object = None) -> str:
    """Return an item of a list."""
    kind = f' ({code(annotation)})' if annotation else ''
    return wrapped(f'- `{name}`{kind}: {marked_down(description)}', indent='  ')


def returned(value: griffe.DocstringReturn, each: griffe.Object) -> str:
    """Return a paragraph on what is returned, and its type.

    A sentence with a colon is taken for a type and its description.
    """
    said, kind = value.description, value.annotation
    own = getattr(each, 'returns', None)
    if isinstance(kind, str):
        said, kind = f'{kind}: {said}', own
    told = f'{code(kind)}. {marked_down(said)}' if kind else marked_down(said)
    return wrapped(f'Returns: {told}')


def wrapped(text: str, indent: str = '') -> str:
    """Wrap a paragraph, or an item and those below it."""
    first, *below = re.split(r'\n(?=- )', text)
    wrapper = textwrap.TextWrapper(
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [wrapper.fill(first)]
    wrapper.initial_indent, wrapper.subsequent_indent = indent, f'{indent}  '
    return '\n'.join([*lines, *(wrapper.fill(re.sub(r'\s+', ' ', x)) for x in below)])


def code(annotation: object) -> str:
    """Return a type as inline code."""
    return f'`{annotation}`'


def marked_down(text: str) -> str:
    """Turn the markup of docstrings into Markdown."""
    text = re.sub(r':\w+:`~(?:[\w.\n ]*\.)?\s*(\w+)`', r'`\1`', text)
    text = re.sub(r':\w+:`([^`]+)`', r'`\1`', text)
    return re.sub('::$', ':', text, flags=re.M).replace('``', '`').strip()


def main():
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        '--check', action='store_true', help='fail where the page is out of date'
    )
    args = parser.parse_args()
    written = page(griffe.load('mmrecnext', search_paths=[ROOT]))
    if not args.check:
        PAGE.write_text(written)
    elif PAGE.read_text() != written:
        sys.exit(f'{PAGE.name} is out of date: make api')


if __name__ == '__main__':
    main()
