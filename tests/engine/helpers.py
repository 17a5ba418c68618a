"""A small run that can be stopped and resumed."""

import copy
from itertools import count

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from mmrecnext.engine.runner import Runner

names = (f'run{i}' for i in count())


class Numbers(Dataset):
    """Eight samples: four batches of two."""

    metainfo = {'classes': ('number',)}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {'x': torch.tensor([index / 8, 1.0])}


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x, mode='loss'):
        y = self.layers(x)
        return {'loss': (y - x[:, :1]).square().mean()} if mode == 'loss' else [y]


class Given(BaseMetric):
    """The scores of one validation after another."""

    def __init__(self, scores):
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict.fromkeys(['score', 'other'], next(self.scores))


class Watch(Hook):
    """Keeps the learning rate of each step, and the parameters at the end."""

    def before_run(self, runner):
        self.rates, self.losses = {}, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates[runner.iter] = [g['lr'] for g in runner.optim_wrapper.param_groups]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = outputs['loss'].item()


COSINE = [dict(type='CosineAnnealingLR', T_max=6, end=6, eta_min=1e-5)]


TWO_RATES = dict(custom_keys={'layers.0': dict(lr_mult=0.1)})


def run(
    folder, steps=6, by_epoch=True, optimizer=None, hook=None, hooks=(), **settings
):
    """Train for so many epochs of 4 iterations, or iterations; return what was seen."""
    loader = dict(
        dataset=Numbers(),
        batch_size=2,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    new_schedule = settings.pop('new_schedule', False)
    optimizer = dict(type='AdamW', lr=0.01, **(optimizer or {}))
    saving = dict(type='CheckpointHook', interval=1, by_epoch=by_epoch) | (hook or {})
    watch = Watch()
    defaults = dict(
        model=Net(),
        train_dataloader=loader,
        train_cfg=dict(
            by_epoch=by_epoch, **{'max_epochs' if by_epoch else 'max_iters': steps}
        ),
        optim_wrapper=dict(optimizer=optimizer, paramwise_cfg=TWO_RATES),
        param_scheduler=COSINE,
        default_hooks=dict(checkpoint=saving),
        log_level='WARNING',
        randomness=dict(seed=0),
    )
    if scores := settings.pop('scores', None):
        defaults.update(
            val_dataloader={**loader, 'sampler': dict(type='DefaultSampler')},
            val_cfg={},
            val_evaluator=Evaluator(Given(scores)),
        )
    runner = Runner(
        **copy.deepcopy({**defaults, **settings}),
        work_dir=str(folder),
        custom_hooks=[watch, *hooks],
        experiment_name=next(names),
        default_scope='mmengine',
    )
    runner.new_schedule = new_schedule
    runner.train()
    return watch
