"""Pages of the demo networks, untrained, as the tool writes and a browser shows."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mmrecnext.errors import ConfigError
from mmrecnext.report.page import Cell, Section, Table, change, number, write_page
from mmrecnext.report.records import FILE, Evaluation, Object, Picture
from tests.docs.sandbox import save_random_weights
from tests.helpers import ROOT, check, run_tool

pytestmark = pytest.mark.slow

DET = ROOT / 'configs/mask_rcnn_recnext_m0_shapes.py'
SEG = ROOT / 'configs/sem_fpn_recnext_m0_shapes.py'

BROWSER = shutil.which('chromium') or shutil.which('google-chrome')

LOOK = """
<script>
const errors = [];
window.addEventListener('error', event => errors.push(event.message));
const images = [...document.images];
for (const image of images) image.loading = 'eager';
window.addEventListener('load', () => {
  const sorted = [...document.querySelectorAll('table.sortable')].map(table => {
    const columns = [...table.tHead.rows[0].cells];
    return columns.map((head, i) => {
      head.click();
      return [...table.tBodies[0].rows].map(row => row.cells[i].textContent);
    });
  });
  const broken = images.filter(image => !image.naturalWidth).map(image => image.src);
  const seen = {images: images.length, broken, errors, sorted};
  const place = document.createElement('pre');
  place.id = 'seen';
  place.textContent = JSON.stringify(seen);
  document.body.append(place);
});
</script>
"""
"""Has a browser look at a page: what loads, what fails, and what sorting gives."""


class Links(HTMLParser):
    """What a page refers to."""

    def __init__(self, page):
        super().__init__()
        self.found, self.anchors = [], []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.found += [attrs[k] for k in ('src', 'href') if attrs.get(k)]
        self.anchors += [attrs['id']] if 'id' in attrs else []


@pytest.fixture(scope='module')
def reports(shapes, tmp_path_factory):
    root = tmp_path_factory.mktemp('reports')

    def test(config, name, *options):
        weights = root / f'{config.stem}.pth'
        if not weights.exists():
            save_random_weights(config, weights)
        options = ['--data-root', shapes, '--work-dir', root / 'work', *options]
        options += ['--report', root / name]
        return check(run_tool('tools/test.py', config, weights, *options))

    low = ['--cfg-options', 'model.test_cfg.rcnn.score_thr=0.0']
    low += ['model.test_cfg.rcnn.max_per_img=10']
    test(DET, 'detector', *low)
    test(SEG, 'segmentor')
    log = test(DET, 'compared', '--against', root / 'detector', '--deploy', *low)
    assert f'report in {root / "compared" / "index.html"}' in log
    return root


@pytest.mark.parametrize('name', ['detector', 'segmentor', 'compared'])
def test_all_that_a_page_refers_to_is_there(reports, name):
    links = Links(reports / name / 'index.html')
    files = [x for x in links.found if not x.startswith(('#', 'data:'))]
    assert len(files) > 4 and all((reports / name / x).is_file() for x in files)
    assert {x[1:] for x in links.found if x.startswith('#')} == {*links.anchors}


def test_a_page_says_what_was_run(reports):
    page = (reports / 'compared' / 'index.html').read_text()
    for said in ('MaskRCNN', 'RecNeXt m0', '--deploy', 'SHA-256', 'peak memory'):
        assert said in page
    evaluation = Evaluation.load(reports / 'compared')
    assert evaluation.figures['coco/bbox_mAP'] >= 0
    assert len(evaluation.pictures) == 2
    assert all(p.truth and p.found and p.found[0].mask for p in evaluation.pictures)


def test_a_network_is_as_good_as_itself(reports):
    page = (reports / 'compared' / 'index.html').read_text()
    assert 'by the 2 pictures that both saw' in page
    assert '0 better, 0 worse, 2 alike' in page


@pytest.mark.skipif(not BROWSER, reason='no Chromium is installed')
@pytest.mark.parametrize('name', ['detector', 'segmentor', 'compared'])
def test_a_browser_shows_a_page(reports, name):
    page = reports / name / 'index.html'
    looked = page.with_name('looked.html')
    looked.write_text(page.read_text().replace('</body>', f'{LOOK}</body>'))
    command = [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom']
    command += [f'file://{looked}']
    dom = subprocess.run(command, capture_output=True, text=True, timeout=180).stdout
    seen = json.loads(re.search('<pre id="seen">(.*)</pre>', dom)[1])
    assert seen['images'] > 4 and not seen['broken'] and not seen['errors']
    columns = [column for table in seen['sorted'] for column in table]
    assert columns
    for column in columns:
        figures = [float(x) for x in column if re.fullmatch(r'[+-]?\d[\d.]*', x)]
        if figures and len(figures) + column.count('-') == len(column):
            assert figures == sorted(figures, reverse=True)
            assert column[len(figures) :] == ['-'] * column.count('-')


class TestPage:
    def test_text_is_escaped(self, tmp_path):
        table = Table(('<b>',), [[Cell('<script>')]])
        write_page(tmp_path / 'x.html', '<i>', 'a & b', [Section('S', tables=[table])])
        page = (tmp_path / 'x.html').read_text()
        assert '<td class="text">&lt;script&gt;</td>' in page
        assert '&lt;b&gt;' in page and '<h1>&lt;i&gt;</h1>' in page
        assert 'a &amp; b' in page

    @pytest.mark.parametrize(
        ('value', 'text', 'way'),
        [(0.1, '+0.100', 'more'), (-0.1, '-0.100', 'less'), (1e-9, '+0.000', '')],
    )
    def test_changes(self, value, text, way):
        cell = change(value)
        assert (cell.text, cell.change, cell.is_text) == (text, way, False)

    def test_nothing_measured(self):
        assert number(float('nan')).text == change(float('nan')).text == '-'


class TestEvaluation:
    def evaluation(self):
        found = Object(1, [0.0, 1.0, 2.5, 3.5], 0.5, {'size': [4, 4], 'counts': 'x'})
        pictures = [
            Picture('a.jpg', (4, 4), [Object(0, [0, 0, 1, 1], ignored=True)], [found]),
            Picture('b.jpg', (4, 4), confusion={0: {0: 5, 1: 2}}, labels='png'),
        ]
        return Evaluation('t', 'instances', ['x'], {'a': 0.5}, {}, 0.3, pictures)

    def test_comes_back_as_it_was(self, tmp_path):
        before = self.evaluation()
        before.save(tmp_path)
        after = Evaluation.load(tmp_path)
        assert after.figures == before.figures
        for one, two in zip(before.pictures, after.pictures, strict=True):
            assert tuple(two.size) == one.size
            assert (two.truth, two.found) == (one.truth, one.found)
            assert (two.confusion, two.labels) == (one.confusion, one.labels)

    def test_a_folder_without_one_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match='is no folder of a report'):
            Evaluation.load(tmp_path)

    @pytest.mark.parametrize('content', [b'', b'no gzip', b'\x1f\x8b\x08 cut'])
    def test_a_broken_file_is_refused(self, tmp_path, content):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ConfigError, match=f'{FILE} cannot be read'):
            Evaluation.load(tmp_path)


class TestRefused:
    def refused(self, shapes, tmp_path, config, *options):
        options = ['--data-root', shapes, '--work-dir', tmp_path / 'work', *options]
        run = run_tool('tools/test.py', config, 'absent.pth', *options)
        assert run.returncode == 1 and not (tmp_path / 'work').exists()
        return run.stderr

    def test_against_without_report(self, shapes, tmp_path):
        said = self.refused(shapes, tmp_path, DET, '--against', tmp_path)
        assert '--against is for --report FOLDER' in said

    def test_against_what_is_no_report(self, shapes, tmp_path):
        options = ['--report', tmp_path / 'r', '--against', tmp_path]
        said = self.refused(shapes, tmp_path, DET, *options)
        assert f'{tmp_path} is no folder of a report' in said

    def test_against_another_kind(self, shapes, tmp_path, reports):
        options = ['--report', tmp_path / 'r', '--against', reports / 'segmentor']
        said = self.refused(shapes, tmp_path, DET, *options)
        assert 'is about label maps, and this test about instances' in said

    def test_a_file_is_no_folder(self, shapes, tmp_path):
        Path(tmp_path / 'r').write_text('')
        said = self.refused(shapes, tmp_path, DET, '--report', tmp_path / 'r')
        assert 'is a file; name a folder' in said
