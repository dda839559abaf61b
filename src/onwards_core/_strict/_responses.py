"""`/v1/responses`: https://platform.openai.com/docs/api-reference/responses, `openai.types.responses`."""

from typing import Literal

from msgspec import UNSET, Raw, UnsetType, field

from onwards_core._strict._fields import (
    Answer,
    AnyObject,
    Count,
    Fields,
    Flag,
    FreeForm,
    Limit,
    Maybe,
    Mode,
    Number,
    Request,
    Text,
)
from onwards_core._strict._response_items import Annotation, Content, Item, Logprob, TextConfig, Tool

# Requests

# What an item of each type needs: the required fields of OpenAI's types, but for what clients that keep no state leave
# out: `id`, `status` and `outputs`. Of types that are not here, nothing is known.
ITEM_NEEDS = {
    None: ("role", "content"),
    "message": ("role", "content"),
    "additional_tools": ("role", "tools"),
    "apply_patch_call": ("call_id", "operation"),
    "apply_patch_call_output": ("call_id",),
    "code_interpreter_call": ("code", "container_id"),
    "compaction": ("encrypted_content",),
    "computer_call": ("call_id", "pending_safety_checks"),
    "computer_call_output": ("call_id", "output"),
    "custom_tool_call": ("call_id", "input", "name"),
    "custom_tool_call_output": ("call_id", "output"),
    "file_search_call": ("queries",),
    "function_call": ("arguments", "call_id", "name"),
    "function_call_output": ("output",),
    "image_generation_call": ("result",),
    "item_reference": ("id",),
    "local_shell_call": ("action", "call_id"),
    "local_shell_call_output": ("output",),
    "mcp_approval_request": ("arguments", "name", "server_label"),
    "mcp_approval_response": ("approval_request_id", "approve"),
    "mcp_call": ("arguments", "name", "server_label"),
    "mcp_list_tools": ("server_label", "tools"),
    "program": ("call_id", "code", "fingerprint"),
    "program_output": ("call_id", "result"),
    "reasoning": ("summary",),
    "shell_call": ("action", "call_id"),
    "shell_call_output": ("call_id", "output"),
    "tool_search_call": ("arguments",),
    "tool_search_output": ("tools",),
    "web_search_call": ("action",),
}
TOOL_NEEDS = {
    "custom": ("name",),
    "file_search": ("vector_store_ids",),
    "function": ("name",),
    "mcp": ("server_label",),
    "namespace": ("name", "tools"),
}


def _check(value: Fields, needs: tuple[str, ...]) -> None:
    """Raises `ValueError`, which msgspec reports like what it finds itself."""
    for name in needs:
        if getattr(value, name) is UNSET:
            raise ValueError(f"Object missing required field `{name}`")


class InputContent(Fields, kw_only=True):
    # ResponseInputMessageContentListParam, response_output_message_param.Content, response_reasoning_item_param.Content
    type: str
    text: Text = UNSET
    refusal: Text = UNSET
    file_id: Text = UNSET
    image_url: Text = UNSET


class InputItem(Fields):
    # ResponseInputItemParam, as far as its types need something: what it is in detail is the provider's to check.
    # (An `Item` would hold forty times the bytes of its JSON.)
    type: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | UnsetType | None = UNSET
    content: Maybe[str | list[InputContent]] = UNSET
    id: Text = UNSET
    call_id: Text = UNSET
    name: Text = UNSET
    arguments: Raw | UnsetType = UNSET
    output: Maybe[str | list[AnyObject] | AnyObject] = UNSET
    input: Text = UNSET
    encrypted_content: Text = UNSET
    summary: Maybe[list[InputContent]] = UNSET
    action: Raw | UnsetType = UNSET
    operation: Raw | UnsetType = UNSET
    pending_safety_checks: Raw | UnsetType = UNSET
    queries: Raw | UnsetType = UNSET
    tools: Raw | UnsetType = UNSET
    code: Text = UNSET
    container_id: Text = UNSET
    result: Text = UNSET
    server_label: Text = UNSET
    approval_request_id: Text = UNSET
    approve: Flag = UNSET
    fingerprint: Text = UNSET

    def __post_init__(self) -> None:
        # An item with nothing but its id is a reference to an earlier one.
        if self.type is not None or self.role is not UNSET or self.id is UNSET:
            _check(self, ITEM_NEEDS.get(self.type, ()))


