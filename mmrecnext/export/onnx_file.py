"""ONNX files, by the exporter that follows ``torch.export``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmrecnext.export.recording import Recording, quietly

INPUT = 'images'
AXES = {0: 'batch', 2: 'height', 3: 'width'}
"""Names of the axes of the pictures that may be of any size."""

WORTH_HALVING = 64
"""Least number of weights in an array for which half precision saves anything."""


def write(recording: Recording, file: Path) -> None:
    """Write a graph.

    Args:
        recording: of a network.
        file: to be written.
    """
    file.write_bytes(convert(recording))


def convert(recording: Recording) -> bytes:
    """Return the content of a file; see :func:`write`."""
    with quietly('torch.onnx'):
        converted = torch.onnx.export(
            recording.program,
            dynamo=True,
            input_names=[INPUT],
            output_names=[*recording.outputs],
            external_data=False,
            verbose=False,
        )
    assert converted is not None  # as of all programs
    model = converted.model_proto
    _forget_origin(model)
    _name_axes(model.graph)
    content: bytes = model.SerializeToString()
    return content


def _forget_origin(model) -> None:
    """Take out where each node was made: lines of files of this machine."""
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ''
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.value_info[:]


def _name_axes(graph) -> None:
    """Name the sides of pictures, which the exporter numbers."""
    dims = graph.input[0].type.tensor_type.shape.dim
    names = {dims[i].dim_param: name for i, name in AXES.items() if dims[i].dim_param}
    if not names:
        return
    symbols = re.compile('|'.join(rf'\b{re.escape(symbol)}\b' for symbol in names))
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = symbols.sub(lambda m: names[m[0]], dim.dim_param)


def halve(file: Path, *_) -> None:
    """Keep the weights of a file in half precision; it computes in single as before."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(file)
    casts = []
    for weight in model.graph.initializer:
        values, name = numpy_helper.to_array(weight), weight.name
        if values.dtype != np.float32 or values.size < WORTH_HALVING:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        half = f'{name}.half'
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(
            onnx.helper.make_node('Cast', [half], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    file.write_bytes(model.SerializeToString())


def annotate(file: Path, about: Mapping[str, str]) -> None:
    """Write what the file tells of itself, by name."""
    import onnx

    model = onnx.load(file)
    onnx.helper.set_model_props(model, dict(about))
    file.write_bytes(model.SerializeToString())


def told(file: Path) -> dict[str, str]:
    """Return what a file tells of itself, by name."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def read(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what runs a file, in onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        file, options, providers=['CPUExecutionProvider']
    )
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        results = session.run(names, {INPUT: images.numpy()})
        return dict(zip(names, map(torch.from_numpy, results), strict=True))

    return run
