"""What TensorRT does not list is told of a file, and nothing else is."""

from onnx import TensorProto, helper

from tests.export.tensorrt import problems


def test_what_is_not_listed():
    nodes = [
        helper.make_node('Shape', ['images'], ['shape']),
        helper.make_node('Cast', ['images'], ['x'], to=TensorProto.FLOAT),
        helper.make_node('Resize', ['x', '', '', 'sides'], ['y'], mode='cubic'),
        helper.make_node('TopK', ['y', 'k'], ['best', 'places']),
        helper.make_node('Det', ['best'], ['z']),
    ]
    constants = [
        helper.make_tensor('sides', TensorProto.INT64, [4], [1, 3, 8, 8]),
        helper.make_tensor('k', TensorProto.INT64, [1], [4000]),
    ]
    images = helper.make_tensor_value_info('images', TensorProto.UINT8, [1, 3, 4, 4])
    results = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in (('z', TensorProto.FLOAT), ('shape', TensorProto.INT64))
    ]
    graph = helper.make_graph(nodes, 'graph', [images], results, constants)
    opsets = [helper.make_opsetid('', 25)]
    assert [*problems(helper.make_model(graph, opset_imports=opsets))] == [
        'opset 25 of onnx',
        'Shape of UINT8',
        'Resize with mode cubic',
        'TopK of 4000, more than 3839',
        'Det is not listed',
    ]
    graph = helper.make_graph(nodes[1:2], 'graph', [images], results[:0], [])
    opsets = [helper.make_opsetid('', 20)]
    assert not [*problems(helper.make_model(graph, opset_imports=opsets))]
