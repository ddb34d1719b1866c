"""One error class for everything a user can put right."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """A wrong input, told as ``{who}: {rule}; got {value}. {what to do}``.

    The command line prints the text and ends with exit code 2; in Python it is a ``ValueError``. With one argument that
    is the whole text (errors cross process borders so).
    """

    def __init__(self, who: str, rule: str = "", got: object = None, todo: str = "") -> None:
        value = "" if got is None else f"; got {got!r}"
        super().__init__(f"{who}: {rule}{value}. {todo}".strip() if rule else who)


def unknown_name(who: str, kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not on a menu, with the nearest names that are."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    question = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
    return UsageError(f"{who}: no {kind} {name!r}{question} Known: {', '.join(names)}")


class DivergenceError(ArithmeticError):
    """A solver that found its own solution growing without bound or not finite, and stopped."""
