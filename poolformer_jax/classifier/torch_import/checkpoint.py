"""Tensors of files written by `torch.save`, read without PyTorch and without running the file.

A checkpoint is a pickle, and a pickle is a program: it may call any function that it can name.
Here it is data, see `pickles`: it can name what rebuilds tensors and containers, which this file
does instead, and classes of modules, of which nothing but the names is used.

Source: the formats of PyTorch, `torch/serialization.py`: a zip since 1.6, before it a row of
pickles followed by the bytes of the storages.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import math
import mmap
import os
import pathlib
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from poolformer_jax.classifier.torch_import.pickles import (
    Fault,
    Instance,
    Name,
    Refused,
    make_dict,
    read_pickle,
)
from poolformer_jax.files import check_regular, quoted

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

# Beyond these a small file would make large numbers, texts or arrays.
_MAX_AXES = 32
_MAX_NAME = 1_000  # Characters.
_MAX_SHARED = 4  # Times that the bytes of the storages may be in tensors.


def read_torch_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all parameters and buffers of a pickled module, or of a state dict, by their names.

    Args:
      path: File that `torch.save(module, path)` or `torch.save(module.state_dict(), path)` wrote,
        in either format; or a trainer's dict that holds one of these under some name.

    Returns:
      Arrays in the types of the file under dotted names, such as `module.bn_1.running_mean`; those
      of a module that is part of several under the first name only.

    Raises:
      ValueError: If the file is damaged, holds something else, or names or calls anything but
        tensors, containers and classes of modules; nothing of it has been run then.
      OSError: If it cannot be opened.
    """
    check_regular(path)
    with pathlib.Path(path).open("rb") as file, _faults_of(path):
        is_zip = file.peek(4)[:4] == b"PK\x03\x04"
        loaded, storages, byte_order = _read_zip(file) if is_zip else _read_legacy(file)
        tensors = _named_tensors(loaded)
        if not tensors:
            raise Fault("no tensor has a name; save a module or its state_dict()")
        wanted = sum(math.prod(t.shape) * t.storage.dtype.itemsize for t in tensors.values())
        if wanted > _MAX_SHARED * sum(map(len, storages.values())):
            raise Fault(f"{len(tensors):,} tensors that share the same few bytes")
        return {name: _to_array(t, storages, byte_order) for name, t in tensors.items()}


@contextlib.contextmanager
def _faults_of(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except Refused as refusal:
        raise ValueError(
            f"{path} is refused, and nothing of it was run: it {refusal}; only tensors, containers "
            "and classes of modules are read"
        ) from refusal
    except Exception as error:  # A damaged pickle may end in an exception of any kind.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # Of the disk; a damaged zip makes its reader go to a place before the start.
        is_safe = isinstance(error, Fault)
        what = str(error) if is_safe else f"{type(error).__name__}: {quoted(str(error))}"
        raise ValueError(f"{path} is damaged, or no file of torch.save ({what})") from error


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    offset: int  # Items from the start of the storage `key`.
    size: int  # Items.


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # Items from the storage's own offset.
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # Items.


def _check_name(name: Name) -> None:
    """Lets pass what `_call` knows, types of storages, and names that classes of modules have."""
    match name:
        case (
            ("collections", "OrderedDict")
            | ("builtins" | "__builtin__", "set")
            | ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_parameter")
            | ("torch", "device")
        ):
            return
        case "torch", attribute if attribute in _STORAGE_TYPES:
            return
    top = name.module.partition(".")[0]
    holds_no_module = top in sys.stdlib_module_names or top in ("__builtin__", "torch")
    if holds_no_module and not f"{name.module}.".startswith("torch.nn."):
        raise Refused(f"names {name}")


def _call(name: Name, arguments: tuple[Any, ...]) -> Any:
    match name, arguments:
        case ("collections", "OrderedDict"), ():
            return {}
        case ("collections", "OrderedDict"), (pairs,):
            return make_dict(pairs)
        case ("builtins" | "__builtin__", "set"), _:
            return []  # Nothing that is read here is in a set.
        case ("torch._utils", "_rebuild_tensor_v2"), (storage, offset, shape, strides, *_):
            return _rebuild_tensor(storage, offset, shape, strides)
        case ("torch._utils", "_rebuild_parameter"), (data, *_):
            return data
        case ("torch", "device"), _:
            return None
    raise Refused(f"calls {name}")


def _persistent(pid: Any) -> Any:
    match pid:
        case ("module", cls, _, _):  # Old files carry the source of modules; it isn't read.
            return cls
        case ("storage", Name("torch", dtype), str(key), _, int(size), *view) if (
            dtype in _STORAGE_TYPES
        ):
            match view:
                case [] | [None]:
                    return _Storage(key, _STORAGE_TYPES[dtype], 0, size)
                case [(_, int(offset), int(size))]:
                    return _Storage(key, _STORAGE_TYPES[dtype], offset, size)
    raise Refused(f"refers to {quoted(pid)}")


_read_pickle = functools.partial(
    read_pickle, check_name=_check_name, call=_call, persistent=_persistent
)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    match storage, offset, shape, strides:
        case _Storage(), int(), tuple(), tuple() if len(shape) == len(strides) <= _MAX_AXES:
            if all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
                return _Tensor(storage, offset, shape, strides)
    shown = map(quoted, (offset, shape, strides))
    raise Fault("a tensor of offset {}, shape {}, strides {}".format(*shown))


_ByteOrder = Literal["<", ">"]
_Contents = tuple[Any, Mapping[str, bytes], _ByteOrder]
"""The unpickled object and the storages by key, in the byte order."""


def _read_zip(file: io.BufferedReader) -> _Contents:
    with zipfile.ZipFile(file) as archive:
        names, entries = archive.namelist(), archive.infolist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in names):
            raise Fault("a zip, but of something else")
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries):
            raise Fault("a compressed zip")
        # Entries may lie over each other.
        if sum(info.file_size for info in entries) > os.fstat(file.fileno()).st_size:
            raise Fault("a zip of more bytes than the file has")
        folder = pickles[0].removesuffix("data.pkl")
        loaded = _read_pickle(io.BytesIO(archive.read(pickles[0])))
        big_endian = f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big"
        prefix = f"{folder}data/"
        storages = {
            name.removeprefix(prefix): archive.read(name)
            for name in names
            if name.startswith(prefix)
        }
        return loaded, storages, ">" if big_endian else "<"


