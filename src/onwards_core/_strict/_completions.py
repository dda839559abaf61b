"""`/v1/completions`: https://platform.openai.com/docs/api-reference/completions, `openai.types.completion`."""

from msgspec import UNSET

from onwards_core._strict._fields import (
    Choice,
    Choices,
    Fields,
    Limit,
    Maybe,
    Numbers,
    Sampling,
    Texts,
    TokenInput,
    check_token_input,
)


class CompletionRequest(Sampling):
    # completion_create_params.CompletionCreateParams
    prompt: TokenInput | None = None
    best_of: Limit = None
    echo: bool | None = None
    logprobs: Limit = None
    max_tokens: Limit = None
    suffix: str | None = None

    def __post_init__(self) -> None:
        check_token_input("prompt", self.prompt)


class Logprobs(Fields):
    # completion_choice.Logprobs
    text_offset: Numbers = UNSET
    token_logprobs: Numbers = UNSET
    tokens: Texts = UNSET
    top_logprobs: Maybe[list[dict[str, float | None] | None]] = UNSET


class CompletionChoice(Choice, kw_only=True):
    # CompletionChoice
    text: str
    logprobs: Logprobs | None = None


class Completion(Choices, kw_only=True):
    # Completion
    KIND = "text_completion"
    choices: list[CompletionChoice]


class ChunkChoice(CompletionChoice):
    text: str = ""


class CompletionChunk(Choices, kw_only=True):
    # Completion, too: events look the same
    KIND = "text_completion"
    choices: list[ChunkChoice]
