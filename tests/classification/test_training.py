import math
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from mmengine.optim import OptimWrapper
from timm.data import Mixup, create_dataset, create_transform
from timm.data.distributed_sampler import RepeatAugSampler
from timm.loss import SoftTargetCrossEntropy
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from timm.utils.agc import adaptive_clip_grad
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mmrecnext import RecNeXt
from mmrecnext.checkpoint import load_pretrained, read_checkpoint
from mmrecnext.classification import loading
from mmrecnext.classification.registration import chosen_weights
from mmrecnext.classification.training import AveragedWeightsHook, ImageClassifier
from mmrecnext.engine.build import build_runner
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.runner import SeedHook
from mmrecnext.errors import CheckpointError, ConfigError, OptionError
from mmrecnext.models.classifier import RecNeXtClassifier
from tests.classification.helpers import BASE, DISTILLED, SIZE, config, train
from tests.classification.toy import make_toy
from tests.helpers import ROOT, SERVER, TINY

STEPS = 5  # of an epoch: 40 pictures in batches of 8
MIXUP = dict(mixup_alpha=0.8, cutmix_alpha=1.0)
EPOCH = {'train_cfg.max_epochs': 1, 'train_cfg.val_begin': 2}
"""One epoch, and nothing evaluated."""


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp('toy')
    make_toy(folder, size=40)
    return folder


def test_averages_take_in_what_a_step_makes_of_several_batches():
    model = torch.nn.Module()
    model.backbone, model.evaluated = torch.nn.Linear(1, 1), {}
    sgd = torch.optim.SGD(model.parameters(), 1.0)
    wrapper = OptimWrapper(sgd, accumulative_counts=2)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
    hook = AveragedWeightsHook(decay=0.5)
    hook.before_run(runner)
    hook.before_train(runner)
    expected = model.backbone.weight.item()
    for step in range(4):
        wrapper.update_params(model.backbone(torch.ones(1)).sum())
        hook.after_train_iter(runner, step)
        if step % 2:
            expected = (expected + model.backbone.weight.item()) / 2
    assert hook.average.module.weight.item() == pytest.approx(expected)


@pytest.fixture(scope='module')
def trained(toy, tmp_path_factory):
    """Two epochs: the runner, its losses, its work dir."""
    work_dir = tmp_path_factory.mktemp('trained')
    return (*train(toy, work_dir), work_dir)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """Weights of a teacher of 20 classes, where no hub is to be asked."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    weights = timm.create_model('test_resnet', num_classes=20).state_dict()
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in weights.items()}}, path)
    return dict(model='test_resnet', checkpoint=str(path)), weights


def saved(folder, epoch=2):
    return read_checkpoint(str(folder / f'epoch_{epoch}.pth'), 'cpu')


def test_a_training_is_that_of_a_plain_loop(toy, trained, tmp_path):
    """One that is made of timm's parts alone, but for the seeds of our runs."""
    runner, losses, work_dir = trained
    model = build_runner(config(toy, tmp_path)).model.backbone
    data = create_dataset('', str(toy), 'train', is_training=True)
    data.transform = create_transform(
        SIZE,
        is_training=True,
        auto_augment='rand-m9-mstd0.5-inc1',
        interpolation='bicubic',
        re_prob=0.25,
        re_mode='pixel',
        re_count=1,
    )
    sampler = RepeatAugSampler(data, num_replicas=1, rank=0, num_repeats=3)
    loader = DataLoader(data, 8, sampler=sampler, drop_last=True)
    mixup = Mixup(0.8, 1.0, prob=1.0, switch_prob=0.5, num_classes=20)
    optimizer = torch.optim.AdamW(param_groups_weight_decay(model, 0.025), lr=1e-3)
    average = ModelEmaV3(model, decay=0.9, exclude_buffers=True)
    found: dict = {}
    for epoch in range(2):
        for generator in (random.seed, np.random.seed, torch.manual_seed):
            generator(SeedHook.seed(runner, epoch))
        sampler.set_epoch(epoch)
        model.train()
        for images, labels in loader:
            torch.manual_seed(SeedHook.seed(runner, len(found)))
            images, targets = mixup(images, labels)
            loss = SoftTargetCrossEntropy()(model(images), targets)
            found[len(found)] = loss.item()
            optimizer.zero_grad()
            loss.backward()
            adaptive_clip_grad(model.parameters(), 0.02, eps=1e-3)
            optimizer.step()
            average.update(model)
    assert found.keys() == losses.keys() == {*range(2 * STEPS)}
    assert losses == pytest.approx(found, rel=1e-6)
    for averaged, other in ((False, model), (True, average.module)):
        weights = chosen_weights(saved(work_dir), averaged)
        torch.testing.assert_close(weights, dict(other.state_dict()))


