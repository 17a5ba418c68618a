"""Go on from a checkpoint: which one, whether it can be, and what of it is taken."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from numbers import Number
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import HistoryBuffer, print_log

from mmrecnext.checkpoint import read_checkpoint
from mmrecnext.checkpoint.files import read_file
from mmrecnext.engine.loops import AMID, EpochLoop, is_place
from mmrecnext.engine.schedule import Schedule
from mmrecnext.errors import CheckpointError, printable

LAST = 'last_checkpoint'
"""File in a work dir that names the checkpoint saved last; MMEngine writes it."""

INTERRUPTED = 'interrupted.pth'
"""Checkpoint of a run by epochs that was stopped, until it has saved the next one."""

NUMBERED = re.compile(r'(.*?)(\d*)', re.DOTALL)
SCHEDULERS = '`param_schedulers`'
BEST = 'best_'
"""How the names of checkpoints that ``save_best`` saves begin."""

OWN = ('cfg', 'experiment_name', 'mmengine_version')
"""What each run says of itself; MMEngine's inferencers execute the text of a config."""


def latest_checkpoint(folder: str, schedulers: bool = True) -> str | None:
    """Return the latest checkpoint of a work dir that training can go on from.

    What is cut short or lacks the state of training is passed over. It is said, also
    where there is nothing.

    Args:
        folder: a work dir, perhaps moved since.
        schedulers: see :func:`check_resumable`.

    Returns:
        Its path; None where no run has saved any.

    Raises:
        CheckpointError: where there are some, but none of them will do.
    """
    path, _ = _latest(folder, schedulers)
    return path


def _latest(folder: str, schedulers: bool) -> tuple[str | None, dict]:
    """Return what :func:`latest_checkpoint` does, and what is in it."""
    faults = []
    for path in saved_checkpoints(folder):
        try:
            checkpoint = read_file(path, 'cpu')
            check_resumable(checkpoint, str(path), schedulers)
        except (CheckpointError, OSError) as error:
            faults.append(str(error))
            _warn(f'Passed over: {error}')
        else:
            return str(path), checkpoint
    if not faults and (last := Path(folder) / LAST).is_file():
        faults = [f'{last} names {_last_named(folder)}, which is not there']
    if faults:
        raise CheckpointError(
            f'nothing in {folder} can be resumed from: {"; ".join(faults)}. To start '
            'anew, leave --resume out and name another folder with --work-dir'
        )
    print_log(f'Nothing to resume in {folder}: starting', 'current')
    return None, {}


def saved_checkpoints(folder: str) -> list[Path]:
    """List the checkpoints that a run saved as it went, the latest first.

    The one that ``last_checkpoint`` names leads, sought by its name in the folder if
    that was moved. What is older and yet of a higher number is of an earlier run. That
    of an interrupted run comes last, unless it is named.
    """
    named = _last_named(folder)
    found = _numbered(Path(folder), named)
    # Checkpoints may have a place of their own, `out_dir`, in a folder of this name.
    if not found and named and named.parent.name == Path(folder).resolve().name:
        found = _numbered(named.parent, named)
    last = next((path for path in found if named and path.name == named.name), None)
    first = last if last and last.name == INTERRUPTED else None
    regular = [
        path
        for path in found
        if not path.name.startswith(BEST) and path.name != INTERRUPTED
    ]
    newest = max(regular, key=lambda path: found[path][2], default=None)
    if named and named.name == INTERRUPTED:
        last = named = newest
    lead = named or newest
    kind = _split(lead)[0] if lead else None
    _, highest, saved = found[last] if last else ('', math.inf, 0)

    def lateness(path: Path) -> tuple:
        prefix, number, time = found[path]
        left_over = number > highest and time < saved
        return path == first, prefix == kind, not left_over, number, time

    return sorted(found, key=lateness, reverse=True)


def _numbered(folder: Path, named: Path | None) -> dict[Path, tuple[str, int, float]]:
    """Return the checkpoints in a folder: what is before the number, it, the time."""
    suffixes = {'.pth', named.suffix} if named else {'.pth'}
    return {
        path: (*_split(path), path.stat().st_mtime)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.suffix in suffixes and not path.name.startswith('.') and path.is_file()
    }


def _split(path: Path) -> tuple[str, int]:
    match = NUMBERED.fullmatch(path.stem)
    assert match is not None  # as of any text
    prefix, number = match.groups()
    return prefix, int(number or 0)


