"""What came from Anthropic goes back as it came; what came from elsewhere means the same."""

from __future__ import annotations

from typing import Any

import pytest
from formats_support import PDF, PNG, StoredMessage, anthropic_takes, call, openai_takes, stored, use

from llmstack.conversations.formats import as_messages, read_message

THOUGHT = {"type": "thinking", "thinking": "Where is Bonn?", "signature": "c2ln"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
DOCUMENT = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}


def result(call_id: str = "toolu_a", content: Any = "15 °C", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


MESSAGES: dict[str, dict[str, Any]] = {
    "text": {"role": "user", "content": "Hello"},
    "empty text": {"role": "assistant", "content": ""},
    "empty list": {"role": "user", "content": []},
    "blocks": {
        "role": "user",
        "content": [
            {"type": "text", "text": "See", "cache_control": {"type": "ephemeral"}},
            IMAGE,
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
            {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
            DOCUMENT,
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "t"}},
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "t"}]}},
        ],
    },
    "parallel calls": {"role": "assistant", "content": [{"type": "text", "text": "Hm"}, use(), use("toolu_b")]},
    "call alone": {"role": "assistant", "content": [use()]},
    "results": {"role": "user", "content": [result(), result("toolu_b", [IMAGE], is_error=True)]},
    "result and text": {"role": "user", "content": [result(), {"type": "text", "text": "And now?"}]},
    "result without content": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]},
    "thinking": {"role": "assistant", "content": [THOUGHT, {"type": "redacted_thinking", "data": "eA=="}, use()]},
    "tool of the server": {
        "role": "assistant",
        "content": [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Bonn"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
            {"type": "text", "text": "It is", "citations": [{"type": "char_location", "cited_text": "a"}]},
        ],
    },
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_message_comes_back_equal(message: dict[str, Any]) -> None:
    assert as_messages(stored(message), "anthropic") == {"messages": [message]}


def test_a_conversation_comes_back_equal_and_anthropic_takes_it() -> None:
    names = ("text", "call alone", "result and text", "parallel calls", "results", "thinking", "blocks")
    messages = [MESSAGES[name] for name in names]
    written = as_messages(stored(*messages), "anthropic")
    assert written == {"messages": messages}
    anthropic_takes(written)


def test_the_text_of_results_is_searched_and_reasoning_is_not() -> None:
    assert read_message(MESSAGES["result and text"])["content"] == "15 °C\nAnd now?"
    assert "content" in read_message(MESSAGES["thinking"])
    assert read_message(MESSAGES["thinking"])["content"] == ""


def test_an_answer_keeps_its_id_and_usage_and_gives_role_and_content() -> None:
    types = pytest.importorskip("anthropic.types")
    answer = types.Message.model_validate(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "stop_reason": "tool_use",
            "content": [THOUGHT, {"type": "text", "text": "Hm"}, use()],
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 0},
        }
    )
    expected = {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "Hm"}, use()]}
    found = read_message(answer)
    assert found["metadata"]["as_given"]["id"] == "msg_1"
    assert found["metadata"]["as_given"]["usage"] == {"input_tokens": 1, "output_tokens": 0}
    assert as_messages(stored(answer), "anthropic") == {"messages": [expected]}
    # Blocks that are objects within a dict are how its own documentation goes on.
    assert as_messages(stored({"role": "assistant", "content": answer.content}), "anthropic")["messages"] == [expected]
    dumped = as_messages(stored(answer.model_dump()), "openai")
    assert dumped[0]["tool_calls"][0]["function"]["name"] == "weather"


def test_turns_alternate_and_the_system_is_apart() -> None:
    written = as_messages(
        stored(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "Bonn?"},
        ),
        "anthropic",
    )
    hello, bonn = {"type": "text", "text": "Hello"}, {"type": "text", "text": "Bonn?"}
    assert written == {"system": "Be brief.\n\nBe kind.", "messages": [{"role": "user", "content": [hello, bonn]}]}
    anthropic_takes(written)


OPENAI: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "Let me look.", "tool_calls": [call("a"), call("b", arguments="")]},
    {"role": "tool", "tool_call_id": "a", "content": "15 °C"},
    {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "none"}]},
    {"role": "user", "content": "Thanks"},
]


def test_calls_and_results_of_openai_are_blocks_in_alternating_turns() -> None:
    written = as_messages(stored(*OPENAI), "anthropic")
    assert written["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Bonn"}},
                {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                result("a"),
                result("b", [{"type": "text", "text": "none"}]),
                {"type": "text", "text": "Thanks"},
            ],
        },
    ]
    anthropic_takes(written)


