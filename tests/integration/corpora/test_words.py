"""Words are found as people write them: alone, required, and forbidden."""

from __future__ import annotations

import pytest
from corpus_support import Documents, World
from document_support import Words

from llmstack import LLMStack
from llmstack.db import migrate
from llmstack.testing import servers

KINDS: dict[str, list[tuple[str, list[str]]]] = {
    "identifiers": [
        ("Replace part TX-9920QB/B2 before noon.", ["TX-9920QB", "TX-9920", "9920", "tx9920qb", "B2", "TX-9920QB/B2"]),
        ("As RFC-0042 says, be liberal.", ["rfc0042", "0042", "RFC 0042", "rfc-0042"]),
        ("The server speaks web-sockets only.", ["websockets", "web sockets", "web-sockets", "web-socket"]),
        ("Sequencing p9b took a week.", ["P-9B", "p9b", "P9B"]),
        ("They measured IL-2 in serum.", ["IL2", "IL-2", "il 2"]),
    ],
    "dots, slashes and underscores": [
        ("Open login.example.net today.", ["example", "login", "example.net", "login example", "login.example.net"]),
        ("Edit /var/lib/ntp/ntp.conf as root.", ["ntp.conf", "ntp", "lib", "/var/lib/ntp/ntp.conf", "ntp conf"]),
        ("Mails with /urgent/ in the subject.", ["urgent", "/urgent/"]),
        ("See audit_log_2024.csv today.", ["audit log", "2024", "audit_log", "audit_log_2024.csv", "csv"]),
        ("Ask kim.lee@example.net for access.", ["kim lee", "example.net", "kim.lee", "kim.lee@example.net", "lee"]),
        ("Tea and/or coffee is served.", ["coffee", "tea and/or coffee", "and/or"]),
    ],
    "code": [
        (
            "Call PaymentGateway.refundOrder() twice.",
            ["refundOrder", "refund order", "payment gateway", "PaymentGateway", "call payment gateway refund order"],
        ),
        ("The socket failed with ERR_CONN_RESET again.", ["conn reset", "ERR_CONN_RESET", "err conn reset"]),
        ("Return a std::shared_ptr from it.", ["shared_ptr", "shared ptr", "std::shared_ptr", "sharedptr"]),
        ("An HTTPServer listens there.", ["HTTPServer", "http server", "httpserver"]),
        ("It takes a List<String> of names.", ["string", "List<String>", "list string"]),
        ("We run Node.js in production.", ["nodejs", "node.js", "node js"]),
    ],
    "versions and numbers": [
        ("Upgrade to v3.4.1 first.", ["3.4.1", "v3.4.1", "3.4"]),
        ("It costs 1,249.50 dollars.", ["1249.50", "1,249.50"]),
        ("Released on 2024-05-01 at last.", ["2024-05-01", "2024"]),
        ("It froze at -40 degrees.", ["40", "40 degrees"]),
    ],
    "scripts without spaces": [
        ("他在北京大学学习计算机科学。", ["北京", "大学", "北京大学", "计算机", "科学"]),
        ("京都大学で人工知能を勉強しています。", ["京都", "人工知能", "勉強", "大学"]),
        ("我用Python编程。", ["python", "编程", "Python编程"]),
        ("학교에서 인공지능을 배웁니다.", ["학교", "인공지능", "인공"]),
        ("ฉันเรียนปัญญาประดิษฐ์ที่มหาวิทยาลัย", ["ปัญญา", "มหาวิทยาลัย", "เรียน"]),
        ("ຂ້ອຍຮຽນຢູ່ມະຫາວິທະຍາໄລ", ["ມະຫາວິທະຍາໄລ", "ຮຽນ"]),
        ("ខ្ញុំរៀននៅសាកលវិទ្យាល័យ", ["សាកលវិទ្យាល័យ", "រៀន"]),
        ("ကျွန်တော်တက္ကသိုလ်မှာသင်ယူသည်", ["တက္ကသိုလ်", "သင်ယူ"]),
    ],
    "diacritics": [
        ("A crème brûlée for two.", ["creme", "crème", "creme brulee", "crème brûlée", "CRÈME"]),
        ("The train to Łódź is late.", ["lodz", "Łódź", "łódź", "train to lodz"]),
        ("A hotel in São Paulo was booked.", ["sao paulo", "São Paulo", "sao", "hotel in sao paulo"]),
        ("That is a naive plan.", ["naïve", "naive"]),
        ("Η Ελλάδα είναι όμορφη.", ["Ελλαδα", "ελλάδα", "ΕΛΛΑΔΑ"]),
        ("Маленький ёж спит.", ["еж", "ёж", "ЁЖ"]),
        ("Die Straße ist gesperrt.", ["strasse", "Straße", "STRASSE"]),
    ],
    "Unicode forms": [
        ("A cre\u0300me bru\u0302le\u0301e for two.", ["crème", "creme brulee", "cre\u0300me"]),
        ("The ﬁnal oﬃce report.", ["final", "office", "ﬁnal"]),
        ("Ｆｕｌｌ ｗｉｄｔｈ letters.", ["full", "full width", "ｆｕｌｌ"]),
        ("Water is H₂O here.", ["H2O", "h₂o"]),
        ("An un\u00adbeliev\u00adable story.", ["unbelievable", "unbelievable story"]),
        ("A zero\u200bwidth space.", ["zerowidth"]),
        ("הוא אמר שָׁלוֹם לכולם", ["שלום", "שָׁלוֹם"]),
        ("كتب مُحَمَّد رسالة", ["محمد", "مُحَمَّد"]),
        ("كتب مـحـمـد رسالة", ["محمد"]),
    ],
    "apostrophes and hyphens": [
        ("Mrs O'Neill has called.", ["oneill", "O'Neill", "o\u2019neill", "neill"]),
        ("Send an e-mail now.", ["email", "e-mail"]),
        ("He said: “never regret” — twice…and left.", ["never", "never regret", "regret", "left", "twice and left"]),
        ("The company’s plan.", ["company", "company’s plan", "company's"]),
        ("Il va à l'école demain.", ["école", "ecole", "l'école", "l\u2019école"]),
    ],
}  # fmt: skip
CASES = [(text, query) for kind in KINDS.values() for text, queries in kind for query in queries]


