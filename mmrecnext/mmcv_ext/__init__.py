"""A stand-in for ``mmcv._ext``, the compiled module of mmcv.

``mmcv-lite`` ships the Python half of ``mmcv.ops`` without the compiled half, so
``import mmcv.ops`` fails there. :func:`install` lets Python find a replacement,
``_ext.py`` beside this file, that is backed by torchvision and PyTorch. It is asked
for last: wherever mmcv has its own compiled module, that one is loaded.

``MMRECNEXT_MMCV_EXT=0`` in the environment turns the stand-in off.

Nothing heavy is imported here: torch and torchvision load with ``mmcv._ext`` itself.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path

__all__ = ['OPERATORS', 'install', 'status']

OPERATORS: dict[str, str] = {
    'nms': 'torchvision',
    'nms_match': 'pytorch',
    'softnms': 'pytorch',
    'roi_align_forward': 'torchvision',
    'roi_align_backward': 'torchvision',
    'roi_pool_forward': 'pytorch',
    'roi_pool_backward': 'torchvision',
    'deform_conv_forward': 'torchvision',
    'deform_conv_backward_input': 'torchvision',
    'deform_conv_backward_parameters': 'torchvision',
    'modulated_deform_conv_forward': 'torchvision',
    'modulated_deform_conv_backward': 'torchvision',
    'sigmoid_focal_loss_forward': 'pytorch',
    'sigmoid_focal_loss_backward': 'pytorch',
    'softmax_focal_loss_forward': 'pytorch',
    'softmax_focal_loss_backward': 'pytorch',
    'ms_deform_attn_forward': 'pytorch',
    'ms_deform_attn_backward': 'pytorch',
    'bbox_overlaps': 'pytorch',
    'box_iou_rotated': 'pytorch',
    'box_iou_quadri': 'pytorch',
    'convex_iou': 'pytorch',
    'convex_giou': 'pytorch',
    'nms_rotated': 'pytorch',
    'nms_quadri': 'pytorch',
    'min_area_polygons': 'pytorch',
    'points_in_polygons_forward': 'pytorch',
    'diff_iou_rotated_sort_vertices_forward': 'pytorch',
    'iou3d_boxes_overlap_bev_forward': 'pytorch',
    'iou3d_nms3d_forward': 'pytorch',
    'iou3d_nms3d_normal_forward': 'pytorch',
    'roi_align_rotated_forward': 'pytorch',
    'roi_align_rotated_backward': 'pytorch',
    'riroi_align_rotated_forward': 'pytorch',
    'riroi_align_rotated_backward': 'pytorch',
    'rotated_feature_align_forward': 'pytorch',
    'rotated_feature_align_backward': 'pytorch',
    'deform_roi_pool_forward': 'pytorch',
    'deform_roi_pool_backward': 'pytorch',
    'active_rotated_filter_forward': 'pytorch',
    'active_rotated_filter_backward': 'pytorch',
    'carafe_forward': 'pytorch',
    'carafe_backward': 'pytorch',
    'carafe_naive_forward': 'pytorch',
    'carafe_naive_backward': 'pytorch',
    'psamask_forward': 'pytorch',
    'psamask_backward': 'pytorch',
    'masked_im2col_forward': 'pytorch',
    'masked_col2im_forward': 'pytorch',
    'ball_query_forward': 'pytorch',
    'stack_ball_query_forward': 'pytorch',
    'knn_forward': 'pytorch',
    'three_nn_forward': 'pytorch',
    'three_interpolate_forward': 'pytorch',
    'three_interpolate_backward': 'pytorch',
    'furthest_point_sampling_forward': 'pytorch',
    'furthest_point_sampling_with_dist_forward': 'pytorch',
    'gather_points_forward': 'pytorch',
    'gather_points_backward': 'pytorch',
    'group_points_forward': 'pytorch',
    'group_points_backward': 'pytorch',
    'stack_group_points_forward': 'pytorch',
    'stack_group_points_backward': 'pytorch',
    'chamfer_distance_forward': 'pytorch',
    'chamfer_distance_backward': 'pytorch',
}
"""Operators of the stand-in, and what computes each of them.

RoIAlign of many regions is computed by PyTorch on a CPU.
"""

SWITCH = 'MMRECNEXT_MMCV_EXT'
_NAME = 'mmcv._ext'


class _StandInFinder(MetaPathFinder):
    """Finds ``mmcv._ext`` and nothing else."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != _NAME:
            return None
        return spec_from_file_location(_NAME, Path(__file__).with_name('_ext.py'))


_FINDER = _StandInFinder()


def install() -> bool:
    """Let ``mmcv._ext`` be found where mmcv lacks it. Calling it again is harmless.

    Returns:
        Whether the stand-in is what ``import mmcv._ext`` loads: False if it is turned
        off, if mmcv has its own compiled module, or if mmcv is not installed.
    """
    if os.environ.get(SWITCH) == '0':
        return False
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)
    return _compiled_state() == 'missing'


def status() -> dict[str, str]:
    """What backs each operator of :data:`OPERATORS` in this process.

    Returns:
        Per operator ``'mmcv'`` (mmcv's own compiled one), ``'torchvision'`` or
        ``'pytorch'`` (the stand-in), or ``'missing'``.
    """
    state = _compiled_state()
    if state == 'present':
        return dict.fromkeys(OPERATORS, 'mmcv')
    if state == 'missing' and _FINDER in sys.meta_path:
        return dict(OPERATORS)
    return dict.fromkeys(OPERATORS, 'missing')


def _compiled_state() -> str:
    """'present', 'missing', or 'no mmcv', found out without importing mmcv."""
    mmcv = find_spec('mmcv')
    if mmcv is None or not mmcv.submodule_search_locations:
        return 'no mmcv'
    compiled = PathFinder.find_spec(_NAME, mmcv.submodule_search_locations)
    return 'missing' if compiled is None else 'present'


def announce():
    """Tell once, on the first rank, that operators are not mmcv's own.

    It goes to stderr: what a tool prints for another program is on stdout.
    """
    if all(os.environ.get(rank, '0') == '0' for rank in ('RANK', 'LOCAL_RANK')):
        print(
            'mmcv lacks its compiled operators: mmrecnext stands in for them with '
            f'torchvision and PyTorch ({SWITCH}=0 turns this off)',
            file=sys.stderr,
        )
