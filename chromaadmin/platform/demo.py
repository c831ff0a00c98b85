"""A real Chroma store to look at, made by Chroma's own client: `python -m chromaadmin.platform.demo PATH`.

It has what an operator meets: several tenants and databases, a collection worn by deletes and updates, records still
waiting in the WAL, a directory left over from a deleted collection, and one healthy collection to compare with.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chromaadmin.platform import lifeline
from chromaadmin.settings.config import BASE_DIR

if TYPE_CHECKING:
    from chromaadmin.platform.home import Home

SEED = 20240611
DIMENSIONS = 384
BATCH = 250

TENANTS: dict[str, tuple[str, ...]] = {
    "default_tenant": ("default_database",),
    "northwind": ("production", "staging"),
    "research": ("library",),
}

TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "delivery": (
        ("The parcel", "My order", "The replacement part", "The second box"),
        ("arrived two days late", "was left with a neighbour", "never reached the depot", "came with a torn label"),
        ("and the tracking page still says in transit.", "so the customer asks for a new date.",
         "although express shipping was paid.", "and nobody answered the courier's phone."),
    ),
    "billing": (
        ("The March invoice", "A refund of 40 euros", "The yearly plan", "The discount code"),
        ("was charged twice", "does not show the tax number", "was booked to the wrong account", "is missing a line"),
        ("and accounting needs a corrected copy.", "although the contract names another price.",
         "so the payment was put on hold.", "and the bank asks for a reference."),
    ),
    "login": (
        ("The reset link", "Single sign-on", "The second factor", "A new colleague's account"),
        ("expires before it can be used", "ends in a blank page", "is not accepted on the phone", "was locked"),
        ("since the update on Monday.", "but only in the office network.",
         "after three tries from home.", "and the help page describes an older version."),
    ),
    "kitchen": (
        ("A cast iron pan", "This stovetop kettle", "The bread knife", "The glass storage set"),
        ("keeps its heat for an hour", "pours without a drip", "holds its edge for years", "goes from freezer to oven"),
        ("and is made to be repaired.", "with a handle of oiled beech.", "and comes in three sizes.",
         "for people who cook every day."),
    ),
    "garden": (
        ("The folding saw", "A copper watering can", "This pruning ladder", "The cold frame"),
        ("stands firmly on a slope", "cuts on the pull", "ages to a warm brown", "keeps frost from seedlings"),
        ("and hangs flat on a wall.", "with spare parts for ten years.", "and weighs less than three kilograms.",
         "for small gardens and balconies."),
    ),
    "retrieval": (
        ("We study", "This paper measures", "The authors revisit", "A field trial compares"),
        ("approximate neighbour search under deletes", "recall of graph indexes after heavy updates",
         "how filters change the cost of vector search", "compaction of write-ahead logs in embedded stores"),
        ("and find that rebuilding pays off early.", "on four public collections.",
         "with a simple bound on the work per query.", "and release the measurements."),
    ),
    "oceans": (
        ("Moored sensors", "A ten-year survey", "Satellite altimetry", "Sediment cores"),
        ("show warmer bottom water", "record a shift of plankton bloom", "resolve eddies of forty kilometres",
         "date the last reversal of the current"),
        ("along the northern shelf.", "and agree with ship measurements.", "with daily resolution.",
         "which older models did not predict."),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Record:
    id: str
    document: str
    metadata: dict[str, str | int | float | bool]
    embedding: list[float]


class Writer:
    """Texts and vectors from one seeded generator: records of one topic lie near each other."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(SEED)
        self._centres = {topic: self._unit(self._random.normal(size=DIMENSIONS)) for topic in TOPICS}

    @staticmethod
    def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        length = float(np.linalg.norm(vector))
        return vector / length

    def embedding(self, topic: str) -> list[float]:
        noise = self._random.normal(scale=0.6 / np.sqrt(DIMENSIONS), size=DIMENSIONS)
        return [float(x) for x in self._unit(self._centres[topic] + noise).astype(np.float32)]

    def records(self, prefix: str, topics: Sequence[str], count: int) -> list[Record]:
        return [self._record(f"{prefix}-{number:05d}", topics[number % len(topics)], number) for number in range(count)]

    def _record(self, identifier: str, topic: str, number: int) -> Record:
        opening, middle, end = (parts[self._random.integers(len(parts))] for parts in TOPICS[topic])
        return Record(
            id=identifier,
            document=f"{opening} {middle} {end}",
            metadata={
                "topic": topic,
                "year": 2018 + int(self._random.integers(8)),
                "score": round(float(self._random.uniform(1, 5)), 2),
                "reviewed": bool(self._random.integers(2)),
                "source": f"batch-{number // 100:02d}",
            },
            embedding=self.embedding(topic),
        )


