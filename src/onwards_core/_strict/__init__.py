"""Strict mode: requests and answers by OpenAI's schemas, and errors that tell nothing of their provider.

Each endpoint has its file of schemas. `endpoint` finds what to do by a request's path; all of it works on whole JSON
texts, and holds nothing between requests.
"""

from onwards_core._strict._chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from onwards_core._strict._completions import Completion, CompletionChunk, CompletionRequest
from onwards_core._strict._embeddings import EmbeddingRequest, Embeddings
from onwards_core._strict._endpoint import Endpoint, Fault
from onwards_core._strict._responses import Event, Response, ResponseRequest
from onwards_core._strict._standard import standard_error, standard_status

__all__ = ["Endpoint", "Fault", "endpoint", "standard_error", "standard_status"]

_ENDPOINTS = {
    b"/v1/chat/completions": Endpoint(ChatRequest, ChatCompletion, ChatCompletionChunk),
    b"/v1/completions": Endpoint(CompletionRequest, Completion, CompletionChunk),
    # Embeddings are never streamed; an event that holds them all would be no lie.
    b"/v1/embeddings": Endpoint(EmbeddingRequest, Embeddings, Embeddings),
    b"/v1/responses": Endpoint(ResponseRequest, Response, Event),
}


def endpoint(path: bytes) -> Endpoint | None:
    """The endpoint at exactly this path; None if strict mode has none there."""
    return _ENDPOINTS.get(path)
