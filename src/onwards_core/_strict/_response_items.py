"""What `/v1/responses` takes and gives: items, their content, and tools.

One class stands for all the types that OpenAI publishes for one place, as their fields rarely disagree: all items
of `input`, `output` and events are an `Item`. Names are those of `openai.types.responses`.
"""

from msgspec import UNSET, Raw, UnsetType, field

from onwards_core._strict._fields import (
    Fields,
    Flag,
    FreeForm,
    Maybe,
    Number,
    Numbers,
    Scalar,
    Text,
    Texts,
)

# Content


class Annotation(Fields):
    # response_output_text.Annotation…
    type: Text = UNSET
    file_id: Text = UNSET
    filename: Text = UNSET
    index: Number = UNSET
    start_index: Number = UNSET
    end_index: Number = UNSET
    title: Text = UNSET
    url: Text = UNSET
    container_id: Text = UNSET


class TopLogprob(Fields):
    # response_output_text.LogprobTopLogprob, response_text_delta_event.LogprobTopLogprob and their like
    token: Text = UNSET
    bytes: Numbers = UNSET
    logprob: Number = UNSET


class Logprob(TopLogprob):
    # response_output_text.Logprob, response_text_delta_event.Logprob and their like
    top_logprobs: Maybe[list[TopLogprob]] = UNSET


class CacheBreakpoint(Fields):
    # response_input_text.PromptCacheBreakpoint and its like
    mode: Text = UNSET
    ttl: Text = UNSET


class Outcome(Fields):
    # response_function_shell_tool_call_output.OutputOutcome…
    type: Text = UNSET
    exit_code: Number = UNSET


class Content(Fields):
    # ResponseInputText, ResponseInputImage, ResponseInputFile, ResponseOutputText, ResponseOutputRefusal,
    # response_reasoning_item.Content and Summary, response_function_shell_tool_call_output.Output
    type: Text = UNSET
    text: Text = UNSET
    refusal: Text = UNSET
    annotations: Maybe[list[Annotation]] = UNSET
    logprobs: Maybe[list[Logprob]] = UNSET
    detail: Text = UNSET
    file_data: Text = UNSET
    file_id: Text = UNSET
    file_url: Text = UNSET
    filename: Text = UNSET
    image_url: Text = UNSET
    prompt_cache_breakpoint: Maybe[CacheBreakpoint] = UNSET
    outcome: Maybe[Outcome] = UNSET
    stderr: Text = UNSET
    stdout: Text = UNSET
    created_by: Text = UNSET


# Tools


class Filter(Fields):
    # openai.types.shared.ComparisonFilter, CompoundFilter, web_search_tool.Filters
    type: Text = UNSET
    key: Text = UNSET
    value: Maybe[str | int | float | bool | list[str | int | float]] = UNSET
    filters: "Maybe[list[Filter]]" = UNSET
    allowed_domains: Texts = UNSET


class HybridSearch(Fields):
    # file_search_tool.RankingOptionsHybridSearch
    embedding_weight: Number = UNSET
    text_weight: Number = UNSET


class RankingOptions(Fields):
    # file_search_tool.RankingOptions
    hybrid_search: Maybe[HybridSearch] = UNSET
    ranker: Text = UNSET
    score_threshold: Number = UNSET


class DomainSecret(Fields):
    # ContainerNetworkPolicyDomainSecret
    domain: Text = UNSET
    name: Text = UNSET
    value: Text = UNSET


class NetworkPolicy(Fields):
    # ContainerNetworkPolicyAllowlist, ContainerNetworkPolicyDisabled
    type: Text = UNSET
    allowed_domains: Texts = UNSET
    domain_secrets: Maybe[list[DomainSecret]] = UNSET


class SkillSource(Fields):
    # InlineSkillSource
    type: Text = UNSET
    data: Text = UNSET
    media_type: Text = UNSET


class Skill(Fields):
    # InlineSkill, LocalSkill, SkillReference
    type: Text = UNSET
    skill_id: Text = UNSET
    version: Text = UNSET
    name: Text = UNSET
    description: Text = UNSET
    path: Text = UNSET
    source: Maybe[SkillSource] = UNSET


class Environment(Fields):
    # ContainerAuto, ContainerReference, LocalEnvironment, tool.CodeInterpreterContainerCodeInterpreterToolAuto
    type: Text = UNSET
    container_id: Text = UNSET
    file_ids: Texts = UNSET
    memory_limit: Text = UNSET
    network_policy: Maybe[NetworkPolicy] = UNSET
    skills: Maybe[list[Skill]] = UNSET