def write(path: Path) -> None:
    """Make the store in `path`, which must not exist yet. Runs in a process of its own: chromadb stays out of `up`."""
    import chromadb
    from chromadb.config import Settings

    settings = Settings(anonymized_telemetry=False, is_persistent=True, persist_directory=str(path))
    admin = chromadb.AdminClient(settings)
    for tenant, databases in TENANTS.items():
        if tenant != "default_tenant":
            admin.create_tenant(tenant)
        for database in databases:
            if database != "default_database":
                admin.create_database(database, tenant)

    def client(tenant: str, database: str) -> Any:
        return chromadb.PersistentClient(path=str(path), settings=settings, tenant=tenant, database=database)

    def collection(database: Any, name: str, *, space: str = "cosine", **metadata: str) -> Any:
        # A short way to the index files: they are written every 200 entries instead of every 1,000.
        hnsw = {"space": space, "batch_size": 100, "sync_threshold": 200, "ef_construction": 100, "max_neighbors": 16}
        return database.create_collection(
            name, configuration={"hnsw": hnsw}, metadata=metadata or None, embedding_function=None
        )

    writer = Writer()
    default = client("default_tenant", "default_database")

    # Healthy: a multiple of the threshold, nothing deleted.
    _add(collection(default, "help_articles", team="support"), writer.records("article", ("login", "billing"), 500))

    # Worn: three in five records are deleted again, others changed; the index keeps their slots as tombstones.
    tickets = collection(default, "support_tickets", team="support", retention="90 days")
    old = writer.records("ticket", ("delivery", "billing", "login"), 1500)
    _add(tickets, old)
    gone = [record.id for number, record in enumerate(old) if number % 5 < 3]
    for start in range(0, len(gone), BATCH):
        tickets.delete(ids=gone[start : start + BATCH])
    changed = [record for number, record in enumerate(old) if number % 5 == 3]
    tickets.update(
        ids=[record.id for record in changed],
        embeddings=[writer.embedding(str(record.metadata["topic"])) for record in changed],
        metadatas=[{"reviewed": True} for _ in changed],
    )
    # The WAL's tail: fewer entries than a threshold, so they wait there and not in the index files.
    _add(tickets, writer.records("ticket-today", ("delivery", "login"), 137))

    production = client("northwind", "production")
    _add(collection(production, "product_catalogue", space="l2", owner="shop"),
         writer.records("product", ("kitchen", "garden"), 800))  # fmt: skip
    staging = client("northwind", "staging")
    _add(collection(staging, "product_catalogue", space="l2"), writer.records("draft", ("kitchen",), 75))

    library = client("research", "library")
    _add(collection(library, "paper_abstracts", space="ip"), writer.records("paper", ("retrieval", "oceans"), 400))
    _add(collection(library, "import_2023"), writer.records("import", ("oceans",), 200))
    library.delete_collection("import_2023")


def _add(target: Any, records: Sequence[Record]) -> None:
    for start in range(0, len(records), BATCH):
        batch = records[start : start + BATCH]
        target.add(
            ids=[record.id for record in batch],
            documents=[record.document for record in batch],
            metadatas=[record.metadata for record in batch],
            embeddings=[record.embedding for record in batch],
        )


def root(home: "Home") -> Path:
    """The directory below which the demo's store lies; `up --demo` allows registering in it."""
    return home.path / "demo"


def ensure(home: "Home") -> Iterator[str]:
    """Make the demo's store once and register it; yields sentences about what was done."""
    from chromaadmin.instances import services as instances
    from chromaadmin.instances.models import Instance

    # An instance is registered under its real path.
    store = root(home).resolve() / "store"
    if not store.is_dir():
        root(home).mkdir(mode=0o700, exist_ok=True)
        # Made aside and renamed: a start that was broken off leaves no half of a store.
        draft = root(home) / "store.new"
        shutil.rmtree(draft, ignore_errors=True)
        with lifeline.offered() as descriptor:
            subprocess.run(
                [sys.executable, "-m", "chromaadmin.platform.demo", str(draft)],
                env=os.environ | {lifeline.VARIABLE: str(descriptor)},
                pass_fds=(descriptor,),
                cwd=BASE_DIR,
                check=True,
            )
        draft.rename(store)
        yield f"A demo store was made in {store}."
    if not Instance.objects.filter(path=str(store)).exists():
        instances.register_directory(name="Demo store", path=store, environment="development", tags=("demo",))
        yield "The demo store was registered."


if __name__ == "__main__":
    lifeline.attach()
    write(Path(sys.argv[1]))
