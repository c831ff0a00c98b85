"""The parameters with which operations name collections, and the collections that they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.params import param
from ops.store.sysdb import Collection, select_collections

if TYPE_CHECKING:
    from ops.store.persist_dir import PersistDir


@dataclass(frozen=True, kw_only=True)
class SelectsCollections:
    """Mixin for operations on collections; without a name or id it means all of every tenant and database."""

    collection: tuple[str, ...] = param(
        (), help="Collections by name; may be repeated.", source="collections", short="c"
    )
    collection_id: tuple[str, ...] = param((), help="Collections by id; may be repeated.", source="collection_ids")
    tenant: str | None = param(None, help="Only collections of this tenant.")
    database: str | None = param(None, help="Only collections of this database.", short="d")
    skip: tuple[str, ...] = param(
        (),
        help="Collections to leave out; commas separate several.",
        short="s",
        split=True,
        aliases=("skip_collection_names",),
    )

    def check(self) -> dict[str, str]:
        """A collection can not be named and left out."""
        both = sorted(set(self.collection) & set(self.skip))
        return {"skip": f"{both[0]!r} is named and left out."} if both else {}

    def selected(self, store: PersistDir) -> tuple[Collection, ...]:
        """The collections meant, by (name, id). Raises COLLECTION_NOT_FOUND, COLLECTION_AMBIGUOUS."""
        return select_collections(
            store,
            names=self.collection,
            ids=self.collection_id,
            tenant=self.tenant,
            database=self.database,
            skip=self.skip,
        )
