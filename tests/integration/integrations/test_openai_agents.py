"""A session of the OpenAI Agents SDK gives back what a run put into it, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from agents import Agent, Model, ModelResponse, RunConfig, Runner, Session, SessionSettings, Usage, function_tool
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from llmstack import LLMStack
from llmstack.conversations import ThreadDeleted
from llmstack.conversations.formats import as_messages
from llmstack.integrations.openai_agents import ConversationSession

MakeSession = Callable[..., ConversationSession]

CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "find", "arguments": '{"q":  "lease"}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "The lease ends in March."}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Look it up."}],
    "encrypted_content": "AA==",
}


def spoken(text: str, **more: Any) -> dict[str, Any]:
    said = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said], **more}


ITEMS: dict[str, dict[str, Any]] = {
    "user": {"role": "user", "content": "hi"},
    "assistant": {"role": "assistant", "content": "Hello"},
    "developer": {"role": "developer", "content": "Be brief."},
    "typed": {"type": "message", "role": "user", "content": "hi"},
    "empty": {"role": "user", "content": ""},
    "blank": {"role": "user", "content": " \n"},
    "without parts": {"role": "user", "content": []},
    "parts": {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "auto"},
        ],
    },
    "phase": {"role": "assistant", "content": "Hm", "phase": "commentary"},
    "output": spoken("In March."),
    "refusal": spoken("", content=[{"type": "refusal", "refusal": "No."}]),
    "reasoning": THOUGHT,
    "call": CALL,
    "answer": OUTPUT,
    "answer of parts": {**OUTPUT, "output": [{"type": "input_text", "text": "March"}], "status": None},
    "custom": {"type": "custom_tool_call", "call_id": "c2", "name": "sql", "input": "SELECT 1"},
    "custom answer": {"type": "custom_tool_call_output", "call_id": "c2", "output": "1"},
    "web": {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
    "mcp": {"type": "mcp_call", "id": "m", "name": "f", "server_label": "s", "arguments": "{}", "output": "Wombats"},
    "compaction": {"type": "compaction", "encrypted_content": "AA=="},
    "reference": {"id": "msg_1", "type": "item_reference"},
    "role": {"role": "critic", "content": "Too long."},
    "tool": {"role": "tool", "content": "no call"},
    "unknown": {"type": "hologram", "frames": [1, 2.5, None, True, {"ä": "\U0001f600"}], "text": "Numbats"},
    "typeless": {"id": "x"},
    "of LangChain": {"type": "human", "content": "hi"},
    "parts as text": {"role": "user", "content": [{"type": "text", "text": 7}]},
}


@pytest.fixture
def session_of(stack: LLMStack) -> MakeSession:
    def make(session_id: str = "t", *, owner_id: str = "acme", **more: Any) -> ConversationSession:
        return ConversationSession(session_id, conversations=stack.conversations, owner_id=owner_id, **more)

    return make


async def add(session: ConversationSession, *items: Any) -> None:
    await session.add_items(list(items))


async def test_items_come_back_as_they_were_in_order(stack: LLMStack, session_of: MakeSession) -> None:
    items = list(ITEMS.values())
    await add(session_of(), *items[:3])
    await add(session_of(), *items[3:])
    found = await session_of().get_items()
    assert found == items
    # To Python 1, 1.0 and True are equal.
    assert json.dumps(found, sort_keys=True) == json.dumps(items, sort_keys=True)
    thread = await stack.conversations.get(owner_id="acme", thread="t")
    assert thread.message_count == len(items)
    assert [await session_of().pop_item() for _ in items] == items[::-1]


async def test_what_is_added_later_does_not_change_what_was_read(session_of: MakeSession) -> None:
    item = spoken("In March.")
    await add(session_of(), item)
    (found,) = await session_of().get_items()
    item["content"][0]["text"] = "In May."
    assert found == await session_of().pop_item() == spoken("In March.")


async def test_a_limit_is_of_the_latest_items(session_of: MakeSession) -> None:
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    await add(session_of(), *items)
    session = session_of(session_settings=SessionSettings(limit=3))
    assert await session_of().get_items(2) == items[3:]
    assert await session_of().get_items(50) == items
    assert await session_of().get_items(0) == []
    assert await session.get_items() == items[2:]
    assert await session.get_items(1) == items[4:]
    assert await session_of(session_settings=SessionSettings()).get_items() == items


async def test_a_session_that_is_not_there_is_empty(stack: LLMStack, session_of: MakeSession) -> None:
    session = session_of()
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.clear_session()
    await session.add_items([])
    assert await stack.conversations.find(owner_id="acme", thread="t") is None


async def test_popping_goes_back_to_the_beginning(session_of: MakeSession) -> None:
    session = session_of()
    await add(session, ITEMS["user"], CALL)
    assert [await session.pop_item() for _ in range(3)] == [CALL, ITEMS["user"], None]
    await add(session, OUTPUT)
    assert await session.get_items() == [OUTPUT]


async def test_a_session_that_was_cleared_goes_on(session_of: MakeSession) -> None:
    session = session_of()
    await add(session, ITEMS["user"], ITEMS["output"])
    await session.clear_session()
    assert await session.get_items() == []
    await add(session, ITEMS["assistant"])
    assert await session.get_items() == [ITEMS["assistant"]]


async def test_a_thread_that_was_deleted_is_not_written_to(stack: LLMStack, session_of: MakeSession) -> None:
    await add(session_of(), ITEMS["user"])
    await stack.conversations.delete(owner_id="acme", thread="t")
    assert await session_of().get_items() == []
    with pytest.raises(ThreadDeleted):
        await add(session_of(), ITEMS["user"])


async def test_items_are_added_all_or_none(session_of: MakeSession) -> None:
    with pytest.raises(ValueError, match=r"messages\[1\]\.parts"):
        await add(session_of(), ITEMS["user"], {"type": "hologram", "frames": object()})
    assert await session_of().get_items() == []


async def test_what_items_say_is_found(stack: LLMStack, session_of: MakeSession) -> None:
    image = ITEMS["parts"]["content"][1]
    asked = {"role": "user", "content": [{"type": "input_text", "text": "Which platypus?"}, image]}
    await add(
        session_of(), {"role": "user", "content": "Where do quokkas live?"}, asked, spoken("On Rottnest."),
        CALL, OUTPUT, ITEMS["mcp"], ITEMS["unknown"],
    )  # fmt: skip
    for word, role in {
        "quokkas": "user", "platypus": "user", "rottnest": "assistant", "lease": "tool", "wombats": "assistant",
        "numbats": "assistant",
    }.items():  # fmt: skip
        hits = await stack.conversations.messages.search(owner_id="acme", query=word, mode="text")
        # The turn after it is found by it, too.
        assert role in [hit.role for hit in hits if word in hit.content.lower()], word


async def test_messages_say_whose_they_are(stack: LLMStack, session_of: MakeSession) -> None:
    await add(session_of(user_id="ann", agent_id="clerk"), ITEMS["user"], OUTPUT)
    thread = await stack.conversations.get(owner_id="acme", thread="t")
    said = await stack.conversations.history(owner_id="acme", thread="t")
    assert [(one.user_id, one.agent_id) for one in (thread, *said)] == [("ann", "clerk")] * 3
    assert [(one.role, one.tool_call_id) for one in said] == [("user", None), ("tool", "c1")]
    assert said[0].parts is None


async def test_other_libraries_take_what_a_session_keeps(stack: LLMStack, session_of: MakeSession) -> None:
    await add(session_of(), ITEMS["parts"], THOUGHT, CALL, OUTPUT, spoken("In March."))
    said = await stack.conversations.history(owner_id="acme", thread="t")
    asked, calling, answer, spoke = as_messages(said, "openai")
    assert [part["type"] for part in asked["content"]] == ["text", "image_url"]
    assert calling["tool_calls"][0]["function"] == {"name": "find", "arguments": CALL["arguments"]}
    assert (answer["tool_call_id"], answer["content"]) == ("c1", OUTPUT["output"])
    assert spoke["content"] == [{"type": "text", "text": "In March."}]


async def test_what_others_appended_is_given_as_text(stack: LLMStack, session_of: MakeSession) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    await stack.conversations.append(
        owner_id="acme",
        thread="t",
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
            {"role": "assistant", "content": "A quokka."},
            spoken("It smiles."),
        ],
    )
    assert await session_of().get_items() == [
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": "A quokka."},
        spoken("It smiles."),
    ]


async def test_owners_have_sessions_of_their_own(session_of: MakeSession) -> None:
    mine, theirs = session_of(), session_of(owner_id="other")
    await add(mine, ITEMS["user"])
    assert await theirs.get_items() == []
    assert await theirs.pop_item() is None
    await theirs.clear_session()
    await add(theirs, ITEMS["assistant"])
    assert await mine.get_items() == [ITEMS["user"]]
    assert await theirs.get_items() == [ITEMS["assistant"]]


async def test_sessions_are_written_to_at_once(session_of: MakeSession) -> None:
    def pair(writer: int, owner_id: str) -> list[dict[str, Any]]:
        return [{"role": role, "content": f"{owner_id} {writer}"} for role in ("user", "assistant")]

    owners = ("acme", "other")
    await asyncio.gather(
        *(add(session_of(owner_id=owner), *pair(writer, owner)) for writer in range(10) for owner in owners)
    )
    for owner in owners:
        items: list[Any] = await session_of(owner_id=owner).get_items()
        turns = [items[place : place + 2] for place in range(0, len(items), 2)]
        assert sorted(turns, key=str) == sorted((pair(writer, owner) for writer in range(10)), key=str)


class Scripted(Model):
    """Gives one response after the other, and remembers what it was asked."""

    def __init__(self, *responses: Any) -> None:
        self._responses = iter(responses)
        self.asked: list[Any] = []

    async def get_response(self, system_instructions: Any, input: Any, *rest: Any, **more: Any) -> ModelResponse:
        self.asked.append(input)
        response = next(self._responses)
        if isinstance(response, Exception):
            raise response
        return ModelResponse(output=[response], usage=Usage(), response_id=None)

    def stream_response(self, *given: Any, **more: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


def saying(text: str) -> ResponseOutputMessage:
    said = ResponseOutputText(type="output_text", text=text, annotations=[])
    return ResponseOutputMessage(id="msg_1", type="message", role="assistant", status="completed", content=[said])


def calling() -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(type="function_call", call_id="c1", name="lease_of", arguments='{"who": "Ann"}')


@function_tool
def lease_of(who: str) -> str:
    """Say when somebody's lease ends."""
    return f"The lease of {who} ends in March."