def test_figures_are_of_both_networks(toy, trained):
    runner, _, work_dir = trained
    history = runner.message_hub.log_scalars
    transform = create_transform(SIZE, interpolation='bicubic', crop_pct=224 / 256)
    data = create_dataset('', str(toy), 'val', transform=transform)
    images, labels = next(iter(DataLoader(data, len(data))))
    model = RecNeXtClassifier(TINY, num_classes=20).eval()
    for prefix, averaged in (('', False), ('ema_', True)):
        model.load_state_dict(chosen_weights(saved(work_dir), averaged))
        with torch.no_grad():
            logits = model(images)
        hits = logits.argsort(1, descending=True) == labels[:, None]
        for k in (1, 5):
            right = 100 * hits[:, :k].any(1).float().mean().item()
            figure = history[f'val/{prefix}top{k}'].current()
            assert figure == pytest.approx(right)
        loss = F.cross_entropy(logits, labels).item()
        assert history[f'val/{prefix}loss'].current() == pytest.approx(loss, rel=1e-4)
    best = runner.message_hub.get_info('best_score')
    assert best == max(history['val/top1'].data[0])
    assert len([*work_dir.glob('best_top1_epoch_*.pth')]) == 1


def test_a_killed_run_goes_on_as_if_it_had_not(toy, trained, tmp_path):
    _, whole, work_dir = trained
    command = '-m', 'tests.classification.helpers', toy, tmp_path, STEPS + 2
    assert SERVER.run(command, ROOT).returncode == -signal.SIGKILL
    assert not (tmp_path / 'epoch_2.pth').exists()
    _, resumed = train(toy, tmp_path, resume=True)
    assert resumed.keys() == {*range(STEPS, 2 * STEPS)}
    assert resumed == pytest.approx({i: whole[i] for i in resumed}, rel=1e-5)
    for name in ('state_dict', 'state_dict_ema'):
        torch.testing.assert_close(saved(tmp_path)[name], saved(work_dir)[name])


@pytest.mark.parametrize('file', [BASE, DISTILLED], ids=['base', 'distilled'])
def test_mixed_precision(file, toy, trained, teacher, tmp_path):
    options = dict(EPOCH)
    if file == DISTILLED:
        options |= {f'model.teacher.{k}': v for k, v in teacher[0].items()}
    runner, losses = train(toy, tmp_path, file, amp=True, **options)
    assert len(losses) == STEPS and all(map(math.isfinite, losses.values()))
    assert {p.dtype for p in runner.model.parameters()} == {torch.float32}
    if file == BASE:
        whole = trained[1]
        assert losses == pytest.approx({i: whole[i] for i in losses}, rel=0.02)
        assert losses != pytest.approx({i: whole[i] for i in losses}, rel=1e-5)


def test_a_checkpoint_begins_a_detector(trained):
    path = trained[2] / 'epoch_2.pth'
    backbone = RecNeXt(TINY)
    load_pretrained(backbone, str(path))
    weights = saved(trained[2])['state_dict']
    assert all(key.startswith('backbone.') for key in weights)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, weights[f'backbone.{key}'])


def test_a_teacher_is_neither_trained_nor_saved(toy, teacher, tmp_path):
    teacher, wanted = teacher
    options = {f'model.teacher.{k}': v for k, v in teacher.items()}
    runner, losses = train(toy, tmp_path, DISTILLED, **options, **EPOCH)
    assert len(losses) == STEPS
    checkpoint = saved(tmp_path, 1)
    own = RecNeXtClassifier(TINY, num_classes=20).state_dict()
    for averaged in (False, True):
        assert chosen_weights(checkpoint, averaged).keys() == own.keys()
    torch.testing.assert_close(
        dict(runner.model.teacher.network.state_dict()), wanted, rtol=0, atol=0
    )


