"""Names in traces that OpenTelemetry's semantic conventions give, and our own. Those for generative AI still change."""

from typing import Final

# https://opentelemetry.io/docs/specs/semconv/http/http-spans/
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
HTTP_RESEND_COUNT: Final = "http.request.resend_count"
HTTP_BODY_SIZE: Final = "http.response.body.size"
CLIENT_ADDRESS: Final = "client.address"
URL_SCHEME: Final = "url.scheme"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"

# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_MODEL: Final = "gen_ai.request.model"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""The kinds of requests that have a name there, by their endpoint."""

REQUEST_ID: Final = "onwards.request_id"
RESPONSE_ID: Final = "onwards.response_id"
KEY: Final = "onwards.key"
OUTCOME: Final = "onwards.outcome"
CODE: Final = "onwards.code"
REFUSED_BY: Final = "onwards.refused_by"
PROVIDER: Final = "onwards.provider"
PASSED_OVER: Final = "onwards.provider_passed_over"
FIRST_BYTE: Final = "onwards.first_byte"
FIRST_CONTENT: Final = "onwards.first_content"
