"""Pictures predicted one by one, as a test of the same config predicts them."""

import json
import os
import pickle
import signal

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import BaseDataElement

from mmrecnext.engine.predictions import describe_classes, label_map_of
from mmrecnext.engine.predictor import Predictor, displayable, frames_of, middles
from mmrecnext.engine.segmentation import bound_memory
from mmrecnext.errors import ConfigError
from mmrecnext_autoload.signals import termination
from tests.helpers import ROOT, more_bands, run_main, tool

CLASSES = ('background', 'circle', 'square', 'triangle', 'star', 'cross')
WAYS = {
    'colour': (np.uint8, 3, 'color'),
    '16 bits': (np.uint16, 3, 'unchanged'),
    'grey': (np.uint8, 1, 'grayscale'),
    'four bands': (np.uint8, 4, 'unchanged'),
}


def make_config(kind: str, data, bands=3, color_type='color') -> Config:
    cfg = Config.fromfile(ROOT / f'configs/{kind}_recnext_m0_shapes.py')
    cfg.model.backbone.update(arch=dict(base='m0', depths=(1, 1, 1, 1)))
    cfg.model.backbone.in_channels = bands
    cfg.model.data_preprocessor.update(
        mean=[100.0] * bands, std=[60.0] * bands, bgr_to_rgb=bands == 3
    )
    dataset = cfg.test_dataloader.dataset
    dataset.data_root = str(data)
    dataset.pipeline[0].update(color_type=color_type)
    dataset.pipeline[1].update(scale=(64, 64))
    for name in ('test_pipeline', 'visualizer'):
        cfg._cfg_dict.pop(name, None)
    return cfg


def save_weights(cfg: Config, file, **meta) -> str:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, file)
    return str(file)


def as_tested(cfg: Config, model, index=0):
    """What the loop of a test makes of a picture of the data set."""
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    data = dataset[index]
    with torch.no_grad():
        sample = model.test_step(pseudo_collate([data]))[0]
    return data['data_samples'].img_path, sample


@pytest.mark.parametrize(
    'way', [*list(WAYS)[:-1], pytest.param('four bands', marks=more_bands)]
)
def test_label_maps_are_those_of_a_test(way, tmp_path):
    dtype, bands, color_type = WAYS[way]
    for kind in ('images', 'annotations'):
        (tmp_path / kind / 'validation').mkdir(parents=True)
    random = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    picture = random.integers(0, top, (48, 80, bands), dtype=dtype)
    cv2.imwrite(str(tmp_path / 'images/validation/a.png'), picture)
    labels = np.ones((48, 80), np.uint8)
    cv2.imwrite(str(tmp_path / 'annotations/validation/a.png'), labels)
    cfg = make_config('sem_fpn', tmp_path, bands, color_type)
    cfg.test_dataloader.dataset.img_suffix = '.png'
    predictor = Predictor(cfg, save_weights(cfg, tmp_path / 'weights.pth'))

    reference = MODELS.build(cfg.model).eval()
    reference.load_state_dict(predictor.model.state_dict())
    _, sample = as_tested(cfg, reference)
    for model in (reference, predictor.model):  # no class wins everywhere then
        model.decode_head.conv_seg.bias.data -= sample.seg_logits.data.mean((1, 2))
    file, sample = as_tested(cfg, reference)
    picture, found = predictor(file)
    assert 'seg_logits' in sample and 'seg_logits' not in found
    assert found.pred_sem_seg.data.equal(sample.pred_sem_seg.data)
    assert len(np.unique(label_map_of(found))) > 1
    assert picture.dtype == dtype
    shares = predictor.describe(found)['shares']
    assert shares.keys() <= {*CLASSES} and sum(shares.values()) == pytest.approx(
        1, 1e-3
    )
    drawn = predictor.draw(picture, found)
    assert drawn.shape == (48, 80, 3) and drawn.dtype == np.uint8


def test_video_is_whole_or_not_there(shapes, tmp_path, monkeypatch):
    cfg = make_config('sem_fpn', shapes)
    predictor = Predictor(cfg, save_weights(cfg, tmp_path / 'w.pth'))
    fourcc = cv2.VideoWriter.fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(tmp_path / 'in.mp4'), fourcc, 5, (64, 48))
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    folder = tmp_path / 'out'
    folder.mkdir()
    found = predictor.film(tmp_path / 'in.mp4', folder / 'out.mp4')
    assert [frame['frame'] for frame in found] == [0, 1, 2]
    film = cv2.VideoCapture(str(folder / 'out.mp4'))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    whole = (folder / 'out.mp4').read_bytes()

    class Full:  # no subclass, whose objects OpenCV would free in a wrong way
        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, *args):
            self.writer = writer = video_writer(*args)
            self.isOpened, self.release = writer.isOpened, writer.release

        def write(self, frame):
            """Write nothing, and say nothing, as OpenCV does where a disk is full."""

    video_writer = cv2.VideoWriter
    with monkeypatch.context() as patched:
        patched.setattr(cv2, 'VideoWriter', Full)
        with pytest.raises(OSError, match=r"not all of the video.*out\.mp4'$"):
            predictor.film(tmp_path / 'in.mp4', folder / 'out.mp4')

    def fail(sample):
        raise MemoryError

    monkeypatch.setattr(predictor, 'describe', fail)
    with pytest.raises(MemoryError):
        predictor.film(tmp_path / 'in.mp4', folder / 'out.mp4')
    assert [*folder.iterdir()] == [folder / 'out.mp4']
    assert (folder / 'out.mp4').read_bytes() == whole


