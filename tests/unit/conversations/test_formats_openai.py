"""What came from chat completions goes back to them as it came."""

from __future__ import annotations

from typing import Any

import pytest
from formats_support import PDF, PNG, StoredMessage, call, openai_takes, stored

from llmstack.conversations.formats import as_messages, read_message

MESSAGES: dict[str, dict[str, Any]] = {
    "text": {"role": "user", "content": "Hello"},
    "system": {"role": "system", "content": "Be brief."},
    "developer": {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
    "name": {"role": "user", "content": "Hello", "name": "ada"},
    "weight": {"role": "assistant", "content": "Hello", "weight": 1},
    "no weight": {"role": "assistant", "content": "Hello", "weight": 0},
    "empty text": {"role": "user", "content": ""},
    "empty answer": {"role": "assistant", "content": ""},
    "no content": {"role": "assistant", "content": None},
    "empty list": {"role": "user", "content": []},
    "empty text in a list": {"role": "user", "content": [{"type": "text", "text": ""}]},
    "texts": {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    "image": {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        ],
    },
    "image alone": {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://e.org/a.png"}}]},
    "files": {
        "role": "user",
        "content": [
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
        ],
    },
    "sound": {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]},
    "unknown part": {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://e.org/a.mp4"}}]},
    "cached part": {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
    "call": {"role": "assistant", "content": None, "tool_calls": [call()]},
    "call with text": {"role": "assistant", "content": "Let me look.", "tool_calls": [call()]},
    "call with empty text": {"role": "assistant", "content": "", "tool_calls": [call()]},
    "call with empty list": {"role": "assistant", "content": [], "tool_calls": [call()]},
    "call without content": {"role": "assistant", "tool_calls": [call()]},
    "call with list": {"role": "assistant", "content": [{"type": "text", "text": "a"}], "tool_calls": [call()]},
    "parallel calls": {"role": "assistant", "content": None, "tool_calls": [call("a"), call("b", arguments="")]},
    "broken call": {"role": "assistant", "content": None, "tool_calls": [call(arguments='{"city": "Bo')]},
    "call of unknown type": {"role": "assistant", "content": "a", "tool_calls": [{"type": "new", "id": "x"}]},
    "custom call": {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}],
    },
    "result": {"role": "tool", "tool_call_id": "call_a", "content": "15 °C"},
    "empty result": {"role": "tool", "tool_call_id": "call_a", "content": ""},
    "result in a list": {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "15 °C"}]},
    "named result": {"role": "tool", "tool_call_id": "call_a", "name": "weather", "content": "15 °C"},
    "refusal": {"role": "assistant", "content": None, "refusal": "I can't."},
    "refusal in a list": {"role": "assistant", "content": [{"type": "refusal", "refusal": "I can't."}]},
    "reasoning": {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"},
    "reasoning and call": {"role": "assistant", "content": "", "reasoning": "Hm", "tool_calls": [call()]},
    "audio": {"role": "assistant", "content": None, "audio": {"id": "audio_1"}},
    "function call": {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{ }"}},
    "function result": {"role": "function", "name": "f", "content": "1"},
    "annotations": {"role": "assistant", "content": "a", "annotations": [{"type": "url_citation"}]},
    "thinking blocks": {"role": "assistant", "content": "a", "thinking_blocks": [{"type": "thinking"}]},
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_message_comes_back_equal(message: dict[str, Any]) -> None:
    assert as_messages(stored(message), "openai") == [message]


def test_a_conversation_comes_back_equal_and_openai_takes_it() -> None:
    unofficial = ("unknown part", "call of unknown type", "no content")
    messages = [message for key, message in MESSAGES.items() if key not in unofficial]
    written = as_messages(stored(*messages), "openai")
    assert written == messages
    openai_takes(written)


def test_texts_are_the_content_and_the_list_is_followed_by_the_calls() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}, {"type": "text", "text": "b"}]
    found = read_message({"role": "assistant", "content": content, "tool_calls": [call()]})
    assert found == {"role": "assistant", "content": "a\nb", "parts": [*content, call()]}


def test_a_plain_message_has_no_parts_and_no_metadata() -> None:
    assert read_message({"role": "user", "content": "Hi", "name": "ada"}) == {
        "role": "user",
        "content": "Hi",
        "name": "ada",
    }
    assert read_message({"role": "assistant", "content": None, "tool_calls": [call()]}) == {
        "role": "assistant",
        "content": "",
        "parts": [call()],
    }


def answer(**fields: Any) -> Any:
    chat = pytest.importorskip("openai.types.chat")
    return chat.ChatCompletionMessage.model_validate({"role": "assistant", "content": None, **fields})


@pytest.mark.parametrize("fields", [{"content": "Hi"}, {"tool_calls": [call(), call("b")]}, {"refusal": "no"}])
def test_an_answer_and_its_dump_come_back_without_their_empty_keys(fields: dict[str, Any]) -> None:
    expected = {"role": "assistant", "content": None, **fields}
    assert as_messages(stored(answer(**fields)), "openai") == [expected]
    assert as_messages(stored(answer(**fields).model_dump()), "openai") == [expected]


def test_calls_that_are_objects_are_read_within_a_dict() -> None:
    calls = answer(tool_calls=[call()]).tool_calls
    assert read_message({"role": "assistant", "tool_calls": calls, "content": None})["parts"] == [call()]


def test_a_text_that_the_parts_do_not_hold_comes_before_them() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    message = StoredMessage("user", "Look", parts=[image])
    assert as_messages([message], "openai") == [{"role": "user", "content": [{"type": "text", "text": "Look"}, image]}]


def test_parts_of_responses_are_those_of_chat_completions() -> None:
    content = [
        {"type": "input_image", "image_url": "data:image/svg+xml,%3Csvg/%3E", "detail": "auto"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_file", "file_url": "https://example.org/a.pdf"},
    ]
    (message,) = as_messages(stored({"role": "user", "content": content}), "openai")
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,PHN2Zy8+"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "text", "text": "[file https://example.org/a.pdf]"},
    ]
    openai_takes([message])


def test_a_message_of_responses_that_is_a_part_needs_no_type() -> None:
    said = {"role": "user", "content": [{"type": "input_text", "text": "Hi"}], "phase": "commentary"}
    (message,) = as_messages([StoredMessage("user", "Hi", parts=[said])], "openai")
    assert message == {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
