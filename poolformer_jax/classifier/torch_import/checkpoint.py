"""Tensors of files written by `torch.save`, read without PyTorch and without running the file.

A checkpoint is a pickle, and a pickle is a program: it may call any function that it can name.
Here it can name a short list: what rebuilds tensors and containers, which is replaced by functions
of this file, and classes of modules, which become inert placeholders that nothing can call.

Source: the formats of PyTorch, `torch/serialization.py`: a zip since 1.6, before it a row of
pickles followed by the bytes of the storages.
"""

from __future__ import annotations

import collections
import contextlib
import io
import math
import os
import pathlib
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGE_TYPES: Mapping[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


def read_torch_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all parameters and buffers of a pickled module, or of a state dict, by their names.

    Args:
      path: File that `torch.save(module, path)` or `torch.save(module.state_dict(), path)` wrote,
        in either format.

    Returns:
      Arrays in the types of the file under dotted names, such as `module.bn_1.running_mean`; those
      of a module that is part of several under the first name only.

    Raises:
      ValueError: If the file is damaged, holds something else, or names or calls anything but
        tensors, containers and classes of modules; nothing of it has been run then.
      OSError: If it cannot be opened.
    """
    with pathlib.Path(path).open("rb") as file, _faults_of(path):
        is_zip = file.peek(4)[:4] == b"PK\x03\x04"
        loaded, storages, byte_order = _read_zip(file) if is_zip else _read_legacy(file)
        tensors = dict(_named_tensors(loaded))
        if not tensors:
            raise ValueError("no tensor has a name; save a module or its state_dict()")
        return {name: _to_array(t, storages, byte_order) for name, t in tensors.items()}


class _Refused(Exception):
    """The file names or calls what it must not."""


@contextlib.contextmanager
def _faults_of(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except _Refused as refusal:
        raise ValueError(
            f"{path} is refused, and nothing of it was run: it {refusal}; only tensors, containers "
            "and classes of modules are read"
        ) from refusal
    except OSError:
        raise
    except Exception as error:  # A damaged pickle may end in an exception of any kind.
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{path} is damaged, or no file of torch.save ({what})") from error


# Tuples, because a pickle may overwrite the fields of any object that has a __dict__.
class _Storage(NamedTuple):
    key: str
    dtype: str  # Name of the storage's type.
    offset: int  # Items from the start of the storage `key`.
    size: int  # Items.


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # Items from the storage's own offset.
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # Items.


class _NeverCalled(type):
    """Makes a class from which the unpickler can make instances, but that it cannot call."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise _Refused(f"calls {cls.__module__}.{cls.__name__}")


class _Placeholder(metaclass=_NeverCalled):
    """Stands for an object of a class of which only the name is known."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Unpickles tensors and modules; refuses to find anything else."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)
        self.item_sizes: dict[str, int] = {}  # Bytes, of each storage that was mentioned.

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return collections.OrderedDict
            case (("builtins" | "__builtin__"), "set"):
                return set
            # The file may set attributes on what it finds, so each gets functions of its own.
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda *arguments: _rebuild_tensor(*arguments)
            case "torch._utils", "_rebuild_parameter":
                return lambda data, *_: data
            case "torch", "device":
                return lambda *_: None
            case "torch", name if name in _STORAGE_TYPES:
                return name
        top = module.partition(".")[0]
        holds_no_module = top in sys.stdlib_module_names or top in ("__builtin__", "torch")
        if holds_no_module and not f"{module}.".startswith("torch.nn."):
            raise _Refused(f"names {module}.{name}")
        return _NeverCalled(name, (_Placeholder,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("module", cls, _, _):  # Old files carry the source of modules; it isn't read.
                return cls
            case ("storage", str(dtype), str(key), _, int(size), *view) if dtype in _STORAGE_TYPES:
                self.item_sizes[key] = _STORAGE_TYPES[dtype].itemsize
                match view:
                    case [] | [None]:
                        return _Storage(key, dtype, 0, size)
                    case [(_, int(offset), int(size))]:
                        return _Storage(key, dtype, offset, size)
        raise _Refused(f"refers to {pid!r}")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    match storage, offset, shape, strides:
        case _Storage(), int(), tuple(), tuple():
            numbers = (offset, *shape, *strides)
            if len(shape) == len(strides) and all(type(n) is int and n >= 0 for n in numbers):
                return _Tensor(storage, offset, shape, strides)
    raise ValueError(f"a tensor of offset {offset!r}, shape {shape!r}, strides {strides!r}")


_ByteOrder = Literal["<", ">"]
_Contents = tuple[Any, Mapping[str, bytes], _ByteOrder]
"""The unpickled object and the storages by key, in the byte order."""


def _read_zip(file: io.BufferedReader) -> _Contents:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in names):
            raise ValueError("a zip, but of something else")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("a compressed zip")
        folder = pickles[0].removesuffix("data.pkl")
        loaded = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        big_endian = f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big"
        prefix = f"{folder}data/"
        storages = {
            name.removeprefix(prefix): archive.read(name)
            for name in names
            if name.startswith(prefix)
        }
        return loaded, storages, ">" if big_endian else "<"


def _read_legacy(file: io.BufferedReader) -> _Contents:
    magic, protocol, system = (_Unpickler(file).load() for _ in range(3))
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise ValueError("another format")
    byte_order: _ByteOrder = "<" if system["little_endian"] else ">"
    unpickler = _Unpickler(file)
    loaded = unpickler.load()
    storages = {}
    for key in _Unpickler(file).load():
        (size,) = np.frombuffer(file.read(8), byte_order + "i8")
        num_bytes = int(size) * unpickler.item_sizes[key]
        storages[key] = file.read(num_bytes)
    return loaded, storages, byte_order


def _named_tensors(loaded: Any) -> Iterator[tuple[str, _Tensor]]:
    """Yields the tensors of a state dict, or of a module and the modules inside it."""
    if isinstance(loaded, _Placeholder):
        yield from _module_tensors(loaded, "", set())
    elif isinstance(loaded, dict):
        for name, tensor in loaded.items():
            if not isinstance(tensor, _Tensor):
                raise ValueError(
                    f"{name!r} is no tensor, but of type {type(tensor).__name__}; save a module or "
                    "its state_dict()"
                )
            yield str(name), tensor


def _module_tensors(
    module: _Placeholder, prefix: str, seen: set[int]
) -> Iterator[tuple[str, _Tensor]]:
    # Modules that share modules that share modules have exponentially many names.
    if id(module) in seen:
        return
    seen.add(id(module))
    for kind in ("_parameters", "_buffers"):
        for name, tensor in module.state[kind].items():
            if isinstance(tensor, _Tensor):  # An absent bias is None.
                yield f"{prefix}{name}", tensor
    for name, part in module.state["_modules"].items():
        if part is not None:
            yield from _module_tensors(part, f"{prefix}{name}.", seen)


def _to_array(tensor: _Tensor, storages: Mapping[str, bytes], byte_order: _ByteOrder) -> np.ndarray:
    storage = tensor.storage
    dtype = _STORAGE_TYPES[storage.dtype]
    flat = np.frombuffer(storages[storage.key], dtype.newbyteorder(byte_order))
    flat = flat[storage.offset : storage.offset + storage.size]
    last = tensor.offset + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    # Strides are the file's word: beyond the storage they would read other memory.
    if 0 not in tensor.shape and last >= flat.size:
        raise ValueError(f"a tensor ends at item {last} of a storage of {flat.size}")
    # Strides of 0 would make terabytes of a few bytes.
    if math.prod(tensor.shape) > flat.size:
        raise ValueError(f"a tensor of shape {tensor.shape} in a storage of {flat.size}")
    strides = [stride * flat.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    return view.astype(dtype)