class InputTool(Fields, kw_only=True):
    # ToolParam, likewise
    type: str
    name: Text = UNSET
    description: Text = UNSET
    parameters: Maybe[AnyObject] = UNSET
    strict: Flag = UNSET
    server_label: Text = UNSET
    vector_store_ids: Maybe[list[str]] = UNSET
    tools: Maybe[list[AnyObject]] = UNSET

    def __post_init__(self) -> None:
        _check(self, TOOL_NEEDS.get(self.type, ()))


class NamedTool(Fields, kw_only=True):
    # response_create_params.ToolChoice
    type: str
    name: Text = UNSET
    server_label: Text = UNSET
    mode: Text = UNSET
    tools: Maybe[list[AnyObject]] = UNSET


class InputFormat(Fields, kw_only=True):
    # ResponseFormatTextConfigParam
    type: str
    name: Text = UNSET
    description: Text = UNSET
    schema: Maybe[AnyObject] = UNSET
    strict: Flag = UNSET

    def __post_init__(self) -> None:
        if self.type == "json_schema":
            _check(self, ("name", "schema"))


class InputText(Fields):
    # ResponseTextConfigParam
    format: InputFormat | None = None
    verbosity: str | None = None


class InputPrompt(Fields, kw_only=True):
    # ResponsePromptParam
    id: str
    variables: AnyObject | None = None
    version: str | None = None


class Identified(Fields, kw_only=True):
    # ResponseConversationParam, response.Conversation
    id: str


class Reasoning(Fields):
    # openai.types.shared.Reasoning
    context: Text = UNSET
    effort: Text = UNSET
    generate_summary: Text = UNSET
    mode: Text = UNSET
    summary: Text = UNSET


class ResponseRequest(Request):
    # response_create_params.ResponseCreateParams
    access_programs: AnyObject | None = None
    background: bool | None = None
    background_options: AnyObject | None = None
    context_management: list[AnyObject] | None = None
    conversation: str | Identified | None = None
    image: AnyObject | None = None
    include: list[str] | None = None
    input: str | list[InputItem] | None = None
    instructions: str | None = None
    max_output_tokens: Count = None
    max_tool_calls: Limit = None
    metadata: dict[str, str] | None = None
    moderation: AnyObject | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    prompt: InputPrompt | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: AnyObject | None = None
    prompt_cache_retention: str | None = None
    reasoning: Reasoning | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    text: InputText | None = None
    tool_choice: Mode | NamedTool | None = None
    tools: list[InputTool] | None = None
    top_logprobs: Limit = None
    truncation: Literal["auto", "disabled"] | None = None


# Answers

_NULL = Raw(b"null")


class AccessPrograms(Fields):
    # response.AccessPrograms
    cyber: Text = UNSET


class IncompleteDetails(Fields):
    # response.IncompleteDetails
    reason: Text = UNSET


class Image(Fields):
    # response.Image
    context_compression: Text = UNSET


class InputTransformation(Fields):
    # response.InputTransformation
    type: Text = UNSET
    id: Text = UNSET
    action: Text = UNSET
    reason: Text = UNSET


class ModerationResult(Fields):
    # response.ModerationInput, ModerationOutput
    type: Text = UNSET
    model: Text = UNSET
    flagged: Flag = UNSET
    categories: Maybe[dict[str, bool]] = UNSET
    category_applied_input_types: Maybe[dict[str, list[str]]] = UNSET
    category_scores: Maybe[dict[str, float]] = UNSET
    code: Text = UNSET
    message: Text = UNSET


class Moderation(Fields):
    # response.Moderation
    input: Maybe[ModerationResult] = UNSET
    output: Maybe[ModerationResult] = UNSET


class CacheDiagnostics(Fields):
    # response.PromptCacheDiagnostics
    type: Text = UNSET
    reason: Text = UNSET
    cache_missed_tokens: Number = UNSET
    comparison_reusable_tokens: Number = UNSET


