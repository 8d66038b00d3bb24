"""Things by name, where ours and those of others are registered alike."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

_Value = TypeVar("_Value")


class Registry(Mapping[str, _Value]):
    """A mapping in which a name is taken once, and an unknown one is refused with those that are known.

    Args:
        kind (`str`): What is registered, as messages call it.
        reserved (`tuple[str, ...]`): Names that mean something else already.
    """

    def __init__(self, kind: str, reserved: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.reserved = reserved
        self._values: dict[str, _Value] = {}

    def register(self, name: str, value: _Value) -> None:
        """Add a value.

        Raises:
            ValueError: if the name is taken.
        """
        if name in self._values or name in self.reserved:
            known = ", ".join((*self._values, *self.reserved))
            raise ValueError(f"there is a {self.kind} {name!r} already (known are {known}); choose another name")
        self._values[name] = value

    def find(self, name: str) -> _Value:
        """Look a value up.

        Raises:
            ValueError: if there is none of that name.
        """
        if name not in self._values:
            known = ", ".join((*self._values, *self.reserved))
            raise ValueError(
                f"there is no {self.kind} {name!r}; known are {known}. Your own are known once their plug-in is "
                "imported: --plugin FILE, or an import in Python"
            )
        return self._values[name]

    def __getitem__(self, name: str) -> _Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
