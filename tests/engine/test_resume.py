"""Runs that were interrupted: what they go on from, and with which settings."""

import os
import random
import shutil
import signal
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import EMAHook, Hook
from torch import nn

from mmrecnext.engine.resume import (
    INTERRUPTED,
    latest_checkpoint,
    resume_from,
    saved_checkpoints,
)
from mmrecnext.engine.saving import CheckpointHook, saving_safely
from mmrecnext.errors import CheckpointError
from mmrecnext_autoload.signals import termination
from tests.engine.helpers import COSINE, Net, Numbers, run

WARM_COSINE = [
    dict(type='LinearLR', start_factor=0.01, end=5, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=24, end=24, eta_min=1e-5, by_epoch=False),
    dict(type='MultiStepLR', milestones=[1, 4], gamma=0.5, end=6),
]
CONVERTED = [dict(type='PolyLR', power=0.9, end=6, convert_to_iter_based=True)]


@pytest.fixture(scope='session')
def half(tmp_path_factory):
    """The work dir of two epochs."""
    folder = tmp_path_factory.mktemp('runs') / 'half'
    run(folder, 2, param_scheduler=[dict(COSINE[0], T_max=2, end=2)])
    return folder


@pytest.fixture
def work_dir(half, tmp_path):
    """The same elsewhere, to be changed."""
    return shutil.copytree(half, tmp_path / 'moved')


def rewrite(file, change):
    checkpoint = torch.load(file, weights_only=False)
    checkpoint = change(checkpoint) or checkpoint
    torch.save(checkpoint, file)
    return str(file)


