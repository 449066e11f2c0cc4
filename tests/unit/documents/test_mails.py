"""Mails, what is attached to them, and mailboxes."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from file_support import Writer, read_file

from llmstack.documents.readers import read, sources
from llmstack.errors import ValidationError


def mail(subject: str, body: str, *, message_id: str | None = None) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Ann <ann@example.org>", "bob@example.org", subject
    if message_id:
        message["Message-ID"] = f"<{message_id}>"
    message.set_content(body)
    return message


def test_email_gives_headers_body_and_attached_texts(write: Writer) -> None:
    message = (
        "From: Ann <ann@example.org>\r\nTo: bob@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
        'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        "sch=F6n\r\n--b\r\nContent-Type: text/csv\r\n"
        "Content-Disposition: attachment; filename=x.csv\r\n\r\n1,2\r\n--b--\r\n"
    )
    source = read_file(write("a.eml", message))
    assert source.text == (
        "From: Ann <ann@example.org>\nTo: bob@example.org\nSubject: Grüße\n\nschön\n\nAttachment: x.csv\n\n1,2"
    )
    assert (source.title, source.document_type) == ("Grüße", "email")
    assert "attachments" not in source.metadata


def test_attachments_that_are_no_text_are_named(write: Writer) -> None:
    message = mail("Plans", "see there")
    message.add_attachment(b"\x89PNG\0", maintype="image", subtype="png", filename="plan.png")
    message.add_attachment("<p>The <b>plan</b></p>", subtype="html", filename="plan.html")
    message.add_attachment(mail("Earlier", "the first plan"))
    message.add_attachment(b"caf\xe9 na\xefve", maintype="text", subtype="plain", filename="uncertain.txt")
    source = read_file(write("a.eml", message.as_bytes()))
    assert source.metadata["attachments"] == ["plan.png", "uncertain.txt"]
    assert "Attachment: plan.html\n\nThe **plan**" in source.text
    assert "Subject: Earlier\n\nthe first plan" in source.text


def test_mails_within_mails_come_to_an_end(write: Writer) -> None:
    message = mail("Innermost", "too deep")
    for number in range(20):
        outer = mail(f"Level {number}", f"body {number}")
        outer.add_attachment(message)
        message = outer
    source = read_file(write("a.eml", message.as_bytes()))
    assert "body 19" in source.text
    assert "too deep" not in source.text
    assert source.metadata["attachments"] == ["message/rfc822"]


def test_an_html_mail_is_read_as_text(write: Writer) -> None:
    message = "From: a@example.org\nSubject: S\nContent-Type: text/html; charset=utf-8\n\n<p>Hello <b>you</b></p>"
    assert read_file(write("a.eml", message)).text.endswith("Hello **you**")


def mailbox(*messages: EmailMessage) -> bytes:
    return b"".join(b"From ann@example.org Thu Jan  1 00:00:00 2026\n" + one.as_bytes() + b"\n" for one in messages)


def texts(path: Path) -> Iterator[tuple[str, str]]:
    for source in sources(path):
        yield source.part, read(source).text.splitlines()[-1]


def test_a_mailbox_holds_a_document_for_each_message(write: Writer) -> None:
    first, second = mail("One", "first", message_id="1@example.org"), mail("Two", "second")
    path = write("a.mbox", mailbox(first, second, first))
    (one, text), (two, other), (again, _) = texts(path)
    assert (one, text, other) == ("1@example.org", "first", "second")
    assert again == "1@example.org~2"
    path.write_bytes(mailbox(second, first))
    assert list(texts(path)) == [(two, "second"), (one, "first")]


@pytest.mark.parametrize("content", ["no message", "Subject: no line From\n\nbody"])
def test_what_is_no_mailbox_says_so(write: Writer, content: str) -> None:
    with pytest.raises(ValidationError, match="is not a readable mailbox"):
        list(sources(write("a.mbox", content)))


def test_a_message_is_no_larger_than_a_document(write: Writer) -> None:
    path = write("a.mbox", mailbox(mail("Long", "many words\n" * 60), mail("Short", "x")))
    long, short = sources(path, max_bytes=500)
    with pytest.raises(ValidationError, match=r"a\.mbox#[0-9a-f]{32} is too large"):
        read(long)
    assert read(short).title == "Short"
