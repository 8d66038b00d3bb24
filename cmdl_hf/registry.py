"""A registry of names, for this package and for plug-ins."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

_Value = TypeVar("_Value")


class Registry(Mapping[str, _Value]):
    """A mapping in which a name can be registered only once. The error for an unknown name lists the known names.

    Args:
        kind (`str`): Kind of the registered objects, for messages.
        reserved (`tuple[str, ...]`): Names that cannot be registered because they have another meaning.
    """

    def __init__(self, kind: str, reserved: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.reserved = reserved
        self._values: dict[str, _Value] = {}

    def register(self, name: str, value: _Value) -> None:
        """Add a value.

        Raises:
            ValueError: if the name exists already.
        """
        if name in self._values or name in self.reserved:
            known = ", ".join((*self._values, *self.reserved))
            raise ValueError(f"there is already a {self.kind} {name!r} (known: {known}); choose another name")
        self._values[name] = value

    def find(self, name: str) -> _Value:
        """Look up a value.

        Raises:
            ValueError: if the name is unknown.
        """
        if name not in self._values:
            known = ", ".join((*self._values, *self.reserved))
            raise ValueError(
                f"there is no {self.kind} {name!r}; known are {known}. If a plug-in registers it, import the plug-in "
                "first: --plugin FILE, or an import in Python"
            )
        return self._values[name]

    def __getitem__(self, name: str) -> _Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
