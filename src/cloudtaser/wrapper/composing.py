"""Composing: the fields of several secrets become the values to deliver, by map, templates and references.

`session` calls it with what it has read, at the start and at each change. Pure, and copies a value only into
a template's buffer.
"""

from cloudtaser.wrapper.buffers import Span
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.delivery import MAX_FILES, Values, check
from cloudtaser.wrapper.envmap import EnvMapError, SecretPath, assign
from cloudtaser.wrapper.errors import ConfigError
from cloudtaser.wrapper.rendering import render
from cloudtaser.wrapper.secrets import Secret
from cloudtaser.wrapper.templates import Field, Template

_LISTED = "CLOUDTASER_SECRET_PATHS"
_SHOWN = 12


def compose(config: Config, secrets: list[Secret]) -> tuple[Values, list[str]]:
    """The values to deliver, and warnings. Raises ConfigError where settings and secrets do not fit."""
    values, warnings = _mapped(config, secrets)
    for template in config.templates:
        if template.name in values.spans:
            raise ConfigError(
                f"{template.name} is set twice, as a path that is exported whole has such a field",
                on=template.origin,
                fix="give the path a group in CLOUDTASER_ENV_MAP",
            )
        _put(values, template, config, secrets)
    for reference in config.references:
        if not (config.override and reference.name in values.spans):
            _put(values, reference, config, secrets)
            values.replaced.add(reference.name)
    if config.override and len(values.files) > MAX_FILES:  # else the container's own values win over some
        raise ConfigError(
            f"{len(values.files)} values as files, of at most {MAX_FILES}",
            on="CLOUDTASER_ENV_MAP",
            fix="map those that are needed",
        )
    return values, warnings


def _mapped(config: Config, secrets: list[Secret]) -> tuple[Values, list[str]]:
    """What the map and the whole exports give."""
    values = Values({})
    try:
        sources, warnings = assign(config.paths, config.groups, [list(secret.fields) for secret in secrets])
        for name, source in sources.items():
            span = secrets[source.path].fields[source.field]
            is_file = source.is_file or config.delivery == "file"
            try:
                if not is_file:
                    check(name, span, f"field {source.field!r} of {config.paths[source.path]}")
            except EnvMapError as error:
                if config.groups[source.path] is not None:
                    raise
                warnings.append(f"{error}; it is not exported")
                continue
            values.spans[name] = span
            if is_file:
                values.files.add(name)
    except EnvMapError as error:
        raise ConfigError(str(error), on="CLOUDTASER_ENV_MAP") from None
    return values, warnings


def _put(values: Values, template: Template, config: Config, secrets: list[Secret]) -> None:
    try:
        span = render(template, lambda field: _find(field, config, secrets))
        if config.delivery == "file":
            values.files.add(template.name)
        else:
            check(template.name, span, "the value")
        values.spans[template.name] = span
    except OverflowError:
        raise ConfigError("the value is larger than a variable can be", on=template.origin) from None
    except _MisfitError as error:
        raise ConfigError(str(error), on=template.origin, fix=error.fix) from None
    except EnvMapError as error:
        raise ConfigError(str(error), on=template.origin) from None


class _MisfitError(EnvMapError):
    """What a template asks for is not there; with what to do about it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


def _find(field: Field, config: Config, secrets: list[Secret]) -> Span | None:
    """The value of a template's field. Raises EnvMapError where it is missing, or in several paths."""
    listed = [index for index, path in enumerate(config.paths) if path.origin == _LISTED]
    if isinstance(field.path, SecretPath):
        places = [config.paths.index(field.path)]
    else:
        places = listed if field.path is None else [field.path]
    found = [index for index in places if field.name in secrets[index].fields]
    if len(found) > 1:
        names = " and ".join(str(config.paths[index]) for index in found)
        fix = " or ".join(f"{{{{{index + 1}.{field.name}}}}}" for index in found)
        raise _MisfitError(f"{names} have a field {field.name!r}", f"write {fix}")
    if found:
        return secrets[found[0]].fields[field.name]
    if field.optional:
        return None
    names = " or ".join(str(config.paths[index]) for index in places)
    known = sorted({name for index in places for name in secrets[index].fields})
    shown = ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
    raise _MisfitError(f"no field {field.name!r} in {names}", f"there is {shown or 'none'}")
