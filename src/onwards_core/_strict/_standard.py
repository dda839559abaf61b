"""The errors that stand in for an untrusted provider's own: they tell the status and nothing else."""

from onwards_core._errors import envelope

# Status: type and message. The types are those of OpenAI's and Anthropic's references of error codes.
_ERRORS = {
    400: ("invalid_request_error", "The provider refused the request as invalid."),
    401: ("authentication_error", "The credentials are not valid."),
    403: ("permission_error", "The request is not permitted."),
    404: ("not_found_error", "What the request asks for does not exist."),
    429: ("rate_limit_error", "Too many requests. Try again later."),
    500: ("api_error", "The provider failed to handle the request."),
    502: ("api_error", "The provider gave no usable answer."),
    503: ("api_error", "The provider is not available at the moment."),
    504: ("api_error", "The provider took too long to answer."),
}


def standard_status(status: int) -> int:
    """The status that a client gets for an untrusted provider's.

    What speaks of the operator's account becomes 502, and a timeout of the gateway's own request 504.
    """
    match status:
        case 401 | 402 | 403 | 451:
            return 502
        case 408:
            return 504
        case _:
            return status


def standard_error(status: int) -> bytes:
    """OpenAI's error object for a status that went through `standard_status`."""
    type, message = _ERRORS.get(status) or _ERRORS[400 if 400 <= status < 500 else 500]
    return envelope(message, type, type)
