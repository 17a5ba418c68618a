import itertools
import json
import runpy
from dataclasses import replace
from types import SimpleNamespace

import cv2
import pytest
import torch
from torch import nn

from mmrecnext.archs import ARCHS
from mmrecnext.benchmark.accuracy import box_ap, top1
from mmrecnext.benchmark.cases import Case, grid
from mmrecnext.benchmark.detector import (
    PARTS,
    PartClock,
    build_detector,
    detector_calls,
)
from mmrecnext.benchmark.growth import growth_table, measure_growth
from mmrecnext.benchmark.measure import count_flops, measure, peak_bytes, saved_bytes
from mmrecnext.benchmark.original import Original, original_of
from mmrecnext.benchmark.pictures import draw_growth, keep_labels_apart, new_figure
from mmrecnext.benchmark.startup import STEPS, measure_startup, startup_rows
from mmrecnext.benchmark.workloads import Workload, build_backbone, compiled
from mmrecnext.errors import OptionError
from mmrecnext.models import RecNeXt
from mmrecnext.pretrained import FIGURES
from mmrecnext_autoload.choices import WORKS
from tests.helpers import ROOT, SMALL, check, golden_tensor, run_tool


@pytest.fixture(params=SMALL)
def backbone(request):
    """A small network of each series, with golden weights."""
    model = RecNeXt(SMALL[request.param]).eval()
    state = model.state_dict()
    model.load_state_dict({k: golden_tensor(k, v.shape) for k, v in state.items()})
    return model


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('shape', [(64, 96), (70, 33)])
def test_original_computes_the_same(backbone, fused, shape):
    images = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    original = original_of(backbone, fused)
    with torch.no_grad():
        maps = original(images), backbone(images)
    for theirs, ours in zip(*maps, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.std()


@pytest.mark.parametrize('arch', FIGURES)
def test_original_has_the_published_keys(arch, golden_states):
    for form in ('train', 'fused'):
        with torch.device('meta'):
            original = Original(ARCHS[arch], fused=form == 'fused')
        state = {k: list(v.shape) for k, v in original.state_dict().items()}
        published = golden_states[f'recnext_{arch}'][form]
        assert state == {k: s for k, s in published if not k.startswith('head')}


def test_cases_are_what_has_a_meaning():
    cases = grid(['m3', 'resnet50'], modes=['eager', 'frozen'], works=WORKS)
    ways = {(c.model, c.form, c.layout, c.mode, c.work) for c in cases}
    assert len(ways) == len(cases)
    assert ways == {
        ('m3', 'original', 'nchw', 'eager', 'forward'),
        ('m3', 'original', 'nchw', 'frozen', 'forward'),
        ('m3', 'deploy', 'nhwc', 'eager', 'forward'),
        ('m3', 'deploy', 'nhwc', 'frozen', 'forward'),
        ('resnet50', 'deploy', 'nhwc', 'eager', 'forward'),
        ('resnet50', 'deploy', 'nhwc', 'frozen', 'forward'),
        ('m3', 'original', 'nchw', 'eager', 'step'),
        ('m3', 'original', 'nchw', 'compiled', 'step'),
        ('m3', 'train', 'nhwc', 'eager', 'step'),
        ('m3', 'train', 'nhwc', 'compiled', 'step'),
        ('resnet50', 'train', 'nhwc', 'eager', 'step'),
        ('resnet50', 'train', 'nhwc', 'compiled', 'step'),
    }


def test_unknown_models_are_refused():
    with pytest.raises(OptionError, match='repvit_m1_1'):
        grid(['repvit_m11'])


def test_saved_bytes_count_each_storage_once():
    layer = nn.Conv2d(4, 4, 1)
    x = torch.zeros(1, 4, 8, 8, requires_grad=True)

    def forward():
        y = layer(x)  # saves x
        return (y * y[:, :2].repeat(1, 2, 1, 1)).sum()  # saves y and a copy of it

    workload = Workload(forward, torch.Tensor.backward, layer, 'cpu')
    assert saved_bytes(workload) == 3 * x.nbytes


def test_peak_bytes_are_those_held_at_once():
    def forward():
        for _ in range(3):
            a = torch.empty(1000)
            b = torch.empty(3000)
            del a, b

    assert peak_bytes(Workload(forward, None, nn.Identity(), 'cpu')) == 16000


@pytest.mark.slow
def test_operations_do_not_depend_on_the_way():
    case = Case('m3')
    assert count_flops(case) == pytest.approx(59e9, rel=0.01)
    assert count_flops(replace(case, form='original', batch=2)) == 2 * count_flops(case)
    assert count_flops(replace(case, work='step')) == 3 * count_flops(case)


@pytest.mark.slow
def test_constant_weights_compute_the_same():
    layer = nn.Conv2d(4, 4, 3)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = layer(x)
        torch.testing.assert_close(compiled(layer, 'frozen')(x), expected)


def test_peers_are_folded():
    for name in ('repvit_m0_9', 'resnet18'):
        norms = (
            sum(isinstance(m, nn.BatchNorm2d) for m in build_backbone(case).modules())
            for case in (Case(name, 'deploy'), Case(name, 'train'))
        )
        folded, unfolded = norms
        assert folded == 0 < unfolded


@pytest.mark.slow
def test_tool(tmp_path):
    out = tmp_path / 'figures.json'
    picture = tmp_path / 'picture.png'
    options = ['--shape', 64, '--batch', 1, 2, '--work', 'forward', 'step']
    result = run_tool(
        *('tools/benchmark.py', 'm0', *options, '--repeats', 3, '--markdown'),
        *('--out', out, '--picture', picture),
    )
    assert result.returncode == 0, result.stderr
    assert '| m0 | original | nchw |' in result.stdout
    assert cv2.imread(str(picture)).std() > 0
    data = json.loads(out.read_text())
    assert set(data['matmul_rates']) == {'fp32'}
    found = data['results']
    assert len(found) == 2 * 2 * 2
    for each in found:
        assert len(each['seconds']) == 3
        assert min(each['seconds']) <= each['median'] <= max(each['seconds'])
        assert each['peak_bytes'] > 0
        assert (each['saved_bytes'] is None) == (each['case']['work'] == 'forward')
        assert each['images_per_second'] == each['case']['batch'] / each['median']
        base = next(
            e['median']
            for e in found
            if e['case'] == {**each['case'], 'form': 'original', 'layout': 'nchw'}
        )
        assert each['speedup'] == base / each['median']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['nonsense'], "unknown model 'nonsense'"),
        (['m0', '--shape', '1', '2', '3'], '--shape takes one or two sides'),
        (['m0', '--batch', '0'], '--batch is 1 or more'),
        (['m0', '--repeats', '0'], '--repeats is 1 or more'),
        (['m0', '--device', 'gpu'], '--device gpu cannot be used'),
        (['m0', '--checkpoint', 'none.pth'], 'there is no checkpoint none.pth'),
        (['m0', '--checkpoint', __file__], '--checkpoint is for the model of a config'),
        (['m0', '--out', 'none/x.json'], '--out none/x.json: there is no such folder'),
        (['resnet18', '--form', 'original'], 'only a RecNeXt has an original'),
        (['resnet18', '--growth'], 'take RecNeXts'),
        (['m0', '--picture', 'picture.bmp'], 'ends in .png or .svg'),
    ],
)
def test_tool_explains_bad_options(options, message, monkeypatch):
    monkeypatch.setattr('sys.argv', ['benchmark.py', *options])
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(ROOT / 'tools/benchmark.py'), run_name='__main__')


