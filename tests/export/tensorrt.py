#!/usr/bin/env python
"""Ask of ONNX files whether TensorRT lists what is in them: operators, types, opset.

What it lists is that of version 10.15, by ``docs/operators.md`` of onnx/onnx-tensorrt.
Nothing is run: for each file there is a line of its operators, and one for each thing
that is not listed, or is within limits that a file may break.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import onnx
from onnx import TensorProto

OPSETS = range(9, 25)
FLOATS = {'FLOAT', 'FLOAT16', 'BFLOAT16'}
NUMBERS = FLOATS | {'INT32', 'INT64'}
ALL = NUMBERS | {'BOOL'}
# By the types of what they take; those for strings, sounds, sequences, recurrence and
# quantised numbers are left out.
OPERATORS = {
    name: types
    for types, names in (
        (
            FLOATS,
            """
            Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu
            Clip Conv ConvTranspose Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor
            Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization
            HardSigmoid HardSwish Hardmax InstanceNormalization IsInf LRN
            LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool MatMul
            MaxPool MeanVarianceNormalization PRelu RMSNormalization Reciprocal Resize
            Round Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh
            ThresholdedRelu Upsample
            """,
        ),
        (
            NUMBERS,
            """
            Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual
            IsNaN Less LessOrEqual Max Mean Min Mod Mul Neg Pad Pow Range ReduceL1
            ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
            ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND
            Shrink Sign SpaceToDepth Sub Sum TopK
            """,
        ),
        (
            ALL,
            """
            Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements
            GatherND Identity If Loop OneHot Reshape ReverseSequence Shape Size Slice
            Split Squeeze Tile Transpose Trilu Unsqueeze Where
            """,
        ),
        (ALL | {'UINT8'}, 'Cast CastLike'),
        ({'BOOL'}, 'And Not Or Xor'),
        (
            {'FLOAT', 'FLOAT16'},
            'DeformConv GridSample Mish NonMaxSuppression NonZero RoiAlign',
        ),
    )
    for name in names.split()
}
# Which of their inputs the types are of, where not the first.
TYPED_INPUT = {'Where': 1}
LARGEST_K = 3839
RESIZES = {
    'mode': {'nearest', 'linear'},
    'coordinate_transformation_mode': {
        'half_pixel',
        'pytorch_half_pixel',
        'tf_half_pixel_for_nn',
        'asymmetric',
        'align_corners',
    },
    'keep_aspect_ratio_policy': {'stretch'},
    'antialias': {0},
}


def problems(model: onnx.ModelProto) -> Iterator[str]:
    """Yield what TensorRT does not list of a file, each once."""
    for opset in model.opset_import:
        if opset.domain or opset.version not in OPSETS:
            yield f'opset {opset.version} of {opset.domain or "onnx"}'
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {x.name: x.type.tensor_type.elem_type for x in values}
    known = {x.name: x for x in graph.initializer}
    types.update({x.name: x.data_type for x in graph.initializer})
    known.update(
        {x.output[0]: x.attribute[0].t for x in graph.node if x.op_type == 'Constant'}
    )
    told = set()
    for node in graph.node:
        for problem in _of_node(node, types, known):
            if problem not in told:
                told.add(problem)
                yield problem


def _of_node(node, types, known) -> Iterator[str]:
    kind = node.op_type
    if kind not in OPERATORS:
        yield f'{kind} is not listed'
        return
    if node.input:
        name = node.input[TYPED_INPUT.get(kind, 0)]
        code = types.get(name, known[name].data_type if name in known else 0)
        if code and TensorProto.DataType.Name(code) not in OPERATORS[kind]:
            yield f'{kind} of {TensorProto.DataType.Name(code)}'
    options = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
    if kind == 'TopK':
        if not options.get('sorted', 1):
            yield 'TopK that does not sort'
        if node.input[1] not in known:
            yield f'TopK of a number that the picture decides on, below {LARGEST_K + 1}'
        elif (k := onnx.numpy_helper.to_array(known[node.input[1]]).item()) > LARGEST_K:
            yield f'TopK of {k}, more than {LARGEST_K}'
    if kind.startswith('Reduce') and node.input[1:] and node.input[1] not in known:
        yield f'{kind} along axes that are computed'
    if kind == 'ScatterND' and options.get('reduction', b'none') != b'none':
        yield f'ScatterND that adds up by {options["reduction"].decode()}'
    if kind == 'Resize':
        for name, allowed in RESIZES.items():
            value = options.get(name, next(iter(allowed)))
            value = value.decode() if isinstance(value, bytes) else value
            if value not in allowed:
                yield f'Resize with {name} {value}'


def main():
    """Tell of each file what there is to tell."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('files', nargs='+', metavar='FILE', help='ONNX files')
    for file in parser.parse_args().files:
        model = onnx.load(file)
        kinds = sorted({node.op_type for node in model.graph.node})
        opsets = ', '.join(str(x.version) for x in model.opset_import)
        print(f'{file}: opset {opsets}, {" ".join(kinds)}')
        print(*([f'  {x}' for x in problems(model)] or ['  all listed']), sep='\n')


if __name__ == '__main__':
    main()
