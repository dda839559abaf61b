"""`/v1/embeddings`: https://platform.openai.com/docs/api-reference/embeddings, `openai.types`."""

from msgspec import UNSET, Raw, UnsetType

from onwards_core._strict._fields import Answer, Count, Fields, Maybe, Number, Text, TokenInput, check_token_input


class EmbeddingRequest(Fields):
    # EmbeddingCreateParams
    model: str
    input: TokenInput
    dimensions: Count = None
    encoding_format: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        check_token_input("input", self.input)


class Embedding(Fields, kw_only=True):
    # Embedding; as base64 where the request asks for it. Numbers stay as they are spelled: there are thousands.
    embedding: Raw
    index: int | None = None
    object: Text = UNSET

    def __post_init__(self) -> None:
        embedding = bytes(self.embedding)
        numbers = embedding.startswith(b"[") and not embedding.translate(None, b"0123456789+-.eE,[] \t\r\n")
        if not numbers and not embedding.startswith(b'"'):
            raise ValueError("Expected numbers or text")


class Usage(Fields):
    # create_embedding_response.Usage
    prompt_tokens: Number = UNSET
    total_tokens: Number = UNSET


class Embeddings(Answer, kw_only=True):
    # CreateEmbeddingResponse
    object: Text = UNSET
    data: list[Embedding]
    model: Raw | UnsetType = UNSET
    usage: Maybe[Usage] = UNSET

    def complete(self, model: Raw, default_id: str, created: int) -> None:
        super().complete(model, default_id, created)
        self.model = model
        self.object = "list"
        for index, embedding in enumerate(self.data):
            embedding.object = "embedding"
            if embedding.index is None:
                embedding.index = index
