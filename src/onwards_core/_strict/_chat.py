"""`/v1/chat/completions`: https://platform.openai.com/docs/api-reference/chat, `openai.types.chat`."""

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, field

from onwards_core._strict._fields import (
    AnyObject,
    Choice,
    Choices,
    Count,
    Fields,
    Flag,
    Limit,
    Maybe,
    Mode,
    Number,
    Numbers,
    Sampling,
    Text,
)

# Requests


class Typed(Fields, tag_field="type"):
    """One of several kinds of objects, told apart by their `type`."""


class TextPart(Typed, tag="text"):
    # ChatCompletionContentPartTextParam
    text: str


class ImageUrl(Fields):
    # chat_completion_content_part_image_param.ImageURL
    url: str
    detail: str | None = None


class ImagePart(Typed, tag="image_url"):
    # ChatCompletionContentPartImageParam
    image_url: ImageUrl


class InputAudio(Fields):
    # chat_completion_content_part_input_audio_param.InputAudio
    data: str
    format: str


class AudioPart(Typed, tag="input_audio"):
    # ChatCompletionContentPartInputAudioParam
    input_audio: InputAudio


class File(Fields):
    # chat_completion_content_part_param.FileFile
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class FilePart(Typed, tag="file"):
    # chat_completion_content_part_param.File
    file: File


class RefusalPart(Typed, tag="refusal"):
    # ChatCompletionContentPartRefusalParam
    refusal: str


# Which part may be in whose message is left to the provider: many take images from tools, OpenAI does not.
Content: TypeAlias = str | list[TextPart | ImagePart | AudioPart | FilePart | RefusalPart]


class Name(Fields):
    # ChatCompletionFunctionCallOptionParam; the `function` or `custom` of a named tool choice
    name: str


class CalledFunction(Fields):
    # chat_completion_message_function_tool_call_param.Function, chat_completion_assistant_message_param.FunctionCall
    name: str
    arguments: str


class CalledCustom(Fields):
    # chat_completion_message_custom_tool_call_param.Custom
    name: str
    input: str


class FunctionToolCall(Typed, tag="function"):
    # ChatCompletionMessageFunctionToolCallParam
    id: str
    function: CalledFunction


class CustomToolCall(Typed, tag="custom"):
    # ChatCompletionMessageCustomToolCallParam
    id: str
    custom: CalledCustom


class Identified(Fields):
    # chat_completion_assistant_message_param.Audio, chat_completion_audio_param.VoiceID
    id: str


class AnyMessage(Fields, tag_field="role"):
    name: str | None = None


class DeveloperMessage(AnyMessage, tag="developer", kw_only=True):
    # ChatCompletionDeveloperMessageParam
    content: Content


class SystemMessage(DeveloperMessage, tag="system"):
    # ChatCompletionSystemMessageParam
    pass


class UserMessage(DeveloperMessage, tag="user"):
    # ChatCompletionUserMessageParam
    pass


class AssistantMessage(AnyMessage, tag="assistant"):
    # ChatCompletionAssistantMessageParam
    content: Content | None = None
    refusal: str | None = None
    audio: Identified | None = None
    tool_calls: list[FunctionToolCall | CustomToolCall] | None = None
    function_call: CalledFunction | None = None


class ToolMessage(AnyMessage, tag="tool", kw_only=True):
    # ChatCompletionToolMessageParam
    content: Content
    tool_call_id: str


class FunctionMessage(AnyMessage, tag="function", kw_only=True):
    # ChatCompletionFunctionMessageParam
    content: str | None = None
    name: str


Message: TypeAlias = DeveloperMessage | SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage


class Function(Fields):
    # openai.types.shared_params.FunctionDefinition, completion_create_params.Function
    name: str
    description: str | None = None
    parameters: AnyObject | None = None
    strict: bool | None = None


class FunctionTool(Typed, tag="function"):
    # ChatCompletionFunctionToolParam
    function: Function


class CustomTool(Typed, tag="custom"):
    # ChatCompletionCustomToolParam
    custom: Name


class NamedFunction(Typed, tag="function"):
    # ChatCompletionNamedToolChoiceParam
    function: Name


class NamedCustom(Typed, tag="custom"):
    # ChatCompletionNamedToolChoiceCustomParam
    custom: Name


class Allowed(Fields):
    # ChatCompletionAllowedToolsParam
    mode: Literal["auto", "required"]
    tools: list[AnyObject]


class AllowedTools(Typed, tag="allowed_tools"):
    # ChatCompletionAllowedToolChoiceParam
    allowed_tools: Allowed


class TextFormat(Typed, tag="text"):
    # openai.types.shared_params.ResponseFormatText
    pass


class JsonFormat(Typed, tag="json_object"):
    # openai.types.shared_params.ResponseFormatJSONObject
    pass


class JsonSchema(Fields):
    # openai.types.shared_params.response_format_json_schema.JSONSchema
    name: str
    description: str | None = None
    schema: AnyObject | None = None
    strict: bool | None = None


class JsonSchemaFormat(Typed, tag="json_schema"):
    # openai.types.shared_params.ResponseFormatJSONSchema
    json_schema: JsonSchema


class AudioOptions(Fields):
    # ChatCompletionAudioParam
    format: str
    voice: str | Identified


class Prediction(Typed, tag="content"):
    # ChatCompletionPredictionContentParam
    content: str | list[TextPart]


