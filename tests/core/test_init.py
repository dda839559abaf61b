"""What the package offers."""

import onwards_core


def test_all() -> None:
    """`__all__` names each public name once, in order, and nothing else is public."""
    public = {name for name in vars(onwards_core) if not name.startswith("_")}
    assert onwards_core.__all__ == sorted(public)


def test_everything_is_explained() -> None:
    """Each public class and function has a docstring of its own."""
    for name in onwards_core.__all__:
        value = getattr(onwards_core, name)
        if callable(value) and getattr(value, "__module__", "").startswith("onwards_core"):
            assert value.__doc__, name