class TestWhatIsResumed:
    def test_latest_of_a_moved_work_dir(self, work_dir, half):
        assert str(half) in (work_dir / 'last_checkpoint').read_text()
        assert latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_2.pth')

    def test_whole_one_before_a_torn_one(self, work_dir, caplog):
        torn = work_dir / 'epoch_2.pth'
        torn.write_bytes(torn.read_bytes()[:-2000])
        assert latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_1.pth')
        assert run(work_dir, 3, resume=True).rates.keys() == set(range(4, 12))

    def test_one_before_a_removed_one(self, work_dir):
        (work_dir / 'epoch_2.pth').unlink()
        assert latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_1.pth')

    def test_none_of_those_that_are_there(self, work_dir):
        rewrite(work_dir / 'epoch_1.pth', lambda c: c.pop('optimizer') and c)
        (work_dir / 'epoch_2.pth').write_bytes(b'')
        with pytest.raises(CheckpointError, match=r'lacks `optimizer`.* name another'):
            latest_checkpoint(str(work_dir))
        for file in work_dir.glob('*.pth'):
            file.unlink()
        with pytest.raises(CheckpointError, match='which is not there'):
            latest_checkpoint(str(work_dir))

    def test_nothing_to_resume(self, tmp_path):
        assert latest_checkpoint(str(tmp_path / 'none')) is None
        assert run(tmp_path / 'new', 1, resume=True).rates.keys() == set(range(4))

    def test_order_of_an_earlier_run_and_of_numbers(self, tmp_path):
        def save(*names, last=None):
            for name in names:
                (tmp_path / name).touch()
                os.utime(tmp_path / name, (next(clock),) * 2)
            if last:
                (tmp_path / 'last_checkpoint').write_text(last)
            return [path.name for path in saved_checkpoints(str(tmp_path))]

        clock = count(1)
        found = save('epoch_9.pth', 'epoch_10.pth', 'best_x_epoch_9.pth', '.a1.tmp.pth')
        assert found == ['epoch_10.pth', 'epoch_9.pth', 'best_x_epoch_9.pth']
        # A new run began in the same folder, and was killed while saving the third.
        found = save('epoch_1.pth', 'epoch_2.pth', last='/elsewhere/epoch_2.pth')
        assert found[:3] == ['epoch_2.pth', 'epoch_1.pth', 'epoch_10.pth']
        assert save('epoch_3.pth')[:2] == ['epoch_3.pth', 'epoch_2.pth']

    @pytest.mark.parametrize(
        'lacking',
        ['meta', 'message_hub', 'optimizer', 'param_schedulers', 'all but weights'],
    )
    def test_what_lacks_state_is_refused(self, lacking, work_dir):
        def change(checkpoint):
            if lacking == 'all but weights':
                return checkpoint['state_dict']
            checkpoint[lacking] = {} if lacking == 'meta' else None

        file = rewrite(work_dir / 'epoch_2.pth', change)
        name = 'param_schedulers' if lacking == 'all but weights' else lacking
        step = f'load_from={file}'
        if lacking == 'param_schedulers':
            step = '--new-schedule'
        with pytest.raises(CheckpointError, match=f'lacks .*{name}.* {step}'):
            run(work_dir, 3, resume=True, load_from=file)

    @pytest.mark.parametrize(
        ('change', 'words'),
        [
            (
                lambda c: c['optimizer']['param_groups'].pop(),
                'has 5 parameters in 5 groups, that of the config 6 in 6',
            ),
            (
                lambda c: c['optimizer']['param_groups'][0].update(momentum=0.9),
                'which has momentum, is no AdamW',
            ),
            (
                lambda c: c['optimizer']['param_groups'][0].update(lr='high'),
                'its optimizer lacks numbers for lr',
            ),
            (
                lambda c: c['optimizer']['state'][0].update(exp_avg=torch.ones(3)),
                r'exp_avg of its optimizer is \[3\]',
            ),
            (
                lambda c: c['param_schedulers'].append({}),
                'other schedulers than the 1 of the config .Cosine.*--new-schedule',
            ),
            (
                lambda c: c['param_schedulers'][0].pop('T_max'),
                'other schedulers than the 1 of the config',
            ),
            (
                lambda c: c['param_schedulers'][0].update(optimizer=None),
                'other schedulers than the 1 of the config',
            ),
            (lambda c: c['meta'].update(seed='x'), '`meta.seed` is no seed'),
            (lambda c: c['meta'].update(iter=-1), 'lacks `meta.iter`'),
            (
                lambda c: c.update(ema_state_dict={'module.none': torch.ones(1)}),
                'averages what `state_dict` lacks: module.none',
            ),
        ],
    )
    def test_state_of_another_training_is_refused(self, change, words, work_dir):
        file = rewrite(work_dir / 'epoch_2.pth', lambda c: change(c) and None)
        with pytest.raises(CheckpointError, match=words):
            run(work_dir, 3, resume=True, load_from=file)

    def test_weights_of_another_model_are_refused_as_such(self, work_dir):
        class Other(Net):
            def __init__(self):
                super().__init__()
                self.layers.append(nn.Linear(1, 1))

        file = str(work_dir / 'epoch_2.pth')
        with pytest.raises(CheckpointError, match='does not fit the model'):
            run(work_dir, 3, resume=True, load_from=file, model=Other())


class TestCommandLine:
    @pytest.fixture
    def cfg(self, work_dir):
        return Config(dict(work_dir=str(work_dir), param_scheduler=COSINE))

    def test_takes_the_latest_or_the_one_named(self, cfg, work_dir):
        for name, expected in (('auto', 2), (str(work_dir / 'epoch_1.pth'), 1)):
            resume_from(cfg, name)
            assert cfg.resume
            assert cfg.load_from == str(work_dir / f'epoch_{expected}.pth')

    def test_refuses_before_anything_is_built(self, cfg, work_dir):
        weights = rewrite(work_dir / 'epoch_1.pth', lambda c: c['state_dict'])
        for name, words in (
            (weights, 'lacks `state_dict`, .*`optimizer`.*load_from'),
            (str(work_dir), 'there is no file .* --resume alone takes the latest'),
            ('', 'there is no file  to resume'),
        ):
            with pytest.raises(CheckpointError, match=words):
                resume_from(cfg, name)

    def test_schedulers_of_the_config_need_none_of_the_checkpoint(self, cfg, work_dir):
        file = rewrite(
            work_dir / 'epoch_2.pth', lambda c: c.pop('param_schedulers') and c
        )
        with pytest.raises(CheckpointError, match='add --new-schedule'):
            resume_from(cfg, file)
        resume_from(cfg, file, new_schedule=True)
        assert cfg.load_from == file


