"""Classes whose objects are never changed, which type checkers see to.

attrs' own `frozen` also sees to it at run time, by a constructor that takes twice as long: 5 % of all the instructions
of a request, which makes a dozen such objects.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as immutable
else:
    from attrs import define as immutable

__all__ = ["immutable"]
