"""The models of a shop that attaches documents to its products."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from llmstack.documents.models import Document


class ShopBase(DeclarativeBase):
    """The host's own base: its tables are in the schema that its connection has by default."""


class Product(ShopBase):
    """A product and its manual."""

    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    # The column itself, not its name: the name would be looked for in the host's metadata.
    manual_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey(Document.id, name="fk_products_manual_id"))