class TestFilesOfOthers:
    """A message hub names files that MMEngine removes."""

    @pytest.mark.parametrize('metrics', [['score'], ['score', 'other']])
    def test_none_outside_of_the_work_dir_is_removed(self, metrics, work_dir, tmp_path):
        mine = tmp_path / 'best_mine.pth'
        inside = work_dir / 'notes.txt'
        mine.touch()
        inside.touch()
        keys = ['best_ckpt'] if len(metrics) == 1 else [f'best_ckpt_{metrics[0]}']

        def change(checkpoint, victim):
            infos = dict.fromkeys(keys, victim)
            infos.update(best_score='high', keep_ckpt_ids=['/../../x', 1])
            hub = checkpoint['message_hub']
            hub['runtime_info'].update(infos)
            hub['resumed_keys'].update(dict.fromkeys(infos, True))

        for victim in (str(mine), str(inside), f'{work_dir}/../best_mine.pth'):
            file = rewrite(work_dir / 'epoch_1.pth', partial(change, victim=victim))
            run(
                work_dir,
                2,
                resume=True,
                load_from=file,
                scores=[1.0],
                hook=dict(save_best=metrics, rule='greater', max_keep_ckpts=2),
            )
            assert mine.is_file() and inside.is_file()

    def test_text_of_a_config_is_not_passed_on(self, work_dir):
        def change(checkpoint):
            checkpoint['message_hub']['runtime_info']['cfg'] = 'import os'
            checkpoint['message_hub']['log_scalars'][3] = None
            checkpoint['meta']['config'] = 'raise SystemExit'

        file = rewrite(work_dir / 'epoch_1.pth', change)
        run(work_dir, 2, resume=True, load_from=file)
        saved = torch.load(work_dir / 'epoch_2.pth', weights_only=False)
        assert 'import os' not in saved['message_hub']['runtime_info']['cfg']

    def test_the_best_of_a_moved_run_goes_once_there_is_a_better_one(self, tmp_path):
        hook = dict(save_best='score', rule='greater')
        run(tmp_path / 'a', 1, scores=[1.0], hook=hook)
        shutil.move(tmp_path / 'a', tmp_path / 'b')
        run(tmp_path / 'b', 3, resume=True, scores=[0.5, 2.0], hook=hook)
        best = [path.name for path in (tmp_path / 'b').glob('best_*')]
        assert best == ['best_score_epoch_3.pth']