class CacheOptions(Fields):
    # response.PromptCacheOptions
    mode: Text = UNSET
    ttl: Text = UNSET
    comparison_response_id: Text = UNSET


class Prompt(Fields):
    # ResponsePrompt
    id: Text = UNSET
    variables: Maybe[dict[str, str | Content]] = UNSET
    version: Text = UNSET


class ToolChoice(Fields):
    # response.ToolChoice
    type: Text = UNSET
    name: Text = UNSET
    server_label: Text = UNSET
    mode: Text = UNSET
    tools: Maybe[list[FreeForm]] = UNSET


class ModalityTokens(Fields):
    # response.ToolUsageImageGenInputTokensDetails, …OutputTokensDetails
    image_tokens: Number = UNSET
    text_tokens: Number = UNSET


class CachedModalityTokens(Fields):
    # response.ToolUsageImageGenCachedTokensDetails
    cached_image_tokens: Number = UNSET
    cached_text_tokens: Number = UNSET


class ImageUsage(Fields):
    # response.ToolUsageImageGen
    input_tokens: Number = UNSET
    input_tokens_details: Maybe[ModalityTokens] = UNSET
    output_tokens: Number = UNSET
    output_tokens_details: Maybe[ModalityTokens] = UNSET
    total_tokens: Number = UNSET
    cached_tokens: Number = UNSET
    cached_tokens_details: Maybe[CachedModalityTokens] = UNSET


class SearchUsage(Fields):
    # response.ToolUsageWebSearch
    num_requests: Number = UNSET


class ToolUsage(Fields):
    # response.ToolUsage
    image_gen: Maybe[ImageUsage] = UNSET
    web_search: Maybe[SearchUsage] = UNSET


class CacheWriteTokens(Fields):
    # response_usage.InputTokensDetailsCacheWriteTokensDetails
    ttl_12h_tokens: Number = UNSET
    ttl_30m_tokens: Number = UNSET


class InputTokensDetails(Fields):
    # response_usage.InputTokensDetails
    cache_write_tokens: Number = UNSET
    cache_write_tokens_details: Maybe[CacheWriteTokens] = UNSET
    cached_tokens: Number = UNSET


class OutputTokensDetails(Fields):
    # response_usage.OutputTokensDetails
    reasoning_tokens: Number = UNSET


class Usage(Fields):
    # ResponseUsage
    input_tokens: Number = UNSET
    input_tokens_details: Maybe[InputTokensDetails] = UNSET
    output_tokens: Number = UNSET
    output_tokens_details: Maybe[OutputTokensDetails] = UNSET
    total_tokens: Number = UNSET


class Response(Answer, kw_only=True):
    # Response; the defaults are those of the API reference, for what it requires
    id: Text = UNSET
    object: Text = UNSET
    created_at: Number = UNSET
    completed_at: Number = UNSET
    model: Raw | UnsetType = UNSET
    status: Text = UNSET
    error: Raw = _NULL
    """Never written but as null: what holds an error is no answer."""
    incomplete_details: IncompleteDetails | None = None
    output: list[Item]
    instructions: str | list[Item] | None = None
    metadata: dict[str, str] | None = field(default_factory=dict)
    parallel_tool_calls: bool | None = True
    temperature: int | float | None = None
    top_p: int | float | None = None
    tool_choice: str | ToolChoice | None = "auto"
    tools: list[Tool] = field(default_factory=list)
    access_programs: Maybe[AccessPrograms] = UNSET
    background: Flag = UNSET
    conversation: Maybe[Identified] = UNSET
    image: Maybe[Image] = UNSET
    input_transformations: Maybe[list[InputTransformation]] = UNSET
    max_output_tokens: Number = UNSET
    max_tool_calls: Number = UNSET
    moderation: Maybe[Moderation] = UNSET
    previous_response_id: Text = UNSET
    prompt: Maybe[Prompt] = UNSET
    prompt_cache_diagnostics: Maybe[CacheDiagnostics] = UNSET
    prompt_cache_key: Text = UNSET
    prompt_cache_options: Maybe[CacheOptions] = UNSET
    prompt_cache_retention: Text = UNSET
    reasoning: Maybe[Reasoning] = UNSET
    safety_identifier: Text = UNSET
    service_tier: Text = UNSET
    text: Maybe[TextConfig] = UNSET
    tool_usage: Maybe[ToolUsage] = UNSET
    top_logprobs: Number = UNSET
    truncation: Text = UNSET
    usage: Maybe[Usage] = UNSET
    user: Text = UNSET

    def may_be_error(self) -> bool:
        return self.error is not _NULL

    def complete(self, model: Raw, default_id: str, created: int) -> None:
        self.model = model
        self.object = "response"
        self.error = _NULL
        if self.id is UNSET or self.id is None:
            self.id = default_id
        if self.created_at is UNSET or self.created_at is None:
            self.created_at = created


