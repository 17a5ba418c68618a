"""Made-up people for pose estimators, through the pipelines of their configs."""

from __future__ import annotations

import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, TRANSFORMS

from mmrecnext.engine.configs import nodes, type_of
from mmrecnext.engine.data import leaf_datasets
from mmrecnext.engine.predictions import registered

FRAMED = ('GetBBoxCenterScale', 'TopdownAffine')
"""What makes the input of a box."""

LEARNT = ('BottomupRandomAffine', 'GenerateTarget', 'BottomupGetHeatmapMask')
"""What makes the targets of training; the first puts boxes in the form that others
take."""

STILL = dict.fromkeys(('shift_prob', 'scale_prob', 'rotate_prob', 'shear_prob'), 0)
"""Options of the first that leave all where it is."""

DEPTH = 100.0
"""Of joints of hands before and behind their roots, in millimetres, at most."""


def pose_batch(cfg: Config, training: bool) -> dict:
    """Return two pictures of people, as a data loader would.

    Models that go from pictures to people predict one at a time.

    Args:
        cfg: its codec says how large the input is, and its model how many joints.
        training: whether to make targets as well.
    """
    tested = {type_of(node): node for node in nodes(cfg.val_dataloader)}
    topdown = 'TopdownAffine' in tested
    steps = [tested[kind] for kind in FRAMED if topdown]
    found = tested
    if training:
        found = {type_of(node): node for node in nodes(cfg.train_dataloader)}
        steps += [found[kind] for kind in LEARNT if kind in found]
        steps = [{**s, **STILL} if type_of(s) == LEARNT[0] else s for s in steps]
    if 'PackPoseInputs' not in found:  # as of Associative Embedding
        raise ValueError("the config's pipeline for training is empty")
    pack = dict(found['PackPoseInputs'])
    pack.pop('extra_mapping_labels', None)  # which this version does by itself
    steps.append(pack)
    built = [TRANSFORMS.build(dict(step)) for step in steps]
    count = 2 if topdown or training else 1
    resize = tested.get('BottomupResize') or tested['TopdownAffine']
    return pseudo_collate(
        [_packed(built, cfg, topdown, resize.input_size, i) for i in range(count)]
    )


def _packed(built: list, cfg: Config, topdown: bool, size: tuple, seed: int) -> dict:
    people = 1 if topdown else 2
    results = person(joints_of(cfg), size, people, seed)
    if any(type_of(node) == 'Hand3DHeatmap' for node in nodes(cfg.model)):
        results.update(hands(results['keypoints'], size, seed))
    if not topdown:
        width, height = size
        results.update(
            input_size=size,
            input_center=np.array([width / 2, height / 2]),
            input_scale=np.array([width, height], np.float32),
        )
    for step in built:
        results = step(results)
    return results


def hands(keypoints: np.ndarray, size: tuple[int, int], seed: int) -> dict:
    """Return what InterHand tells besides of a picture: how deep joints of hands are.

    Args:
        keypoints: in the picture.
        size: width and height.
        seed: of the depths.
    """
    random = np.random.RandomState(seed)
    depths = random.uniform(-DEPTH, DEPTH, (*keypoints.shape[:2], 1))
    return dict(
        keypoints=np.concatenate([keypoints, depths], 2, dtype=np.float32),
        rel_root_depth=np.float32(DEPTH),
        rel_root_valid=np.float32(1),
        abs_depth=[10 * DEPTH, 11 * DEPTH],
        hand_type=np.ones((1, 2), np.float32),  # a right one and a left one
        hand_type_valid=np.ones(1, np.float32),
        focal=np.array(size, np.float32),
        principal_pt=np.array(size, np.float32) / 2,
        rotation=0,
    )


def joints_of(cfg: Config) -> int:
    """Return how many joints a model finds in each person."""
    head = cfg.model.head
    for node in nodes(head):
        if 'depth_size' in node:  # of either hand; its joints have a map per depth
            return 2 * node.out_channels // node.depth_size
    for name in ('num_joints', 'num_keypoints', 'out_channels'):
        for node in nodes(head):
            if name in node:
                return node[name]
    leaf = next(leaf_datasets(cfg.train_dataloader.dataset))
    return len(registered(leaf.type, DATASETS).METAINFO['keypoint_info'])


def person(joints: int, size: tuple[int, int], people: int, seed: int) -> dict:
    """Return what a dataset of MMPose tells of a picture of random people.

    Args:
        joints: of each.
        size: width and height.
        people: how many there are.
        seed: of the joints.
    """
    random = np.random.RandomState(seed)
    width, height = size
    box = np.array([width / 4, height / 4, width * 3 / 4, height * 3 / 4], np.float32)
    share = random.uniform(0.1, 0.9, (people, joints, 2))
    return dict(
        img=random.randint(0, 256, (height, width, 3), np.uint8),
        img_id=seed,
        id=seed,
        img_path='',
        img_shape=(height, width),
        ori_shape=(height, width),
        bbox=np.tile(box, (people, 1)),
        bbox_score=np.ones(people, np.float32),
        keypoints=(box[:2] + share * (box[2:] - box[:2])).astype(np.float32),
        keypoints_visible=np.ones((people, joints), np.float32),
        area=np.full(people, width * height / 4, np.float32),
        category_id=np.ones(people, int),
        num_keypoints=np.full(people, joints),
        iscrowd=np.zeros(people, int),
        segmentation=[],
        invalid_segs=[],
        dataset_keypoint_weights=np.ones(joints, np.float32),
        flip_indices=[*range(joints)],
        flip_pairs=[],
        upper_body_ids=[0],
        lower_body_ids=[joints - 1],
        dataset_name='coco',
        skeleton_links=[],
    )
