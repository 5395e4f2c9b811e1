"""What in a model's configuration makes Keras run code, read files or never end while loading.

Keras builds whatever classes and functions a file names. Keras 3 checks them itself, but for
code that it is told to trust; Keras 2 imports any module, calls any function of TensorFlow, and
has no safe mode for .h5 files.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterator
from typing import Any

from edgekit.errors import SourceError

BUILDER = "build the model from your own code and take only its weights: --builder module:function"
REPLACE = f"replace it by a built-in or custom layer, or {BUILDER}"

_OP_LAYERS = {"TFOpLambda", "SlicingOpLambda"}
_PURE_FUNCTION = re.compile(
    r"""
    (?!.*candidate_sampler)  # reads a file of words
    (?!.*\.(?:get|serialize|deserialize)$)
    (?:compat\.v1\.)?
    (?:
        (?:math|math\.special|nn|linalg|image|signal|strings|sets|bitwise|sparse
          |__operators__|keras\.activations|keras\.losses|keras\.metrics)\.[a-z]\w*
      | dtypes\.(?:cast|complex|saturate_cast)
      | quantization\.(?:fake_quant_\w+|quantize_and_dequantize\w*)
      | random\.(?:normal|uniform|truncated_normal|categorical|gamma|poisson|shuffle|stateless_\w+)
      | (?:keras\.backend\.)?(?:
            abs|acosh?|add|add_n|all|any|arange|argmax|argmin|argsort|asinh?|atan2?|atanh|as_string
          | batch_dot|batch_flatten|batch_normalization|batch_to_space\w*|bias_add|bitcast
          | \w+_crossentropy|boolean_mask|broadcast_\w+|cast|cast_to_floatx|ceil|clip|clip_by_\w+
          | complex|concat|concatenate|constant|conv[123]d\w*|convert_to_tensor|cosh?|count_nonzero
          | cumprod|cumsum|depth_to_space|depthwise_conv2d|diag|diag_part|div|div_no_nan|divide|dot
          | dropout|dynamic_partition|dynamic_stitch|einsum|elu|ensure_shape|equal|erfc?|exp|expm1
          | expand_dims|extract_\w*patches|eye|fill|flatten|floor|floor_?div|floormod|gather
          | gather_nd|greater|greater_equal|hard_sigmoid|histogram_fixed_width|identity|identity_n
          | in_train_phase|in_top_k|int_shape|is_finite|is_inf|is_nan|l2_normalize|less|less_equal
          | lin_?space|log|log1p|logical_\w+|matmul|matrix_\w+|max|maximum|mean|meshgrid|min|minimum
          | mod|multiply|ndim|negative|norm|not_equal|one_hot|ones|ones_like|pad|permute_dimensions
          | pool[23]d|pow|prod|random_normal|random_uniform|random_shuffle|truncated_normal|range
          | rank|real|realdiv|reciprocal|reduce_\w+|relu6?|repeat|repeat_elements|reshape
          | resize_images|resize_volumes|reverse|reverse_sequence|reverse_v2|rint|roll|round|rsqrt
          | saturate_cast|scalar_mul|scatter_nd|searchsorted|segment_\w+|separable_conv2d
          | sequence_mask|shape|shape_n|sigmoid|sign|sinh?|size|slice|softmax|softplus|softsign|sort
          | space_to_batch\w*|space_to_depth|spatial_\wd_padding|split|sqrt|square
          | squared_difference|squeeze|stack|std|stop_gradient|strided_slice|subtract|sum|switch
          | tanh?|temporal_padding|tensor_scatter_nd_\w+|tensordot|tile|to_\w+|transpose|truediv
          | truncate\w+|unique|unique_with_counts|unravel_index|unsorted_segment_\w+|unstack|var
          | where|where_v2|zeros|zeros_like
        )
    )
    """,
    re.VERBOSE,
)
"""TensorFlow's functions by name that only compute."""
_ARITHMETIC = {"abs", "max", "min", "pow", "round", "sum"}
"""Python's own functions that are as good as TensorFlow's: tf.abs is saved as "abs"."""
_IMPURE_OPERATION = re.compile(
    "File|Record|Read|Write|Save|Restore|Checkpoint|Snapshot|PyFunc|Print|Debug|Dump|Summar|Proto"
    "|Remap|Dataset|Iterator|Rpc|Remote|Send|Recv|Call|Queue|Table|Sampler|Skipgram|Import|Library"
)
_MODULE_OF_KERAS = re.compile(r"(?:tf_)?keras(?:\.\w+)*|builtins")
_MODULE_OF_FUNCTIONS = re.compile(
    r"builtins|(?:tf_)?keras(?:\.src)?"
    r"(?:\.(?:activations|backend|constraints|initializers|layers|losses|metrics|regularizers)"
    r"(?:\.\w+)*)?"
    r"|tensorflow\.python\.ops\.(?:gen_)?(?:array|clip|math|nn|special_math)_(?:ops|impl|ops_impl)"
)