class ChatRequest(Sampling, kw_only=True):
    # completion_create_params.CompletionCreateParams
    messages: Annotated[list[Message], Meta(min_length=1)]
    audio: AudioOptions | None = None
    function_call: Literal["none", "auto"] | Name | None = None
    functions: list[Function] | None = None
    logprobs: bool | None = None
    max_completion_tokens: Count = None
    max_tokens: Count = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    moderation: AnyObject | None = None
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: AnyObject | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    response_format: TextFormat | JsonFormat | JsonSchemaFormat | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    tool_choice: Mode | NamedFunction | NamedCustom | AllowedTools | None = None
    tools: list[FunctionTool | CustomTool] | None = None
    top_logprobs: Limit = None
    verbosity: str | None = None
    web_search_options: AnyObject | None = None


# Answers


class TopLogprob(Fields):
    # chat_completion_token_logprob.TopLogprob
    token: Text = UNSET
    bytes: Numbers = UNSET
    logprob: Number = UNSET


class TokenLogprob(TopLogprob):
    # ChatCompletionTokenLogprob
    top_logprobs: Maybe[list[TopLogprob]] = UNSET


class Logprobs(Fields):
    # chat_completion.ChoiceLogprobs, chat_completion_chunk.ChoiceLogprobs
    content: Maybe[list[TokenLogprob]] = UNSET
    refusal: Maybe[list[TokenLogprob]] = UNSET


class UrlCitation(Fields):
    # chat_completion_message.AnnotationURLCitation
    end_index: Number = UNSET
    start_index: Number = UNSET
    title: Text = UNSET
    url: Text = UNSET


class Annotation(Fields):
    # chat_completion_message.Annotation
    type: Text = UNSET
    url_citation: Maybe[UrlCitation] = UNSET


class Audio(Fields):
    # ChatCompletionAudio, chat_completion_chunk.ChoiceDeltaAudio
    id: Text = UNSET
    data: Text = UNSET
    expires_at: Number = UNSET
    transcript: Text = UNSET


class FunctionCall(Fields):
    # chat_completion_message.FunctionCall, chat_completion_message_function_tool_call.Function, and those of
    # chat_completion_chunk
    arguments: Text = UNSET
    name: Text = UNSET


class CustomCall(Fields):
    # chat_completion_message_custom_tool_call.Custom
    input: Text = UNSET
    name: Text = UNSET


class ToolCall(Fields):
    # ChatCompletionMessageFunctionToolCall, ChatCompletionMessageCustomToolCall,
    # chat_completion_chunk.ChoiceDeltaToolCall
    index: Number = UNSET
    id: Text = UNSET
    type: Text = UNSET
    function: Maybe[FunctionCall] = UNSET
    custom: Maybe[CustomCall] = UNSET


class ReasoningDetail(Fields):
    # OpenRouter, https://openrouter.ai/docs/use-cases/reasoning-tokens
    type: Text = UNSET
    id: Text = UNSET
    format: Text = UNSET
    index: Number = UNSET
    text: Text = UNSET
    signature: Text = UNSET
    summary: Text = UNSET
    data: Text = UNSET


class Delta(Fields):
    # chat_completion_chunk.ChoiceDelta
    role: Text = UNSET
    content: Text = UNSET
    refusal: Text = UNSET
    tool_calls: Maybe[list[ToolCall]] = UNSET
    function_call: Maybe[FunctionCall] = UNSET
    audio: Maybe[Audio] = UNSET
    # What models think, where OpenAI has no field: vLLM and DeepSeek; vLLM since 0.11, Groq and OpenRouter; OpenRouter
    reasoning_content: Text = UNSET
    reasoning: Text = UNSET
    reasoning_details: Maybe[list[ReasoningDetail]] = UNSET


class AnswerMessage(Delta):
    # ChatCompletionMessage
    role: Text = "assistant"
    content: Text = None
    annotations: Maybe[list[Annotation]] = UNSET


class ModerationResult(Fields):
    # chat_completion.ModerationInputModerationResultsResult and its like
    categories: Maybe[dict[str, bool]] = UNSET
    category_applied_input_types: Maybe[dict[str, list[str]]] = UNSET
    category_scores: Maybe[dict[str, float]] = UNSET
    flagged: Flag = UNSET
    model: Text = UNSET
    type: Text = UNSET


class ModerationResults(Fields):
    # chat_completion.ModerationInputModerationResults, ModerationInputError and their like
    model: Text = UNSET
    results: Maybe[list[ModerationResult]] = UNSET
    type: Text = UNSET
    code: Text = UNSET
    message: Text = UNSET


class Moderation(Fields):
    # chat_completion.Moderation, chat_completion_chunk.Moderation
    input: Maybe[ModerationResults] = UNSET
    output: Maybe[ModerationResults] = UNSET


class CompletionChoice(Choice, kw_only=True):
    # chat_completion.Choice
    message: AnswerMessage
    logprobs: Logprobs | None = None


class ChunkChoice(Choice):
    # chat_completion_chunk.Choice
    delta: Delta = field(default_factory=Delta)
    logprobs: Maybe[Logprobs] = UNSET


class ChatCompletion(Choices, kw_only=True):
    # ChatCompletion
    KIND = "chat.completion"
    choices: list[CompletionChoice]
    metadata: Maybe[dict[str, str]] = UNSET
    moderation: Maybe[Moderation] = UNSET
    service_tier: Text = UNSET


class ChatCompletionChunk(Choices, kw_only=True):
    # ChatCompletionChunk
    KIND = "chat.completion.chunk"
    choices: list[ChunkChoice]
    moderation: Maybe[Moderation] = UNSET
    obfuscation: Text = UNSET
    service_tier: Text = UNSET
