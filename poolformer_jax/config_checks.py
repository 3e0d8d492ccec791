"""Configurations: checks of types and bounds, variants chosen by name, to and from nested dicts.

A configuration is a frozen data class that checks its own values on construction. Nothing here
loads JAX, so that a misspelt name or a value that cannot work ends a program in an instant.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from poolformer_jax.files import quoted

Platform = Literal["cpu", "gpu", "tpu"]
"""What a program is compiled for. Configurations name it; nothing inspects the machine."""

T = TypeVar("T")

MAX_INT = 2**31 - 1
"""Steps, sizes and lengths are 32-bit integers on devices."""

_LOG = logging.getLogger(__name__)


class Variant:
    """A configuration that is chosen by name among several of its base class.

    Attributes:
      kind: The name.
    """

    kind: ClassVar[str]

    @classmethod
    def kinds(cls) -> Mapping[str, type[Any]]:
        """The table of names and classes; a base class has it."""
        raise NotImplementedError


def make_config(config_type: type[T], values: Mapping[str, Any], *, name: str = "config") -> T:
    """Builds a configuration from nested mappings, as files and command lines hold them.

    Args:
      config_type: A data class; of a `Variant` the base, whose `kind` is among the values.
      values: By field; fields that are left out have their defaults. Those that only other kinds
        of the table have are ignored, with a warning if they are not those kinds' defaults.
      name: What messages call the configuration.

    Raises:
      ValueError: For an unknown field or kind, or a value that cannot work; the message names it.
    """
    values, chosen, choice = dict(values), config_type, ""
    kinds: Mapping[str, type[Any]] = {}
    if issubclass(config_type, Variant):
        kinds, kind = config_type.kinds(), values.pop("kind", None)
        if not isinstance(kind, str) or kind not in kinds:
            raise ValueError(f"{name}.kind is {quoted(kind)}; known: {', '.join(kinds)}")
        chosen, choice = kinds[kind], f" of kind {kind!r}"
    hints = get_type_hints(chosen)
    known = {field.name for field in dataclasses.fields(cast(Any, chosen))}
    # Configuration files write out every field of one kind; a flag may choose another kind, to
    # which the fields that it does not have mean nothing.
    others = {
        field.name: field.default
        for other in kinds.values()
        for field in dataclasses.fields(other)
        if field.name not in known
    }
    for field in [field for field in values if field in others]:
        if (value := values.pop(field)) != others[field]:
            _LOG.warning(
                "%s.%s %s is ignored: kind %r has no such field", name, field, quoted(value), kind
            )
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown field {unknown} in {name}{choice}; known: {sorted(known)}")
    for field, value in values.items():
        nested, path = config_type_of(hints[field]), f"{name}.{field}"
        if nested is not None and isinstance(value, Mapping):
            values[field] = make_config(nested, value, name=path)
        elif nested is not None and isinstance(value, list | tuple):
            values[field] = tuple(
                make_config(nested, item, name=f"{path}[{i}]")
                if isinstance(item, Mapping)
                else item
                for i, item in enumerate(value)
            )
    try:
        # Also here, so that a tool that checks the types of arguments sees the right ones.
        values = {field: _convert(field, value, hints[field]) for field, value in values.items()}
        return chosen(**values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def config_values(config: Any) -> dict[str, Any]:
    """The opposite of `make_config`: nested dicts, with the kinds of variants."""
    values: dict[str, Any] = {"kind": config.kind} if isinstance(config, Variant) else {}
    for field in dataclasses.fields(config):
        values[field.name] = _plain(getattr(config, field.name))
    return values


def config_type_of(hint: Any) -> type[Any] | None:
    """The configuration in a type that is one, or one or None, or a tuple of several."""
    return next(filter(_is_config, (hint, *get_args(hint))), None)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return config_values(value) if dataclasses.is_dataclass(value) else value


def check_types(config: Any) -> None:
    """Raises ValueError where a field's value is not of its annotated type.

    Lists become tuples and integers become floats where those are wanted, as configuration
    files and command lines write them.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = _convert(field.name, getattr(config, field.name), hints[field.name])
        object.__setattr__(config, field.name, value)


def check_at_least(config: Any, minimum: int | float, *names: str) -> None:
    """Raises ValueError if one of the fields is below the minimum."""
    for name in names:
        if getattr(config, name) < minimum:
            raise ValueError(f"{name} {getattr(config, name)} must be at least {minimum}")


def check_range(name: str, value: int | None, minimum: int, maximum: int) -> None:
    """Raises ValueError unless an argument is in a range, or None."""
    if value is None:
        return
    if value < minimum:
        raise ValueError(f"{name} {value} must be at least {minimum}")
    if value > maximum:
        raise ValueError(f"{name} {quoted(value)} must be at most {maximum:,}")


def check_batch(name: str, batch_size: int, length: int) -> None:
    """Raises ValueError if a batch of clips is more than an array on a device can be."""
    if batch_size * length > MAX_INT:
        raise ValueError(
            f"{name} {quoted(batch_size)} must be at most {MAX_INT // length:,} for clips of "
            f"{length:,} samples"
        )


def check_positive(config: Any, *names: str) -> None:
    """Raises ValueError unless all of the fields are more than 0 (or None)."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} {value} must be positive")


def check_fraction(config: Any, *names: str, closed: bool = False) -> None:
    """Raises ValueError unless all of the fields are in [0, 1), or in [0, 1] if closed."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1 and not (closed and value == 1):
            raise ValueError(f"{name} {value} must be in [0, 1{']' if closed else ')'}")


def check_seed(config: Any, *names: str) -> None:
    """Raises ValueError unless all of the fields can seed a generator of random numbers."""
    for name in names or ("seed",):
        if not 0 <= getattr(config, name) < 2**31:
            raise ValueError(f"{name} {getattr(config, name)} must be in 0 to 2^31 - 1")


def _convert(name: str, value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    if type(value) is int and float in (hint, *get_args(hint)):
        value = float(value) if abs(value) < 1e300 else math.inf
    if not _matches(value, hint):
        raise ValueError(f"{name} is {quoted(value)}; it must be {_describe(hint)}")
    for number in value if isinstance(value, tuple) else (value,):
        if type(number) is int and abs(number) > MAX_INT:
            raise ValueError(f"{name} {quoted(number)} must be at most {MAX_INT:,}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be finite")
    return value


def _matches(value: Any, hint: Any) -> bool:
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_matches(item, arguments[0]) for item in value)
    if arguments and all(isinstance(argument, str) for argument in arguments):
        return isinstance(value, str) and value in arguments
    if arguments:  # A union such as `int | None`.
        return any(_matches(value, argument) for argument in arguments)
    return isinstance(value, hint) if _is_config(hint) else type(value) is hint


def _is_config(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _describe(hint: Any) -> str:
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        return f"a tuple of {'integers' if arguments[0] is int else _describe(arguments[0])}"
    if arguments:
        return " or ".join(_describe(argument) for argument in arguments)
    return repr(hint) if isinstance(hint, str) else getattr(hint, "__name__", str(hint))
