"""What is read of the Responses API, which calls are found, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from formats_support import StoredMessage, anthropic_takes, call, openai_takes, stored, use

from llmstack.conversations.formats import as_messages, read_message, results_of, tool_calls_of
from llmstack.errors import ValidationError

ASKED = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Look"}]}
SAID = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
}
CALLED = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_a",
    "name": "weather",
    "arguments": '{"city":  "Bonn"}',
}
AGAIN = {"type": "custom_tool_call", "call_id": "call_b", "name": "sql", "input": "SELECT 1"}
TOLD = {"type": "function_call_output", "call_id": "call_a", "output": "15 °C"}
TOLD_AGAIN = {"type": "custom_tool_call_output", "call_id": "call_b", "output": [{"type": "input_text", "text": "1"}]}
ITEMS: list[dict[str, Any]] = [ASKED, THOUGHT, SAID, CALLED, AGAIN, TOLD, TOLD_AGAIN]


def test_an_item_is_one_part() -> None:
    assert read_message(ASKED) == {"role": "user", "content": "Weather?", "parts": [ASKED]}
    assert read_message(THOUGHT) == {"role": "assistant", "content": "", "parts": [THOUGHT]}
    assert read_message(SAID) == {"role": "assistant", "content": "Let me look.", "parts": [SAID]}
    assert read_message(CALLED) == {"role": "assistant", "content": "", "parts": [CALLED]}
    assert read_message(TOLD) == {"role": "tool", "content": "15 °C", "parts": [TOLD], "tool_call_id": "call_a"}


def test_items_of_one_answer_are_one_message() -> None:
    written = as_messages(stored(*ITEMS), "openai")
    assert written == [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Let me look."}],
            "tool_calls": [call(), call("call_b", "sql", '{"input": "SELECT 1"}')],
        },
        {"role": "tool", "tool_call_id": "call_a", "content": "15 °C"},
        {"role": "tool", "tool_call_id": "call_b", "content": [{"type": "text", "text": "1"}]},
    ]
    openai_takes(written)


def test_items_are_blocks_of_anthropic() -> None:
    written = as_messages(stored(*ITEMS), "anthropic")
    assert [[block["type"] for block in turn["content"]] for turn in written["messages"]] == [
        ["text"],
        ["text", "tool_use", "tool_use"],
        ["tool_result", "tool_result"],
    ]
    anthropic_takes(written)


def test_items_are_messages_of_langchain() -> None:
    messages = pytest.importorskip("langchain_core.messages")
    human, ai, *tools = as_messages(stored(*ITEMS), "langchain")
    assert human == messages.HumanMessage([{"type": "text", "text": "Weather?"}])
    assert [part["type"] for part in ai.content] == ["reasoning", "text"]
    assert [one["id"] for one in ai.tool_calls] == [one.tool_call_id for one in tools] == ["call_a", "call_b"]


def test_items_that_are_objects_are_read() -> None:
    responses = pytest.importorskip("openai.types.responses")
    item = responses.ResponseFunctionToolCall.model_validate(CALLED)
    assert read_message(item)["parts"] == [CALLED]
    said = responses.ResponseOutputMessage.model_validate(SAID)
    assert read_message(said)["parts"] == [SAID]


def test_calls_are_found_in_every_dialect_once() -> None:
    langchain = {"type": "tool_call", "id": "call_d", "name": "f", "args": {}}
    server = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    field = {"type": "function_call", "function_call": {"name": "f", "arguments": ""}}
    parts = [{"type": "text", "text": "a"}, call("call_a"), use("call_c"), langchain, CALLED, AGAIN, server, field]
    assert tool_calls_of(parts) == ["call_a", "call_c", "call_d", "call_b"]
    assert tool_calls_of(None) == []


def test_results_are_found_in_every_dialect_once() -> None:
    result = {"type": "tool_result", "tool_use_id": "call_c", "content": []}
    assert results_of(StoredMessage("tool", tool_call_id="call_a", parts=[TOLD])) == ["call_a"]
    assert results_of(StoredMessage("user", parts=[result, TOLD])) == ["call_c", "call_a"]
    assert results_of(StoredMessage("user", "Hi")) == []


REFUSED: dict[str, tuple[Any, str, str]] = {
    "no message": (3, "message", "int is no chat message"),
    "text": ("Hi", "message", "str is no chat message"),
    "no role": ({"content": "Hi"}, "role", r"is missing; .*choices\[0\]\.message"),
    "unknown role": ({"role": "human", "content": "Hi"}, "role", "'human' is unknown; known are system"),
    "role of an item": ({"type": "message", "role": "bot", "content": []}, "role", "'bot' is unknown"),
    "content": ({"role": "user", "content": {"text": "Hi"}}, "content", "of type dict; give a text, or a list"),
    "strings": ({"role": "user", "content": ["Hi"]}, "content", "a str is in the list"),
    "text of a part": ({"role": "user", "content": [{"type": "text", "text": 1}]}, "content", "of type int"),
    "calls": ({"role": "assistant", "tool_calls": {"id": "a"}}, "tool_calls", "of type dict; give a list"),
    "call": ({"role": "assistant", "tool_calls": ["a"]}, "tool_calls", "a str is in the list"),
    "field": ({"role": "assistant", "content": "", "audio": "AA=="}, "audio", "of type str; give a dict"),
    "key": ({"role": "user", "content": "Hi", "mood": "good"}, "mood", "leave it out, or keep it in the metadata"),
    "type": ({"role": "user", "content": "Hi", "type": "note"}, "type", "'note' is not known"),
    "item": ({"type": "web_search_call", "id": "ws_1"}, "type", "give it as a part of an assistant's content"),
    "no id": ({"role": "tool", "content": "1"}, "tool_call_id", "needs the id of the call"),
    "id": ({"role": "tool", "content": "1", "tool_call_id": 5}, "tool_call_id", "of type int; give a str"),
}


@pytest.mark.parametrize(("given", "field", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_understood_is_refused(given: Any, field: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        read_message(given)
    assert caught.value.field == field


def test_a_key_without_a_value_is_no_key() -> None:
    assert read_message({"role": "user", "content": "Hi", "mood": None, "tool_calls": [], "name": ""}) == {
        "role": "user",
        "content": "Hi",
    }


MALFORMED: list[dict[str, Any]] = [
    {},
    {"type": 3},
    {"type": "image_url", "image_url": 5},
    {"type": "image"},
    {"type": "file", "file": {"file_data": "§", "filename": "a.txt"}},
    {"type": "document", "source": "a"},
    {"type": "tool_use"},
    {"type": "tool_result", "content": 5},
    {"type": "thinking"},
    {"type": "message", "content": 5},
    {"type": "non_standard"},
    {"type": "tool_call", "args": "a"},
]


@pytest.mark.parametrize("part", MALFORMED, ids=str)
@pytest.mark.parametrize("format", ["openai", "anthropic", "langchain"])
def test_a_part_that_lacks_what_its_type_has_breaks_nothing(part: dict[str, Any], format: Any) -> None:
    pytest.importorskip("langchain_core")
    messages = stored({"role": "user", "content": [{"type": "text", "text": "Hi"}, part]})
    written = as_messages(messages, format)
    first = written["messages"][0] if isinstance(written, dict) else written[-1]
    content = first["content"] if isinstance(first, dict) else first.content
    assert content[0] == {"type": "text", "text": "Hi"}


def test_an_unknown_format_is_refused() -> None:
    unknown: Any = "gemini"
    with pytest.raises(ValidationError, match="known are openai, anthropic, langchain"):
        as_messages([], unknown)


def test_what_is_written_does_not_share_its_parts_with_what_is_stored() -> None:
    (message,) = stored({"role": "user", "content": [{"type": "text", "text": "Hi"}]})
    as_messages([message], "openai")[0]["content"][0]["text"] = "Bye"
    assert message.parts == [{"type": "text", "text": "Hi"}]


def test_no_library_is_imported_until_it_is_asked_for() -> None:
    code = (
        "import sys, llmstack.conversations.formats; print({'openai', 'anthropic', 'langchain_core'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
