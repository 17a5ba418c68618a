"""Made-up pictures and boxes at angles, for MMRotate."""

from __future__ import annotations

from mmengine.config import Config

from mmrecnext.engine.configs import nodes


def rotated_batch(cfg: Config, side: int) -> dict:
    """Return two pictures with boxes, in the form that the config converts them to.

    Args:
        cfg: the config. Boxes have centre, size and angle if it converts them to that,
            else the corners that are annotated.
        side: height and width of the pictures.
    """
    from mmrotate.testing import demo_mm_inputs

    mappings = [n.get('box_type_mapping', {}) for n in nodes(cfg.train_dataloader)]
    batch = demo_mm_inputs(
        2,
        (3, side, side),
        num_items=[3, 2],
        num_classes=2,
        use_box_type=True,
        use_qbox=not any('gt_bboxes' in mapping for mapping in mappings),
    )
    for sample in batch['data_samples']:
        sample.gt_instances.labels.zero_()
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0), img_path=''))
    return batch
