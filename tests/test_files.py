import os
import stat

import pytest

from mmrecnext.files import atomic_write, remove_unfinished


def test_a_file_appears_whole_under_its_name(tmp_path):
    file = tmp_path / 'weights.pth'
    with atomic_write(file) as place:
        place.write_text('new')
        assert place.parent == tmp_path and place.suffix == '.pth'
        assert not file.exists()
    assert file.read_text() == 'new'
    assert os.listdir(tmp_path) == ['weights.pth']


def test_what_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / 'weights.pth'
    file.write_text('old')
    told = pytest.raises(OSError, match=f"No space left on device: '{file}'$")
    with told, atomic_write(file) as place:
        place.write_text('ne')
        raise OSError(28, 'No space left on device')
    assert file.read_text() == 'old'
    assert os.listdir(tmp_path) == ['weights.pth']


def test_files_that_belong_together_appear_together(tmp_path):
    file, beside = tmp_path / 'graph.xml', tmp_path / 'graph.bin'
    for text in ('old', 'new'):
        with atomic_write(file, '.bin') as place:
            place.write_text(text)
            place.with_suffix('.bin').write_text(text)
        assert file.read_text() == beside.read_text() == text
    told = pytest.raises(OSError, match=f"No such file or directory: '{beside}'$")
    with told, atomic_write(file, '.bin') as place:
        place.write_text('one')  # without the other
    assert file.read_text() == beside.read_text() == 'new'
    assert {*os.listdir(tmp_path)} == {'graph.xml', 'graph.bin'}


def test_a_folder_takes_the_place_of_another(tmp_path):
    folder = tmp_path / 'model.mlpackage'
    for name in ('old', 'new'):
        with atomic_write(folder) as place:
            (place / 'data').mkdir(parents=True)
            (place / 'data' / name).touch()
        assert os.listdir(folder / 'data') == [name]
    told = pytest.raises(OSError, match=f"No space left on device: '{folder}'$")
    with told, atomic_write(folder) as place:
        place.mkdir()
        raise OSError(28, 'No space left on device')
    assert os.listdir(folder / 'data') == ['new']
    assert os.listdir(tmp_path) == ['model.mlpackage']


def test_links_modes_and_devices_stay_what_they_are(tmp_path):
    file, link = tmp_path / 'file', tmp_path / 'link'
    file.write_text('old')
    file.chmod(0o640)
    link.symlink_to(file)
    with atomic_write(link) as place:
        place.write_text('new')
    assert link.is_symlink() and file.read_text() == 'new'
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    with atomic_write(os.devnull) as place:
        place.write_text('gone')
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_what_a_kill_leaves_is_found_again(tmp_path):
    kept = tmp_path / '.notes.tmp.pth'
    kept.touch()
    with atomic_write(tmp_path / 'epoch_1.pth') as place:
        place.touch()
        remove_unfinished(tmp_path)
        assert [*tmp_path.iterdir()] == [kept]
        place.touch()