@pytest.mark.slow
def test_tool_in_several_dtypes(tmp_path):
    out = tmp_path / 'figures.json'
    options = ['--shape', 64, '--batch', 1, '--dtype', 'fp32', 'bf16', '--repeats', 1]
    check(run_tool('tools/benchmark.py', 'm0', *options, '--out', out))
    data = json.loads(out.read_text())
    assert set(data['matmul_rates']) == {'fp32', 'bf16'}
    assert {r['case']['dtype'] for r in data['results']} == {'fp32', 'bf16'}


def test_published_accuracies_are_found():
    assert (top1('m3'), box_ap('recnext_m3')) == (80.9, 41.74)
    assert (top1('resnet50'), box_ap('resnet50')) == (76.1, 38.2)
    assert (top1('resnet18'), box_ap('resnet18'), box_ap('m0')) == (None, None, None)


@pytest.mark.slow
def test_growth_is_per_pixel(tmp_path):
    sides, batches = (64, 128), (1, 2)
    cases = [Case(model) for model in ('m0', 't')]
    report = measure_growth(cases, 'cpu', 1, sides, batches)
    ways = [(r.case.model, r.case.shape[0], r.case.batch) for r in report.results]
    assert ways == [
        (m, *way) for m in ('m0', 't') for way in ((64, 1), (128, 1), (64, 2))
    ]
    for result in report.results:
        result.seconds = [result.case.pixels * 2e-9, result.case.pixels * 4e-9]
        result.peak_bytes = result.case.pixels * 10
    report.results[1].seconds = [128 * 128 * 6e-9]
    _, columns, body = growth_table(report.results)
    assert columns == [
        *('model', '1 x 64²', '1 x 128²', '2 x 64²', '128²/128², time', 'memory')
    ]
    assert body == [
        ('m0', '3', '6', '3', '1.00', '1.00'),
        ('t', '3', '3', '3', '1.00', '1.00'),
    ]
    draw_growth(report.results, str(tmp_path / 'growth.png'), 'a machine')
    assert cv2.imread(str(tmp_path / 'growth.png')).std() > 0


