"""Finds the error that a provider put into an answer whose status says success.

Providers notice some failures after they have sent their 200, and put an error object where the answer, or the
next event, belongs. It names its status as each of them likes: a number, a number as text, or a name.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType


class _Head(msgspec.Struct, gc=False):
    """What tells an error from an answer; `Raw` is not looked into."""

    error: Raw | UnsetType = UNSET
    type: Any = None
    object: Any = None


_decode = msgspec.json.Decoder(_Head).decode

# Names of errors, in lower case and without `_` or `error`, and the status that providers send with them otherwise.
_STATUSES = {
    # openai.types.responses.ResponseError.code; the codes of OpenAI's error envelope
    **dict.fromkeys(
        "invalidprompt biopolicy misalignmentpolicyviolation dataresidencymismatch"
        " imagetoolarge imagetoosmall imageparse imagecontentpolicyviolation"
        " imagefiletoolarge unsupportedimagemediatype emptyimagefile failedtodownloadimage imagefilenotfound"
        " contextlengthexceeded stringabovemaxlength contentpolicyviolation contentfilter unsupportedparameter"
        " unsupportedvalue missingrequiredparameter badrequest failedprecondition outofrange".split(),
        400,
    ),
    **dict.fromkeys("authentication unauthenticated unauthorized invalidapikey incorrectapikey".split(), 401),
    **dict.fromkeys("billing paymentrequired".split(), 402),
    **dict.fromkeys("permission permissiondenied forbidden".split(), 403),
    **dict.fromkeys("notfound modelnotfound".split(), 404),
    **dict.fromkeys("requesttimeout".split(), 408),
    **dict.fromkeys("conflict".split(), 409),
    **dict.fromkeys("requesttoolarge payloadtoolarge".split(), 413),
    **dict.fromkeys("unprocessableentity".split(), 422),
    **dict.fromkeys(
        "ratelimit ratelimitexceeded ratelimited toomanyrequests insufficientquota quotaexceeded"
        " resourceexhausted throttling".split(),
        429,
    ),
    **dict.fromkeys("badgateway".split(), 502),
    **dict.fromkeys("serviceunavailable unavailable".split(), 503),
    **dict.fromkeys("timeout gatewaytimeout deadlineexceeded vectorstoretimeout".split(), 504),
    # Anthropic's own status
    **dict.fromkeys("overloaded engineoverloaded serveroverloaded".split(), 529),
}


def embedded_error(event: bytes) -> int | None:
    """The status that an error object in a 2xx body or event names; None if it holds no error.

    An error is whatever has a top-level `error` that says something, an `error` or `response.failed` event, or an
    object that calls itself one.
    """
    try:
        head = _decode(event)
        if head.type == "response.failed":
            return embedded_status(msgspec.json.decode(event).get("response"))
        if head.type == "error" or head.object == "error":
            return embedded_status(msgspec.json.decode(event))
        # The error of nearly every answer is absent, and of many it is null: neither is worth a look.
        if head.error is UNSET or head.error == b"null" or not msgspec.json.decode(head.error):
            return None
        return embedded_status(msgspec.json.decode(event))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def embedded_status(error: object) -> int:
    """The status, 400 to 599, that an error names; 500 if none.

    error: parsed JSON, the error itself or an object with it as its `error`.
    """
    levels: list[dict[str, Any]] = []
    while isinstance(error, dict):
        levels.insert(0, error)
        error = error.get("error")
    # The error inside knows best; of one error, a number is more exact than its name.
    named = [error, *(level.get(name) for level in levels for name in ("status_code", "status", "code", "type"))]
    return next((status for name in named if (status := _status(name))), 500)


def _status(name: object) -> int | None:
    match name:
        case int() | float() if 400 <= name < 600:
            return int(name)
        case str() if name.isdecimal() and len(name) == 3:
            return _status(int(name))
        case str():
            key = "".join(filter(str.isalnum, name.lower())).removesuffix("error").removesuffix("exception")
            return _STATUSES.get(key) or (400 if key.startswith("invalid") else None)
        case _:
            return None
