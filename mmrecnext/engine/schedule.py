"""The settings of optimizers and schedulers: a config's beside a checkpoint's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from numbers import Number
from typing import Any

from mmengine.optim import OptimWrapperDict

from mmrecnext.engine.loops import AMID
from mmrecnext.errors import CheckpointError

MOVING = {'last_step', 'base_values', 'verbose', 'best', 'num_bad_epochs'}
MOVING |= {'cooldown_counter', 'optimizer'}
"""What of a scheduler's state is none of its settings, beside private names."""

MOMENTS = ('betas', 'momentum', 'alpha', 'rho')
"""Settings of the optimizers that keep moments."""

INITIAL = 'initial_'
"""What goes before the name of a setting that a scheduler moves."""


class Schedule:
    """What a runner's config says of how to train on.

    Args:
        runner: a runner that has not resumed yet; its optimizer and schedulers are
            built.
    """

    def __init__(self, runner):
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        if runner.param_schedulers is not None:
            runner.param_schedulers = runner.build_param_scheduler(
                runner.param_schedulers
            )
        self.runner = runner

    def parts(self, optimizers: Mapping, schedulers: Any) -> Iterator[tuple]:
        """Yield each optimizer and its schedulers, the config's and the checkpoint's.

        Args:
            optimizers: state of the optimizer, or of each by name.
            schedulers: states of its schedulers, or those of each by name.

        Yields:
            Wrapped optimizer, state of it, schedulers, states of them.
        """
        own, own_schedulers = self.runner.optim_wrapper, self.runner.param_schedulers
        if not isinstance(own, OptimWrapperDict):
            yield own, optimizers, own_schedulers or [], schedulers or []
            return
        for name, wrapper in own.items():
            yield (
                wrapper,
                optimizers.get(name) or {},
                (own_schedulers or {}).get(name, []),
                (schedulers or {}).get(name, []),
            )

    def check_optimizer(self, state: Mapping, source: str):
        """Check that the state of an optimizer is one of this optimizer.

        Raises:
            CheckpointError: where it is of another kind or of other parameters.
        """
        for wrapper, saved, *_ in self.parts(state, None):
            kind = type(wrapper.optimizer).__name__
            groups = saved.get('param_groups')
            if not isinstance(groups, list) or not isinstance(saved.get('state'), dict):
                raise _unfit(source, f'`optimizer` is no state of {kind}')
            own = wrapper.optimizer.param_groups
            sizes = [len(group.get('params', ())) for group in groups]
            if sizes != [len(group['params']) for group in own]:
                raise _unfit(
                    source,
                    f'its optimizer has {sum(sizes)} parameters in {len(sizes)} groups,'
                    f' that of the config '
                    f'{sum(len(group["params"]) for group in own)} in {len(own)}: '
                    'other layers are frozen, or `paramwise_cfg` is another',
                )
            for group, saved_group in zip(own, groups, strict=True):
                if foreign := sorted(_settings(saved_group) - _settings(group)):
                    raise _unfit(
                        source,
                        f'its optimizer, which has {", ".join(foreign)}, is no {kind}',
                    )
                if wrong := sorted(
                    key
                    for key in _settings(group)
                    if not _is_setting(saved_group.get(key))
                ):
                    raise _unfit(
                        source, f'its optimizer lacks numbers for {", ".join(wrong)}'
                    )
                _check_moments(group, saved_group, saved['state'], source)

    def has_moments(self, state: Mapping) -> bool:
        """Tell whether the state of optimizers that keep moments has any."""
        return all(
            saved['state']
            or not any(saved['param_groups'][0].get(name) for name in MOMENTS)
            for _, saved, *_ in self.parts(state, None)
        )

    def differences(self, checkpoint: Mapping, source: str) -> list[str]:
        """List the settings in which the checkpoint is not as the config.

        Raises:
            CheckpointError: where its schedulers are of another number or kind.
        """
        found: dict[str, str] = {}
        states = checkpoint['optimizer'], checkpoint.get('param_schedulers')
        for wrapper, saved, schedulers, saved_schedulers in self.parts(*states):
            groups = wrapper.optimizer.param_groups
            for own, group in zip(groups, saved['param_groups'], strict=True):
                for key in _settings(own):
                    start = own.get(f'{INITIAL}{key}', own[key])
                    saved_start = group.get(f'{INITIAL}{key}', group.get(key))
                    if saved_start is not None and start != saved_start:
                        found.setdefault(key, f'{key} {saved_start}, not {start}')
            _check_schedulers(schedulers, saved_schedulers, source)
            for scheduler, state in zip(schedulers, saved_schedulers, strict=True):
                name = type(scheduler).__name__
                for key in sorted(_fixed(vars(scheduler))):
                    own, other = getattr(scheduler, key), state[key]
                    if own != other:
                        found[f'{name}.{key}'] = f'{name} {key} {other}, not {own}'
        return [*found.values()]

    def renew(self, checkpoint: dict, source: str):
        """Put the config's settings, moved forward, in the place of the checkpoint's.

        The optimizer's moments stay. The schedulers are stepped as a run from the start
        would have stepped them.

        Raises:
            CheckpointError: for a scheduler that steps by what has been measured.
        """
        epoch, step = checkpoint['meta']['epoch'], checkpoint['meta']['iter']
        if place := checkpoint['meta'].get(AMID):
            length = place['of']['batches']
        else:
            length = step // epoch if epoch else step + 1
        checkpoint.pop('param_schedulers', None)  # those built have been moved
        for wrapper, saved, schedulers, _ in self.parts(checkpoint['optimizer'], None):
            for scheduler in schedulers:
                if getattr(scheduler, 'need_val_args', False):
                    raise CheckpointError(
                        f'--new-schedule: {type(scheduler).__name__} steps by what was '
                        f'measured, which {source} does not tell'
                    )
            move_forward(schedulers, epoch, step, length)
            groups = wrapper.optimizer.param_groups
            saved['param_groups'] = [
                {**own, 'params': group['params']}
                for own, group in zip(groups, saved['param_groups'], strict=True)
            ]
            if base := wrapper.base_param_settings:
                saved['base_param_settings'] = base