def _read_legacy(file: io.BufferedReader) -> _Contents:
    # Mapped, because a file is asked for as many bytes as it says that it has.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        magic, protocol, system = (_read_pickle(content) for _ in range(3))
        if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
            raise Fault("another format")
        byte_order: _ByteOrder = "<" if system["little_endian"] else ">"
        item_sizes = {}

        def persistent(pid: Any) -> Any:
            found = _persistent(pid)
            if isinstance(found, _Storage):
                item_sizes[found.key] = found.dtype.itemsize
            return found

        loaded = _read_pickle(content, persistent=persistent)
        storages = {}
        for key in _read_pickle(content):
            (size,) = np.frombuffer(content.read(8), byte_order + "i8")
            num_bytes = int(size) * item_sizes[key]
            if not 0 <= num_bytes <= len(content) - content.tell():
                raise Fault(f"a storage of {num_bytes:,} bytes, which the file does not have")
            storages[key] = content.read(num_bytes)
        return loaded, storages, byte_order


def _named_tensors(loaded: Any) -> dict[str, _Tensor]:
    """The tensors of a state dict, of a module and those in it, or of the one in a dict."""
    if isinstance(loaded, Instance):
        return dict(_module_tensors(loaded, "", set()))
    if not isinstance(loaded, dict):
        return {}
    if all(isinstance(value, _Tensor) for value in loaded.values()):
        return {str(name): tensor for name, tensor in loaded.items()}
    # What a trainer saves: the network beside the state of the optimiser, the epoch, and so on.
    networks = {name: value for name, value in loaded.items() if _is_network(value)}
    if len(networks) > 1:
        raise Fault(f"several networks, {', '.join(map(quoted, networks))}; save one of them")
    for network in networks.values():
        return _named_tensors(network)
    name, value = next((n, v) for n, v in loaded.items() if not isinstance(v, _Tensor))
    raise Fault(
        f"{quoted(name)} is no tensor, but of type {type(value).__name__}; save a module or its "
        "state_dict()"
    )


def _is_network(value: Any) -> bool:
    if isinstance(value, dict):
        return len(value) > 0 and all(isinstance(part, _Tensor) for part in value.values())
    return isinstance(value, Instance)


def _module_tensors(module: Instance, prefix: str, seen: set[int]) -> Iterator[tuple[str, _Tensor]]:
    if len(prefix) > _MAX_NAME:
        raise Fault(f"a module of a name longer than {_MAX_NAME} characters")
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
    storage, dtype = tensor.storage, tensor.storage.dtype
    flat = np.frombuffer(storages[storage.key], dtype.newbyteorder(byte_order))
    flat = flat[storage.offset : storage.offset + storage.size]
    last = tensor.offset + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    # Strides are the file's word: beyond the storage they would read other memory.
    if 0 not in tensor.shape and last >= flat.size:
        raise Fault(f"a tensor ends at item {last} of a storage of {flat.size}")
    # Strides of 0 would make terabytes of a few bytes.
    if math.prod(tensor.shape) > flat.size:
        raise Fault(f"a tensor of shape {tensor.shape} in a storage of {flat.size}")
    strides = [stride * flat.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    return view.astype(dtype)
