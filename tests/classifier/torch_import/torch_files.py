"""Writes files in PyTorch's zip format without PyTorch, also such as PyTorch would not write."""

import pickle
import zipfile

import numpy as np


def fragment(value):
    """Opcodes that push a plain Python value."""
    return pickle.dumps(value, 2)[2:-1]


def name(module, attribute):
    """Opcodes that push what a name stands for."""
    return f"c{module}\n{attribute}\n".encode()


def call(function, *arguments):
    """Opcodes that push the result of a call; all arguments are opcodes."""
    return function + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def tensor(key, array, *, offset=0, shape=None, strides=None, kind="FloatStorage"):
    """Opcodes that push a tensor whose storage `key` has as many items as the array."""
    if strides is None:
        strides = tuple(stride // array.itemsize for stride in array.strides)
    storage = [fragment("storage"), name("torch", kind), *map(fragment, (key, "cpu", array.size))]
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        pickle.MARK + b"".join(storage) + pickle.TUPLE + pickle.BINPERSID,
        *map(fragment, (offset, shape or array.shape, strides, False)),
        call(name("collections", "OrderedDict")),
    )


def state_dict(tensors):
    """Opcodes that push a dict; the values are opcodes."""
    items = b"".join(fragment(key) + value for key, value in tensors.items())
    return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS


def write_zip(path, opcodes, storages=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.PROTO + b"\x02" + opcodes + pickle.STOP)
        for key, array in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def write_state_dict(path, arrays):
    """A state dict of contiguous float32 arrays."""
    arrays = {key: np.ascontiguousarray(array, np.float32) for key, array in arrays.items()}
    keys = {key: str(i) for i, key in enumerate(arrays)}
    opcodes = state_dict({key: tensor(keys[key], array) for key, array in arrays.items()})
    write_zip(path, opcodes, {keys[key]: array for key, array in arrays.items()})