def move_forward(schedulers: list, epochs: int, steps: int, length: int):
    """Step schedulers as in training: by iteration, and at the end of each epoch.

    Args:
        schedulers: newly built ones of one optimizer, in the order of the config.
        epochs: epochs that are over.
        steps: iterations that are over.
        length: iterations of an epoch.
    """
    by_epoch = [scheduler for scheduler in schedulers if scheduler.by_epoch]
    by_step = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
    with warnings.catch_warnings():
        # The optimizer has made no step, of which PyTorch and MMEngine warn.
        warnings.filterwarnings('ignore', 'Detected call of')
        for step in range(1, steps + 1):
            for scheduler in by_step:
                scheduler.step()
            if step % length == 0 and step // length <= epochs:
                for scheduler in by_epoch:
                    scheduler.step()


def _settings(group: Mapping) -> set[str]:
    """Return the names of a parameter group's settings: numbers, or some of them."""
    return {
        key
        for key, value in group.items()
        if key != 'params' and not key.startswith(INITIAL) and _is_setting(value)
    }


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(_is_setting(item) for item in value)
    return isinstance(value, Number) and not isinstance(value, bool)


def _fixed(state: Mapping) -> set[str]:
    return {key for key in state if key not in MOVING and not key.startswith('_')}


def _check_moments(group: Mapping, saved: Mapping, state: Mapping, source: str):
    for param, index in zip(group['params'], saved['params'], strict=True):
        for name, value in dict(state.get(index) or {}).items():
            shape = getattr(value, 'shape', ())
            if len(shape) and shape != param.shape:
                raise _unfit(
                    source,
                    f'{name} of its optimizer is {list(shape)}, of a parameter of '
                    f'{list(param.shape)}',
                )


def _check_schedulers(schedulers: list, saved: Any, source: str):
    names = ', '.join(type(scheduler).__name__ for scheduler in schedulers) or 'none'
    same = isinstance(saved, list) and len(saved) == len(schedulers)
    if not same or any(
        not isinstance(state, Mapping)
        or not state.keys() < vars(scheduler).keys()
        or _fixed(state) != _fixed(vars(scheduler))
        for scheduler, state in zip(schedulers, saved, strict=True)
    ):
        raise CheckpointError(
            f'{source} was trained with other schedulers than the {len(schedulers)} of '
            f'the config ({names}). To train on with these, add --new-schedule'
        )


def _unfit(source: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f'{source} cannot be resumed from with this config: {reason}. To fine-tune '
        f'from its weights, in place of --resume: --cfg-options load_from={source}'
    )