def _last_named(folder: str) -> Path | None:
    """Return what ``last_checkpoint`` names, were it there."""
    try:
        name = (Path(folder) / LAST).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Path(name) if name and name.isprintable() else None


def check_resumable(checkpoint: Any, source: str, schedulers: bool = True):
    """Check that a checkpoint holds all that training goes on from.

    Args:
        checkpoint: what a file holds.
        source: where it comes from.
        schedulers: whether those of the learning rate must be in it.

    Raises:
        CheckpointError: naming what is missing or of a wrong kind, and what to do.
    """
    checkpoint = checkpoint if isinstance(checkpoint, Mapping) else {}
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    there = {
        '`state_dict`': isinstance(checkpoint.get('state_dict'), Mapping),
        '`meta.epoch`': _is_count(meta.get('epoch')),
        '`meta.iter`': _is_count(meta.get('iter')),
        '`message_hub`': _is_hub(checkpoint.get('message_hub')),
        '`optimizer`': isinstance(checkpoint.get('optimizer'), Mapping),
        SCHEDULERS: not schedulers
        or isinstance(checkpoint.get('param_schedulers'), Mapping | list),
    }
    missing = [name for name, found in there.items() if not found]
    if missing:
        advice = (
            "To go on with the config's, add --new-schedule"
            if missing == [SCHEDULERS]
            else 'To fine-tune from its weights, in place of --resume: '
            f'--cfg-options load_from={source}'
        )
        raise CheckpointError(
            f'{source} cannot be resumed from, for it lacks {", ".join(missing)}. '
            f'{advice}'
        )
    if not (meta.get('seed') is None or _is_count(meta['seed'], 2**32)):
        raise CheckpointError(f'{source}: `meta.seed` is no seed: {meta["seed"]!r}')
    if not (meta.get(AMID) is None or is_place(meta[AMID])):
        raise CheckpointError(f'{source}: `meta.{AMID}` is no place in an epoch')
    averages = {f'module.{key}' for key in checkpoint['state_dict']}
    for key in checkpoint.get('ema_state_dict') or ():
        if key.startswith('module.') and key not in averages:
            raise CheckpointError(
                f'{source}: `ema_state_dict` averages what `state_dict` lacks: {key}'
            )


def _is_count(value: Any, bound: float = math.inf) -> bool:
    return type(value) is int and 0 <= value < bound


def harmless(hub: Mapping, folders: Iterable[str]) -> dict[str, dict]:
    """Return what a message hub says, without what could harm.

    MMEngine removes the files that it names: the best checkpoint, once there is a
    better one, and numbered ones beyond those to keep.

    Args:
        hub: that of a checkpoint, whoever made it.
        folders: those that this run saves checkpoints in.

    Returns:
        A copy that names files of these folders alone, saved as best ones.
    """
    infos = {
        key: kept
        for key, value in hub['runtime_info'].items()
        if _is_name(key)
        and key not in OWN
        and (kept := _harmless_info(key, value, folders)) is not None
    }
    scalars = {
        key: value
        for key, value in hub['log_scalars'].items()
        if _is_name(key) and isinstance(value, HistoryBuffer)
    }
    resumed = {
        key: bool(value)
        for key, value in hub['resumed_keys'].items()
        if key in infos or key in scalars
    }
    return {'log_scalars': scalars, 'runtime_info': infos, 'resumed_keys': resumed}


def _is_hub(hub: Any) -> bool:
    parts = ('log_scalars', 'runtime_info', 'resumed_keys')
    return isinstance(hub, Mapping) and all(
        isinstance(hub.get(part), Mapping) for part in parts
    )


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isprintable()


def _harmless_info(key: str, value: Any, folders: Iterable[str]) -> Any:
    if key.startswith('best_ckpt'):
        return _best_of_this_run(value, folders)
    if key.startswith('best_score'):
        return value if isinstance(value, Number) else None
    if key == 'keep_ckpt_ids':  # which stand in names of files
        known = isinstance(value, list) and all(_is_count(step) for step in value)
        return value if known else None
    return value


def _best_of_this_run(path: Any, folders: Iterable[str]) -> str | None:
    name = os.path.basename(path) if isinstance(path, str) else ''
    if name.isprintable() and name.startswith(BEST):
        for folder in folders:
            if os.path.isfile(mine := os.path.join(folder, name)):
                return mine
            if '://' in folder and path == f'{folder.rstrip("/")}/{name}':
                return path
    if path is not None:
        _warn(
            f'The best checkpoint so far, {path!r}, is none of this work dir: it will '
            'stay, also when a better one is saved'
        )
    return None


