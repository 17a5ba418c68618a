"""Compiles the kernels for GPUs that need not be there; prints what came of it as JSON.

A program of its own, because tests without a GPU run with Triton's interpreter.
"""

import json
import re
import subprocess
import tempfile

import torch
import triton
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmrecnext.models.recconv import RecConv
from mmrecnext.ops import attention_triton, kernels, recconv_triton
from mmrecnext.ops.attention import attend

INTEGERS = (
    *('height', 'width', 'coarse_height', 'coarse_width', 'rows', 'units', 'biased'),
    *('pixels', 'v_stride_n', 'v_stride'),
)
KERNELS = {
    'halve, bf16, sm80': (
        recconv_triton.depthwise,
        *('bf16', 80),
        dict(UNIT=16, KERNEL=5, STRIDE=2, MODE='none', STRIP=2, STRIPS=4, BLOCK=64),
    ),
    'bilinear, fp16, sm90': (
        recconv_triton.depthwise,
        *('fp16', 90),
        dict(UNIT=16, KERNEL=5, STRIDE=1, MODE='bilinear', STRIP=4, STRIPS=4, BLOCK=64),
    ),
    'bilinear 7x7, fp32, sm80': (
        recconv_triton.depthwise,
        *('fp32', 80),
        dict(UNIT=8, KERNEL=7, STRIDE=1, MODE='bilinear', STRIP=2, STRIPS=16, BLOCK=16),
    ),
    'nearest, bf16, sm90': (
        recconv_triton.depthwise,
        *('bf16', 90),
        dict(UNIT=16, KERNEL=3, STRIDE=1, MODE='nearest', STRIP=4, STRIPS=4, BLOCK=64),
    ),
    'gather, fp32, sm80': (
        attention_triton.gather,
        *('fp32', 80),
        dict(HEADS=1, D=128, C=128, BLOCK_D=128, BLOCK_C=32, PIXELS=16, SPAN=256),
    ),
    'gather, bf16, sm90': (
        attention_triton.gather,
        *('bf16', 90),
        dict(HEADS=2, D=20, C=20, BLOCK_D=32, BLOCK_C=32, PIXELS=64, SPAN=256),
    ),
    'distribute, fp32, sm80': (
        attention_triton.distribute,
        *('fp32', 80),
        dict(HEADS=1, D=128, C=128, BLOCK_D=128, BLOCK_C=32, PIXELS=16),
    ),
    'distribute, bf16, sm90': (
        attention_triton.distribute,
        *('bf16', 90),
        dict(HEADS=2, D=20, C=20, BLOCK_D=32, BLOCK_C=32, PIXELS=64),
    ),
}


class Driver:
    """Stands for the GPU, of which Triton asks the kind."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget('cuda', 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device('cuda')

    def get_current_device(self) -> int:
        return 0


def type_of(name: str, dtype: str) -> str:
    if name in INTEGERS:
        return 'i32'
    if name == 'eps':
        return 'fp32'
    return '*fp32' if name == 'sums_ptr' else f'*{dtype}'


def compiled(kernel, dtype: str, arch: int, constants: dict) -> dict:
    """Compile a kernel; return the bytes it has in all memories, by `cuobjdump`."""
    if constants.get('MODE') == 'none':
        constants = dict(constants, coarse_ptr=None)
    signature = {
        name: 'constexpr' if name in constants else type_of(name, dtype)
        for name in kernel.arg_names
    }
    aligned = {
        (i,): [['tt.divisibility', 16]]
        for i, kind in enumerate(signature.values())
        if kind.startswith('*')
    }
    source = ASTSource(kernel, signature, constants, aligned)
    result = triton.compile(source, target=GPUTarget('cuda', arch, 32))
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(result.asm['cubin'])
        file.flush()
        usage = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, '-res-usage', file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    usage = {
        key: int(value) for key, value in re.findall(r'\b(REG|STACK):(\d+)', usage)
    }
    return dict(usage, shared=result.metadata.shared)


def traced(mode, function, *shapes: tuple[int, ...]) -> dict:
    """Compile a function for maps of a dynamic size, as far as to the graph."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        outputs = graph.graph.output_node().args[0]
        return lambda *_: [output.meta['val'] for output in outputs]

    run = torch.compile(
        function,
        fullgraph=True,
        dynamic=True,
        backend=aot_autograd(fw_compiler=backend),
    )
    with mode, torch.no_grad():
        for shape in shapes:
            run(torch.empty(shape, device='cuda'))
    launches = [
        node.kwargs['tensors_to_clone']
        for node in graphs[0].graph.nodes
        if node.target is torch.ops.higher_order.triton_kernel_wrapper_functional
    ]
    output = graphs[0].graph.output_node().args[0][0].meta['val']
    return dict(
        graphs=len(graphs),
        launches=len(launches),
        written=sorted({name for names in launches for name in names}),
        channels=int(output.shape[1]),
        is_channels_last=output.is_contiguous(memory_format=torch.channels_last),
    )


def attention(qk):
    v = qk[:, :48]
    return attend(qk, v, 3, v)


def main():
    report = {name: compiled(*kernel) for name, kernel in KERNELS.items()}
    triton.runtime.driver.set_active(Driver())
    kernels._kernel_runs = lambda *_: True
    with FakeTensorMode() as mode, torch.device('cuda'):
        layer = RecConv(64, 2)
    report['recconv'] = traced(mode, layer, (2, 64, 13, 9), (3, 64, 40, 33))
    report['attention'] = traced(mode, attention, (2, 96, 23, 19), (3, 96, 40, 33))
    print(json.dumps(report))


if __name__ == '__main__':
    main()
