import pytest

from tests.reliability.disk import ended, prepare, read_only, trial

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def given(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp('given'), segmentor=False)


@pytest.mark.parametrize(
    ('name', 'way'),
    [
        ('train', ended),
        ('test --out json', read_only),
        ('test --show-dir', read_only),
        ('infer pictures', read_only),
        ('convert pth', ended),
        ('visualize curves', read_only),
        ('make_shapes_data', read_only),
    ],
)
def test_what_cannot_be_written_is_told_in_a_line(name, way, given, tmp_path):
    assert trial(tmp_path, given, name, way) == []
