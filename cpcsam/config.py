"""Configuration as frozen dataclasses, from YAML files and `key.sub=value` overrides.

A configuration file holds values, never Python objects. Defaults live in the dataclasses; an
unknown key is an error that names the nearest known key.

Tried instead: pydantic's TypeAdapter. Only its strict JSON mode rejects `steps: true` and
`steps: "3"`, but it rejects YAML 1.1's `5e-3` too, and naming the expected type or the nearest key
takes the same walk over the type hints, for an additional dependency.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from cpcsam.errors import ConfigError, CpcSamError

__all__ = ["apply_overrides", "from_dict", "load_config", "read_yaml", "to_dict"]

T = TypeVar("T")


def load_config(cls: type[T], path: Path | None, overrides: Iterable[str] = ()) -> T:
    """Load a configuration from a YAML file and overrides.

    Args:
        cls: a frozen dataclass; its fields are bool, int, float, str, Path, Literal, tuples or
            nested dataclasses, each optionally None.
        path: the YAML file; None starts from the defaults.
        overrides: `key=value` or `key.sub=value`; the value is parsed as YAML.

    Raises:
        ConfigError: an unreadable file, an unknown or missing key, or a value of the wrong type.
    """
    data = {} if path is None else read_yaml(path)
    return from_dict(cls, apply_overrides(data, overrides))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML or not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError.of(
            str(path), got="no such file", expected="a YAML file", fix="correct the path"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError.of(
            str(path), got=f"an unreadable file ({reason})", expected="YAML", fix="correct it"
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError.of(
            str(path), got=type(data).__name__, expected="keys and values", fix="write key: value"
        )
    return data


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of nested plain data with `key.sub=value` overrides applied, the last winning.

    Raises:
        ConfigError: an override without `=`, with an empty key, or below a plain value.
    """
    merged = _copy(data)
    for override in overrides:
        key, separator, text = override.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise ConfigError.of(
                "override", got=repr(override), expected="key=value", fix="write for example seed=1"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError.of(
                key, got=repr(text), expected="a YAML value", fix="quote it"
            ) from error
        node = merged
        for depth, part in enumerate(parts[:-1], 1):
            # A section that is missing or null in the file is opened by a key below it.
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict):
                raise ConfigError.of(
                    key,
                    got=f"a key below the plain value {'.'.join(parts[:depth])}",
                    expected=f"{'.'.join(parts[:depth])}=value",
                    fix="shorten the key",
                )
        node[parts[-1]] = value
    return merged


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build a nested dataclass from plain data, validating every key and type.

    Args:
        cls: the dataclass.
        data: mapping as parsed from YAML or JSON.
        where: dotted path of `data`, for messages.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise _unknown_key(_join(where, str(key)), str(key), list(fields))
    hints = get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], _join(where, name))
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError.of(
                _join(where, name),
                got="nothing",
                expected=_describe(hints[name]),
                fix=f"add the key {name}",
            )
    return cls(**values)


def to_dict(config: Any) -> Any:
    """Convert a configuration to plain data (dict, list, str, numbers), as `from_dict` takes it."""
    if dataclasses.is_dataclass(config):
        fields = dataclasses.fields(config)
        return {field.name: to_dict(getattr(config, field.name)) for field in fields if field.init}
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]
    if isinstance(config, Path):
        return str(config)
    return config


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _copy(value) if isinstance(value, Mapping) else value for key, value in data.items()
    }


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _unknown_key(where: str, key: str, known: list[str]) -> CpcSamError:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return ConfigError.of(
        where,
        got="an unknown key",
        expected=nearest[0] if nearest else " | ".join(known),
        fix="correct or remove it",
    )


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Validate a value against its type hint; ints become floats and lists become tuples."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where)
    if origin is Literal:
        # True == 1, so equality alone would accept a boolean for a number.
        if value in get_args(hint) and type(value) in {type(choice) for choice in get_args(hint)}:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return _convert_tuple(hint, value, where)
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return from_dict(hint, value, where)
    elif hint is Path:
        if isinstance(value, str | Path) and str(value):
            return Path(value)
    elif hint is float:
        number = _as_float(value)
        if number is not None:
            return number
    # Not isinstance, since a bool is an int.
    elif type(value) is hint:
        return value
    raise ConfigError.of(where, got=repr(value), expected=_describe(hint), fix="correct the value")


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    """Convert to the first member of a union that accepts the value; None stays None."""
    members = [member for member in get_args(hint) if member is not types.NoneType]
    if value is None and types.NoneType in get_args(hint):
        return None
    if len(members) == 1:
        return _convert(members[0], value, where)
    for member in members:
        try:
            return _convert(member, value, where)
        except ConfigError:
            continue
    raise ConfigError.of(where, got=repr(value), expected=_describe(hint), fix="correct the value")


def _convert_tuple(hint: Any, value: list[Any] | tuple[Any, ...], where: str) -> tuple[Any, ...]:
    kinds = get_args(hint)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ConfigError.of(
            where, got=repr(list(value)), expected=_describe(hint), fix="correct the value"
        )
    return tuple(
        _convert(kind, item, f"{where}[{index}]")
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _as_float(value: Any) -> float | None:
    """Convert ints and numbers that YAML 1.1 reads as text, such as 5e-3, but no booleans."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _describe(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(
            "null" if kind is types.NoneType else _describe(kind) for kind in arguments
        )
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list of {_describe(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)} ({', '.join(map(_describe, arguments))})"
    if dataclasses.is_dataclass(hint):
        return "keys and values"
    return {Path: "a path", str: "text", bool: "true | false"}.get(hint, str(hint.__name__))
