"""LangChain's messages come back equal; those of others become such as its integrations take."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from formats_support import PDF, PNG, anthropic_takes, call, openai_takes, stored, use

from llmstack.conversations.formats import as_messages, read_message
from llmstack.errors import MissingExtra, ValidationError

messages = pytest.importorskip("langchain_core.messages")

CALL = {"type": "tool_call", "id": "call_a", "name": "weather", "args": {"city": "Bonn"}}
INVALID = {"type": "invalid_tool_call", "id": "call_b", "name": "weather", "args": '{"a', "error": "no JSON"}
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}}
RAW = {"tool_calls": [call()], "refusal": None}

MESSAGES: dict[str, Any] = {
    "human": messages.HumanMessage("Hello"),
    "named": messages.HumanMessage("Hello", name="ada", id="1"),
    "empty": messages.HumanMessage(""),
    "empty list": messages.HumanMessage([]),
    "system": messages.SystemMessage("Be brief."),
    "developer": messages.SystemMessage("Be brief.", additional_kwargs={"__openai_role__": "developer", "x": 1}),
    "parts": messages.HumanMessage([{"type": "text", "text": "See"}, IMAGE, {"cachePoint": {"type": "default"}}]),
    "strings": messages.HumanMessage(["a", {"type": "text", "text": "b"}, "c"]),
    "standard parts": messages.HumanMessage(
        [
            {"type": "image", "base64": PNG, "mime_type": "image/png", "id": "lc_1"},
            {"type": "file", "url": "https://example.org/a.pdf"},
            {"type": "audio", "base64": "AA==", "mime_type": "audio/wav"},
            {"type": "text-plain", "text": "t", "mime_type": "text/plain"},
            {"type": "video", "url": "https://example.org/a.mp4"},
        ]
    ),
    "ai": messages.AIMessage("Hi", id="run-1", usage_metadata=USAGE, response_metadata={"model_name": "m"}),
    "calls": messages.AIMessage("", tool_calls=[CALL, {**CALL, "id": None}], invalid_tool_calls=[INVALID]),
    "calls as given": messages.AIMessage("", tool_calls=[CALL], additional_kwargs=RAW),
    "blocks and calls": messages.AIMessage([{"type": "text", "text": "Hm"}, use("call_a")], tool_calls=[CALL]),
    "blocks of calls": messages.AIMessage(content_blocks=[{"type": "text", "text": "Hm"}, CALL]),
    "reasoning": messages.AIMessage([{"type": "text", "text": "4"}, {"type": "reasoning", "reasoning": "2 and 2"}]),
    "tool": messages.ToolMessage("15 °C", tool_call_id="call_a", name="weather", artifact=[], status="error"),
    "tool with parts": messages.ToolMessage([IMAGE], tool_call_id="call_a", artifact={"rows": 1}),
    "chat": messages.ChatMessage("Hi", role="assistant"),
    "developer's chat": messages.ChatMessage("Hi", role="developer"),
    "function": messages.FunctionMessage("1", name="f"),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_message_comes_back_equal(message: Any) -> None:
    assert as_messages(stored(message), "langchain") == [message]
    assert as_messages(stored(message.model_dump()), "langchain") == [message]


def test_a_plain_message_has_no_parts_and_no_metadata() -> None:
    assert read_message(messages.HumanMessage("Hi")) == {"role": "user", "content": "Hi"}
    assert read_message(messages.ToolMessage("1", tool_call_id="a")) == {
        "role": "tool",
        "content": "1",
        "tool_call_id": "a",
    }
    assert read_message(MESSAGES["calls as given"])["parts"] == [CALL]
    assert read_message(MESSAGES["strings"])["content"] == "a\nb\nc"


def test_a_chunk_is_the_message_that_it_makes() -> None:
    first = messages.AIMessageChunk("Let ", tool_call_chunks=[{"name": "f", "args": "{", "id": "a", "index": 0}])
    last = messages.AIMessageChunk("me", tool_call_chunks=[{"name": None, "args": "}", "id": None, "index": 0}])
    (message,) = as_messages(stored(first + last), "langchain")
    assert message == messages.AIMessage("Let me", tool_calls=[{"name": "f", "args": {}, "id": "a"}])


def test_a_removal_and_an_unknown_field_are_refused() -> None:
    with pytest.raises(ValidationError, match="role: it is missing"):
        read_message(messages.RemoveMessage(id="1"))
    with pytest.raises(ValidationError, match=r"weight: .*additional_kwargs"):
        read_message(messages.HumanMessage("Hi", weight=2))


OPENAI: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "See"}, IMAGE]},
    {"role": "assistant", "content": None, "tool_calls": [call(), call("call_b", arguments='{"a')]},
    {"role": "tool", "tool_call_id": "call_a", "content": "15 °C"},
]


def test_messages_of_openai_are_those_that_langchain_makes_of_them() -> None:
    system, human, ai, tool = as_messages(stored(*OPENAI), "langchain")
    assert system == messages.SystemMessage("Be brief.", additional_kwargs={"__openai_role__": "developer"})
    image = {"type": "image", "base64": PNG, "mime_type": "image/png"}
    assert human == messages.HumanMessage([{"type": "text", "text": "See"}, image])
    assert human.content_blocks == human.content
    assert (ai.content, ai.tool_calls) == ("", [CALL])
    assert ai.invalid_tool_calls == [{**INVALID, "error": None}]
    assert tool == messages.ToolMessage("15 °C", tool_call_id="call_a")
    theirs = messages.convert_to_messages([OPENAI[0], OPENAI[3]])
    assert theirs == [system, tool]


def test_blocks_of_anthropic_are_standard_blocks() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": PDF}
    results = [{"type": "tool_result", "tool_use_id": "toolu_a", "content": "no", "is_error": True}]
    redacted = {"type": "redacted_thinking", "data": "eA=="}
    answer, tool, human = as_messages(
        stored(
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "Hm", "signature": "s"}, redacted, use()],
            },
            {
                "role": "user",
                "content": [
                    *results,
                    {"type": "document", "title": "a.pdf", "source": source},
                    {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
                    {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "t"}},
                ],
            },
        ),
        "langchain",
    )
    reasoning = {"type": "reasoning", "reasoning": "Hm", "extras": {"signature": "s"}}
    assert answer.content == [reasoning, {"type": "non_standard", "value": redacted}]
    assert answer.tool_calls == [{"type": "tool_call", "id": "toolu_a", "name": "weather", "args": {"city": "Bonn"}}]
    assert tool == messages.ToolMessage("no", tool_call_id="toolu_a", status="error")
    assert human.content == [
        {"type": "file", "base64": PDF, "mime_type": "application/pdf", "extras": {"filename": "a.pdf"}},
        {"type": "image", "file_id": "file_1"},
        {"type": "image", "url": "https://example.org/a.png"},
        {"type": "text-plain", "text": "t", "mime_type": "text/plain"},
    ]
    back = as_messages(stored(answer, tool, human), "anthropic")
    assert back["messages"][0]["content"][:2] == [{"type": "thinking", "thinking": "Hm", "signature": "s"}, redacted]
    assert back["messages"][1]["content"][0] == results[0]
    anthropic_takes(back)


def test_fields_of_openai_are_blocks_after_reasoning() -> None:
    given = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2", "refusal": "no"}
    (message,) = as_messages(stored(given), "langchain")
    assert message.content == [
        {"type": "reasoning", "reasoning": "2 and 2"},
        {"type": "text", "text": "4"},
        {"type": "refusal", "refusal": "no"},
    ]


def test_a_function_from_before_tools_is_a_tool() -> None:
    asked = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    ai, tool = as_messages(stored(asked, {"role": "function", "name": "f", "content": "1"}), "langchain")
    assert ai.tool_calls[0]["id"] == tool.tool_call_id == "call_1"


def test_langchains_messages_are_taken_by_openai_and_anthropic() -> None:
    given = [MESSAGES[name] for name in ("human", "blocks and calls", "tool", "standard parts", "ai", "reasoning")]
    written = as_messages(stored(*given), "openai")
    openai_takes(written)
    assert written[1]["content"] == [{"type": "text", "text": "Hm"}]
    assert [one["function"]["arguments"] for one in written[1]["tool_calls"]] == ['{"city": "Bonn"}']
    assert [part["type"] for part in written[3]["content"]] == ["image_url", "text", "input_audio", "text", "text"]
    turns = as_messages(stored(*given), "anthropic")
    anthropic_takes(turns)
    assert [block["type"] for block in turns["messages"][1]["content"]] == ["text", "tool_use"]
    assert turns["messages"][2]["content"][0]["is_error"] is True
    (invalid,) = as_messages(stored(messages.AIMessage("", invalid_tool_calls=[INVALID])), "openai")
    assert invalid["tool_calls"] == [call("call_b", arguments='{"a')]


def test_keys_that_langchain_alone_has_are_left_to_it() -> None:
    text, refusal = {"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}
    given = stored(messages.AIMessage([{**text, "id": "lc_1"}, {**refusal, "index": 0}]))
    assert as_messages(given, "openai") == [{"role": "assistant", "content": [text, refusal]}]
    (turn,) = as_messages(given, "anthropic")["messages"]
    assert turn["content"] == [text, {"type": "text", "text": "no"}]


def test_of_sound_that_the_model_made_the_transcript_is_given() -> None:
    spoken = {"role": "assistant", "content": None, "audio": {"id": "audio_1", "data": "AA==", "transcript": "Hi"}}
    (message,) = as_messages(stored(spoken), "langchain")
    assert message.content == [{"type": "text", "text": "Hi"}]


def test_without_langchain_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core.messages", None)
    with pytest.raises(MissingExtra, match=r"llmstack\[langchain\]"):
        as_messages([], "langchain")