class UserLocation(Fields):
    # web_search_tool.UserLocation, WebSearchPreviewTool's UserLocation
    type: Text = UNSET
    city: Text = UNSET
    country: Text = UNSET
    region: Text = UNSET
    timezone: Text = UNSET


class ToolFilter(Fields):
    # tool.McpAllowedToolsMcpToolFilter, tool.McpRequireApprovalMcpToolApprovalFilterAlways and …Never
    read_only: Flag = UNSET
    tool_names: Texts = UNSET


class Approval(Fields):
    # tool.McpRequireApprovalMcpToolApprovalFilter
    always: Maybe[ToolFilter] = UNSET
    never: Maybe[ToolFilter] = UNSET


class ImageMask(Fields):
    # tool.ImageGenerationInputImageMask
    file_id: Text = UNSET
    image_url: Text = UNSET


class Effort(Fields):
    # tool.ImageGenerationSvgReasoning, the `reasoning` of a configuration update
    effort: Text = UNSET


class Svg(Fields):
    # tool.ImageGenerationSvg
    model: Text = UNSET
    reasoning: Maybe[Effort] = UNSET


class Format(Fields):
    # openai.types.shared.custom_tool_input_format
    type: Text = UNSET
    definition: Text = UNSET
    syntax: Text = UNSET


class NestedTool(Fields):
    # namespace_tool.ToolFunction, CustomTool
    type: Text = UNSET
    name: Text = UNSET
    description: Text = UNSET
    parameters: Raw | UnsetType = UNSET
    output_schema: Maybe[FreeForm] = UNSET
    strict: Flag = UNSET
    format: Maybe[Format] = UNSET
    allowed_callers: Texts = UNSET
    async_: Flag = field(default=UNSET, name="async")
    defer_loading: Flag = UNSET


class Tool(NestedTool):
    # Tool (all of it), response_output_item.McpListToolsTool
    vector_store_ids: Texts = UNSET
    filters: Maybe[Filter] = UNSET
    max_num_results: Number = UNSET
    ranking_options: Maybe[RankingOptions] = UNSET
    display_height: Number = UNSET
    display_width: Number = UNSET
    environment: Maybe[str | Environment] = UNSET
    external_web_access: Flag = UNSET
    search_content_types: Texts = UNSET
    search_context_size: Text = UNSET
    user_location: Maybe[UserLocation] = UNSET
    server_label: Text = UNSET
    server_description: Text = UNSET
    server_url: Text = UNSET
    allowed_tools: Maybe[list[str] | ToolFilter] = UNSET
    require_approval: Maybe[str | Approval] = UNSET
    authorization: Text = UNSET
    connector_id: Text = UNSET
    headers: Maybe[dict[str, str]] = UNSET
    tunnel_id: Text = UNSET
    container: Maybe[str | Environment] = UNSET
    action: Text = UNSET
    background: Text = UNSET
    complexity: Text = UNSET
    frame_count: Number = UNSET
    frame_duration_ms: Number = UNSET
    input_fidelity: Text = UNSET
    input_image_mask: Maybe[ImageMask] = UNSET
    model: Text = UNSET
    moderation: Text = UNSET
    output_compression: Number = UNSET
    output_format: Text = UNSET
    partial_images: Number = UNSET
    quality: Text = UNSET
    size: Text = UNSET
    svg: Maybe[Svg] = UNSET
    tools: Maybe[list[NestedTool]] = UNSET
    execution: Text = UNSET
    input_schema: Raw | UnsetType = UNSET
    annotations: Raw | UnsetType = UNSET


# Items


class SearchResult(Fields):
    # response_file_search_tool_call.Result
    attributes: Maybe[dict[str, str | int | float | bool]] = UNSET
    file_id: Text = UNSET
    filename: Text = UNSET
    score: Number = UNSET
    text: Text = UNSET


class SafetyCheck(Fields):
    # response_computer_tool_call.PendingSafetyCheck and its like
    id: Text = UNSET
    code: Text = UNSET
    message: Text = UNSET


class Point(Fields):
    # response_computer_tool_call.ActionDragPath, computer_action.DragPath
    x: Number = UNSET
    y: Number = UNSET


class SearchSource(Fields):
    # response_function_web_search.ActionSearchSource
    type: Text = UNSET
    url: Text = UNSET


