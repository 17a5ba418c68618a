"""TorchScript archives: their weights are read, their code is not run."""

import pickle
import zipfile

import pytest
import torch
from torch import nn

from mmrecnext.checkpoint.files import read_file
from mmrecnext.errors import CheckpointError


class Odd(nn.Module):
    """Tensors of many kinds, beside values of other types."""

    sizes: list[int]
    names: dict[str, int]

    def __init__(self):
        super().__init__()
        self.sizes = [3, 4]
        self.names = {'a': 1}
        whole = torch.arange(24.0).reshape(4, 6)
        self.register_buffer('whole', whole)
        self.register_buffer('part', whole[1:3, ::2])
        self.register_buffer('turned', whole.T)
        self.register_buffer('empty', torch.zeros(0, 3))
        for dtype in ('bfloat16', 'float16', 'float64', 'int64', 'uint8', 'bool'):
            value = torch.ones(2, dtype=getattr(torch, dtype))
            self.register_buffer(f'of_{dtype}', value)
        self.inner = nn.ModuleList([nn.Linear(2, 3), nn.BatchNorm1d(3)])

    def forward(self, x):
        return x + self.sizes[0] + self.names['a']


class WritesFile(nn.Module):
    """Its archive runs code when it is loaded."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        torch.save(torch.ones(1), state[0])
        self.path = state[0]
        self.training = state[1]

    def forward(self, x):
        return x


@pytest.fixture
def archive(tmp_path):
    torch.jit.script(Odd()).save(tmp_path / 'odd.pt')
    return tmp_path / 'odd.pt'


def edit(file, change):
    """Change the records of an archive, a dict by their names without the folder."""
    with zipfile.ZipFile(file) as old:
        root = old.namelist()[0].split('/')[0]
        records = {n.removeprefix(f'{root}/'): old.read(n) for n in old.namelist()}
    compression = change(records) or zipfile.ZIP_STORED
    with zipfile.ZipFile(file, 'w', compression) as new:
        for name, content in records.items():
            new.writestr(f'{root}/{name}', content)


def test_weights_are_those_of_the_module(archive):
    expected = torch.jit.load(archive).state_dict()
    found = read_file(archive)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and found[key].equal(value), key


@pytest.mark.parametrize(
    ('module', 'name'),
    [('builtins', 'print'), ('os', 'system'), ('torch', 'load'), ('torch.jit', 'load')],
)
def test_other_names_are_refused(archive, module, name):
    def call(records):
        content = f'\x80\x02c{module}\n{name}\n(X\x04\0\0\0exittR.'
        records['data.pkl'] = content.encode('latin1')

    edit(archive, call)
    with pytest.raises(CheckpointError, match=rf'execute code \({module}\.{name}\)'):
        read_file(archive)


def test_code_in_the_archive_is_not_run(tmp_path):
    torch.jit.script(WritesFile(str(tmp_path / 'written'))).save(tmp_path / 'bomb.pt')
    with pytest.raises(CheckpointError, match='refused: it sets the state'):
        read_file(tmp_path / 'bomb.pt')
    assert not (tmp_path / 'written').exists()
    torch.jit.load(tmp_path / 'bomb.pt')  # to see that it would have been
    assert (tmp_path / 'written').exists()


def nothing(records):
    del records['data.pkl']


def cut(records):
    records['data.pkl'] = records['data.pkl'][:-40]


def short(records):
    name = max((n for n in records if n.startswith('data/')), key=lambda n: n)
    records[name] = records[name][:1]


def squeezed(records):
    return zipfile.ZIP_DEFLATED


def a_number(records):
    records['data.pkl'] = pickle.dumps(5)


def a_circle(records):
    """A module that contains itself."""
    module = b'\x80\x02c__torch__\nM\n)\x81q\0}X\x01\0\0\0mh\0sb.'
    records['data.pkl'] = module


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (nothing, 'broken'),
        (cut, 'broken'),
        (short, r'refused: a storage of \d+ numbers has 1 bytes'),
        (squeezed, r'refused: its record \S+ is compressed'),
        (a_number, 'refused: it is a TorchScript archive without a module'),
        (a_circle, 'refused: it holds something that contains itself'),
    ],
)
def test_broken_archives(archive, spoil, message):
    edit(archive, spoil)
    with pytest.raises(CheckpointError, match=rf'odd\.pt is {message}'):
        read_file(archive)


def test_truncated_archive(archive):
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r'odd\.pt is broken or cut short'):
        read_file(archive)
