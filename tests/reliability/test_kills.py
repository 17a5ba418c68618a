import pytest

from tests.reliability.kills import compare, second_runs, trial


@pytest.mark.slow
def test_a_killed_run_loses_nothing(tmp_path):
    (kill,) = trial(tmp_path, times=1, seed=36)
    assert (kill.moment.event, kill.moment.count) == ('writing', 2)
    assert kill.unfinished
    assert kill.step > 0


@pytest.mark.slow
def test_a_second_run_in_a_work_dir_is_refused(tmp_path):
    for tool, said in zip(
        ('train', 'swap_backbone'), second_runs(tmp_path), strict=True
    ):
        start = (
            f'{tool}.py: error: another run trains in {tmp_path / "shared"} (process '
        )
        assert said.startswith(start)


@pytest.mark.parametrize(
    'runs',
    [
        [{1: 0.5}, {2: 0.25}],  # begins where nothing was saved
        [{1: 0.5, 2: 0.25}, {3: 0.1251}],
        [{1: 0.5, 2: 0.25}],  # does not end
    ],
)
def test_what_is_lost_is_found_out(runs):
    expected = {1: 0.5, 2: 0.25, 3: 0.125}
    compare([{1: 0.5, 2: 0.25}, {1: 0.5}, {3: 0.125}], expected, [0, 2])
    with pytest.raises(AssertionError):
        compare(runs, expected, [0, 2])
