"""What the schemas of several endpoints have in common.

Schemas of answers say what is kept, on every level. All of it may be absent or null, as providers leave out what they
don't know, but what is there has the type that OpenAI publishes: an object in the place of a string could hold
anything. Where OpenAI publishes no fields (a JSON schema, say), `Raw` is kept byte for byte. Names of values are not
checked (a new `finish_reason` harms nobody), nor whether a number is whole.

Schemas of requests refuse what no provider could understand; fields that they don't know pass, as most providers have
some of their own.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

T = TypeVar("T")

Maybe: TypeAlias = T | UnsetType | None
"""What is absent stays absent, and what is null stays null."""

Text: TypeAlias = Maybe[str]
Number: TypeAlias = Maybe[int | float]
Flag: TypeAlias = Maybe[bool]
Scalar: TypeAlias = Maybe[str | int | float | bool]
Texts: TypeAlias = Maybe[list[str]]
Numbers: TypeAlias = Maybe[list[int | float | None]]
FreeForm: TypeAlias = dict[str, Raw]
"""An object whose fields OpenAI leaves to its user."""

# Ranges: the API reference of each parameter. Where providers go further than OpenAI's upper limits, there is none.
Temperature: TypeAlias = Annotated[float, Meta(ge=0, le=2)] | None
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)] | None
Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)] | None
Count: TypeAlias = Annotated[int, Meta(ge=1)] | None
Limit: TypeAlias = Annotated[int, Meta(ge=0)] | None
LogitBias: TypeAlias = dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None
Mode: TypeAlias = Literal["none", "auto", "required"]

Token: TypeAlias = Annotated[int, Meta(ge=0)]
# A list is all strings, all tokens or all lists of tokens: `check_token_input`.
TokenInput: TypeAlias = str | list[str | Token | list[Token]]


def check_token_input(name: str, value: TokenInput | None) -> None:
    """Raises `ValueError`, which msgspec reports like what it finds itself."""
    if isinstance(value, list) and len(set(map(type, value))) > 1:
        raise ValueError(f"Expected items of one type in field `{name}`")


class Fields(msgspec.Struct, gc=False, kw_only=True):
    """An object in JSON. No schema can hold a cycle, so none of them needs garbage collection."""


class AnyObject(Fields):
    """An object in a request that is the provider's to check."""


class Answer(Fields):
    """A whole answer, or the data of one of its events."""

    error: Raw | UnsetType = UNSET
    """Never written: what holds an error is no answer."""

    def may_be_error(self) -> bool:
        """Whether to look closer, with `embedded_error`."""
        return self.error is not UNSET

    def complete(self, model: Raw, default_id: str, created: int) -> None:
        """Set the model, and what the schema requires but the provider left out."""
        self.error = UNSET

    def head(self) -> bytes | None:
        """The lines of its event before the data; None if the event is unknown and has to be left out."""
        return b""


# Requests


class StreamOptions(Fields):
    # openai.types.chat.ChatCompletionStreamOptionsParam, responses.response_create_params.StreamOptions
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Request(Fields):
    # What openai.types.chat.completion_create_params, completion_create_params and
    # responses.response_create_params agree on
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature = None
    top_p: Share = None
    user: str | None = None


class Sampling(Request):
    # What both kinds of completions agree on
    frequency_penalty: Penalty = None
    presence_penalty: Penalty = None
    logit_bias: LogitBias = None
    n: Count = None
    seed: int | None = None
    stop: str | list[str] | None = None


# Answers


class PromptTokensDetails(Fields):
    # openai.types.completion_usage.PromptTokensDetails
    audio_tokens: Number = UNSET
    cache_write_tokens: Number = UNSET
    cached_tokens: Number = UNSET
    image_tokens: Number = UNSET
    text_tokens: Number = UNSET


class CompletionTokensDetails(Fields):
    # openai.types.completion_usage.CompletionTokensDetails
    accepted_prediction_tokens: Number = UNSET
    audio_tokens: Number = UNSET
    reasoning_tokens: Number = UNSET
    rejected_prediction_tokens: Number = UNSET
    text_tokens: Number = UNSET


class Usage(Fields):
    # openai.types.CompletionUsage
    prompt_tokens: Number = UNSET
    completion_tokens: Number = UNSET
    total_tokens: Number = UNSET
    prompt_tokens_details: Maybe[PromptTokensDetails] = UNSET
    completion_tokens_details: Maybe[CompletionTokensDetails] = UNSET


class Choice(Fields):
    index: int | None = None
    finish_reason: str | None = None


class Choices(Answer, kw_only=True):
    """What all completions have in common, streamed or not."""

    KIND: ClassVar[str]
    """The value of `object`."""

    id: Text = UNSET
    object: Text = UNSET
    created: Number = UNSET
    model: Raw | UnsetType = UNSET
    system_fingerprint: Text = UNSET
    choices: Sequence[Choice]
    usage: Maybe[Usage] = UNSET

    def complete(self, model: Raw, default_id: str, created: int) -> None:
        self.model = model
        self.object = self.KIND
        self.error = UNSET
        if self.id is UNSET or self.id is None:
            self.id = default_id
        if self.created is UNSET or self.created is None:
            self.created = created
        for index, choice in enumerate(self.choices):
            if choice.index is None:
                choice.index = index
