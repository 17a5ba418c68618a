"""Import this to have MMEngine read the metafiles of the frameworks once.

It reads all of a framework's anew for each base that a config has there, which takes as
long as all else that a test of a config does.
"""

import functools
from contextlib import suppress

from mmengine.config import utils
from mmengine.utils import get_installed_path

utils.load = functools.cache(utils.load)

for package in ('mmdet', 'mmseg'):
    with suppress(Exception):  # that there is no such config, or no such package
        utils._get_cfg_metainfo(get_installed_path(package), 'none.py')
