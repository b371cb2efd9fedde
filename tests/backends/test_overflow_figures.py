"""How much would have fitted, as servers word it when it did not."""

from __future__ import annotations

import pytest

from heartloop.backends.openai_errors import ErrorBody, from_status
from heartloop.errors import ContextOverflow

WORDINGS = [
    (
        "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens (3000 in the "
        "messages, 2000 in the completion). Please reduce the length of the messages or completion.",
        (4097, 3000),
    ),
    (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
        (8192, 9001),
    ),
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 2048. This model's maximum context length is "
        "2048 tokens and your request has 37 input tokens (2048 > 2048 - 37).",
        (2048, 37),
    ),
    (
        "This model's maximum context length is 2048 tokens. However, you requested 2048 output tokens and "
        "your prompt contains 37 input tokens, for a total of 2085 tokens.",
        (2048, 37),
    ),
    (
        "request (3000 tokens) exceeds the available context size (2048 tokens), try increasing it",
        (2048, 3000),
    ),
    ("This model's maximum context length was exceeded.", (None, None)),
]


@pytest.mark.parametrize(("message", "figures"), WORDINGS)
def test_the_two_figures_are_read(message: str, figures: tuple[int | None, int | None]) -> None:
    body = ErrorBody({"error": {"message": message, "code": "context_length_exceeded"}})
    error = from_status(400, {}, body, where="server", redact=str)
    assert isinstance(error, ContextOverflow)
    assert (error.context_tokens, error.prompt_tokens) == figures
