"""LangChain's messages come back equal from a thread, with and without its own runnables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory
from pydantic import Field

from llmstack import LLMStack
from llmstack.conversations.formats import as_messages
from llmstack.errors import LLMStackError, ValidationError
from llmstack.integrations.langchain import AsyncOnly, ConversationHistory

# LangChain still has it, and so do its users.
pytestmark = pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")

MakeHistory = Callable[..., ConversationHistory]

CALL = {"type": "tool_call", "id": "call_a", "name": "find", "args": {"q": "lease", "deep": [{"n": 1.5}]}}
INVALID = {"type": "invalid_tool_call", "id": "call_b", "name": "find", "args": '{"q', "error": "no JSON"}
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}

MESSAGES: list[BaseMessage] = [
    SystemMessage("Be brief."),
    HumanMessage("Where do quokkas live?", name="ann", id="1"),
    HumanMessage([{"type": "text", "text": "What is this?"}, IMAGE]),
    HumanMessage(["a", {"type": "text", "text": "b"}]),
    AIMessage("Let me see.", tool_calls=[CALL], invalid_tool_calls=[INVALID], id="run-1"),
    AIMessage("", tool_calls=[CALL], usage_metadata=USAGE, response_metadata={"model_name": "m"}),
    ToolMessage("On Rottnest.", tool_call_id="call_a", name="find", artifact={"rows": 1}),
    ToolMessage([IMAGE], tool_call_id="call_a", status="error"),
    AIMessage([{"type": "reasoning", "reasoning": "Hm"}, {"type": "text", "text": "On Rottnest."}]),
    ChatMessage(content="Hi", role="assistant"),
    FunctionMessage(content="1", name="f"),
]
EMPTY: list[BaseMessage] = [
    HumanMessage(""),
    HumanMessage(" \n"),
    HumanMessage([]),
    SystemMessage(""),
    AIMessage("", usage_metadata=USAGE, response_metadata={"finish_reason": "length"}),
    AIMessage([]),
    ToolMessage("", tool_call_id="call_a", name="find"),
    ToolMessage([], tool_call_id="call_a", artifact={"rows": 0}),
]


@pytest.fixture
def history_of(stack: LLMStack) -> MakeHistory:
    def make(session_id: str = "t", *, owner_id: str = "acme", **more: Any) -> ConversationHistory:
        return ConversationHistory(session_id, conversations=stack.conversations, owner_id=owner_id, **more)

    return make


async def test_messages_come_back_equal_in_order(stack: LLMStack, history_of: MakeHistory) -> None:
    await history_of().aadd_messages(MESSAGES[:3])
    await history_of().aadd_messages(MESSAGES[3:])
    assert await history_of().aget_messages() == MESSAGES
    thread = await stack.conversations.get(owner_id="acme", thread="t")
    assert thread.message_count == len(MESSAGES)


async def test_a_message_that_says_nothing_is_kept(history_of: MakeHistory) -> None:
    await history_of().aadd_messages(EMPTY)
    assert await history_of().aget_messages() == EMPTY


async def test_others_take_messages_that_say_nothing(stack: LLMStack, history_of: MakeHistory) -> None:
    await history_of().aadd_messages([AIMessage("", tool_calls=[CALL]), ToolMessage("", tool_call_id="call_a")])
    said = await stack.conversations.history(owner_id="acme", thread="t")
    assert [one["role"] for one in as_messages(said, "openai")] == ["assistant", "tool"]
    answer = as_messages(said, "anthropic")["messages"][-1]["content"]
    assert [(block["type"], block["tool_use_id"]) for block in answer] == [("tool_result", "call_a")]


async def test_a_chunk_is_the_message_that_it_makes(history_of: MakeHistory) -> None:
    await history_of().aadd_messages([AIMessageChunk(content="On ") + AIMessageChunk(content="Rottnest.")])
    assert await history_of().aget_messages() == [AIMessage("On Rottnest.")]


async def test_messages_are_added_all_or_none(history_of: MakeHistory) -> None:
    with pytest.raises(ValidationError):
        await history_of().aadd_messages([HumanMessage("hi"), RemoveMessage(id="1")])
    assert await history_of().aget_messages() == []


async def test_a_history_that_was_cleared_goes_on(stack: LLMStack, history_of: MakeHistory) -> None:
    history = history_of()
    await history.aclear()
    await history.aadd_messages([])
    assert await history.aget_messages() == []
    assert await stack.conversations.find(owner_id="acme", thread="t") is None
    await history.aadd_messages([HumanMessage("one")])
    await history.aclear()
    assert await history.aget_messages() == []
    await history.aadd_messages([HumanMessage("two")])
    assert await history.aget_messages() == [HumanMessage("two")]


async def test_what_messages_say_is_found_with_whose_they_are(stack: LLMStack, history_of: MakeHistory) -> None:
    await history_of(user_id="ann", agent_id="clerk").aadd_messages(MESSAGES[:2])
    (hit,) = await stack.conversations.messages.search(owner_id="acme", query="quokkas", mode="text")
    assert (hit.role, hit.name, hit.user_id, hit.agent_id) == ("user", "ann", "ann", "clerk")
    thread = await stack.conversations.get(owner_id="acme", thread="t")
    assert (thread.user_id, thread.agent_id) == ("ann", "clerk")


async def test_owners_have_histories_of_their_own(history_of: MakeHistory) -> None:
    mine, theirs = history_of(), history_of(owner_id="other")
    await asyncio.gather(mine.aadd_messages([HumanMessage("mine")]), theirs.aadd_messages([HumanMessage("theirs")]))
    assert await theirs.aget_messages() == [HumanMessage("theirs")]
    await theirs.aclear()
    assert await mine.aget_messages() == [HumanMessage("mine")]


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda history: history.messages, r"aget_messages\(\)"),
        (lambda history: history.add_messages([HumanMessage("hi")]), r"aadd_messages\(\.\.\.\)"),
        (lambda history: history.add_user_message("hi"), r"aadd_messages\(\.\.\.\)"),
        (lambda history: history.clear(), r"aclear\(\)"),
    ],
    ids=["messages", "add_messages", "add_user_message", "clear"],
)
async def test_what_does_not_await_says_what_to_await(
    history_of: MakeHistory, call: Callable[[BaseChatMessageHistory], object], instead: str
) -> None:
    with pytest.raises(NotImplementedError, match=f"await {instead}") as caught:
        call(history_of())
    assert isinstance(caught.value, LLMStackError)
    assert isinstance(caught.value, AsyncOnly)


async def test_a_history_can_be_printed(history_of: MakeHistory) -> None:
    assert str(history_of()) == repr(history_of()) == "ConversationHistory('t', owner_id='acme')"


class Listening(GenericFakeChatModel):
    """Remembers what it was asked."""

    asked: list[list[BaseMessage]] = Field(default_factory=list)

    def _generate(self, messages: list[BaseMessage], *given: Any, **more: Any) -> Any:
        self.asked.append(messages)
        return super()._generate(messages, *given, **more)


def of(session_id: str) -> Any:
    return {"configurable": {"session_id": session_id}}


async def test_a_model_is_told_what_was_said_before(history_of: MakeHistory) -> None:
    answers = [AIMessage("", tool_calls=[CALL], id="a"), AIMessage("On Rottnest.", id="b"), AIMessage("Bye.", id="c")]
    model = Listening(messages=iter(answers))
    chain = RunnableWithMessageHistory(model, history_of)
    await chain.ainvoke([HumanMessage("Where do quokkas live?")], of("t"))
    output = ToolMessage("Rottnest", tool_call_id="call_a")
    await chain.ainvoke([output], of("t"))
    await chain.ainvoke([HumanMessage("hi")], of("u"))
    turns = [HumanMessage("Where do quokkas live?"), answers[0], output, answers[1]]
    assert model.asked == [turns[:1], turns[:3], [HumanMessage("hi")]]
    assert await history_of().aget_messages() == turns
    assert await history_of("u").aget_messages() == [HumanMessage("hi"), answers[2]]


async def test_a_prompt_has_a_place_for_the_history(history_of: MakeHistory) -> None:
    model = Listening(messages=iter([AIMessage("On Rottnest.", id="a"), AIMessage("Yes.", id="b")]))
    prompt = ChatPromptTemplate.from_messages([
        ("system", "Be brief."), MessagesPlaceholder("said"), ("human", "{question}"),
    ])  # fmt: skip
    chain = RunnableWithMessageHistory(
        prompt | model, history_of, input_messages_key="question", history_messages_key="said"
    )
    await chain.ainvoke({"question": "Where do quokkas live?"}, of("t"))
    assert [chunk async for chunk in chain.astream({"question": "Do they smile?"}, of("t"))]
    assert [message.content for message in model.asked[1]] == [
        "Be brief.",
        "Where do quokkas live?",
        "On Rottnest.",
        "Do they smile?",
    ]
    assert [message.content for message in await history_of().aget_messages()][2:] == ["Do they smile?", "Yes."]


async def test_what_does_not_await_stores_nothing(history_of: MakeHistory) -> None:
    chain = RunnableWithMessageHistory(Listening(messages=iter([AIMessage("Hello")])), history_of)
    with pytest.raises(AsyncOnly, match=r"aget_messages\(\)"):
        chain.invoke([HumanMessage("hi")], of("t"))
    assert await history_of().aget_messages() == []
