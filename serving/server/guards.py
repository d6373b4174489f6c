"""Keeps a request from killing the process through TensorFlow's convolutions.

Given a tensor of too few dimensions, Conv2D, Conv3D and DepthwiseConv2dNative do not report
an error: they abort the process (TensorFlow 2.16 to 2.21; tensorflow#112555). A model that
has them is served with two guards, which turn what would abort into INVALID_ARGUMENT:
an input whose rank the signature states must have that rank, and where it does not state
one, the graph itself checks the rank in front of each convolution.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.server import status

_CONVOLUTION_RANKS = {
    "Conv2D": 4,
    "DepthwiseConv2dNative": 4,
    "Conv3D": 5,
    "_FusedConv2D": 4,
    "_FusedDepthwiseConv2dNative": 4,
    "_FusedConv3D": 5,
}
_SUFFIX = "/checked_rank"


def has_convolution(meta_graph: meta_graph_pb2.MetaGraphDef) -> bool:
    """Whether any part of a model convolves."""
    return any(node.op in _CONVOLUTION_RANKS for nodes, _ in _graphs(meta_graph) for node in nodes)


def has_unknown_rank(meta_graph: meta_graph_pb2.MetaGraphDef) -> bool:
    """Whether a signature leaves the rank of an input open."""
    return any(
        info.tensor_shape.unknown_rank
        for signature in meta_graph.signature_def.values()
        for info in signature.inputs.values()
    )


def check_ranks_in_graph(meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Puts an EnsureShape in front of every convolution, in place."""
    for nodes, output in _graphs(meta_graph):
        _put_before([node for node in nodes if node.op in _CONVOLUTION_RANKS], nodes, output)


def keep_padding(meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Keeps TensorFlow from dropping a Pad in front of a Conv3D of padding SAME, in place.

    With oneDNN it takes the Pad for the convolution's own padding and forgets it (TensorFlow 2.16
    to 2.21): the answer is another, without an error. A node between the two prevents that.
    """
    if not any(node.op == "Pad" for nodes, _ in _graphs(meta_graph) for node in nodes):
        return
    for nodes, output in _graphs(meta_graph):
        same = [n for n in nodes if n.op == "Conv3D" and n.attr["padding"].s == b"SAME"]
        _put_before(same, nodes, output)


def check_rank(alias: str, array: np.ndarray, info: meta_graph_pb2.TensorInfo) -> None:
    """Raises ServingError if an input has another rank than its signature states."""
    shape = info.tensor_shape
    if shape.unknown_rank or array.ndim == len(shape.dim):
        return
    wanted = ",".join("?" if dim.size < 0 else str(dim.size) for dim in shape.dim)
    given = ",".join(str(size) for size in array.shape)
    raise status.invalid(
        f"input {alias} must have {len(shape.dim)} dimensions, as in its signature's shape "
        f"[{wanted}]; got {array.ndim}, shape [{given}]"
    )


def _graphs(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[tuple[Any, str]]:
    """Yields the nodes of the graph and of each function, and how an output is named there."""
    yield meta_graph.graph_def.node, ""
    for function in meta_graph.graph_def.library.function:
        yield function.node_def, ":output:0"


def _put_before(convolutions: Sequence[node_def_pb2.NodeDef], nodes: Any, output: str) -> None:
    """Puts a check of the rank in front of convolutions, which are among the nodes."""
    for node in convolutions:
        check = nodes.add(name=node.name + _SUFFIX, op="EnsureShape", device=node.device)
        check.input.append(node.input[0])
        check.attr["T"].CopyFrom(node.attr["T"])
        for _ in range(_CONVOLUTION_RANKS[node.op]):
            check.attr["shape"].shape.dim.add(size=-1)
        node.input[0] = check.name + output