def test_a_recording_that_tells_no_length_is_a_video(shapes, tmp_path):
    """As browsers record, or what was cut off: the duration stands in the end."""
    cfg = make_config('sem_fpn', shapes)
    predictor = Predictor(cfg, save_weights(cfg, tmp_path / 'w.pth'))
    file = tmp_path / 'in.mkv'
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*'MJPG'), 5, (64, 48))
    for _ in range(2):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert frames_of(file) == 2
    content = bytearray(file.read_bytes())
    start = content.index(b'\x44\x89\x88')  # the duration, of eight bytes
    content[start : start + 3] = b'\xec\x89\0'  # a void, of nine
    file.write_bytes(content)
    assert frames_of(file) == 0
    assert len(predictor.film(file, tmp_path / 'out.mp4')) == 2
    (tmp_path / 'none.mp4').write_bytes(b'no video')
    assert frames_of(tmp_path / 'none.mp4') == 0
    with pytest.raises(ConfigError, match='not a video that OpenCV can read'):
        predictor.film(tmp_path / 'none.mp4', tmp_path / 'out.mp4')


def test_detections_are_those_of_a_test(shapes, tmp_path):
    cfg = make_config('mask_rcnn', shapes)
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    predictor = Predictor(cfg, save_weights(cfg, tmp_path / 'w.pth'), score_thr=0)
    reference = MODELS.build(cfg.model).eval()
    reference.load_state_dict(predictor.model.state_dict())
    file, sample = as_tested(cfg, reference)
    picture, found = predictor(file)
    assert len(found.pred_instances) > 0
    for name, value in sample.pred_instances.items():
        assert value.equal(found.pred_instances[name]), name
    detections = predictor.describe(found)['detections']
    assert len(detections) == len(found.pred_instances)
    assert detections[0]['mask']['size'] == [96, 96]
    assert predictor.draw(picture, found).shape == (96, 96, 3)


def test_frames_of_a_video_are_pictures(shapes, tmp_path):
    cfg = make_config('sem_fpn', shapes)
    predictor = Predictor(cfg, save_weights(cfg, tmp_path / 'weights.pth'))
    image = cv2.imread(str(next((shapes / 'val2017').iterdir())))
    video = str(tmp_path / 'clip.avi')
    writer = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*'MJPG'), 5, (96, 96))
    writer.write(image)
    writer.release()
    _, frame = cv2.VideoCapture(video).read()
    cv2.imwrite(str(tmp_path / 'frame.png'), frame)
    ((picture, sample),) = predictor.frames(video)
    assert (picture == frame).all()
    _, alone = predictor(tmp_path / 'frame.png')
    assert sample.pred_sem_seg.data.equal(alone.pred_sem_seg.data)


