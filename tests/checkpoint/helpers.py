"""Files that run code, and loading into a model."""

from mmrecnext import RecNeXt


class RunsCode:
    def __reduce__(self):
        return print, ('this must never be printed',)


def load(checkpoint, arch='m0', prefix=None, **options):
    init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    if prefix is not None:
        init_cfg['prefix'] = prefix
    model = RecNeXt(arch, init_cfg=init_cfg, **options)
    model.init_weights()
    return model