@pytest.mark.slow
def test_startup_counts_each_step_in_a_fresh_process():
    found = measure_startup(['m0'], repeats=1, clock='process')
    assert len(found['m0']) == 1 and len(found['m0'][0]) == len(STEPS)
    columns, rows = startup_rows({'m0': [[1.0, 2.0, 3.0, 4.0], [3.0, 1.0, 2.0, 8.0]]})
    assert len(columns) == len(rows[0])
    assert [row[1:] for row in rows] == [
        ('1.000', '3.000'),
        ('1.000', '2.000'),
        ('2.000', '3.000'),
        ('4.000', '8.000'),
    ]
    assert rows[-1][0] == "mmrecnext.RecNeXt('m0')"


@pytest.mark.slow
@pytest.mark.parametrize(
    'config', ['mask_rcnn_recnext_m0_shapes.py', 'sem_fpn_recnext_m0_shapes.py']
)
def test_time_of_a_detector_divides_into_its_parts(config):
    cases = grid([config], works=WORKS, shape=(64, 96))
    results = measure(cases, repeats=1).results
    forms = [(r.case.work, r.case.form) for r in results]
    assert forms == [
        *(('forward', 'original'), ('forward', 'deploy')),
        *(('step', 'original'), ('step', 'train')),
    ]
    for result in results[:2]:
        assert set(result.parts) == set(PARTS)
        assert all(seconds > 0 for seconds in result.parts.values())
    for result in results[2:]:
        assert not result.parts
        assert result.saved_bytes > 0


def test_deployed_detector_is_measured_in_the_precision_of_the_tools():
    case = Case('sem_fpn_recnext_m0_shapes.py', dtype='bf16', shape=(64, 96))
    model = build_detector(case)
    detector_calls(model, case, 'cpu')
    with torch.no_grad():
        maps = model.backbone(torch.rand(1, 3, 64, 96))
        logits = model.decode_head(model.neck(maps))
    assert (maps[0].dtype, logits.dtype) == (torch.bfloat16, torch.float32)


def test_a_moment_counts_for_the_innermost_part(monkeypatch):
    now = [0.0]

    def spend(x, seconds):
        now[0] += seconds
        return x

    class Head(nn.Module):
        def forward(self, x):
            return spend(x, 2)

        def predict(self, x):
            return self.predict_by_feat(self(spend(x, 1)))

        def predict_by_feat(self, x):
            return spend(x, 8)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Identity()
            self.head = Head()

        def predict(self):
            return spend(self.head.predict(self.backbone(0)), 16)

    monkeypatch.setattr(
        'mmrecnext.benchmark.detector.time',
        SimpleNamespace(perf_counter=lambda: now[0]),
    )
    model = Model()
    clock = PartClock(model, lambda: None)
    for _ in range(2):
        assert clock.run(model.predict) == {
            'backbone': 0,
            'neck': 0,
            'heads': 1 + 2,
            'post-processing': 8 + 16,
        }


def test_labels_of_one_panel_are_kept_apart():
    figure = new_figure(4, 3)
    axes = figure.subplots()
    for name in ('M2', 'M3', 'M4', 'A3'):
        axes.annotate(name, (0.5, 0.5), xytext=(5, 0), textcoords='offset points')
    keep_labels_apart(figure)
    boxes = [text.get_window_extent() for text in axes.texts]
    pairs = itertools.combinations(boxes, 2)
    assert not any(one.overlaps(other) for one, other in pairs)