class TestSegmentors:
    """Labels beside those of MMSegmentation, from the same weights."""

    @pytest.fixture
    def build(self, shapes):
        def build(channels=4, **options):
            cfg = make_config('sem_fpn', shapes)
            init_default_scope('mmseg')
            head = dict(num_classes=max(channels, 2), out_channels=channels)
            loss = dict(type='CrossEntropyLoss', use_sigmoid=channels == 1)
            cfg.model.decode_head.update(head, threshold=0.4, loss_decode=loss)
            cfg.model.update(options)
            torch.manual_seed(0)
            model = MODELS.build(cfg.model).eval()
            torch.nn.init.normal_(model.decode_head.conv_seg.weight)
            return model

        return build

    def predicted(self, model, inputs, **meta):
        from mmseg.structures import SegDataSample

        samples = [SegDataSample(metainfo=meta) for _ in inputs]
        with torch.no_grad():
            return model.predict(inputs, samples)

    @pytest.mark.parametrize('channels', [1, 4, 40])
    @pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical'])
    @pytest.mark.parametrize('align_corners', [False, True])
    def test_are_the_same(self, channels, flip, align_corners, build):
        model = build(channels)
        model.align_corners = model.decode_head.align_corners = align_corners
        meta = dict(ori_shape=(53, 130), img_shape=(60, 92), pad_shape=(64, 96))
        meta.update(img_padding_size=(0, 4, 0, 4))
        if flip:
            meta.update(flip=True, flip_direction=flip)
        inputs = torch.randn(2, 3, 64, 96)
        expected = self.predicted(model, inputs, **meta)
        bound_memory(model)
        found = self.predicted(model, inputs, **meta)
        for old, new in zip(expected, found, strict=True):
            assert new.pred_sem_seg.data.dtype == torch.int64
            assert new.pred_sem_seg.data.equal(old.pred_sem_seg.data.long())
            assert len(new.pred_sem_seg.data.unique()) > 1
            assert 'seg_logits' in old and 'seg_logits' not in new

    def test_logits_are_enlarged_by_nobody(self, build, monkeypatch):
        model = build()
        bound_memory(model)
        monkeypatch.setattr(model.decode_head, 'predict_by_feat', None)
        inputs = torch.randn(1, 3, 64, 64)
        self.predicted(model, inputs, ori_shape=(64, 64), img_shape=(64, 64))

    def test_windows_that_slide_are_added_up_as_ever(self, build):
        test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(32, 32))
        model = build(test_cfg=test_cfg)
        inputs = torch.randn(1, 3, 64, 96)
        meta = dict(ori_shape=(60, 100), img_shape=(64, 96), pad_shape=(64, 96))
        (expected,) = self.predicted(model, inputs, **meta)
        bound_memory(model)
        (found,) = self.predicted(model, inputs, **meta)
        assert found.pred_sem_seg.data.equal(expected.pred_sem_seg.data)

    def test_a_head_that_predicts_in_its_own_way_does_so(self, build):
        model = build()

        class Head(type(model.decode_head)):
            def predict(self, inputs, metas, test_cfg):
                return -super().predict(inputs, metas, test_cfg)

        model.decode_head.__class__ = Head
        inputs = torch.randn(1, 3, 64, 64)
        meta = dict(ori_shape=(60, 50), img_shape=(64, 64))
        (expected,) = self.predicted(model, inputs, **meta)
        bound_memory(model)
        (found,) = self.predicted(model, inputs, **meta)
        assert found.pred_sem_seg.data.equal(expected.pred_sem_seg.data)

    def test_a_pickled_one_goes_by_its_own_weights(self, build):
        model = build()
        inputs = torch.randn(1, 3, 64, 64)
        meta = dict(ori_shape=(60, 50), img_shape=(64, 64))
        bound_memory(model)
        (expected,) = self.predicted(model, inputs, **meta)
        twin = pickle.loads(pickle.dumps(model))
        torch.nn.init.zeros_(model.decode_head.conv_seg.weight)
        (found,) = self.predicted(twin, inputs, **meta)
        assert 'seg_logits' not in found
        assert found.pred_sem_seg.data.equal(expected.pred_sem_seg.data)

    def test_without_samples_there_are_logits(self, build):
        model = build()
        bound_memory(model)
        with torch.no_grad():
            (sample,) = model.predict(torch.randn(1, 3, 64, 64))
        assert sample.seg_logits.data.shape == (4, 64, 64)


class TestClasses:
    DATASET = dict(type='ADE20KDataset')

    @pytest.fixture(autouse=True)
    def scope(self):
        init_default_scope('mmseg')

    def test_the_checkpoint_goes_first_then_the_config_then_the_type(self):
        import mmseg.datasets  # noqa: F401

        named = dict(self.DATASET, metainfo=dict(classes=('bolt', 'nut')))
        old = dict(CLASSES=['screw'], PALETTE=[[1, 2, 3]])
        assert describe_classes(old, named)['classes'] == ('screw',)
        assert describe_classes(old, named)['palette'] == [[1, 2, 3]]
        meta = describe_classes({}, named)
        assert meta['classes'] == ('bolt', 'nut') and len(meta['palette']) == 2
        assert describe_classes({}, self.DATASET)['classes'][0] == 'wall'

    def test_names_of_another_number_of_classes_are_not_the_model_s(self):
        import mmseg.datasets  # noqa: F401

        two = dict(dataset_meta=dict(classes=('bolt', 'nut')))
        assert len(describe_classes(two, self.DATASET, 150)['classes']) == 150
        assert len(describe_classes(two, self.DATASET, 2)['classes']) == 2
        assert len(describe_classes(two, self.DATASET, 7)['classes']) == 2

    def test_none_at_all_is_told(self):
        with pytest.raises(ConfigError, match='neither the checkpoint nor the config'):
            describe_classes({}, dict(type='BaseSegDataset'))

    def test_a_class_without_a_name_is_told(self, shapes, tmp_path):
        cfg = make_config('sem_fpn', shapes)
        cfg.test_dataloader.dataset.metainfo.classes = ('one',)
        meta = dict(dataset_meta=dict(classes=('one',), palette=[[0, 0, 0]]))
        predictor = Predictor(cfg, save_weights(cfg, tmp_path / 'w.pth', **meta))
        sample = BaseDataElement()
        sample.pred_sem_seg = BaseDataElement(data=torch.ones(1, 2, 2))
        with pytest.raises(ConfigError, match=r'class 1, .*names of 1 classes'):
            predictor.describe(sample)


