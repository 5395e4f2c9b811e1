"""Names for the operators of LiteRT's profile: those of the tensors that they give, in the file.

What LiteRT computes itself keeps its number in the file. XNNPACK counts its own operators, which it
joins, splits and adds: one of them is named only where its kind leaves no choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Key = tuple[object, ...]

_KINDS = {
    "Convolution": "product",
    "Deconvolution": "product",
    "Fully Connected": "product",  # also a convolution of 1x1
    "CONV_2D": "product",
    "DEPTHWISE_CONV_2D": "product",
    "TRANSPOSE_CONV": "product",
    "FULLY_CONNECTED": "product",
    "Batch Matrix Multiply": "BATCH_MATMUL",
    "Add": "ADD",
    "Subtract": "SUB",
    "Multiply": "MUL",
    "Mean": "MEAN",
    "Sigmoid": "LOGISTIC",
    "Softmax": "SOFTMAX",
    "TanH": "TANH",
    "Max Pooling": "MAX_POOL_2D",
    "Average Pooling": "AVERAGE_POOL_2D",
}
"""Of XNNPACK's operators, as they begin, and of TFLite's."""


@dataclass(frozen=True)
class Node:
    """An operator of a file's main graph: its number, what it is, and the tensor that it gives."""

    index: int
    kind: str
    name: str


def nodes_of(path: str) -> list[Node]:
    """The operators of the main graph of the file `path`, in their order."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Without a delegate, which would hide what it takes over.
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=path, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    tensors = {t["index"]: t["name"] for t in interpreter.get_tensor_details()}
    return [
        Node(op["index"], op["op_name"], tensors.get(op["outputs"][0], ""))
        for op in interpreter._get_ops_details()
        if len(op["outputs"])
    ]


def names_of(operators: Mapping[Key, str], nodes: Sequence[Node]) -> dict[Key, str]:
    """Names by operator, for those of the main graph that surely are one node of the file.

    `operators` are the kinds of those that ran, in this order. Keys are (subgraph, node), or
    (subgraph, part, node, kind) where one is XNNPACK's.
    """
    names: dict[Key, str] = {}
    known = {node.index: node for node in nodes}
    delegated = dict(known)
    theirs: dict[str, list[Key]] = {}
    for key, kind in operators.items():
        if key[0] != 0:
            continue
        if len(key) == 2:
            node = known.get(int(str(key[1])))
            if node is not None and node.kind == kind:
                names[key] = node.name
                delegated.pop(node.index, None)
        elif (common := _kind(kind)) is not None:
            theirs.setdefault(common, []).append(key)
    for common, keys in theirs.items():
        own = [node for node in delegated.values() if _kind(node.kind) == common]
        # The parts that are delegated need not run in the order of the file; one part does.
        if len(own) == len(keys) and len({key[1] for key in keys}) == 1:
            names.update({key: node.name for key, node in zip(keys, own, strict=True)})
    return names


def _kind(operator: str) -> str | None:
    """What an operator of either is called in common; None: nothing that is named."""
    if operator in _KINDS.values():
        return operator
    return next((kind for begin, kind in _KINDS.items() if operator.startswith(begin)), None)
