"""What no checkpoint may do, whoever loads it: run code, corrupt memory, hang.

The files are written by hand, an instruction of pickle's machine at a time.
"""

import os
import pickle
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from mmrecnext import RecNeXt
from mmrecnext.checkpoint import OWN_READER, load_network, read_checkpoint, read_file
from mmrecnext.engine.runner import Runner
from mmrecnext.errors import CheckpointError

HISTORY = 'mmengine.logging.history_buffer', 'HistoryBuffer'


def text(value):
    return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def number(value):
    length = value.bit_length() // 8 + 1
    return b'\x8a' + bytes([length]) + value.to_bytes(length, 'little', signed=True)


def name(module, what):
    return f'c{module}\n{what}\n'.encode()


def values(*parts):
    return b'(' + b''.join(parts) + b't'


def call(function, *args):
    return function + values(*args) + b'R'


def put(place):
    return b'q' + bytes([place])


def get(place):
    return b'h' + bytes([place])


def latin1(content):
    return call(name('_codecs', 'encode'), text(content), text('latin1'))


def storage(kind='FloatStorage', count=4, key='0'):
    parts = text('storage'), name('torch', kind), text(key), text('cpu'), number(count)
    return values(*parts) + b'Q'


def tensor(offset=0, size=(4,), stride=(1,), kind='FloatStorage', count=4):
    size, stride = (values(*map(number, each)) for each in (size, stride))
    rest = b'\x89', name('collections', 'OrderedDict') + b')R'
    function = name('torch._utils', '_rebuild_tensor_v2')
    return call(function, storage(kind, count), number(offset), size, stride, *rest)


def dtype(code, item_size=-1, parts=b'NNN'):
    state = number(3), text('<'), parts, number(item_size), number(-1), number(0)
    return call(name('numpy', 'dtype'), text(code), b'\x89\x88') + values(*state) + b'b'


def array(kind, shape, content):
    empty = name('numpy', 'ndarray'), values(number(0)), latin1('b')
    made = call(name('numpy._core.multiarray', '_reconstruct'), *empty)
    shape = values(*map(number, shape))
    return made + values(number(1), shape, kind, b'\x89', latin1(content)) + b'b'


def history(state):
    return name(*HISTORY) + b')\x81}' + state + b'b'


def log(content='\0' * 16, length=10, **methods):
    numbers = array(dtype('f8'), (2,), content)
    state = text('_log_history') + numbers + text('_count_history') + numbers
    state += text('max_length') + number(length)
    return history(b'(' + state + b'u')


def rebuilt(function, kind, *args):
    """What PyTorch's own list allows, and which calls what it is given."""
    of_type = name('torch._tensor', '_rebuild_from_type_v2')
    return call(of_type, function, kind, values(*args), b'N')


def reach_eval(command):
    """From the methods of a log, over `__globals__`, to `eval`."""
    fetch, log_class = name('builtins', 'getattr'), name(*HISTORY)
    names = b'}(' + text('__class__') + b'K\1' + text('__getattribute__') + b'K\1u'
    steps = (
        history(text('statistics_methods') + names + b's'),
        call(fetch, log_class, text('__class__')) + put(1),
        call(fetch, log_class, text('__getattribute__')) + put(2),
        rebuilt(get(1), get(1), b'}') + put(3),
        rebuilt(get(1), get(1), name('_codecs', 'encode')) + put(4),
        rebuilt(
            get(2), get(3), call(fetch, log_class, text('mean')), text('__globals__')
        )
        + put(5),
        rebuilt(get(2), get(4), get(5), text('get')) + put(6),
        rebuilt(get(6), get(3), text('__builtins__')) + put(7),
        rebuilt(get(2), get(4), get(7), text('get')) + put(8),
        rebuilt(get(8), get(4), text('eval')) + put(9),
        rebuilt(get(9), get(3), text(command)),
    )
    return values(*steps)