class Action(Point):
    # response_computer_tool_call.Action, computer_action.ComputerAction, response_function_web_search.Action,
    # response_item.LocalShellCallAction, response_function_shell_tool_call.Action
    type: Text = UNSET
    button: Text = UNSET
    keys: Texts = UNSET
    path: Maybe[list[Point]] = UNSET
    scroll_x: Number = UNSET
    scroll_y: Number = UNSET
    text: Text = UNSET
    query: Text = UNSET
    queries: Texts = UNSET
    sources: Maybe[list[SearchSource]] = UNSET
    url: Text = UNSET
    pattern: Text = UNSET
    command: Texts = UNSET
    commands: Texts = UNSET
    env: Maybe[dict[str, str]] = UNSET
    timeout_ms: Number = UNSET
    user: Text = UNSET
    working_directory: Text = UNSET
    max_output_length: Number = UNSET


class Caller(Fields):
    # response_function_tool_call.Caller and its like
    type: Text = UNSET
    caller_id: Text = UNSET


class TextFormat(Fields):
    # ResponseFormatTextConfig
    type: Text = UNSET
    name: Text = UNSET
    description: Text = UNSET
    schema: Maybe[FreeForm] = UNSET
    strict: Flag = UNSET


class TextConfig(Fields):
    # ResponseTextConfig, the `text` of a configuration update
    format: Maybe[TextFormat] = UNSET
    verbosity: Text = UNSET


class ModerationDetails(Fields):
    # response_output_item.ImageGenerationCallErrorModerationDetails
    categories: Texts = UNSET
    moderation_stage: Text = UNSET


class ItemError(Fields):
    # mcp_tool_call_error, response_output_item.ImageGenerationCallError
    type: Text = UNSET
    code: Scalar = UNSET
    message: Text = UNSET
    param: Text = UNSET
    moderation_details: Maybe[ModerationDetails] = UNSET
    content: Raw | UnsetType = UNSET


class SvgUsage(Fields):
    # response_output_item.ImageGenerationCallSvgUsage
    model: Text = UNSET
    input_tokens: Number = UNSET
    output_tokens: Number = UNSET
    reasoning_tokens: Number = UNSET
    total_tokens: Number = UNSET


class CodeOutput(Fields):
    # response_code_interpreter_tool_call.Output
    type: Text = UNSET
    logs: Text = UNSET
    url: Text = UNSET


class Operation(Fields):
    # response_apply_patch_tool_call.Operation
    type: Text = UNSET
    path: Text = UNSET
    diff: Text = UNSET


class Item(Fields):
    # ResponseInputItem, ResponseOutputItem
    type: Text = UNSET
    id: Text = UNSET
    status: Text = UNSET
    role: Text = UNSET
    phase: Text = UNSET
    content: Maybe[str | list[Content]] = UNSET
    summary: Maybe[list[Content]] = UNSET
    encrypted_content: Text = UNSET
    call_id: Text = UNSET
    name: Text = UNSET
    namespace: Text = UNSET
    arguments: Raw | UnsetType = UNSET
    input: Text = UNSET
    output: Maybe[str | list[Content] | Content] = UNSET
    caller: Maybe[Caller] = UNSET
    created_by: Text = UNSET
    async_: Flag = field(default=UNSET, name="async")
    queries: Texts = UNSET
    results: Maybe[list[SearchResult]] = UNSET
    pending_safety_checks: Maybe[list[SafetyCheck]] = UNSET
    acknowledged_safety_checks: Maybe[list[SafetyCheck]] = UNSET
    action: Maybe[str | Action] = UNSET
    actions: Maybe[list[Action]] = UNSET
    environment: Maybe[Environment] = UNSET
    max_output_length: Number = UNSET
    operation: Maybe[Operation] = UNSET
    code: Text = UNSET
    container_id: Text = UNSET
    outputs: Maybe[list[CodeOutput]] = UNSET
    result: Text = UNSET
    revised_prompt: Text = UNSET
    background: Text = UNSET
    output_format: Text = UNSET
    quality: Text = UNSET
    size: Text = UNSET
    svg_usage: Maybe[SvgUsage] = UNSET
    error: Maybe[str | ItemError] = UNSET
    tools: Maybe[list[Tool]] = UNSET
    execution: Text = UNSET
    server_label: Text = UNSET
    approval_request_id: Text = UNSET
    approve: Flag = UNSET
    reason: Text = UNSET
    fingerprint: Text = UNSET
    reasoning: Maybe[Effort] = UNSET
    text: Maybe[TextConfig] = UNSET