class TestSettings:
    @pytest.mark.parametrize(
        'schedulers', [COSINE, WARM_COSINE, CONVERTED], ids=['cosine', 'warm', 'poly']
    )
    def test_new_schedule_is_that_of_a_run_from_the_start(self, schedulers, tmp_path):
        whole = run(tmp_path / 'whole', param_scheduler=schedulers)
        run(
            tmp_path / 'half',
            2,
            param_scheduler=[dict(type='ConstantLR', factor=0.5)],
            optimizer=dict(weight_decay=0.3),
        )
        options = dict(resume=True, param_scheduler=schedulers, new_schedule=True)
        resumed = run(tmp_path / 'half', **options)
        assert resumed.rates == {k: v for k, v in whole.rates.items() if k >= 8}

    def test_new_schedule_of_iterations(self, tmp_path):
        schedulers = [
            dict(type='LinearLR', start_factor=0.1, end=3, by_epoch=False),
            dict(type='PolyLR', power=0.9, begin=3, end=6, by_epoch=False),
        ]
        options = dict(by_epoch=False, param_scheduler=schedulers)
        whole = run(tmp_path / 'whole', 6, **options)
        half = [schedulers[0], dict(schedulers[1], end=4)]
        run(tmp_path / 'half', 4, **{**options, 'param_scheduler': half})
        resumed = run(tmp_path / 'half', 6, resume=True, new_schedule=True, **options)
        assert resumed.rates == {k: whole.rates[k] for k in (4, 5)}

    def test_new_schedule_keeps_moments_and_takes_the_decay(self, work_dir):
        before = torch.load(work_dir / 'epoch_2.pth', weights_only=False)['optimizer']
        options = dict(optimizer=dict(weight_decay=0.3), param_scheduler=None)
        options.update(resume=True, new_schedule=True)
        run(work_dir, 3, **options)
        after = torch.load(work_dir / 'epoch_3.pth', weights_only=False)['optimizer']
        assert {group['weight_decay'] for group in after['param_groups']} == {0.3}
        assert before['state'][0]['step'] == 8 and after['state'][0]['step'] == 12

    @pytest.fixture
    def told(self, monkeypatch):
        """What is warned of."""
        told = []
        monkeypatch.setattr('mmrecnext.engine.resume._warn', told.append)
        return told

    def test_an_optimizer_without_moments_is_told(self, work_dir, told):
        file = rewrite(
            work_dir / 'epoch_2.pth', lambda c: c['optimizer']['state'].clear()
        )
        run(work_dir, 3, resume=True, load_from=file)
        assert [text for text in told if 'has no moments' in text]

    def test_a_finished_run_is_told(self, work_dir, told):
        assert not run(work_dir, 2, resume=True).rates
        assert [text for text in told if 'Nothing is left to train' in text]

    def test_settings_of_the_checkpoint_are_told(self, work_dir, told):
        options = dict(optimizer=dict(weight_decay=0.3), resume=True)
        resumed = run(work_dir, 3, **options)
        (line,) = (text for text in told if '--new-schedule' in text)
        assert 'weight_decay 0.01, not 0.3' in line
        assert 'CosineAnnealingLR T_max 2, not 6' in line
        assert 'lr ' not in line
        assert resumed.rates[8][0] == resumed.rates[11][0] == pytest.approx(0.000505)

    @pytest.mark.parametrize('by_epoch', [True, False])
    def test_same_settings_repeat_a_whole_run(self, by_epoch, tmp_path, told):
        options = dict(by_epoch=by_epoch, param_scheduler=WARM_COSINE)
        whole = run(tmp_path / 'whole', 4, **options)
        run(tmp_path / 'half', 2, **options)
        resumed = run(tmp_path / 'half', 4, resume=True, **options)
        assert resumed.rates == {k: whole.rates[k] for k in resumed.rates}
        assert resumed.losses == {k: whole.losses[k] for k in resumed.losses}
        logged = [
            torch.load(next(tmp_path.glob(f'{name}/*_4.pth')), weights_only=False)[
                'message_hub'
            ]['log_scalars']['train/loss'].data[0]
            for name in ('whole', 'half')
        ]
        assert logged[0].tolist() == logged[1].tolist()
        assert len(resumed.losses) == len(whole.losses) // 2
        assert not [text for text in told if '--new-schedule' in text]


class Signal(Hook):
    """Has a signal arrive in the middle of a step."""

    def __init__(self, number, step=5):
        self.number, self.step = number, step

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.usefixtures('interruptible')
class TestTermination:
    @pytest.mark.parametrize(
        ('number', 'by_epoch', 'first'),
        [
            (signal.SIGTERM, True, 6),
            (signal.SIGINT, True, 6),
            (signal.SIGTERM, False, 6),
            (signal.SIGINT, False, 6),
        ],
    )
    def test_goes_on_as_if_nothing_had_been(self, number, by_epoch, first, tmp_path):
        options = dict(steps=3 if by_epoch else 12, by_epoch=by_epoch)
        options.update(param_scheduler=WARM_COSINE)
        whole = run(tmp_path / 'whole', **options)
        hook = {} if by_epoch else dict(interval=100)
        with termination.answered(), pytest.raises(KeyboardInterrupt):
            run(tmp_path / 'half', hook=hook, hooks=[Signal(number)], **options)
        resumed = run(tmp_path / 'half', resume=True, hook=hook, **options)
        assert resumed.losses == {k: v for k, v in whole.losses.items() if k >= first}