WRITE = 'open("written", "w").close() or {}'
ZEROS = '\0' * 16
EXPLOITS = {
    'eval over the methods of a log': reach_eval(WRITE),
    'eval': call(name('builtins', 'eval'), text(WRITE)),
    'eval by protocol 4': text('builtins')
    + text('eval')
    + b'\x93('
    + text(WRITE)
    + b'tR',
    'eval by the instruction INST': b'(' + text(WRITE) + b'ibuiltins\neval\n',
    'eval by the instruction OBJ': b'(' + name('builtins', 'eval') + text(WRITE) + b'o',
    'eval for a tensor': rebuilt(
        name('builtins', 'eval'), name('torch', 'Tensor'), text(WRITE)
    ),
    'eval for a parameter': call(
        name('torch._utils', '_rebuild_parameter'),
        call(name('builtins', 'eval'), text(WRITE)),
        b'\x88N',
    ),
    'eval as what a log has for a method': history(
        text('statistics_methods') + call(name('builtins', 'eval'), text(WRITE)) + b's'
    ),
    'a registered extension': b'\x82\x01',
    'a type by getattr': call(
        name('builtins', 'getattr'), name('torch', 'Tensor'), text('__class__')
    ),
    'attributes of an OrderedDict': call(name('collections', 'OrderedDict'))
    + b'}'
    + text('items')
    + text('x')
    + b'sb',
    'the state of a tensor': tensor() + b'}' + text('data') + b'Nsb',
    'the state of a set': b'\x8f}' + text('x') + b'Nsb',
    'a call of what was made': latin1('x') + b')R',
    'a nested load': call(
        name('torch.storage', '_load_from_bytes'),
        latin1(pickle.dumps(pickle.Pickler).decode('latin1')),
    ),
    'a nested load of torch': call(name('torch', 'load'), text('x.pth')),
    'the class of a module': values(text('module'), name('os', 'system'), b'NN') + b'Q',
    'pointers of the file as objects': call(
        name('numpy', 'ndarray'), values(number(1)), dtype('O'), latin1('A' * 8)
    ),
    'objects rebuilt': array(dtype('O8'), (1,), 'A' * 8),
    'an array made by its class': call(
        name('numpy', 'ndarray'),
        values(number(8)),
        dtype('i8'),
        latin1(ZEROS),
        b'J\xc0\xff\xff\xff',
    ),
    'records of objects': array(
        dtype('V8', parts=b'N' + values(text('x')) + b'}'), (1,), 'A' * 8
    ),
    'text of a negative size': call(
        name('numpy._core.multiarray', 'scalar'), dtype('S8', -1 - 2**31), latin1('A')
    ),
    'text of no letters': array(dtype('U2', 8), (1,), '\xff' * 8),
    'a boolean of another byte': array(dtype('b1'), (2,), '\x02\x02'),
    'an array beyond its bytes': array(dtype('f8'), (2**40,), ZEROS),
    'an array of a negative shape': array(dtype('f8'), (-1,), ZEROS),
    'a log of objects': history(text('_log_history') + b'Ns'),
    'a log of another length': log(length=-1),
    'a tensor beyond its storage': tensor(size=(5,)),
    'a tensor before its storage': tensor(offset=-1),
    'a tensor behind its storage': tensor(offset=1),
    'a tensor with a stride': tensor(size=(2,), stride=(4,)),
    'a tensor with a negative stride': tensor(size=(2,), stride=(-1,)),
    'a tensor that repeats one number': tensor(size=(2**40,), stride=(0,)),
    'a tensor of many dimensions': tensor(size=(1,) * 99, stride=(1,) * 99),
    'a tensor of impossible booleans': tensor(kind='BoolStorage', count=16),
    'a quantized tensor that is none': call(
        name('torch._utils', '_rebuild_tensor_v3'),
        storage() + b'K\0' + values(b'K\4') + values(b'K\1') + b'\x89N',
        name('torch', 'qint8'),
    ),
    'a storage longer than its record': tensor(count=2**40),
    'a storage of a negative length': tensor(count=-1),
    'a storage shorter than its record': tensor(count=2, size=(2,)),
    'a storage by another name': tensor().replace(text('storage'), text('meta')),
    'an empty tensor of a side that none has': tensor(size=(0, 2**62), stride=(1, 1)),
    'an empty tensor of a stride that none has': tensor(size=(0,), stride=(2**64,)),
    'a storage without a key': tensor().replace(text('0'), number(0)),
}
BOMBS = {
    'a nested tuple as a key': b'}'
    + text('a')
    + put(0)
    + b''.join(get(n) + b'\x86' + put(n + 1) for n in range(60))
    + b'K\1s',
    'doubly held lists': b']'
    + put(0)
    + b''.join(b'0](' + get(n) + get(n) + b'e' + put(n + 1) for n in range(60)),
    'deep lists': b']' * 100_000 + b'a' * 99_999,
    'a list in itself': b']' + put(0) + get(0) + b'a',
    'another codec': call(name('_codecs', 'encode'), text('A'), text('hex')),
    'bytes of nothing': call(name('builtins', 'bytearray'), number(2**40)),
    'one array many times': text('A' * 1_600_000)
    + put(0)
    + b'0'
    + b'('
    + 99 * (name('_codecs', 'encode') + b'(' + get(0) + text('latin1') + b'tR')
    + b't',
    'one text many times': text('A' * 100_000) + put(0) + b'0(' + get(0) * 1000 + b't',
    'one tuple as many sets': values(*map(number, range(10_000)))
    + put(0)
    + b'0('
    + 99 * (name('builtins', 'set') + b'(' + get(0) + b'tR')
    + b't',
    'one dict as many states': b'}('
    + b''.join(text(str(n)) + b'N' for n in range(10_000))
    + b'u'
    + put(0)
    + b'0('
    + 99 * (name('argparse', 'Namespace') + b')R' + get(0) + b'b')
    + b't',
    'colliding keys': b'}(' + number(2**400) + b'Nu',
}


