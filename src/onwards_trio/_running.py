"""A worker as its parent sees it."""

import attrs
import trio

from onwards_core._lease_calls import InForce
from onwards_trio._channel import Channel


@attrs.define(eq=False)
class Running:
    """A worker's process."""

    number: int
    process: trio.Process
    channel: Channel
    ready: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)
    in_force: tuple[InForce, ...] = ()
    """Which configs it knows of among all who share limits."""
    leaving: bool = False
    """Whether it was told to end."""
    handed_over: bool = False
