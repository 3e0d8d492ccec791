"""Pickles, read as data: an interpreter of their opcodes that calls nothing.

Python's own unpickler calls what the file names, recurses as deep as the file nests, and reserves
as much memory as the file says. Here names stay names, only names and numbers are keys, and memory
is bounded by the number of opcodes.

Source: the opcodes' documentation in Python's `pickletools`.
"""

from __future__ import annotations

import io
import mmap
import pickletools
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

from poolformer_jax.files import quoted

MAX_OPCODES = 1_000_000
"""Of one pickle; a module of 300 tensors takes about 20,000."""

_MAX_BITS = 128  # Of a number; products of longer ones could take for ever.


class Fault(ValueError):
    """The file is no pickle of `torch.save`; the message is safe to print."""


class Refused(Exception):
    """The file names or calls what it must not; the message is safe to print."""


class Name(NamedTuple):
    """A function or class that the file names; `str` is its dotted name."""

    module: str
    attribute: str

    def __str__(self) -> str:
        dotted = f"{self.module}.{self.attribute}"
        is_plain = all(part.isidentifier() for part in dotted.split(".")) and dotted.isascii()
        return dotted if is_plain and len(dotted) <= 80 else quoted(dotted)


class Instance:
    """An object of a class of which only the name is known, with its attributes."""

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}


def read_pickle(
    file: io.BytesIO | mmap.mmap,
    *,
    check_name: Callable[[Name], None],
    call: Callable[[Name, tuple[Any, ...]], Any],
    persistent: Callable[[Any], Any],
) -> Any:
    """Reads one pickle; the file is behind it then.

    Args:
      file: In memory, or mapped: lengths that it tells are longer than it may be.
      check_name: Raises `Refused` for a name that must not be in the file.
      call: The value of a call of a name that passed, made of its arguments; raises `Refused`.
      persistent: The value of a persistent id.

    Returns:
      Plain values, lists (also for sets), tuples, dicts, `Name`, `Instance`, and what `call` and
      `persistent` return.

    Raises:
      Refused: See above.
      Exception: Of any kind, if the file is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []  # Places in the stack.
    memo: dict[int, Any] = {}

    def above_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def name_of(module: Any, attribute: Any) -> Name:
        name = Name(_text(module), _text(attribute))
        check_name(name)
        return name

    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
        if count == MAX_OPCODES:
            raise Fault(f"a pickle of more than {MAX_OPCODES:,} steps")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack[-1]
            case "MARK":
                marks.append(len(stack))
            case "POP" if not marks or marks[-1] < len(stack):
                stack.pop()
            case "POP" | "POP_MARK":
                above_mark()
            case "DUP":
                stack.append(stack[-1])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4":
                if argument.bit_length() > _MAX_BITS:
                    raise Fault(f"a number of {argument.bit_length():,} bits")
                stack.append(argument)
            case "FLOAT" | "BINFLOAT" | "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "UNICODE":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(above_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "LIST" | "FROZENSET":
                stack.append(above_mark())
            case "APPEND":
                item = stack.pop()
                _check(stack[-1], list).append(item)
            case "APPENDS" | "ADDITEMS":
                items = above_mark()
                _check(stack[-1], list).extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(make_dict(_pairs(above_mark())))
            case "SETITEM":
                pair = stack[-2], stack[-1]
                del stack[-2:]
                _check(stack[-1], dict).update(make_dict([pair]))
            case "SETITEMS":
                items = above_mark()
                _check(stack[-1], dict).update(make_dict(_pairs(items)))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(name_of(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute = stack.pop()
                stack.append(name_of(stack.pop(), attribute))
            case "REDUCE" | "NEWOBJ":
                arguments = _check(stack.pop(), tuple)
                name = _check(stack.pop(), Name)
                is_call = opcode.name == "REDUCE" or name.module == "collections"
                stack.append(call(name, arguments) if is_call else Instance())
            case "OBJ":
                name, *rest = above_mark()
                stack.append(call(_check(name, Name), tuple(rest)))
            case "INST":
                name = name_of(*argument.split(" ", 1))
                stack.append(call(name, tuple(above_mark())))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Instance):
                    stack[-1].state = state
                else:  # An OrderedDict's attributes count for nothing.
                    _check(stack[-1], dict)
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case _:
                raise Fault(f"a pickle with {opcode.name}, which torch.save does not write")
    raise Fault("a pickle without an end")


def make_dict(pairs: Any) -> dict[Any, Any]:
    """A dict whose keys are texts and numbers: hashing others may recurse, or never end."""
    made = {}
    for key, value in pairs:
        if not isinstance(key, str | bytes | int | float | None):
            raise Fault(f"a key of type {type(key).__name__}")
        made[key] = value
    return made


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _text(value: Any) -> str:
    return _check(value, str)


def _check(value: Any, kind: type) -> Any:
    # Exactly: the tuples of others must not pass for plain ones.
    if type(value) is not kind:
        raise Fault(f"a {type(value).__name__} in place of a {kind.__name__}")
    return value
