"""Published results as the metafile holds them, and the pages written from it."""

import json
from pathlib import Path

import pytest

from mmrecnext.errors import ConfigError
from tests.helpers import DATA, ROOT, check, run_main, run_tool, tool

model_zoo = tool('model_zoo')

PUBLISHED = json.loads((DATA / 'published.json').read_text())
METAFILE = model_zoo.read(model_zoo.METAFILE)
PEERS = model_zoo.read(model_zoo.PEERS)
MODELS = {Path(model['Config']).name: model for model in METAFILE['Models']}


def percent(fraction: float) -> float:
    return round(100 * fraction, 2)


@pytest.mark.parametrize('arch', PUBLISHED['mask_rcnn']['results'])
def test_coco_results_are_the_logged_ones(arch):
    model = MODELS[f'mask_rcnn_recnext_{arch}_coco.py']
    logged = PUBLISHED['mask_rcnn']['results'][arch]
    epochs = [tuple(map(percent, aps)) for aps in logged['epochs']]
    best = max(range(12), key=lambda epoch: epochs[epoch][0])
    assert model_zoo.metrics(model) == {
        'box AP': epochs[-1][0],
        'mask AP': epochs[-1][1],
        'box AP (best epoch)': epochs[best][0],
        'mask AP (best epoch)': epochs[best][1],
        **{name: percent(ap) for name, ap in logged['last'].items()},
    }
    assert model['Metadata']['Best Epoch'] == best + 1
    assert model['Metadata']['Training Memory (MB)'] == logged['memory']
    assert model['Weights'] == logged['checkpoint']
    assert [result['Task'] for result in model['Results']] == [
        'Object Detection',
        'Instance Segmentation',
    ]


@pytest.mark.parametrize('arch', PUBLISHED['sem_fpn']['results'])
def test_ade20k_results_are_the_logged_ones(arch):
    model = MODELS[f'sem_fpn_recnext_{arch}_ade20k.py']
    logged = PUBLISHED['sem_fpn']['results'][arch]
    evaluations = list(map(percent, logged['evaluations']))
    best = max(range(10), key=evaluations.__getitem__)
    assert model_zoo.metrics(model) == {
        'mIoU': evaluations[-1],
        'mIoU (best evaluation)': evaluations[best],
    }
    assert model['Metadata']['Best Iteration'] == 8000 * (best + 1)
    assert model['Metadata']['Training Memory (MB)'] == logged['memory']
    assert model['Weights'] == logged['checkpoint']


def test_nothing_else_has_results_or_weights():
    coco, ade20k = (PUBLISHED[kind]['results'] for kind in ('mask_rcnn', 'sem_fpn'))
    published = {f'mask_rcnn_recnext_{arch}_coco.py' for arch in coco}
    published |= {f'sem_fpn_recnext_{arch}_ade20k.py' for arch in ade20k}
    for key in ('Results', 'Weights'):
        assert {name for name, model in MODELS.items() if key in model} == published


def test_peers_are_as_published():
    coco = {n: [m['box AP'], m['mask AP']] for n, m in PEERS.items()}
    assert coco == PUBLISHED['peers']['mask_rcnn']
    ade20k = {n: m['mIoU'] for n, m in PEERS.items() if 'mIoU' in m}
    assert ade20k == PUBLISHED['peers']['sem_fpn']


def test_configs_are_measured_whose_families_are_listed():
    configs = [str(file.relative_to(ROOT)) for file in model_zoo.list_configs()]
    assert configs == [model['Config'] for model in METAFILE['Models']]


def test_collections_and_files_exist():
    names = {collection['Name'] for collection in METAFILE['Collections']}
    assert {model['In Collection'] for model in METAFILE['Models']} == names
    for collection in METAFILE['Collections']:
        assert (ROOT / collection['README']).is_file()
    index = model_zoo.read(ROOT / 'model-index.yml')
    assert index == {'Import': ['configs/metafile.yml']}


@pytest.mark.slow
def test_pages_are_up_to_date():
    check(run_tool('tools/model_zoo.py', '--check'))


def test_outdated_pages_are_noticed(monkeypatch, tmp_path):
    for name in ('README', 'DOCUMENT'):
        copy = tmp_path / getattr(model_zoo, name).name
        copy.write_text(getattr(model_zoo, name).read_text())
        monkeypatch.setattr(model_zoo, name, copy)
    run_main(model_zoo, monkeypatch, '--check')
    for page in (model_zoo.README, model_zoo.DOCUMENT):
        text = page.read_text()
        page.write_text(text.replace('41.74', '41.75'))
        with pytest.raises(ConfigError, match=f'{page.name} is out of date'):
            run_main(model_zoo, monkeypatch, '--check')
        run_main(model_zoo, monkeypatch)
        assert page.read_text() == text


def test_a_readme_without_the_marks_is_named(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match='lacks the lines'):
        model_zoo.replace_section('no marks', 'section')


def test_readme_says_whose_and_which_the_numbers_are():
    readme = model_zoo.README.read_text()
    section = readme.partition(model_zoo.BEGIN)[2].partition(model_zoo.END)[0]
    assert section.strip() == model_zoo.summary(METAFILE, PEERS)
    rows = {
        cells[0]: cells[1:]
        for cells in (
            [cell.strip() for cell in line.strip('|').split('|')]
            for line in section.splitlines()
            if line.startswith('| ')
        )
    }
    boxes, masks = ['44.06', '65.19', '48.22'], ['40.11', '62.49', '43.17']
    assert rows['RecNeXt-M5'] == [*boxes, *masks, '44.62, 40.59 (9)', '46.01', '']
    boxes, masks = ['44.6', '', ''], ['40.8', '', '']
    assert rows['RepViT-M2.3'] == [*boxes, *masks, '', '', '46.1']
    assert {*rows} >= {*PEERS}
    for words in ("the authors' numbers", 'best', 'twice the peers'):
        assert words in ' '.join(section.split())


@pytest.mark.slow
def test_measured_entries_keep_results(monkeypatch):
    """A config's entry, measured again, is the entry in the metafile."""
    config = 'configs/mask_rcnn_recnext_m3_coco.py'
    known = {model['Config']: model for model in METAFILE['Models']}
    assert model_zoo.entry(ROOT / config, known) == known[config]
    new = model_zoo.entry(ROOT / config, {})
    assert new.keys() == {'Name', 'In Collection', 'Config', 'Metadata'}
    assert new['Metadata'].items() <= known[config]['Metadata'].items()