def refuse(where: str, config: Any, *, is_keras_2: bool, has_own_code: bool) -> None:
    """Pass a configuration (JSON) that Keras can load without doing anything else.

    Args:
        where: path of the file, for the messages.
        config: the model's, as JSON gives it; None is passed.
        is_keras_2: whether tf-keras will load it.
        has_own_code: whether the user gives a module of layers and functions.

    Raises:
        SourceError: it holds something else; the message names it and its layer.
    """
    for layer, item in _objects(config, "the model"):
        _refuse_code(f"{where}: {layer}", item)
        _refuse_files(f"{where}: {layer}", item)
        if is_keras_2:
            _refuse_functions(f"{where}: {layer}", item)
            _refuse_modules(where, layer, item, has_own_code)
            _refuse_loops(where, item)


def _objects(value: Any, layer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON object, with the words for the innermost layer that it belongs to."""
    if isinstance(value, dict):
        if "class_name" in value:
            name = _config_of(value).get("name") or value.get("name")
            layer = f"the layer {name!r}" if isinstance(name, str) else layer
        yield layer, value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _objects(item, layer)


def _class_of(item: dict[str, Any]) -> str:
    """The class without its package, as "Lambda" of "keras>Lambda"."""
    return str(item.get("class_name", "")).rpartition(">")[2]


def _config_of(item: dict[str, Any]) -> dict[str, Any]:
    config = item.get("config")
    return config if isinstance(config, dict) else {}


def _refuse_code(where: str, item: dict[str, Any]) -> None:
    kind, config = _class_of(item), _config_of(item)
    if kind == "Lambda" and (
        _names_a_lambda(config)
        or any(isinstance(v, dict) and _class_of(v) == "__lambda__" for v in config.values())
        or any(_is_compiled(config.get(key)) for key in ("function", "output_shape", "mask"))
    ):
        raise SourceError(
            f"{where} is a Lambda layer, which is Python code; it was not run", hint=REPLACE
        )
    if kind == "__lambda__" or _names_a_lambda(item):
        raise SourceError(
            f"{where} holds a Python lambda, which is code; it was not run",
            hint=f"replace it by a named function, or {BUILDER}",
        )


def _names_a_lambda(config: dict[str, Any]) -> bool:
    """As Keras 2 does: "function_type": "lambda" says that "function" is compiled code."""
    return any(str(key).endswith("_type") and v == "lambda" for key, v in config.items())


def _is_compiled(value: Any) -> bool:
    """Whether it is [code in base64, defaults, closure]."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def _refuse_files(where: str, item: dict[str, Any]) -> None:
    kind, config = _class_of(item), _config_of(item)
    if kind == "TFSMLayer":
        raise SourceError(
            f"{where} is a TFSMLayer, which runs the SavedModel {config.get('filepath')!r}; "
            "it was not run",
            hint=f"export that SavedModel itself, or {BUILDER}",
        )
    vocabulary = config.get("vocabulary")
    if kind.endswith(("Lookup", "Vectorization")) and isinstance(vocabulary, str):
        raise SourceError(
            f"{where} takes its vocabulary from another file, {vocabulary!r}; it was not read",
            hint="save the model with the vocabulary in it: layer.set_vocabulary(list)",
        )


def _refuse_functions(where: str, item: dict[str, Any]) -> None:
    kind, config = _class_of(item), _config_of(item)
    called = None
    if kind in _OP_LAYERS and not _PURE_FUNCTION.fullmatch(str(config.get("function"))):
        called = f"tf.{config.get('function')}"
    elif kind == "ClassMethod":
        called = f"tf.{config.get('cls_symbol')}.{config.get('method_name')}"
    elif kind == "InstanceMethod":
        called = f"tensor.{config.get('attr_name')}"
    elif kind == "TensorFlowOpLayer":
        node = config.get("node_def")
        op = str(node.get("op") if isinstance(node, dict) else node)
        if found := _IMPURE_OPERATION.search(op):
            called = f"tf.raw_ops.{op if isinstance(node, dict) else found[0] + '...'}"
    if called is not None:
        raise SourceError(
            f"{where} calls {called!r}, which edgekit does not know to be arithmetic alone; "
            "it was not run",
            hint=REPLACE,
        )


def _refuse_modules(where: str, layer: str, item: dict[str, Any], has_own_code: bool) -> None:
    module, kind = item.get("module"), item.get("class_name")
    if not isinstance(module, str) or kind is None:
        return
    is_function = kind == "function"
    name = str(item.get("config") if is_function else kind)
    if is_function:
        of_keras = _MODULE_OF_FUNCTIONS.fullmatch(module)
        if module == "builtins" and name in vars(builtins) and name not in _ARITHMETIC:
            of_keras = None
    else:
        of_keras = _MODULE_OF_KERAS.fullmatch(module)
    if of_keras and "." not in f"{name}{item.get('registered_name')}":
        return
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names or root in ("keras", "tf_keras", "tensorflow"):
        raise SourceError(
            f"{where}: {layer} calls {f'{module}.{name}'!r}, which is no part of a model; "
            "it was not run",
            hint=f"ask where the file comes from; if it is your own, {BUILDER}",
        )
    if not has_own_code:
        raise SourceError(
            f"{where}: the model needs {name!r}, not part of Keras",
            hint=f"give the module that defines it: --custom-objects {module}, or FILE.py",
        )


_Reference = tuple[str, int]
"""A layer's name, and which of its calls."""


def _refuse_loops(where: str, item: dict[str, Any]) -> None:
    """Go through a graph of layers as tf-keras does, which never ends if one takes what none gives.

    A layer is called when the calls whose tensors it takes are done; an input always is.
    """
    config = _config_of(item)
    layers = config.get("layers")
    if not isinstance(layers, list) or "input_layers" not in config:
        return
    layers = [layer for layer in layers if isinstance(layer, dict)]
    inputs = {_name(layer) for layer in layers if _class_of(layer) == "InputLayer"}
    names = {_name(layer) for layer in layers}
    # The first call of a nested model is that of its own inputs, which files do not list.
    first = {_name(layer): int("layers" in _config_of(layer)) for layer in layers}
    is_certain = {_name(layer) for layer in layers if _class_of(layer) in ("Functional", "Model")}
    waiting: dict[str, list[set[_Reference]]] = {name: [] for name in names}
    for layer in layers:
        for node in layer.get("inbound_nodes") or []:
            waiting[_name(layer)].append(set(_references(node, names)))
    done: set[_Reference] = set()
    called = dict.fromkeys(names, 0)

    def is_done(reference: _Reference) -> bool:
        return reference[0] in inputs or reference in done

    moved = True
    while moved:
        moved = False
        for name, calls in waiting.items():
            while called[name] < len(calls) and all(map(is_done, calls[called[name]])):
                index = called[name] + first[name]
                done.add((name, index))
                if name not in is_certain:  # a Sequential may have no input of its own
                    done.add((name, called[name]))
                called[name] += 1
                moved = True
    for name, calls in waiting.items():
        if called[name] < len(calls):
            missing = next(r for r in sorted(calls[called[name]]) if not is_done(r))
            raise SourceError(
                f"{where}: the layer {name!r} takes call {missing[1]} of {missing[0]!r}, which "
                "the model does not make: tf-keras would never finish loading it",
                hint=f"save the model again, or {BUILDER}",
            )


def _name(layer: dict[str, Any]) -> str:
    return str(layer.get("name") or _config_of(layer).get("name"))


def _references(value: Any, names: set[str], is_argument: bool = False) -> Iterator[_Reference]:
    """Calls whose tensors a node takes: [layer, call, tensor], or with keyword arguments behind."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _references(item, names, is_argument)
    elif isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str):
            is_index = isinstance(value[1], int)
            if value[0] != "_CONSTANT_VALUE" and (value[0] in names or not is_argument):
                yield value[0], value[1] if is_index else -1
            if len(value) == 4:
                yield from _references(value[3], names, True)
        else:
            for item in value:
                yield from _references(item, names, is_argument)