async def run(model: Model, said: str, session: Session, **settings: Any) -> str:
    agent = Agent(name="clerk", model=model, tools=[lease_of])
    config = RunConfig(tracing_disabled=True, **settings)
    return str((await Runner.run(agent, said, session=session, run_config=config)).final_output)


async def test_a_run_goes_on_from_the_runs_before(stack: LLMStack, session_of: MakeSession) -> None:
    assert isinstance(session_of(), Session)
    model = Scripted(calling(), saying("In March."), saying("You are welcome."))
    assert await run(model, "When does Ann's lease end?", session_of()) == "In March."
    assert await run(model, "Thanks", session_of()) == "You are welcome."

    question, call, output, answer, thanks = model.asked[-1]
    assert (question["content"], call["name"], output["output"], thanks["content"]) == (
        "When does Ann's lease end?",
        "lease_of",
        "The lease of Ann ends in March.",
        "Thanks",
    )
    assert [*model.asked[1], answer, thanks] == model.asked[2]
    items = await session_of().get_items()
    assert items[:5] == model.asked[-1]
    said = await stack.conversations.history(owner_id="acme", thread="t")
    assert [one.role for one in said] == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert said[-1].content == "You are welcome."


async def test_a_run_reads_no_more_than_its_settings_say(session_of: MakeSession) -> None:
    model = Scripted(saying("One."), saying("Two."), saying("Three."))
    session = session_of(session_settings=SessionSettings(limit=2))
    for question in ("1?", "2?"):
        await run(model, question, session)
    await run(model, "3?", session, session_settings=SessionSettings(limit=1))
    assert [len(asked) for asked in model.asked] == [1, 3, 2]
    assert len(await session_of().get_items()) == 6


async def test_runs_of_two_owners_do_not_see_one_another(session_of: MakeSession) -> None:
    models = {owner: Scripted(saying(f"Hello {owner}."), saying("Bye.")) for owner in ("acme", "other")}
    for turn in ("hi", "bye"):
        await asyncio.gather(
            *(run(model, f"{turn} {owner}", session_of(owner_id=owner)) for owner, model in models.items())
        )
    for owner, model in models.items():
        first, answer, second = model.asked[-1]
        assert (first["content"], second["content"]) == (f"hi {owner}", f"bye {owner}")
        assert answer["content"][0]["text"] == f"Hello {owner}."


async def test_what_was_asked_of_a_model_that_failed_is_kept(session_of: MakeSession) -> None:
    model = Scripted(RuntimeError("no answer"), saying("Here."))
    with pytest.raises(RuntimeError, match="no answer"):
        await run(model, "hi", session_of())
    assert await session_of().get_items() == [{"role": "user", "content": "hi"}]
    assert await session_of().pop_item() is not None
    assert await run(model, "hi", session_of()) == "Here."
