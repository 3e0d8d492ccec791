"""Reading PyTorch's pickles without PyTorch, and refusing to run them.

torch_zip.pth and torch_legacy.pth were written by PyTorch 2.13.0; see torch_reference.py.
"""

import functools
import os
import pathlib
import pickle
import resource
import struct
import subprocess

import numpy as np
import pytest

from poolformer_jax.classifier.torch_import.checkpoint import read_torch_tensors
from tests.classifier.torch_import.torch_files import (
    call,
    fragment,
    name,
    state_dict,
    tensor,
    write_zip,
)

FOLDER = pathlib.Path(__file__).parent
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
EMPTY = state_dict({})


class Reduced:
    """Is pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("file", ["torch_zip.pth", "torch_legacy.pth"])
def test_reads_what_pytorch_wrote(file):
    tensors = read_torch_tensors(FOLDER / file)
    weight = np.arange(12.0).reshape(2, 3, 2, 1).transpose(1, 0, 3, 2)
    expected = {
        "module.0.weight": weight.astype(np.float32),
        "module.0.bias": np.float32([20, 21, 22]),
        "module.1.weight": np.ones(3, np.float32),
        "module.1.bias": np.zeros(3, np.float32),
        "module.1.running_mean": np.zeros(3, np.float32),
        "module.1.running_var": np.float64([0.5, 1, 2]),
        "module.1.num_batches_tracked": np.int64(7),
    }
    assert tensors.keys() == expected.keys()
    for key, array in expected.items():
        assert tensors[key].dtype == array.dtype
        np.testing.assert_array_equal(tensors[key], array)


@pytest.mark.parametrize(
    "function",
    [os.system, eval, exec, getattr, __import__, functools.partial, subprocess.Popen, np.load],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_functions_are_refused_by_name(tmp_path, function, protocol):
    trace = tmp_path / "trace"
    # fix_imports would give protocol 2 the names of Python 2.
    pickled = pickle.dumps(Reduced(function, f"touch {trace}"), protocol, fix_imports=False)
    # The rest of protocol 4 is a frame, which cannot be inside another value.
    call = pickled[2:-1]
    opcodes = call if protocol == 4 else state_dict({"weight": tensor("0", ARRAY), "x": call})
    write_zip(tmp_path / "evil.pth", opcodes, {"0": ARRAY})
    with pytest.raises(ValueError, match="is refused, and nothing of it was run") as error:
        read_torch_tensors(tmp_path / "evil.pth")
    assert f" {function.__module__}.{function.__qualname__};" in str(error.value)
    assert not trace.exists()


def test_names_of_python_2_are_refused_too(tmp_path):
    pickled = pickle.dumps(Reduced(eval, "1"), 2, fix_imports=True)
    write_zip(tmp_path / "evil.pth", pickled[2:-1])
    with pytest.raises(ValueError, match=r"it names __builtin__\.eval;"):
        read_torch_tensors(tmp_path / "evil.pth")


def test_file_whose_whole_pickle_is_a_call_is_refused(tmp_path):
    trace = tmp_path / "trace"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Reduced(os.system, f"touch {trace}")))
    with pytest.raises(ValueError, match=r"it names (posix|nt)\.system"):
        read_torch_tensors(tmp_path / "evil.pth")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("opcodes", "refusal"),
    [
        (call(name("models.resnext", "make"), fragment("x")), "it calls models.resnext.make"),
        (call(name("torch.nn.functional", "relu")), "it calls torch.nn.functional.relu"),
        (call(name("torch", "load"), fragment("x")), "it names torch.load"),
        (call(name("torch.hub", "load"), fragment("x")), "it names torch.hub.load"),
        # Older opcodes that call: an instance of a class by name, and of a class on the stack.
        (pickle.MARK + fragment("x") + b"imodels\nmake\n", "it calls models.make"),
        (pickle.MARK + name("models", "make") + fragment("x") + pickle.OBJ, "it calls models.make"),
        (name("collections", "OrderedDict.fromkeys"), "names collections.OrderedDict.fromkeys"),
        (name("builtins", "set.__class__"), r"it names builtins.set.__class__"),
        (fragment(("other", 1)) + pickle.BINPERSID, r"it refers to \('other', 1\)"),
    ],
)
def test_calls_other_than_of_tensors_are_refused(tmp_path, opcodes, refusal):
    write_zip(tmp_path / "evil.pth", state_dict({"weight": opcodes}))
    with pytest.raises(ValueError, match=refusal):
        read_torch_tensors(tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"offset": 1}, "a tensor ends at item 6 of a storage of 6"),
        ({"offset": -1}, "a tensor of offset -1"),
        ({"strides": (3, 2)}, "a tensor ends at item 7 of a storage of 6"),
        ({"strides": (-3, 1)}, r"strides \(-3, 1\)"),
        ({"strides": (1 << 62, 1)}, "a tensor ends at item 46"),
        ({"strides": (1,)}, r"shape \(2, 3\), strides \(1,\)"),
        ({"strides": (3, 1.0)}, r"strides \(3, 1.0\)"),
        ({"shape": (4, 3), "strides": (0, 1)}, r"a tensor of shape \(4, 3\) in a storage of 6"),
        ({"kind": "DoubleStorage"}, "a tensor ends at item 5 of a storage of 3"),
    ],
)
def test_tensors_stay_inside_their_storage(tmp_path, options, fault):
    write_zip(tmp_path / "x.pth", state_dict({"x": tensor("0", ARRAY, **options)}), {"0": ARRAY})
    with pytest.raises(ValueError, match=fault):
        read_torch_tensors(tmp_path / "x.pth")


def test_shared_modules_are_read_once(tmp_path):
    """Forty modules, each twice inside the next: the innermost has 2^40 names."""

    def module(parameters, parts):
        parts = {"_parameters": state_dict(parameters), "_buffers": state_dict({}), **parts}
        new = name("models", "Net") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
        return new + state_dict(parts) + pickle.BUILD

    opcodes = module({"weight": tensor("0", ARRAY), "bias": fragment(None)}, {"_modules": EMPTY})
    for _ in range(40):
        twice = state_dict({"a": opcodes + pickle.BINPUT + b"\x07", "b": pickle.BINGET + b"\x07"})
        opcodes = module({}, {"_modules": twice})
    write_zip(tmp_path / "x.pth", opcodes, {"0": ARRAY})
    tensors = read_torch_tensors(tmp_path / "x.pth")
    assert list(tensors) == ["a." * 40 + "weight"]
    np.testing.assert_array_equal(tensors["a." * 40 + "weight"], ARRAY)


def test_state_set_on_a_tensor_cannot_move_it(tmp_path):
    """The opcode BUILD sets attributes of whatever is on the stack."""
    for state in ({"offset": 1000}, (None, {"offset": 1000}), (None, {"strides": (9999, 1)})):
        moved = tensor("0", ARRAY) + fragment(state) + pickle.BUILD
        write_zip(tmp_path / "x.pth", state_dict({"x": moved}), {"0": ARRAY})
        with pytest.raises(ValueError, match="is damaged"):
            read_torch_tensors(tmp_path / "x.pth")


ENTRY = tensor("0", ARRAY)
DEEP = b"N" + pickle.TUPLE1 * 100_000
SHARED = b"N" + (pickle.DUP + pickle.TUPLE2) * 60  # As text, or to hash, it has 2^60 parts.


@pytest.mark.parametrize(
    ("opcodes", "fault"),
    [
        (pickle.EMPTY_DICT + DEEP + ENTRY + pickle.SETITEM, "a key of type tuple"),
        (pickle.EMPTY_DICT + SHARED + ENTRY + pickle.SETITEM, "a key of type tuple"),
        (call(name("collections", "OrderedDict"), b"]" + DEEP + ENTRY + b"\x86a"), "a key of type"),
        (call(name("builtins", "set"), b"](" + DEEP + b"e"), "no tensor has a name"),
        (DEEP + pickle.BINPERSID, r"refers to \(\(\(\.\.\.\),\),\);"),
        (SHARED + pickle.BINPERSID, r"refers to \(\(\(\.\.\.\), "),
        (tensor("0", ARRAY, strides=(1 << 200, 1)), "a number of 201 bits"),
        (pickle.BYTEARRAY8 + struct.pack("<Q", 3 << 30), "is damaged"),
        (pickle.BINUNICODE8 + struct.pack("<Q", 3 << 40), "is damaged"),
        (b"I" + b"9" * 5_000 + b"\n", "is damaged"),
        (pickle.NONE * 1_000_001, "a pickle of more than 1,000,000 steps"),
        (state_dict({str(i): ENTRY for i in range(9)}), "9 tensors that share the same few bytes"),
    ],
)
def test_no_file_takes_the_interpreter_or_the_memory(tmp_path, opcodes, fault):
    write_zip(tmp_path / "x.pth", opcodes, {"0": ARRAY})
    with pytest.raises(ValueError, match=fault):
        read_torch_tensors(tmp_path / "x.pth")


def test_index_of_the_memo_takes_no_memory(tmp_path):
    large = pickle.LONG_BINPUT + b"\xff\xff\xff\x7f"
    write_zip(tmp_path / "x.pth", state_dict({"x": ENTRY + large}), {"0": ARRAY})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_array_equal(read_torch_tensors(tmp_path / "x.pth")["x"], ARRAY)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_entries_of_a_zip_that_lie_over_each_other_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    write_zip(path, state_dict({"x": ENTRY}), {str(i): np.zeros(2_000 * (not i)) for i in range(9)})
    content = bytearray(path.read_bytes())
    entries = [at for at in range(len(content)) if content[at : at + 4] == b"PK\x01\x02"]
    for entry in entries[2:]:  # Behind those of the pickle and of the storage with bytes in it.
        content[entry + 16 : entry + 28] = content[entries[1] + 16 : entries[1] + 28]
        content[entry + 42 : entry + 46] = content[entries[1] + 42 : entries[1] + 46]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a zip of more bytes than the file has"):
        read_torch_tensors(path)


def test_what_a_file_says_does_not_reach_the_terminal(tmp_path):
    forged = "x\n\x1b[2Kruns/classifier: resnext29_8x64d, 34,425,546 parameters"
    for opcodes in (
        state_dict({forged: fragment(3)}),
        state_dict({"x": fragment((forged, 1)) + pickle.BINPERSID}),
        state_dict({forged: state_dict({"a": ENTRY}), "y": state_dict({"a": ENTRY})}),
        fragment("os") + fragment(forged) + pickle.STACK_GLOBAL,
        b"I" + forged.encode(),
    ):
        write_zip(tmp_path / "x.pth", opcodes, {"0": ARRAY})
        with pytest.raises(ValueError, match=r"x\.pth is ") as error:
            read_torch_tensors(tmp_path / "x.pth")
        assert str(error.value).isprintable()


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_the_network_in_a_dict_of_a_trainer_is_read(tmp_path, key):
    network = state_dict({"module.weight": ENTRY})
    beside = {
        "epoch": fragment(7),
        "best": ENTRY,
        "optimizer": state_dict({"state": EMPTY, "param_groups": fragment([{"lr": 0.1}])}),
    }
    write_zip(tmp_path / "x.pth", state_dict(beside | {key: network}), {"0": ARRAY})
    tensors = read_torch_tensors(tmp_path / "x.pth")
    np.testing.assert_array_equal(tensors.pop("module.weight"), ARRAY)
    assert not tensors
    write_zip(tmp_path / "x.pth", state_dict({key: network, "ema": network}), {"0": ARRAY})
    with pytest.raises(ValueError, match=f"several networks, '{key}', 'ema'; save one of them"):
        read_torch_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize("file", ["torch_zip.pth", "torch_legacy.pth"])
def test_cut_off_files_are_damaged(tmp_path, file):
    content = (FOLDER / file).read_bytes()
    for length in (0, 1, 10, 100, len(content) // 2, len(content) - 4):
        (tmp_path / file).write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"{file} is damaged, or no file of torch.save"):
            read_torch_tensors(tmp_path / file)


def test_flipped_bytes_never_end_in_another_error(tmp_path):
    content = (FOLDER / "torch_legacy.pth").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (tmp_path / "x.pth").write_bytes(flipped)
        try:
            read_torch_tensors(tmp_path / "x.pth")
        except ValueError as error:
            assert "x.pth is " in str(error)


def test_files_of_something_else_are_named(tmp_path):
    write_zip(tmp_path / "x.pth", fragment({}))
    with pytest.raises(ValueError, match="no tensor has a name; save a module or its state_dict"):
        read_torch_tensors(tmp_path / "x.pth")
    for value, kind in ((3, "int"), ({}, "dict"), (None, "NoneType")):
        entries = state_dict({"x": tensor("0", ARRAY), "epoch": fragment(value)})
        write_zip(tmp_path / "x.pth", entries, {"0": ARRAY})
        with pytest.raises(ValueError, match=f"'epoch' is no tensor, but of type {kind}; save a"):
            read_torch_tensors(tmp_path / "x.pth")
    np.savez(tmp_path / "x.npz", a=ARRAY)
    with pytest.raises(ValueError, match=r"x.npz is damaged, or no file of torch.save \(.*a zip"):
        read_torch_tensors(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError):
        read_torch_tensors(tmp_path / "none.pth")