class ResponseUnderWay(Response):
    """The response in an event: some providers tell no more than its id before it is completed."""

    output: list[Item] = field(default_factory=list)


class ShellOutput(Fields):
    # response_shell_call_output_content_delta_event.Delta
    stderr: Text = UNSET
    stdout: Text = UNSET


EVENTS = {"error"} | {
    f"response.{name}"
    for name in """
    audio.delta audio.done audio.transcript.delta audio.transcript.done code_interpreter_call.completed
    code_interpreter_call.in_progress code_interpreter_call.interpreting code_interpreter_call_code.delta
    code_interpreter_call_code.done compaction.compacting completed content_part.added content_part.done created
    custom_tool_call_input.delta custom_tool_call_input.done failed file_search_call.completed
    file_search_call.in_progress file_search_call.searching function_call_arguments.delta
    function_call_arguments.done image_generation_call.completed image_generation_call.generating
    image_generation_call.in_progress image_generation_call.partial_image in_progress incomplete mcp_call.completed
    mcp_call.failed mcp_call.in_progress mcp_call_arguments.delta mcp_call_arguments.done mcp_list_tools.completed
    mcp_list_tools.failed mcp_list_tools.in_progress output_item.added output_item.done
    output_text.annotation.added output_text.delta output_text.done queued reasoning_summary_part.added
    reasoning_summary_part.done reasoning_summary_text.delta reasoning_summary_text.done reasoning_text.delta
    reasoning_text.done refusal.delta refusal.done shell_call_command.added shell_call_command.delta
    shell_call_command.done shell_call_output_content.delta shell_call_output_content.done
    web_search_call.completed web_search_call.in_progress web_search_call.searching
    """.split()
}
"""The types of openai.types.responses.ResponseStreamEvent."""


class Event(Answer, kw_only=True):
    # ResponseStreamEvent (all of it)
    type: str
    sequence_number: Number = UNSET
    response: Maybe[ResponseUnderWay] = UNSET
    item: Maybe[Item] = UNSET
    item_id: Text = UNSET
    part: Maybe[Content] = UNSET
    output_index: Number = UNSET
    content_index: Number = UNSET
    summary_index: Number = UNSET
    command_index: Number = UNSET
    annotation_index: Number = UNSET
    partial_image_index: Number = UNSET
    delta: Maybe[str | ShellOutput] = UNSET
    text: Text = UNSET
    refusal: Text = UNSET
    logprobs: Maybe[list[Logprob]] = UNSET
    annotation: Maybe[Annotation] = UNSET
    arguments: Text = UNSET
    input: Text = UNSET
    code: Text = UNSET
    command: Text = UNSET
    output: Maybe[list[Content]] = UNSET
    status: Text = UNSET
    partial_image_b64: Text = UNSET
    background: Text = UNSET
    output_format: Text = UNSET
    quality: Text = UNSET
    size: Text = UNSET
    obfuscation: Text = UNSET

    def may_be_error(self) -> bool:
        return super().may_be_error() or self.type in ("error", "response.failed")

    def complete(self, model: Raw, default_id: str, created: int) -> None:
        super().complete(model, default_id, created)
        if isinstance(self.response, Response):
            self.response.complete(model, default_id, created)

    def head(self) -> bytes | None:
        return b"event: %b\n" % self.type.encode() if self.type in EVENTS else None