class Chancy(Net):
    """Draws from all generators but that of PyTorch, which is seeded for each step."""

    def forward(self, x, mode='loss'):
        x = x * (1 + random.random() + np.random.rand())
        return super().forward(x, mode)


class Augmented(Numbers):
    """Draws from all generators."""

    def __getitem__(self, index):
        drawn = random.random() + np.random.rand() + torch.rand(())
        return {'x': super().__getitem__(index)['x'] * drawn}


def stop(folder, *hooks, **options):
    """Train until a signal arrives."""
    with termination.answered(), pytest.raises(KeyboardInterrupt):
        run(folder, hooks=hooks, **options)


def fill_disk(monkeypatch, name):
    """Have a file be written in part, and the disk be full."""
    put = LocalBackend.put

    def full(self, content, path):
        if name in str(path):
            put(self, content[:1000], path)
            raise OSError(28, 'No space left on device')
        put(self, content, path)

    monkeypatch.setattr(LocalBackend, 'put', full)


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


@pytest.mark.usefixtures('interruptible')
class TestAmidAnEpoch:
    """Runs by epochs that are stopped, of four steps each."""

    @pytest.fixture
    def options(self):
        loader = dict(
            dataset=Augmented(),
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        )
        return dict(
            steps=3,
            model=Chancy(),
            train_dataloader=loader,
            param_scheduler=WARM_COSINE,
            hook=dict(max_keep_ckpts=1),
        )

    @pytest.fixture
    def stopped(self, tmp_path):
        """The work dir of a run that was stopped in its second epoch."""
        stop(tmp_path / 'run', Signal(signal.SIGTERM), steps=3)
        return tmp_path / 'run'

    def test_all_that_a_run_has_goes_on(self, options, tmp_path):
        whole = run(tmp_path / 'whole', hooks=[EMAHook()], **options)
        folder = tmp_path / 'run'
        stop(folder, EMAHook(), Signal(signal.SIGINT), **options)
        assert names(folder) == ['epoch_1.pth', INTERRUPTED]
        assert latest_checkpoint(str(folder)) == str(folder / INTERRUPTED)
        resumed = run(folder, hooks=[EMAHook()], resume=True, **options)
        assert resumed.losses == {k: v for k, v in whole.losses.items() if k > 5}
        assert resumed.rates == {k: v for k, v in whole.rates.items() if k > 5}
        assert names(folder) == ['epoch_3.pth']
        found, expected = (
            torch.load(tmp_path / name / 'epoch_3.pth', weights_only=False)
            for name in ('run', 'whole')
        )
        for key in ('state_dict', 'ema_state_dict'):
            assert all(v.equal(found[key][k]) for k, v in expected[key].items())
        logged = [
            c['message_hub']['log_scalars']['train/loss'].data[0].tolist()
            for c in (found, expected)
        ]
        assert logged[0] == logged[1]

    @pytest.mark.parametrize('step', [4, 7])
    def test_in_the_first_step_and_in_the_last_one(self, step, options, tmp_path):
        whole = run(tmp_path / 'whole', **options)
        stop(tmp_path / 'run', Signal(signal.SIGINT, step), **options)
        resumed = run(tmp_path / 'run', resume=True, **options)
        assert resumed.losses == {k: v for k, v in whole.losses.items() if k > step}
        assert names(tmp_path / 'run') == ['epoch_3.pth']

    @pytest.mark.parametrize('interval', [1, 2])
    def test_after_the_last_step(self, interval, options, tmp_path):
        class Late(Hook):
            def after_train_epoch(self, runner):
                os.kill(os.getpid(), signal.SIGTERM)

        options['hook'] = dict(interval=interval)
        whole = run(tmp_path / 'whole', **options)
        stop(tmp_path / 'run', Late(), **options)
        assert names(tmp_path / 'run') == [
            'epoch_1.pth' if interval == 1 else INTERRUPTED
        ]
        resumed = run(tmp_path / 'run', resume=True, **options)
        assert resumed.losses == {k: v for k, v in whole.losses.items() if k > 3}

    @pytest.mark.parametrize(('gathered', 'rate'), [(1, 0.0025), (4, 0.01)])
    def test_rates_are_scaled_to_all_that_is_gathered(self, gathered, rate, tmp_path):
        optim = dict(type='SGD', lr=0.01)
        wrapper = dict(optimizer=optim, accumulative_counts=gathered)
        scale = dict(enable=True, base_batch_size=8)
        seen = run(
            *(tmp_path, 1), optim_wrapper=wrapper, auto_scale_lr=scale,
            param_scheduler=None,
        )  # fmt: skip
        assert seen.rates[0] == [rate]

    def test_gradients_that_are_gathered_are_used_first(self, options, tmp_path):
        wrapper = dict(optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=4)
        options['optim_wrapper'] = wrapper
        whole = run(tmp_path / 'whole', **options)
        stop(tmp_path / 'run', Signal(signal.SIGINT), **options)
        resumed = run(tmp_path / 'run', resume=True, **options)
        assert resumed.losses == {k: v for k, v in whole.losses.items() if k > 7}

    def test_checkpoints_by_iteration(self, options, tmp_path):
        options['hook'] = dict(by_epoch=False, interval=3)
        whole = run(tmp_path / 'whole', **options)
        file = str(tmp_path / 'whole/iter_6.pth')
        resumed = run(tmp_path / 'run', resume=True, load_from=file, **options)
        assert resumed.losses == {k: v for k, v in whole.losses.items() if k > 5}

    def test_new_schedule(self, stopped, tmp_path):
        options = dict(steps=3, param_scheduler=WARM_COSINE)
        whole = run(tmp_path / 'whole', **options)
        resumed = run(stopped, resume=True, new_schedule=True, **options)
        assert resumed.rates == {k: v for k, v in whole.rates.items() if k > 5}

    @pytest.mark.parametrize(
        ('settings', 'words'),
        [
            (dict(batch=1), 'batches 4, not 8, batch size 2, not 1. Set these'),
            (dict(randomness=dict(seed=1)), 'seed 0, not 1'),
            (dict(by_epoch=False), '`train_cfg` is for no loop by epochs'),
        ],
    )
    def test_other_batches_are_refused(self, settings, words, options, stopped):
        if batch := settings.pop('batch', None):
            loader = options['train_dataloader']
            settings = dict(train_dataloader={**loader, 'batch_size': batch})
        with pytest.raises(CheckpointError, match=f'{INTERRUPTED} was saved .*{words}'):
            run(stopped, 3, resume=True, **settings)

    @pytest.mark.parametrize(
        'change',
        [
            lambda place: place.update(done=5),
            lambda place: place.update(done='1'),
            lambda place: place.pop('of'),
            lambda place: place['chance'].update(python=(3, (1, 2), None)),
            lambda place: place['chance'].update(torch=torch.zeros(3)),
            # Beyond its words, whose bounds NumPy does not check.
            lambda place: place['chance'].update(
                numpy=(*place['chance']['numpy'][:2], 10**6, 0, 0.0)
            ),
        ],
    )
    def test_no_place_in_an_epoch(self, change, stopped):
        file = rewrite(
            stopped / INTERRUPTED, lambda c: change(c['meta']['amid_epoch']) and None
        )
        with pytest.raises(CheckpointError, match='is no place in an epoch'):
            run(stopped, 3, resume=True, load_from=file)
        assert latest_checkpoint(str(stopped)) == str(stopped / 'epoch_1.pth')

    def test_full_disk_leaves_the_epoch_before(self, tmp_path, monkeypatch):
        fill_disk(monkeypatch, 'interrupted')
        folder = tmp_path / 'run'
        with termination.answered(), pytest.raises(OSError, match='No space left'):
            run(folder, 3, hooks=[Signal(signal.SIGTERM)])
        assert names(folder) == ['epoch_1.pth']
        assert latest_checkpoint(str(folder)) == str(folder / 'epoch_1.pth')

    def test_a_run_without_a_seed_keeps_its_own(self, stopped):
        for given, expected in ((None, 0), (5, 5)):
            cfg = Config(dict(work_dir=str(stopped), randomness=dict(seed=given)))
            resume_from(cfg, 'auto')
            assert cfg.load_from == str(stopped / INTERRUPTED)
            assert cfg.randomness.seed == expected

    def test_is_the_latest_only_while_it_is_named(self, stopped):
        def found():
            return [path.name for path in saved_checkpoints(str(stopped))]

        for name, time in (('epoch_2.pth', 8), ('epoch_9.pth', 1)):  # of earlier runs
            (stopped / name).touch()
            os.utime(stopped / name, (time, time))
        rest = ['epoch_1.pth', 'epoch_9.pth', 'epoch_2.pth']
        assert found() == [INTERRUPTED, *rest]
        (stopped / 'last_checkpoint').write_text(str(stopped / 'epoch_1.pth'))
        assert found() == [*rest, INTERRUPTED]
        (stopped / 'last_checkpoint').unlink()
        assert found()[-1] == INTERRUPTED