def write_zip(path, body, *records, compression=zipfile.ZIP_STORED):
    pickled = b'\x80\x02}' + text('x') + body + b's.'
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for what, content in (
            ('data.pkl', pickled),
            ('version', b'3\n'),
            ('data/0', b'\2' * 16),
            *records,
        ):
            archive.writestr(f'a/{what}', content)


def write_old(path, body):
    keys = b'\x80\x02]' + (text('0') + b'a.' if b'Storage' in body else b'.')
    start = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {})]
    pickled = b'\x80\x02}' + text('x') + body + b's.'
    numbers = struct.pack('<q', 4) + b'\2' * 16
    path.write_bytes(b''.join([*start, pickled, keys, numbers]))


def run_all_readers(path):
    """Load a file in every way that a RecNeXt, our tools or other code load one."""
    pretrained = dict(type='Pretrained', checkpoint=str(path))
    for read in (
        RecNeXt('m0', init_cfg=pretrained).init_weights,
        lambda: load_network(nn.Linear(1, 1), str(path)),
        lambda: read_checkpoint(str(path)),
        lambda: CheckpointLoader.load_checkpoint(
            OWN_READER + str(path), None, 'silent'
        ),
    ):
        with pytest.raises(CheckpointError, match=r'is refused: |is broken'):
            read()
    for read in (
        lambda: CheckpointLoader.load_checkpoint(str(path), None, 'silent'),
        lambda: torch.load(path, weights_only=True),
    ):
        with pytest.raises(Exception):  # noqa: B017 of PyTorch's many
            read()