@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_the_loss_of_a_teacher(kind, teacher):
    """One head learns from the labels, the other from the teacher; both see mixed."""
    torch.manual_seed(0)
    teacher, weights = teacher
    options = dict(teacher, kind=kind, weight=0.3, temperature=2.0)
    model = ImageClassifier(TINY, 20, MIXUP, teacher=options).train()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([1, 5, 5, 19])
    np.random.seed(0)
    losses = model(images.clone(), labels, 'loss')

    np.random.seed(0)
    images, targets = Mixup(**MIXUP, num_classes=20)(images, labels)
    other = timm.create_model('test_resnet', num_classes=20).eval()
    other.load_state_dict(weights)
    with torch.no_grad():
        wanted = other(images)
    head, head_dist = model.backbone(images)
    if kind == 'hard':
        expected = F.cross_entropy(head_dist, wanted.argmax(1))
    else:
        log_q, p = (head_dist / 2).log_softmax(1), (wanted / 2).softmax(1)
        expected = (p * (p.log() - log_q)).sum() * 2.0**2 / head_dist.numel()
    torch.testing.assert_close(losses['loss_teacher'], 0.3 * expected)
    expected = -(targets * head.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(losses['loss_labels'], 0.7 * expected)


def test_a_loss_that_is_not_finite_stops_the_run(toy, tmp_path):
    cfg = config(toy, tmp_path)
    runner = build_runner(cfg)
    torch.nn.init.constant_(runner.model.backbone.head.head.linear.bias, float('nan'))
    with pytest.raises(ConfigError, match='the loss is nan in epoch 1, iteration 1:'):
        runner.train()


@pytest.mark.parametrize(
    'options, error',
    [
        ({'train_dataloader.batch_size': 7}, 'batch_size is even.*got 7'),
        ({'train_dataloader.batch_size': 64}, 'batch_size=64 is more than the 40'),
        ({'model.num_classes': 3}, 'pictures of 20 classes, and model.num_classes=3'),
    ],
)
def test_what_cannot_be_trained_is_told(options, error, toy, tmp_path):
    with pytest.raises(ConfigError, match=error):
        train(toy, tmp_path, **options)


def test_other_classes_to_validate_on_are_told(toy, tmp_path):
    data = tmp_path / 'data'
    make_toy(data, 1, size=8)
    (data / 'val/red_plain').rename(data / 'val/pink_plain')
    with pytest.raises(ConfigError, match=r'other classes.*pink_plain, red_plain'):
        train(data, tmp_path / 'work', **{'train_dataloader.batch_size': 2})


def test_what_is_no_model_is_told(teacher):
    with pytest.raises(OptionError, match="a model 'm33'; did you mean m3"):
        ImageClassifier('m33', 20, MIXUP)
    with pytest.raises(OptionError, match='test_resnet has no head that learns'):
        ImageClassifier('test_resnet', 20, MIXUP, teacher=teacher[0])
    with pytest.raises(OptionError, match=r'teacher.kind is hard or soft, got .tender'):
        ImageClassifier(TINY, 20, MIXUP, teacher=dict(teacher[0], kind='tender'))
    with pytest.raises(
        CheckpointError, match=r'test_resnet for 3 classes from .*teacher\.pth'
    ):
        ImageClassifier(TINY, 3, MIXUP, teacher=teacher[0])
    missing = dict(model='test_resnet', checkpoint='none.pth')
    with pytest.raises(CheckpointError, match=r'none\.pth'):
        ImageClassifier(TINY, 3, MIXUP, teacher=missing)


def test_other_tools_say_which_ones_are_for_classifiers():
    with pytest.raises(ConfigError, match='those of classifiers are for train, eval'):
        load_config(str(BASE))


def test_a_schedule_of_another_length_is_told(toy, tmp_path):
    options = {'param_scheduler.epochs': 300, 'train_dataloader.batch_size': 40}
    runner, _ = train(toy, tmp_path, **EPOCH, **options)
    (log,) = tmp_path.glob('*/*.log')
    assert 'The learning rate is for 300 epochs' in log.read_text()
    # Epoch 0 is at the rate that the warm-up begins with, whatever the length.
    assert runner.optim_wrapper.get_lr()['lr'] == [1e-3, 1e-3]


def test_new_heads_are_told(trained, monkeypatch):
    said = []
    monkeypatch.setattr(loading, 'print_log', lambda text, **_: said.append(text))
    path = str(trained[2] / 'epoch_2.pth')
    weights = saved(trained[2])['state_dict']
    for classes, told in ((20, 'heads included'), (3, 'new heads: of 3 classes')):
        model = ImageClassifier(TINY, classes, MIXUP, pretrained=path)
        before = model.backbone.head.head.linear.weight.clone()
        model.init_weights()
        assert told in said[-1]
        after = model.backbone.state_dict()
        for key, value in after.items():
            if not key.startswith('head.') or classes == 20:
                assert torch.equal(value, weights[f'backbone.{key}'])
        kept = torch.equal(before, after['head.head.linear.weight'])
        assert kept == (classes == 3)