class TestSaving:
    @pytest.mark.parametrize('kind', ['CheckpointHook', MMEngineCheckpointHook])
    def test_something_is_left_wherever_a_run_is_killed(
        self, kind, tmp_path, monkeypatch
    ):
        """Before each write and after it, a readable checkpoint is there."""
        folder = tmp_path / 'run'
        writes = 0
        replace = os.replace

        def observed(source, target):
            nonlocal writes
            if str(target).endswith('.pth') and writes:
                assert latest_checkpoint(str(folder))
            replace(source, target)
            writes += 1
            assert latest_checkpoint(str(folder))
            note = folder / 'last_checkpoint'
            assert not note.exists() or Path(note.read_text()).is_file()

        monkeypatch.setattr(os, 'replace', observed)
        hook = dict(type=kind, max_keep_ckpts=1, save_best='score', rule='greater')
        run(folder, 3, scores=[1.0, 2.0, 3.0], hook=hook)
        # The best is saved after each epoch, whose checkpoint is then told of it; the
        # latter is noted each time.
        assert writes == 3 * 5
        found = sorted(path.name for path in folder.glob('*.pth'))
        assert found == ['best_score_epoch_3.pth', 'epoch_3.pth']

    def test_what_a_killed_run_was_to_remove_is_removed(self, tmp_path, monkeypatch):
        folder, killed = tmp_path / 'run', tmp_path / 'killed'
        replace = os.replace

        def observed(source, target):
            replace(source, target)
            if os.path.basename(target) == 'epoch_2.pth':
                shutil.copytree(folder, killed)

        monkeypatch.setattr(os, 'replace', observed)
        run(folder, 2, hook=dict(max_keep_ckpts=1))
        names = {path.name for path in killed.glob('*.pth')}
        assert names == {'epoch_1.pth', 'epoch_2.pth'}
        run(killed, 3, resume=True, hook=dict(max_keep_ckpts=1))
        assert [path.name for path in killed.glob('*.pth')] == ['epoch_3.pth']

    def test_full_disk_leaves_the_checkpoint_before(self, tmp_path, monkeypatch):
        fill_disk(monkeypatch, 'epoch_3')
        with pytest.raises(OSError, match='No space left'):
            run(tmp_path / 'run', 3, hook=dict(max_keep_ckpts=1))
        assert [p.name for p in (tmp_path / 'run').glob('*.pth')] == ['epoch_2.pth']
        last = (tmp_path / 'run/last_checkpoint').read_text()
        assert last == latest_checkpoint(str(tmp_path / 'run'))

    def test_a_hook_of_ones_own_stays(self):
        class Own(MMEngineCheckpointHook):
            pass

        for kind, expected in ((Own, Own), (MMEngineCheckpointHook, CheckpointHook)):
            assert saving_safely(dict(type=kind))['type'] is expected
