"""What options of the tools may be, as command lines name it."""

from pathlib import Path

AMP_DTYPES = {'bf16': 'bfloat16', 'fp16': 'float16'}
"""Of mixed precision, by PyTorch's names."""

DTYPES = {'fp32': 'float32', **AMP_DTYPES}

RANKS = {
    'pytorch': 'RANK',
    'slurm': 'SLURM_PROCID',
    'mpi': 'OMPI_COMM_WORLD_RANK',
}
"""Variables in which launchers number their processes."""

CHECKPOINTS = ('published', 'safetensors', 'bare', 'backbone', 'fused', 'network')
"""Forms of a checkpoint."""

# --- Exported files

FORMATS = {
    'onnx': '.onnx',
    'openvino': '.xml',
    'pt2': '.pt2',
    'torchscript': '.ts',
    'executorch': '.pte',
    'coreml': '.mlpackage',
    'coreml-nn': '.mlmodel',
}
"""What names of files end in, by format."""

PICTURES = ('uint8', 'float32')
"""Types that pictures may have in a file."""

MASKS = ('picture', 'box')
"""What becomes of masks: pasted into the picture, at its size and by the threshold of
the config; or as they are predicted in each box, probabilities."""


def is_exported(name: str) -> bool:
    """Tell whether a name is one of a written file, by its suffix."""
    return Path(name).suffix in FORMATS.values()


# --- Benchmark

FORMS = ('original', 'train', 'deploy')
LAYOUTS = ('nchw', 'nhwc')
MODES = ('eager', 'compiled', 'frozen')
WORKS = ('forward', 'step')
ENGINES = ('onnxruntime', 'openvino')
CLOCKS = ('wall', 'process')

SIDES = (224, 512, 1024, 2048)
BATCHES = (1, 4, 16, 64)
"""Of growth."""

ABLATIONS = (
    '224x224_3x3',
    '224x224_7x7',
    '224x224_bxb',
    '224x224_rec_3x3',
    '224x224_rec_5x5',
    '224x224_rec_7x7',
    '224x224_rec_7x7_nearest',
    '224x224_rec_7x7_nearest_ssm',
    '224x224_rec_7x7_unpool',
    '384x384_3x3',
    '384x384_7x7',
    '384x384_bxb',
    '384x384_rec_3x3',
    '384x384_rec_5x5',
    '384x384_rec_7x7',
    '384x384_rec_convtrans_3x3_basic',
    '384x384_rec_convtrans_5x5_basic',
    '384x384_rec_convtrans_7x7_basic',
    '384x384_rec_convtrans_7x7_group',
    '384x384_rec_convtrans_7x7_split',
)
OPERATORS = (
    'roi_align',
    'roi_pool',
    'nms',
    'deform_conv',
    'deform_attn',
    'focal_loss',
    'pasting',
)