def test_what_people_see_has_eight_bits_and_three_colours():
    dark = np.array([[0, 1000], [4000, 2000]], np.uint16)
    shown = displayable(dark)
    assert shown.dtype == np.uint8 and shown[..., 1].tolist() == [[0, 63], [255, 127]]
    bands = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert (displayable(bands) == bands[..., :3]).all()
    assert displayable(np.float32([[0.5, 1], [np.nan, 0]]))[0, 1, 0] == 255


def test_a_picture_that_the_pipeline_leaves_out_is_none(shapes, tmp_path):
    cfg = make_config('sem_fpn', shapes)
    cfg.test_dataloader.dataset.pipeline[0].ignore_empty = True
    predict = Predictor(cfg, save_weights(cfg, tmp_path / 'weights.pth'))
    (tmp_path / 'a.png').touch()
    with pytest.raises(ConfigError, match=r'a\.png is not an image that can be read$'):
        predict(tmp_path / 'a.png')


def test_odd_pictures_lose_no_others(shapes, tmp_path, monkeypatch, capsys):
    infer = tool('infer')
    cfg = make_config('sem_fpn', shapes)
    cfg.dump(tmp_path / 'config.py')
    weights = save_weights(cfg, tmp_path / 'weights.pth')
    folder = tmp_path / 'pictures'
    (folder / 'inner').mkdir(parents=True)
    good = next((shapes / 'val2017').iterdir()).read_bytes()
    (folder / 'a_good.jpg').write_bytes(good)
    (folder / 'b_half.jpg').write_bytes(good[: len(good) // 2])
    (folder / 'c_empty.png').touch()
    cv2.imwrite(str(folder / 'd_line.png'), np.full((1, 500, 3), 90, np.uint8))
    (folder / 'inner/a_good.jpg').write_bytes(good)
    out = tmp_path / 'out'
    args = [tmp_path / 'config.py', weights, folder, folder / 'inner']
    args += ['--out-dir', out, '--label-maps', '--device', 'cpu']
    with pytest.raises(ConfigError) as told:
        run_main(infer, monkeypatch, *args)
    for name in ('b_half.jpg', 'c_empty.png'):
        assert f'{folder / name} is not an image that can be read' in str(told.value)
    predictions = json.loads((out / 'predictions.json').read_text())
    assert {p['picture'] for p in predictions} >= {'a_good.png', 'a_good_2.png'}
    for prediction in predictions:
        drawn = cv2.imread(str(out / prediction['picture']))
        labels = cv2.imread(str(out / 'label_maps' / prediction['picture']), -1)
        assert labels.shape == drawn.shape[:2] and labels.max() < len(CLASSES)
        shares = {
            CLASSES[i]: round(float((labels == i).mean()), 4) for i in np.unique(labels)
        }
        assert prediction['shares'] == shares


def test_what_is_done_stays_where_inference_is_stopped(shapes, tmp_path, monkeypatch):
    infer = tool('infer')
    cfg = make_config('sem_fpn', shapes)
    cfg.dump(tmp_path / 'config.py')
    weights = save_weights(cfg, tmp_path / 'weights.pth')
    pictures = sorted((shapes / 'train2017').iterdir())[:3]
    names = [f'{picture.stem}.png' for picture in pictures]
    write = infer.write_image

    def write_and_stop(file, image):
        write(file, image)
        if file.name == names[1]:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(infer, 'write_image', write_and_stop)
    out = tmp_path / 'out'
    args = [tmp_path / 'config.py', weights, *pictures, '--out-dir', out]
    told = f'^2 of 3 files are done, in {out}$'
    with termination.answered(), pytest.raises(KeyboardInterrupt, match=told):
        run_main(infer, monkeypatch, *args, '--label-maps', '--device', 'cpu')
    predictions = json.loads((out / 'predictions.json').read_text())
    assert [prediction['picture'] for prediction in predictions] == names[:2]
    for folder in (out, out / 'label_maps'):
        assert sorted(file.name for file in folder.glob('*.png')) == names[:2]


@pytest.mark.parametrize(
    ('length', 'count', 'expected'),
    [
        (60, 6, [5, 15, 25, 35, 45, 55]),
        (7, 2, [1, 5]),
        (5, 1, [2]),
        (2, 6, [0, 1]),
        (0, 6, []),
        (5, 0, []),
    ],
)
def test_a_sheet_shows_pictures_of_all_parts(length, count, expected):
    assert middles(range(length), count) == expected
