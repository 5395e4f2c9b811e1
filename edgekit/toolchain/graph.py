"""The canonical function as a frozen, folded graph: what ONNX and TF.js are made from.

The passes edit GraphDefs of their own making, never the model. They leave standard TensorFlow
operations only, and are deterministic: the same model gives the same bytes in every process.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.training.saver import export_meta_graph

from edgekit.toolchain.canonical import Canonical
from edgekit.toolchain.graph_affine import fold_affine, lower_batch_norm
from edgekit.toolchain.graph_edit import node_of
from edgekit.toolchain.graph_lowering import lower_operations
from edgekit.toolchain.graph_names import merge_twins, order, rename_functions
from edgekit.toolchain.graph_shapes import fold_reshapes, fold_sizes
from edgekit.toolchain.graph_weights import FrozenGraph, freeze

_CONTROL_FLOW = {"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"}
_SWEEP = ["constfold", "dependency", "pruning"]


def folded(model: Canonical, *, lower_loops: bool = False) -> FrozenGraph:
    """The graph without variables, calls, batch normalization after convolutions, or Erfc.

    Constants are folded; scale and shift after a convolution or MatMul are in its weights and one
    BiasAdd. What the formats have no kernel for is made of simpler operations. The placeholders
    and tensors named by `model.signature` keep their names. The graph is the caller's to change.
    """
    kept = _folded.setdefault(model, {})
    lower_loops = lower_loops and _has_loops(model)
    if lower_loops not in kept:
        specs = (*model.signature.inputs, *model.signature.outputs)
        graph = freeze(model, lower_loops=lower_loops)
        kept[lower_loops] = fold(graph, [node_of(spec.native) for spec in specs])
    return kept[lower_loops].copy()


def inlined(model: Canonical) -> Any:
    """A GraphDef of the model as it is, without calls and variables, constants folded."""
    keep = [node_of(s.native) for s in (*model.signature.inputs, *model.signature.outputs)]
    graph = FrozenGraph(freeze(model).complete())
    _allow_inlining(graph.graph_def)
    graph = _optimize(graph, keep, ["function", "debug_stripper", "pruning"])
    graph = _optimize(graph, keep, _SWEEP)
    order(graph.graph_def)
    return graph.graph_def


_folded: WeakKeyDictionary[Canonical, dict[bool, FrozenGraph]] = WeakKeyDictionary()
"""ONNX and TF.js in several precisions start from one graph."""


def _has_loops(model: Canonical) -> bool:
    graph = model.concrete.graph.as_graph_def()
    holders = [graph.node, *(f.node_def for f in graph.library.function)]
    return any(node.op in _CONTROL_FLOW for nodes in holders for node in nodes)


def fold(frozen: FrozenGraph, keep: list[str]) -> FrozenGraph:
    """Fold a frozen graph as `folded` says; nodes named in `keep` survive under their names."""
    graph = frozen.copy()
    _allow_inlining(graph.graph_def)
    graph = _optimize(graph, keep, ["function", "debug_stripper", "pruning"])
    graph.settle(frozenset(keep))
    fold_sizes(graph.graph_def)
    graph = _optimize(graph, keep, _SWEEP)
    lower_batch_norm(graph.graph_def)
    lower_operations(graph)
    fold_sizes(graph.graph_def)
    fold_reshapes(graph.graph_def)
    graph = _optimize(graph, keep, _SWEEP)
    fold_affine(graph, frozenset(keep))
    # Not before: it regroups the sums that follow a convolution.
    graph = _optimize(graph, keep, ["arithmetic", *_SWEEP])
    merge_twins(graph.graph_def, frozenset([*keep, *graph.weights]))
    rename_functions(graph.graph_def)
    order(graph.graph_def)
    return graph


def _optimize(graph: FrozenGraph, keep: list[str], passes: list[str]) -> FrozenGraph:
    """Run grappler's `passes`."""
    graph_def = graph.graph_def
    merge_twins(graph_def, frozenset([*keep, *graph.weights]))
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph_def, name="")
    meta = export_meta_graph(graph_def=graph_def, graph=imported)
    meta.collection_def["train_op"].node_list.value.extend(keep)
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.optimizers[:] = passes
    options.min_graph_nodes = -1  # small graphs too
    options.meta_optimizer_iterations = 2
    optimized = tf_optimizer.OptimizeGraph(config, meta)
    left = FrozenGraph(optimized, dict(graph.weights))
    left.drop_unread()
    return left


def _allow_inlining(graph_def: Any) -> None:
    """Take off what keeps grappler from inlining a call.

    Keras compiles some layers (grouped convolutions) with XLA; a SavedModel's shared layers ask to
    be placed beside variables that are gone.
    """
    holders = [*graph_def.node, *graph_def.library.function]
    for function in graph_def.library.function:
        holders.extend(function.node_def)
    for holder in holders:
        for mark in ("_XlaMustCompile", "_noinline", "_class"):
            holder.attr.pop(mark, None)
