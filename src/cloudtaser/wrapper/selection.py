"""The selection: which paths are read and what becomes of their fields, out of four settings.

`config` fills it: the listed paths, the map, the templates and the references among the environment's
values. Pure. Every complaint is a ConfigError that names the variable to change.
"""

from cloudtaser.wrapper.envmap import MAX_PATHS, EnvMapError, Groups, SecretPath, parse_map, parse_paths
from cloudtaser.wrapper.errors import ConfigError
from cloudtaser.wrapper.references import parse_reference
from cloudtaser.wrapper.templates import Template, parse_template


class Selection:
    """What is wanted of OpenBao. Call the methods in the order they stand here."""

    __slots__ = ("_listed", "_loader_names", "_override", "groups", "paths", "references", "templates")

    def __init__(self, *, override: bool, loader_names: bool) -> None:
        self._override = override
        self._loader_names = loader_names
        self._listed = 0
        self.paths: tuple[SecretPath, ...] = ()
        self.groups: Groups = ()
        self.templates: list[Template] = []
        self.references: list[Template] = []

    def list_paths(self, text: str) -> None:
        """`CLOUDTASER_SECRET_PATHS`."""
        if not text:
            return
        try:
            self.paths = parse_paths(text)
        except EnvMapError as error:
            raise ConfigError(str(error), on="CLOUDTASER_SECRET_PATHS") from None
        self._listed = len(self.paths)

    def map_fields(self, text: str) -> None:
        """`CLOUDTASER_ENV_MAP`."""
        if text and not self._listed:
            raise ConfigError(
                "an environment map without paths", on="CLOUDTASER_ENV_MAP", fix="set CLOUDTASER_SECRET_PATHS"
            )
        try:
            self.groups = parse_map(text, self._listed, loader_names=self._loader_names)
        except EnvMapError as error:
            raise ConfigError(str(error), on="CLOUDTASER_ENV_MAP") from None

    def add_template(self, name: str, text: bytes, origin: str) -> None:
        """`CLOUDTASER_TEMPLATE_<name>`, which is the `origin`."""
        try:
            template = parse_template(name, text, origin, loader_names=self._loader_names)
        except EnvMapError as error:
            raise ConfigError(str(error), on=origin) from None
        if name in self._mapped():
            raise ConfigError(
                f"{name} is set twice, by the map too", on=origin, fix="take it out of CLOUDTASER_ENV_MAP"
            )
        for field in template.fields():
            if field.path is None and not self._listed:
                raise ConfigError(
                    f"the path of field {field.name!r} is not known",
                    on=origin,
                    fix="set CLOUDTASER_SECRET_PATHS, or write {{PATH#FIELD}}",
                )
            if isinstance(field.path, int) and field.path >= self._listed:
                raise ConfigError(
                    f"path {field.path + 1} of {self._listed}", on=origin, fix="see CLOUDTASER_SECRET_PATHS"
                )
        self.templates.append(template)
        self._add_paths(template)

    def add_reference(self, name: str, value: bytes) -> None:
        """A variable of the environment, which may be a reference. Where map or template set it, they win as
        over any value, unless CLOUDTASER_OVERRIDE is false.
        """
        try:
            reference = parse_reference(name, value)
        except EnvMapError as error:
            raise ConfigError(
                str(error), on=name, fix="vault:PATH#FIELD or vault:PATH#FIELD#VERSION"
            ) from None
        taken = self._mapped() | {template.name for template in self.templates}
        if reference is None or (self._override and name in taken):
            return
        self.references.append(reference)
        self._add_paths(reference)

    def _mapped(self) -> set[str]:
        return {mapping.name for group in self.groups for mapping in group or ()}

    def _add_paths(self, template: Template) -> None:
        """Paths that only it names: read, and nothing of them is exported."""
        for path in template.paths():
            if path not in self.paths:
                self.paths += (path,)
                self.groups += ((),)
        if len(self.paths) > MAX_PATHS:
            raise ConfigError(f"more than {MAX_PATHS} paths in all", on=template.origin)