class ResumeHook(Hook):
    """Checks what is resumed before any of it is, and drops what could harm."""

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner, checkpoint: dict):
        """Check and prepare a checkpoint that is being resumed from.

        Raises:
            CheckpointError: where training cannot go on from it.
        """
        if not runner._resume:
            return
        schedulers = bool(runner.param_schedulers) and not runner.new_schedule
        check_resumable(checkpoint, str(runner._load_from), schedulers)
        folders = [_folder_of(hook, runner.work_dir) for hook in runner.hooks]
        checkpoint['message_hub'] = harmless(
            checkpoint['message_hub'], [folder for folder in folders if folder]
        )


def settle_schedule(runner, checkpoint: dict):
    """Settle whose settings a resumed run has, and say in which the config differs.

    Args:
        runner: a runner with a checkpoint's weights. Is its ``new_schedule`` true, the
            settings are the config's, moved forward to the step at hand.
        checkpoint: the rest of the checkpoint, changed in place.

    Raises:
        CheckpointError: where the optimizer or the schedulers are others.
    """
    source, meta = str(runner._load_from), checkpoint['meta']
    schedule = Schedule(runner)
    schedule.check_optimizer(checkpoint['optimizer'], source)
    loop = runner.train_loop
    if meta['iter'] >= loop.max_iters or meta['epoch'] > loop.max_epochs:
        _warn(
            f'Nothing is left to train: {source} is at epoch {meta["epoch"]}, '
            f'iteration {meta["iter"]}. To train longer, raise `train_cfg`'
        )
    if meta['iter'] and not schedule.has_moments(checkpoint['optimizer']):
        _warn(f'The optimizer of {source} has no moments: they begin anew')
    if runner.new_schedule:
        schedule.renew(checkpoint, source)
    elif other := schedule.differences(checkpoint, source):
        _warn(
            f'The checkpoint goes before the config: {", ".join(other)}. To train on '
            'as the config says, add --new-schedule'
        )


def settle_place(runner, checkpoint: Mapping):
    """Have a run go on from the middle of an epoch, where it was saved there.

    Raises:
        CheckpointError: where it cannot: the epoch is another.
    """
    place, source = checkpoint['meta'].get(AMID), str(runner._load_from)
    if place is None:
        return
    if not isinstance(runner.train_loop, EpochLoop):
        raise CheckpointError(
            f'{source} was saved in the middle of an epoch, and `train_cfg` is for no '
            'loop by epochs that could go on from there'
        )
    runner.train_loop.go_on(place, source)


def _warn(text: str):
    print_log(printable(text), 'current', logging.WARNING)


def _folder_of(hook: Hook, work_dir: str) -> str | None:
    """Return where a hook saves checkpoints, if it is one that does."""
    if not isinstance(hook, CheckpointHook):
        return None
    if hook.out_dir is None or str(hook.out_dir) == work_dir:
        return work_dir
    return os.path.join(str(hook.out_dir), os.path.basename(work_dir.rstrip(os.sep)))


def resume_from(cfg: Config, checkpoint: str, new_schedule: bool = False):
    """Go on from a checkpoint, or start where ``auto`` finds none.

    Raises:
        CheckpointError: where training cannot go on from it.
    """
    schedulers = bool(cfg.get('param_scheduler')) and not new_schedule
    if checkpoint == 'auto':
        latest, content = _latest(cfg.work_dir, schedulers)
        if latest is None:
            return
        checkpoint = latest
    elif '://' not in checkpoint and not Path(checkpoint).expanduser().is_file():
        raise CheckpointError(
            f'there is no file {checkpoint} to resume from; --resume alone takes the '
            f'latest of the work dir, {cfg.work_dir}'
        )
    else:
        # Here, for building data and model takes a while.
        content = read_checkpoint(checkpoint, 'cpu')
        check_resumable(content, checkpoint, schedulers)
    # MMEngine would shuffle by one drawn anew: its loader is there before it resumes.
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is None:
        cfg.randomness = {**randomness, 'seed': content['meta'].get('seed')}
    cfg.resume = True
    cfg.load_from = checkpoint