def test_what_went_from_openai_to_anthropic_means_the_same_on_its_way_back() -> None:
    there = as_messages(stored(*OPENAI), "anthropic")["messages"]
    back = as_messages(stored(*there), "openai")
    assert [message["role"] for message in back] == [message["role"] for message in OPENAI]
    assert [one["id"] for one in back[1]["tool_calls"]] == ["a", "b"]
    assert back[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Bonn"}'}
    assert back[2] == OPENAI[2]
    openai_takes(back)


def test_media_of_openai_are_blocks_or_named() -> None:
    given = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "input_image", "image_url": "https://example.org/a.png"},
        {"type": "input_image", "file_id": "file_1"},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,w6Q=", "filename": "a.txt"}},
        {"type": "input_file", "file_id": "file_2"},
        {"type": "file", "file": {"file_data": "UEs=", "filename": "a.docx"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}},
    ]
    written = as_messages(stored({"role": "user", "content": given}), "anthropic")
    assert written["messages"][0]["content"] == [
        IMAGE,
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        {**DOCUMENT, "title": "a.pdf"},
        {"type": "document", "title": "a.txt", "source": {"type": "text", "media_type": "text/plain", "data": "ä"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_2"}},
        {"type": "text", "text": "[file a.docx]"},
        {"type": "text", "text": "[audio audio/wav]"},
        {"type": "text", "text": "[video_url]"},
    ]
    anthropic_takes(written)


def test_blocks_of_anthropic_are_parts_of_openai_or_named() -> None:
    written = as_messages(
        stored(MESSAGES["blocks"], MESSAGES["thinking"], MESSAGES["results"], MESSAGES["tool of the server"]), "openai"
    )
    assert written[0]["content"][1:] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "text", "text": "[image file_1]"},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "file.pdf"}},
        {"type": "text", "text": "t"},
        {"type": "text", "text": "t"},
    ]
    assert written[1].keys() == {"role", "content", "tool_calls"}
    assert written[1]["content"] is None
    assert written[2] == {"role": "tool", "tool_call_id": "toolu_a", "content": "15 °C"}
    assert written[3]["content"] == [{"type": "text", "text": "[image image/png]"}]
    assert written[4]["content"][0] == {"type": "text", "text": "[server_tool_use web_search]"}
    assert written[4]["content"][2] == {"type": "text", "text": "It is"}
    openai_takes(written)


def test_reasoning_goes_where_it_is_taken() -> None:
    unsigned = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
    text = {"role": "assistant", "content": [{"type": "text", "text": "4"}]}
    assert as_messages(stored(unsigned), "anthropic") == {"messages": [text]}
    alone = {"role": "assistant", "content": [THOUGHT]}
    assert as_messages(stored(alone, {"role": "user", "content": "?"}), "openai") == [{"role": "user", "content": "?"}]
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    assert as_messages(stored(item), "anthropic") == {"messages": []}


def test_arguments_that_are_no_object_are_kept() -> None:
    broken = {"role": "assistant", "content": None, "tool_calls": [call(arguments='{"a'), call("b", arguments="[1]")]}
    custom = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    (turn,) = as_messages(stored(broken, {"role": "assistant", "tool_calls": [custom]}), "anthropic")["messages"]
    assert [block["input"] for block in turn["content"]] == [
        {"arguments": '{"a'},
        {"arguments": "[1]"},
        {"input": "SELECT 1"},
    ]


def test_functions_from_before_tools_get_ids() -> None:
    asked = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    told = {"role": "function", "name": "f", "content": "1"}
    written = as_messages(stored(asked, told, asked, told), "anthropic")
    calls = [turn["content"][0] for turn in written["messages"]]
    assert [one.get("id") or one["tool_use_id"] for one in calls] == ["call_1", "call_1", "call_2", "call_2"]
    anthropic_takes(written)


def test_a_refusal_and_a_transcript_are_texts() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "I can't."}
    spoken = {"role": "assistant", "content": None, "audio": {"id": "audio_1", "data": "AA==", "transcript": "Hi"}}
    (turn,) = as_messages(stored(refused, spoken), "anthropic")["messages"]
    assert turn["content"] == [{"type": "text", "text": "I can't."}, {"type": "text", "text": "Hi"}]


def test_a_call_that_was_stored_by_hand_keeps_the_text_before_it() -> None:
    message = StoredMessage("assistant", "Let me look.", parts=[use()])
    content = [{"type": "text", "text": "Let me look."}, use()]
    assert as_messages([message], "anthropic") == {"messages": [{"role": "assistant", "content": content}]}
