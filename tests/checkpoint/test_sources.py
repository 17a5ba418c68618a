"""Checkpoints by name, URL and hub; nothing is fetched from a network."""

import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from mmrecnext.checkpoint import read_checkpoint
from mmrecnext.checkpoint.sources import check_source, download_path
from mmrecnext.classification import load_classifier
from mmrecnext.errors import CheckpointError
from mmrecnext.pretrained import get_pretrained
from tests.helpers import golden_weights

NAME = 'recnext_m0.base_300e_in1k'
RELEASED = 'recnext_m0_without_distill_300e.pth'


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Folder of downloads; the hub is out of reach, its cache empty."""
    constants = pytest.importorskip('huggingface_hub.constants')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hf'))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    (tmp_path / 'hub/checkpoints').mkdir(parents=True)
    return tmp_path


def cache_on_hub(home, repository, revision='main'):
    """Return the folder where the hub's client keeps a repository's files."""
    cache = home / 'hf' / f'models--{repository.replace("/", "--")}'
    (cache / 'refs').mkdir(parents=True)
    (cache / 'refs' / revision).write_text('0' * 40)
    files = cache / 'snapshots' / ('0' * 40)
    files.mkdir(parents=True)
    return files


def read(name):
    return read_checkpoint(name, 'cpu')


@pytest.mark.parametrize(
    'name',
    [
        NAME,
        'm0.base_300e_in1k',
        f'suous/{NAME}',
        f'hf-hub:suous/{NAME}',
        f'hf_hub:suous/{NAME}',
        get_pretrained(NAME).url,
    ],
)
def test_names_of_published_weights(name, home):
    torch.save({'model': {'x': torch.ones(1)}}, home / 'hub/checkpoints' / RELEASED)
    assert read(name)['model']['x'] == 1


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'x': torch.ones(1)}, 'm0')
    assert read('m0')['x'] == 1


def test_a_classifier_by_name(home, golden_states):
    weights = golden_weights(golden_states, 'm0', head=True)
    torch.save({'model': weights}, home / 'hub/checkpoints' / RELEASED)
    for source in (None, f'hf-hub:suous/{NAME}'):
        model = load_classifier(NAME, source)
        assert all(v.equal(weights[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize('name', [f'suous/{NAME}', 'hf-hub:someone/recnext'])
def test_files_of_the_hub(name, home):
    files = cache_on_hub(home, name.removeprefix('hf-hub:'))
    torch.save({'x': torch.ones(1)}, files / 'pytorch_model.bin')
    assert read(name)['x'] == 1
    save_file({'x': torch.ones(1) * 2}, files / 'model.safetensors')
    assert read(name)['x'] == 2


def test_revisions_of_the_hub(home):
    files = cache_on_hub(home, f'suous/{NAME}', 'v2')
    save_file({'x': torch.ones(1)}, files / 'model.safetensors')
    torch.save({}, home / 'hub/checkpoints' / RELEASED)  # is of no revision
    assert read(f'hf-hub:suous/{NAME}@v2')['x'] == 1
    with pytest.raises(CheckpointError, match='cannot fetch'):
        read(f'hf-hub:suous/{NAME}@v3')


class TestWhatCannotBeFetched:
    def test_hub_out_of_reach(self, home):
        with pytest.raises(CheckpointError) as error:
            read(f'suous/{NAME}')
        message = str(error.value)
        assert f'cannot fetch suous/{NAME} from the hub (' in message
        assert f'releases/download/v1.0/{RELEASED} elsewhere' in message
        assert message.endswith(f'put it at {home / "hub/checkpoints" / RELEASED}')

    def test_hub_out_of_reach_is_tried_once(self, home, monkeypatch):
        import huggingface_hub

        local = []

        def fails(*args, local_files_only=False, **options):
            local.append(local_files_only)
            raise huggingface_hub.errors.LocalEntryNotFoundError('no route')

        monkeypatch.setattr(huggingface_hub, 'hf_hub_download', fails)
        with pytest.raises(CheckpointError, match=r'from the hub \(no route\)'):
            read(f'suous/{NAME}')
        assert local == [False, True]

    @pytest.mark.parametrize('tag', ['', '.base_300e_in1k'])
    def test_timm_says_it_in_a_line(self, tag, home):
        weights = get_pretrained(f'm0{tag}')
        with pytest.raises(CheckpointError) as error:
            timm.create_model(f'recnext_m0{tag}', pretrained=True)
        assert f'cannot fetch {weights.hub_id} from the hub' in str(error.value)
        assert f'Fetch {weights.url} elsewhere' in str(error.value)

    def test_other_repository(self, home):
        with pytest.raises(CheckpointError, match=r'someone/recnext .* give the path'):
            read('hf-hub:someone/recnext')

    def test_no_client(self, home, monkeypatch):
        monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
        message = f'pip install huggingface_hub.*v1.0/{RELEASED} elsewhere'
        with pytest.raises(CheckpointError, match=message):
            read(f'suous/{NAME}')

    @pytest.mark.parametrize(
        ('name', 'message'),
        [
            ('recnext_m9', r'no checkpoint recnext_m9, and .*recnext_m0, recnext_m1'),
            ('m0.in1k', 'no checkpoint m0.in1k, and .*dist_300e_in1k, base_300e_in1k'),
            ('hf-hub:suous/recnext_m9', 'the models are recnext_m0'),
            ('lost/m0.pth', 'no checkpoint lost/m0.pth'),
        ],
    )
    def test_unknown_names(self, name, message):
        with pytest.raises(CheckpointError, match=message):
            read(name)


@pytest.mark.parametrize(
    'name',
    [
        '~nobody-of-this-name/m0.pth',
        'm0\0.pth',
        'x' * 5000,
        's3://bucket/m0.pth',
        'loop',
    ],
)
def test_names_that_no_file_can_have_are_told_in_a_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises(CheckpointError, match=r'there is no checkpoint|cannot be read'):
        read_checkpoint(name)


@pytest.mark.parametrize(
    ('name', 'told'),
    [
        ('run', 'run is a folder; name a file; run has epoch_1.pth, epoch_2.pth'),
        ('run/epoch_3.pth', 'there is no checkpoint run/epoch_3.pth; run has epoch_1'),
        ('none.pth', 'there is no checkpoint none.pth; this folder has no checkpoint'),
        ('gone/none', 'there is no checkpoint gone/none; gone has no checkpoint'),
        ('m3.in1k', 'there is no checkpoint m3.in1k, and no .* the tags of recnext_m3'),
        ('suous/m9', 'there is no checkpoint suous/m9, and no weights .* recnext_m0'),
    ],
)
def test_what_stands_in_the_place_of_a_checkpoint_is_told(
    name, told, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'run').mkdir()
    for file in ('epoch_2.pth', 'epoch_1.pth', 'run.log'):
        (tmp_path / 'run' / file).touch()
    for find in (read_checkpoint, check_source):
        with pytest.raises(CheckpointError, match=f'^{told}'):
            find(name)


def test_two_urls_of_one_name_are_two_files():
    one, other = (f'https://{host}.example/m0.pth' for host in 'ab')
    assert download_path(one, 'x') != download_path(other, 'x')
    queries = (f'https://a.example/get?file={name}.pth' for name in 'ab')
    assert len({download_path(url, 'x') for url in queries}) == 2
    # Where torch.hub keeps them, and where people are told to put them.
    release = get_pretrained('m0').url
    for url in (release, 'https://a.example/resnet50-11ad3fa6.pth'):
        assert download_path(url, 'x').name == url.rpartition('/')[2]