async def found(world: World, query: str) -> list[str]:
    hits = await world.corpus.search(owner_id="acme", query=query, mode="text", limit=100)
    return [hit.content for hit in hits]


async def expect_all_found(world: World) -> None:
    texts = dict.fromkeys(text for text, _ in CASES)
    await world.add({str(number): text for number, text in enumerate(texts)})
    missed = []
    for text, query in CASES:
        required, forbidden = f'"{query}"', f'-"{query}" {text}'
        if text not in await found(world, query):
            missed.append(("alone", query, text))
        if text not in await found(world, required):
            missed.append(("required", query, text))
        if text in await found(world, forbidden):
            missed.append(("forbidden", query, text))
    assert missed == []


async def test_every_kind_is_found_alone_required_and_not_where_it_is_forbidden(world: World) -> None:
    await expect_all_found(world)


async def test_what_is_written_so_ranks_above_what_only_holds_its_parts(world: World) -> None:
    for exact, other, query in (
        ("part TX-9920 is here", "part TX-9920QB is here", "TX-9920"),
        ("the number 9920 of it", "the part TX-9920QB of it", "9920"),
        ("call refundOrder of it", "call order and refund of it", "refundOrder"),
        ("a web-sockets server", "a web of many sockets", "web-sockets"),
        ("the crème of it", "the creme of it", "crème"),
        ("an easy example here", "an easy login.example.net here", "example"),
        ("他在北京大学", "北方的京都，大人学", "北京大学"),
    ):
        await world.add({"exact": exact, "other": other})
        await world.corpus.refresh_statistics()
        hits = await found(world, query)
        assert hits[0] == exact, query


async def test_a_part_is_stemmed_as_words_are(world: World) -> None:
    await world.add({"one": "Call PaymentGateway.refundedOrders() twice.", "other": "Nothing of it."})
    for query in ("refund", "refunding", "order", '"refunds order"', "payments"):
        assert await found(world, query) == ["Call PaymentGateway.refundedOrders() twice."], query


async def test_a_minus_is_an_operator_only_where_a_word_begins_with_it(world: World) -> None:
    await world.add({"one": "a web-sockets server", "other": "a web page"})
    assert await found(world, "web-sockets") == ["a web-sockets server", "a web page"]
    assert await found(world, "web -sockets") == ["a web page"]


async def test_words_inside_of_others_make_no_text_longer(world: World) -> None:
    await world.add({"plain": "kettle whistles", "mixed": "kettle login.example.net"})
    hits = await world.corpus.search(owner_id="acme", query="kettle", mode="text")
    one, other = (hit.legs["text"].score for hit in hits)
    assert one == pytest.approx(other, rel=0.02)


async def test_a_database_that_knows_no_letters_but_those_of_ascii_finds_them_all(
    llmstack_server_url: str, words: Words
) -> None:
    name = servers.unique_name()
    locale = "TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C' ENCODING 'UTF8'"
    await servers.execute(llmstack_server_url, f"CREATE DATABASE {name} {locale}")
    try:
        async with servers.open_database(llmstack_server_url, name) as database:
            await migrate.upgrade(database.engine, schema="llmstack")
            async with LLMStack(engine=database.engine, embedder=words.embedder()) as stack:
                await expect_all_found(Documents(stack))
    finally:
        await servers.drop(llmstack_server_url, name)
