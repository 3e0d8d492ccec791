"""config.json of runs that other versions made, as this version reads it.

The file names its layout and the version that wrote it. Whoever moves or removes a field of a
configuration raises `LAYOUT`, and says in these tables what became of the field.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import poolformer_jax
from poolformer_jax.files import quoted

_LOG = logging.getLogger(__name__)

LAYOUT = 4
"""In 3, all devices were along `data` and there was no mesh; in 2, `remat` was true or false; 1 had
no kinds of models and mixers, and did not name itself."""

# Field -> its name today; and the kinds that all these runs are of.
_MOVED = {
    "model.recurrent_width": "model.mixer.recurrent_width",
    "model.num_gate_blocks": "model.mixer.num_gate_blocks",
    "model.complex_recurrence": "model.mixer.complex",
    "model.decay_exponent": "model.mixer.decay_exponent",
    "model.max_phase": "model.mixer.max_phase",
}
_KINDS = {"model.kind": "poolformer", "model.mixer.kind": "rg_lru"}

# Field -> what its values are called today.
_RENAMED_VALUES: Mapping[str, Mapping[Any, Any]] = {
    "model.remat": {True: "half_block", False: "none"},
}

# Field -> the values that mean nothing today, which are ignored; and what to know about others.
_REMOVED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "train.num_epochs": (
        (),
        "trainings are so many steps (train.num_steps) today and cannot resume it, but "
        "classifier.json and classifier.npz beside it can be used",
    ),
}


def stamp(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as config.json holds them: with the layout, and the version that writes it."""
    return {"version": poolformer_jax.__version__, "layout": LAYOUT, **values}


def current_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of config.json in today's layout, without the stamp.

    A field that means nothing any more is left out, and a line is logged.

    Raises:
      ValueError: If a newer version wrote it, or a field was removed that says something.
    """
    current = copy.deepcopy(dict(values))
    layout, version = current.pop("layout", 1), current.pop("version", None)
    if type(layout) is not int or layout < 1:
        raise ValueError(f"its layout is {quoted(layout)}, not a number from 1")
    if layout > LAYOUT:
        raise ValueError(
            f"version {quoted(version)} wrote it in layout {layout}, and this one, "
            f"{poolformer_jax.__version__}, reads layouts up to {LAYOUT}"
        )
    moved = {}
    for old, new in _MOVED.items():
        section, field = _find(current, old)
        if field in section:
            moved[new] = section.pop(field)
    for name, value in ({**_KINDS, **moved} if moved else {}).items():
        section, field = _find(current, name, make=True)
        section[field] = value
    if layout < 4 and "augment" not in current:
        current.setdefault("mesh", {})
    for name, new_values in _RENAMED_VALUES.items():
        section, field = _find(current, name)
        for old, new in new_values.items():
            if section.get(field) is old:
                section[field] = new
    for name, (meaningless, about) in _REMOVED.items():
        section, field = _find(current, name)
        if field in section:
            value = section.pop(field)
            if value not in meaningless:
                raise ValueError(f"{name} is {quoted(value)}, a field of older versions: {about}")
            _LOG.info("config.json has %s, %r: ignored, it means nothing any more", name, value)
    return current


def _find(values: dict[str, Any], name: str, *, make: bool = False) -> tuple[dict[str, Any], str]:
    """The section that a field is or would be in, which may be made, and its name there."""
    *sections, field = name.split(".")
    for section in sections:
        values = values.setdefault(section, {}) if make else values.get(section, {})
        if not isinstance(values, dict):
            raise ValueError(f"{section} is {quoted(values)}, not a section")
    return values, field