@pytest.mark.parametrize('case', [k for k in EXPLOITS if k.startswith('eval')])
def test_no_reader_runs_code(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_zip(tmp_path / 'x.pth', EXPLOITS[case])
    run_all_readers(tmp_path / 'x.pth')
    assert not (tmp_path / 'written').exists()


@pytest.mark.parametrize('form', ['zip', 'old'])
@pytest.mark.parametrize('case', EXPLOITS)
def test_exploits_are_refused(case, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write = write_zip if form == 'zip' else write_old
    write(tmp_path / 'x.pth', EXPLOITS[case])
    with pytest.raises(CheckpointError, match=r'is refused: |is broken'):
        read_file(tmp_path / 'x.pth')
    assert not (tmp_path / 'written').exists()
    assert 'eval' not in HistoryBuffer._statistics_methods


def test_the_files_written_by_hand_are_else_readable(tmp_path):
    for write in (write_zip, write_old):
        for body in (tensor(), array(dtype('f8'), (2,), ZEROS), log(), latin1('x')):
            write(tmp_path / 'x.pth', body)
            assert 'x' in read_file(tmp_path / 'x.pth')


def test_nothing_is_allowed_for_the_process():
    """PyTorch's list holds what parts of PyTorch put there, and nothing else.

    PyTorch 2.14 puts some of Python's own there too.
    """
    owners = {'torch'}
    if torch.__version__.startswith('2.14.'):
        owners |= {'builtins', 'traceback'}
    for allowed in torch.serialization.get_safe_globals():
        assert allowed.__module__.partition('.')[0] in owners


@pytest.mark.parametrize('case', BOMBS)
def test_bombs_are_refused(case, tmp_path):
    """In time, which a hanging test tells, and in memory."""
    for write in (write_zip, write_old):
        write(tmp_path / 'x.pth', BOMBS[case])
        with pytest.raises(CheckpointError, match=r'is refused: |is broken'):
            read_file(tmp_path / 'x.pth')


@pytest.mark.parametrize('kind', ['QUInt8Storage', 'QInt32Storage', 'QUInt4x2Storage'])
def test_quantized_tensors_are_told_by_that_name(kind, tmp_path):
    write_zip(tmp_path / 'x.pth', tensor(kind=kind))
    with pytest.raises(CheckpointError, match='it holds a quantized tensor'):
        read_file(tmp_path / 'x.pth')


def test_a_far_place_in_the_memo_takes_no_memory(tmp_path):
    write_zip(tmp_path / 'x.pth', b'}r\xff\xff\xff\xff')
    assert read_file(tmp_path / 'x.pth') == {'x': {}}


def test_names_are_fit_for_a_terminal(tmp_path):
    write_zip(tmp_path / 'x.pth', call(name('os', 'system\x1b[31m'), text('')))
    with pytest.raises(CheckpointError, match=r'code \(os\.system\\x1b\[31m\)'):
        read_file(tmp_path / 'x.pth')


@pytest.mark.parametrize('make', [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_opened(make, tmp_path):
    make(tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=r'x\.pth is not a file'):
        read_file(tmp_path / 'x.pth')


def test_many_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr('mmrecnext.checkpoint.pickles.MAX_STEPS', 1000)
    write_zip(tmp_path / 'x.pth', b'(' + b'\x8f' * 1000 + b't')
    with pytest.raises(CheckpointError, match='more than 1,000 instructions'):
        read_file(tmp_path / 'x.pth')


def test_modules_held_twice(tmp_path):
    module = name('__torch__', 'M') + b')\x81}'
    body = module + b'b' + put(0)
    for n in range(40):
        body = (
            module + b'(' + text('a') + body + text('b') + get(n) + b'ub' + put(n + 1)
        )
    with zipfile.ZipFile(tmp_path / 'x.pt', 'w') as archive:
        archive.writestr('a/data.pkl', b'\x80\x02' + body + b'.')
        archive.writestr('a/constants.pkl', b'\x80\x02).')
    with pytest.raises(CheckpointError, match='repeated to more than'):
        read_file(tmp_path / 'x.pt')


class TestArchives:
    def test_a_checksum_that_does_not_match(self, tmp_path):
        file = tmp_path / 'x.pth'
        torch.save({'x': torch.ones(10_000)}, file)
        content = bytearray(file.read_bytes())
        content[20_000:24_096] = bytes(4096)
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r'broken .*checksum in it does not'):
            read_file(file)

    def test_no_checksums(self, tmp_path):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save({'x': torch.ones(3)}, tmp_path / 'x.pth')
        finally:
            torch.serialization.set_crc32_options(True)
        assert read_file(tmp_path / 'x.pth')['x'].equal(torch.ones(3))

    def test_compressed(self, tmp_path):
        write_zip(tmp_path / 'x.pth', tensor(), compression=zipfile.ZIP_DEFLATED)
        with pytest.raises(CheckpointError, match=r'its record \S+ is compressed'):
            read_file(tmp_path / 'x.pth')

    def test_records_of_the_same_bytes(self, tmp_path):
        file = tmp_path / 'x.pth'
        write_zip(file, tensor(), ('data/1', bytes(4096)))
        content = file.read_bytes()
        entry = content.rindex(b'PK\1\2')  # the last: give the record 30 MB
        spoilt = bytearray(content)
        spoilt[entry + 20 : entry + 28] = struct.pack('<II', 30_000_000, 30_000_000)
        file.write_bytes(spoilt)
        with pytest.raises(CheckpointError, match='records of it overlap'):
            read_file(file)

    def test_records_by_the_names_of_others(self, tmp_path):
        file = tmp_path / 'x.pth'
        torch.save([torch.zeros(3), torch.ones(3)], file)
        content = file.read_bytes()
        start = content.index(b'PK\1\2')
        directory = content[start:].replace(b'data/0', b'data/?')
        directory = directory.replace(b'data/1', b'data/0').replace(
            b'data/?', b'data/1'
        )
        file.write_bytes(content[:start] + directory)
        with pytest.raises(CheckpointError, match='is broken'):
            read_file(file)

    def test_another_byte_order(self, tmp_path):
        write_zip(tmp_path / 'x.pth', tensor(), ('byteorder', b'big'))
        with pytest.raises(CheckpointError, match='on a machine of big endian'):
            read_file(tmp_path / 'x.pth')

    @pytest.mark.parametrize('cut', [1, 100, 5_000])
    def test_an_old_file_cut_short(self, cut, tmp_path):
        file = tmp_path / 'x.pth'
        torch.save(torch.ones(3000), file, _use_new_zipfile_serialization=False)
        file.write_bytes(file.read_bytes()[:-cut])
        with pytest.raises(CheckpointError, match=r'another length|broken'):
            read_file(file)


def everything():
    state = OrderedDict(
        weight=torch.randn(3, 4),
        turned=torch.arange(6).view(2, 3).t(),
        flag=torch.tensor(True),
        half=torch.randn(2).bfloat16(),
        empty=torch.zeros(0, 3),
        number=torch.randn(3, dtype=torch.complex64),
        small=torch.ones(3).to(torch.float8_e4m3fn),
        parameter=nn.Parameter(torch.ones(2)),
    )
    state._metadata = OrderedDict(a={'version': 1})
    state['parameter'].note = 5
    return {
        'state_dict': state,
        'optimizer': {
            'state': {0: {'step': torch.tensor(3.0)}},
            'groups': [(0.9, 0.1)],
        },
        'args': Namespace(lr=1e-3, names=['x', None]),
        'message_hub': {'log': HistoryBuffer([1.0, 2.0, 6.0], [1, 1, 1])},
        'arrays': [
            np.arange(12.0).reshape(3, 4),
            np.asfortranarray(np.arange(6).reshape(2, 3)),
            np.array(['ab', 'c']),
            np.array([True, False]),
            np.arange(3, dtype='>i4'),
            np.zeros((0, 2), np.float16),
        ],
        'scalars': [np.float64(0.5), np.int64(3), np.bool_(True), np.str_('x')],
        'plain': [
            {1, 'a'},
            frozenset([1]),
            b'\0\xff',
            bytearray(b'\xff'),
            1 + 2j,
            2**70,
        ],
        'torch': [torch.Size([1, 2]), torch.float16, torch.device('cuda', 1)],
    }


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('protocol', range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_what_training_scripts_save(protocol, zipped, tmp_path):
    saved, file = everything(), tmp_path / 'x.pth'
    options = dict(pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    torch.save(saved, file, **options)
    found = read_file(file)
    for key, value in saved['state_dict'].items():
        other = found['state_dict'][key]
        assert type(other) is type(value) and other.stride() == value.stride()
        assert other.dtype == value.dtype and other.tolist() == value.tolist()
    assert found['state_dict']._metadata == saved['state_dict']._metadata
    for ours, theirs in zip(found['arrays'], saved['arrays'], strict=True):
        assert ours.dtype == theirs.dtype and ours.flags.writeable
        assert ours.flags.f_contiguous == theirs.flags.f_contiguous
        assert np.array_equal(ours, theirs)
    for part in ('optimizer', 'args', 'scalars', 'plain', 'torch'):
        assert found[part] == saved[part]
    kinds = [[type(v) for v in each['scalars']] for each in (found, saved)]
    assert kinds[0] == kinds[1]
    log = found['message_hub']['log']
    assert type(log) is HistoryBuffer and log.mean() == 3
    log.update(7.0)
    assert log.statistics('max') == 7


def test_arrays_of_either_numpy(tmp_path):
    torch.save([np.arange(3.0), np.float32(2)], tmp_path / 'x.pth')
    with zipfile.ZipFile(tmp_path / 'x.pth') as archive:
        content = archive.read('x/data.pkl')
    for core in (b'numpy.core.', b'numpy._core.'):
        renamed = content.replace(b'numpy._core.', core).replace(b'numpy.core.', core)
        with zipfile.ZipFile(tmp_path / 'y.pth', 'w') as archive:
            archive.writestr('y/data.pkl', renamed)
        array, scalar = read_file(tmp_path / 'y.pth')
        assert array.tolist() == [0, 1, 2] and scalar == 2


class TestOtherModels:
    """What other code loads by MMEngine, once mmrecnext is imported."""

    @pytest.fixture(autouse=True)
    def silent(self, recwarn):
        return recwarn

    def load(self, source):
        return load_checkpoint(nn.Linear(1, 1), str(source), logger='silent')

    def test_their_own_checkpoints_load(self, tmp_path):
        saved = {
            'state_dict': nn.Linear(1, 1).state_dict(),
            'log': HistoryBuffer([1], [1]),
        }
        torch.save(saved, tmp_path / 'x.pth')
        assert self.load(tmp_path / 'x.pth')['log'].mean() == 1

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r'x\.pth can not be found'):
            self.load(tmp_path / 'x.pth')

    def test_code_is_what_pytorch_says_it_is(self, tmp_path):
        torch.save({'x': pickle.Pickler}, tmp_path / 'x.pth')
        with pytest.raises(pickle.UnpicklingError, match='Weights only load failed'):
            self.load(tmp_path / 'x.pth')

    def test_their_config_is_kept(self, tmp_path):
        meta = {'config': 'a = 1', 'log': HistoryBuffer([1], [1])}
        weights = nn.Linear(1, 1).state_dict()
        torch.save({'meta': meta, 'state_dict': weights}, tmp_path / 'x.pth')
        assert self.load(tmp_path / 'x.pth')['meta']['config'] == 'a = 1'

    def test_who_trusts_a_file_may_run_it(self, tmp_path, monkeypatch):
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
        weights = nn.Linear(1, 1).state_dict()
        torch.save({'c': pickle.Pickler, 'state_dict': weights}, tmp_path / 'x.pth')
        assert self.load(tmp_path / 'x.pth')['c'] is pickle.Pickler
        with pytest.raises(CheckpointError, match='refused'):
            load_network(nn.Linear(1, 1), str(tmp_path / 'x.pth'))

    @pytest.mark.parametrize(
        ('source', 'file'),
        [
            ('torchvision://resnet50', 'resnet50-0676ba61.pth'),
            ('modelzoo://resnet50', 'resnet50-0676ba61.pth'),
            ('open-mmlab://resnet50_v1c', 'resnet50_v1c-2cccc1ad.pth'),
            ('openmmlab://resnet50_v1c', 'resnet50_v1c-2cccc1ad.pth'),
            ('mmcls://vgg11', 'vgg11_batch256_imagenet_20210208-4271cd6c.pth'),
            ('https://127.0.0.1:9/x.pth', '8f27d51d_x.pth'),
        ],
    )
    def test_what_is_downloaded(self, source, file, tmp_path, monkeypatch):
        monkeypatch.setenv('TORCH_HOME', str(tmp_path))
        (tmp_path / 'hub/checkpoints').mkdir(parents=True)
        torch.save({'x': pickle.Pickler}, tmp_path / 'hub/checkpoints' / file)
        with pytest.raises(pickle.UnpicklingError, match='Weights only load failed'):
            self.load(source)
        with pytest.raises(CheckpointError, match=r'would execute code|holds'):
            read_checkpoint(source)
        saved = {
            'state_dict': {'backbone.x': torch.ones(1)},
            'l': HistoryBuffer([1], [1]),
        }
        torch.save(saved, tmp_path / 'hub/checkpoints' / file)
        key = 'x' if source.startswith('mmcls') else 'backbone.x'
        for loaded in (self.load(source), read_checkpoint(source)):
            assert loaded['state_dict'][key] == 1

    @pytest.mark.parametrize(
        ('name', 'hint'),
        [('resnet5', 'did you mean resnet50'), ('x', r'it has alexnet, .*more$')],
    )
    def test_an_unknown_name(self, name, hint):
        with pytest.raises(CheckpointError, match=f'has no checkpoint {name}; {hint}'):
            read_checkpoint(f'torchvision://{name}')


def test_files_of_timm_load_whatever_timm_has_read(tmp_path):
    from timm.models import load_checkpoint as load_by_timm

    weights = nn.Linear(1, 1).state_dict()
    torch.save({'state_dict': weights, 'args': Namespace(lr=1)}, tmp_path / 'x.pth')
    load_by_timm(nn.Linear(1, 1), str(tmp_path / 'x.pth'))
    assert read_file(tmp_path / 'x.pth')['args'].lr == 1


def test_a_run_is_given_no_text_of_a_config(tmp_path):
    meta = {'config': 'raise SystemExit', 'epoch': 1, 'iter': 1}
    weights = nn.Linear(1, 1).state_dict()
    torch.save({'meta': meta, 'state_dict': weights}, tmp_path / 'x.pth')

    class Loads(Runner):
        def __init__(self):
            self.model, self._resume = nn.Linear(1, 1), False

            self.logger = MMLogger.get_current_instance()

        def call_hook(self, *_, **__):
            pass

    loaded = Loads().load_checkpoint(str(tmp_path / 'x.pth'))
    assert loaded['meta'] == {'epoch': 1, 'iter': 1}
