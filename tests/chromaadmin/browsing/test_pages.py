"""Pages of collections, records and vector segments over real stores, hostile texts among their values."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chromaadmin.accounts.models import Role, RoleGrant, Scope
from chromaadmin.browsing.addresses import collection_url
from chromaadmin.browsing.records import text_of, type_of
from chromaadmin.instances import services
from chromaadmin.instances.models import Instance
from chromaadmin.runs.models import MaintenanceRun
from ops import reads
from ops.store.persist_dir import PersistDir
from tests.ops import stores

PAYLOADS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE collections; --",
    "{{7*7}}{% debug %}",
    "javascript:alert(1)",
    "=HYPERLINK(1)",
    "a\u202eb\u2066c\u0007d\x1b[31m",
    "</title><svg onload=alert(1)>",
    "😀 ünïcödé",
)


@pytest.fixture
def admin(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("admin", password="x"))
    return client


def registered(path: Path, name: str = "store") -> Instance:
    return services.register_directory(name, path, "development")


def ids(path: Path) -> dict[str, str]:
    """Collection names to ids."""
    with PersistDir.open(path) as store:
        return {one.name: one.id for one in reads.collections(store, limit=200).collections}


def shown_ids(text: str) -> list[str]:
    return re.findall(r'<a class="rec[^"]*" href="[^"]*">([^<]*)</a>', text)


@pytest.fixture
def small(admin: Client, tmp_path: Path) -> tuple[Client, Instance, dict[str, str]]:
    path = stores.copy_of(stores.SMALL, tmp_path / "store")
    return admin, registered(path), ids(path)


def test_records_go_by_key_from_end_to_end_and_back(small: tuple[Client, Instance, dict[str, str]]) -> None:
    client, instance, collections = small
    address = collection_url(instance, collections["beta"])
    seen, pages, query = [], 0, ""
    while True:
        response = client.get(f"{address}{query}")
        text = response.content.decode()
        seen += shown_ids(text)
        pages += 1
        following = re.search(r'rel="next" href="(\?[^"]+)"', text)
        if following is None or pages > 200:
            break
        query = following[1].replace("&amp;", "&")
    total = response.context["found"].row.records
    assert len(seen) == total == len(set(seen))
    assert seen == sorted(seen, key=str.encode)
    before = re.search(r'rel="prev" href="(\?[^"]+)"', text)
    assert before is not None
    assert client.get(address + before[1].replace("&amp;", "&")).status_code == 200


def test_one_record_in_the_panel_with_its_neighbours(small: tuple[Client, Instance, dict[str, str]]) -> None:
    client, instance, collections = small
    address = collection_url(instance, collections["alpha"])
    lines = client.get(address).context["table"].lines
    response = client.get(address + lines[1].url)
    panel = response.context["table"].panel
    assert panel.record.row.id == lines[1].row.id
    assert panel.record.where in ("indexed", "in WAL")
    for neighbour, url in ((lines[0], panel.previous), (lines[2], panel.next)):
        assert client.get(address + url).context["table"].panel.record.row.id == neighbour.row.id
    text = response.content.decode()
    assert "data-record-next" in text
    assert "data-record-previous" in text
    assert 'aria-selected="true"' in text
    assert client.get(address + panel.close).context["table"].panel is None


def test_finding_by_the_beginning_of_an_id(small: tuple[Client, Instance, dict[str, str]]) -> None:
    client, instance, collections = small
    address = collection_url(instance, collections["alpha"])
    first = client.get(address).context["table"].lines[0].row.id
    found = shown_ids(client.get(f"{address}?id={quote(first)}").content.decode())
    assert found
    assert all(one.startswith(first) for one in found)
    assert "No id begins so." in client.get(f"{address}?id=nothing-begins-so").content.decode()


@pytest.mark.parametrize(
    "query", ["after=x", "before=%00", "record=zz", "after=" + "A" * 5000, "id=%ff%fe", "columns="]
)
def test_a_nonsense_address_is_told_and_no_error(small: tuple[Client, Instance, dict[str, str]], query: str) -> None:
    client, instance, collections = small
    assert client.get(f"{collection_url(instance, collections['alpha'])}?{query}").status_code == 200


def test_columns_by_choice_and_fewer_beside_the_panel(admin: Client, tmp_path: Path) -> None:
    path = stores.copy_of(stores.TYPES, tmp_path / "store")
    instance = registered(path)
    address = collection_url(instance, next(iter(ids(path).values())))
    table = admin.get(address).context["table"]
    keys = [column.key for column in table.columns]
    assert len(keys) > 1
    chosen = admin.get(f"{address}?columns={quote(keys[-1])}").context["table"]
    assert [column.key for column in chosen.shown_columns] == [keys[-1]]
    both = admin.get(f"{address}?columns={quote(keys[0])}&columns={quote(keys[-1])}").context["table"]
    assert len(both.shown_columns) == 2
    key = both.lines[0].row.key
    beside = admin.get(f"{address}?columns={quote(keys[0])}&columns={quote(keys[-1])}&record={key}").context["table"]
    assert len(beside.shown_columns) == 1
    kinds = {kind for line in table.lines for _, _, kind in _pairs(admin, address, line.row.key)}
    assert {"str", "int", "float", "bool"} <= kinds
    assert any(kind.endswith("[]") for kind in kinds)


def _pairs(client: Client, address: str, key: str) -> tuple[tuple[str, str, str], ...]:
    return client.get(f"{address}?record={key}").context["table"].panel.pairs


def test_types_and_texts_of_values() -> None:
    assert [type_of(one) for one in (True, 1, 1.5, "a", ("a", "b"), (1, 2), (1, "a"), None)] == [
        "bool", "int", "float", "str", "str[]", "int[]", "array", "null",
    ]  # fmt: skip
    assert text_of(("a", "b")) == '["a", "b"]'
    assert text_of(False) == "false"


def spoil(path: Path, payload: str) -> None:
    """Put a text into every place of a store that a page shows."""
    connection = sqlite3.connect(path / "chroma.sqlite3")
    with connection:
        connection.execute("UPDATE collections SET name = ?1 || substr(id, 1, 4)", (payload,))
        connection.execute("UPDATE embedding_metadata SET string_value = ?1 WHERE key = 'chroma:document'", (payload,))
        connection.execute(
            "INSERT OR IGNORE INTO embedding_metadata (id, key, string_value) SELECT id, ?1, ?1 FROM embeddings",
            (payload,),
        )
        connection.execute(
            "INSERT OR IGNORE INTO collection_metadata (collection_id, key, str_value)"
            " SELECT id, ?1, ?1 FROM collections",
            (payload,),
        )
        connection.execute("UPDATE embeddings SET embedding_id = ?1 || id", (payload,))
        connection.execute("UPDATE databases SET name = ?1 || name", (payload,))
    connection.close()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_texts_are_shown_and_never_done(payload: str, admin: Client, make_store: Callable[..., Path]) -> None:
    path = make_store(200, 4)
    spoil(path, payload)
    instance = registered(path, name=f"n {payload}"[:100])
    services.change_instance(instance, by=User.objects.get(), notes=payload, tags=(payload[:50],))
    (cid,) = ids(path).values()
    own, collection = reverse("admin:instance", args=[instance.pk]), collection_url(instance, cid)
    key = admin.get(collection).context["table"].lines[0].row.key
    addresses = ["/", reverse("admin:instances"), f"{reverse('admin:search')}?q={quote(payload)}", collection]
    addresses += [f"{own}?tab={tab}" for tab in ("overview", "collections", "tenants", "runs", "settings")]
    addresses += [
        f"{collection}?{query}"
        for query in (f"record={key}", "tab=metadata", "tab=configuration", f"id={quote(payload)}")
    ]
    addresses.append(collection_url(instance, cid, "segment"))
    for address in addresses:
        response = admin.get(address)
        text = response.content.decode()
        assert response.status_code == 200, address
        for raw in ("<script>alert", "<img src=x", "<svg onload"):
            assert raw not in text, (address, raw)
        # A field that can be edited holds what is edited, so that it is kept as it is.
        fixed = re.sub(r"<input[^>]*>|<textarea.*?</textarea>|data-copy=\"[^\"]*\"", "", text, flags=re.DOTALL)
        for raw in ("\u202e", "\u2066", "\x07", "\x1b"):
            assert raw not in fixed, (address, raw)
        assert "49{%" not in text
        assert 'href="javascript:' not in text
        assert "'unsafe" not in response.headers["Content-Security-Policy"]


def test_an_id_that_is_no_part_of_an_address_has_none() -> None:
    instance = Instance(host=settings.CHROMAADMIN_HOST, identity_confirmed_at=timezone.now())
    for strange in ("../../etc", "", "a/b", "\udcff", "x\udc80/"):
        assert collection_url(instance, strange) == ""
    assert collection_url(instance, "<script>").endswith("/collections/%3Cscript%3E/")


def test_the_vector_segment_of_a_worn_index_offers_the_rebuild(admin: Client, tmp_path: Path) -> None:
    path = stores.copy_of(stores.CHURNED, tmp_path / "store")
    instance = registered(path)
    ((name, cid),) = ids(path).items()
    response = admin.get(collection_url(instance, cid, "segment"))
    segment = response.context["segment"]
    text = response.content.decode()
    assert segment.live + segment.tombstones == segment.elements
    assert "of the slots are tombstones." in text
    form = admin.get(response.context["rebuild_url"])
    assert form.status_code == 200
    assert cid in form.content.decode()
    assert sum(value is None for value in response.context["slots"]) > 0 or segment.free == 0
    overview = admin.get(reverse("admin:instance", args=[instance.pk])).content.decode()
    assert f"of the slots in {name} are tombstones." in overview
    assert all(word in text for word in ("max_neighbors", "ef_search", "data_level0.bin", "index_metadata.pickle"))


def test_a_collection_that_is_gone_is_404_and_of_a_foreign_instance_too(
    small: tuple[Client, Instance, dict[str, str]],
) -> None:
    client, instance, collections = small
    assert client.get(collection_url(instance, "00000000-0000-0000-0000-000000000000")).status_code == 404
    other = Client()
    other.force_login(User.objects.create_user("other", is_staff=True))
    assert other.get(collection_url(instance, collections["alpha"])).status_code == 404


def test_an_auditor_sees_figures_and_no_record(small: tuple[Client, Instance, dict[str, str]]) -> None:
    _, instance, collections = small
    user = User.objects.create_user("auditor", is_staff=True)
    RoleGrant.objects.create(user=user, role=Role.AUDITOR, scope=Scope.INSTANCE, instance_id=instance.pk)
    client = Client()
    client.force_login(user)
    assert client.get(collection_url(instance, collections["alpha"])).status_code == 403
    response = client.get(collection_url(instance, collections["alpha"], "segment"))
    assert response.status_code == 200
    assert [tab["key"] for tab in response.context["tabs"]] == ["segment"]


def test_runs_that_mean_the_collection(small: tuple[Client, Instance, dict[str, str]]) -> None:
    client, instance, collections = small
    for number, parameters in enumerate(
        (
            {"collection_id": [collections["alpha"]], "collection": []},
            {"collection": ["beta"]},
            {"collection": []},
            {"run": "x"},
        ),
        1,
    ):
        MaintenanceRun.objects.create(
            number=number, operation="hnsw_rebuild", effect="write", parameters=parameters, instance=instance,
            instance_name=instance.name, instance_path=instance.path, requested_by_name="x", seal="",
            queue=instance.queue,
            state="succeeded", requested_at=timezone.now(),
        )  # fmt: skip
    response = client.get(f"{collection_url(instance, collections['alpha'])}?tab=runs")
    assert [run.number for run in response.context["runs"]] == [3, 1]
