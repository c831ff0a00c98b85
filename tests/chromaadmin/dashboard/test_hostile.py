"""Every malformed or hostile directory × every page: no error page, no traceback, the code is said, no byte changes."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chromaadmin.instances.models import Instance
from ops import reads
from ops.store.persist_dir import PersistDir
from tests.ops import corpus, stores

SLOWEST_S = 6.0  # the deadline of a look is two seconds, and a page of a store that dies takes up to three looks


def register(path: Path) -> Instance:
    """As if the directory had been sound when it was registered."""
    try:
        status = os.lstat(path)
        device, inode = status.st_dev, status.st_ino
    except OSError:
        device, inode = 0, 0
    return Instance.objects.create(
        name="hostile", slug="hostile", path=str(path), device=str(device), inode=str(inode),
        host=settings.CHROMAADMIN_HOST, identity_confirmed_at=timezone.now(),
    )  # fmt: skip


@pytest.fixture
def admin(db: None, settings: Any, tmp_path: Path) -> Client:
    settings.CHROMAADMIN_ROOTS = (tmp_path,)
    client = Client()
    client.force_login(User.objects.create_superuser("admin", password="x"))
    return client


def pages(instance: Instance, collection_id: str, key: str) -> dict[str, str]:
    own = reverse("admin:instance", args=[instance.pk])
    collection = reverse("admin:collection", args=[instance.pk, collection_id])
    return {
        "overview": own,
        **{tab: f"{own}?tab={tab}" for tab in ("collections", "tenants", "runs", "settings")},
        "search in collections": f"{own}?tab=collections&q=a",
        "records": collection,
        "record": f"{collection}?record={key}",
        "by id": f"{collection}?id=a",
        **{f"collection {tab}": f"{collection}?tab={tab}" for tab in ("configuration", "metadata", "runs")},
        "segment": reverse("admin:segment", args=[instance.pk, collection_id]),
        "operation": reverse("admin:operation", args=[instance.pk, "hnsw_rebuild"]),
        "register": f"{reverse('admin:instance_add')}?path={instance.path}",
        "find": f"{reverse('admin:instance_add')}?find=1",
        "search": f"{reverse('admin:search')}?q=alpha",
        "fleet": "/",
        "instances": reverse("admin:instances"),
    }


@pytest.mark.parametrize("row", corpus.rows(), ids=str)
def test_pages_of_a_hostile_directory(row: corpus.Row, admin: Client, tmp_path: Path) -> None:
    scratch, inside = tmp_path / "scratch", tmp_path / "below" / "store"
    scratch.mkdir()
    inside.parent.mkdir()
    store = stores.copy_of(stores.SMALL, inside)
    with PersistDir.open(store) as opened:
        alpha = next(one for one in reads.collections(opened).collections if one.name == "alpha")
        key = reads.records(opened, collection_id=alpha.id, limit=1).records[0].key
    path = row.build(scratch, store)
    instance = register(path)
    before = stores.manifest(tmp_path)
    texts = {}
    for name, address in pages(instance, alpha.id, key).items():
        began = time.perf_counter()
        response = admin.get(address)
        assert time.perf_counter() - began < SLOWEST_S, name
        assert response.status_code in (200, 404), name
        texts[name] = response.content.decode()
        assert "Traceback" not in texts[name], name
    admin.post(reverse("admin:instance_check", args=[instance.pk]))
    assert stores.manifest(tmp_path) == before
    where = {
        "open": ("overview", "fleet"),
        "write": ("overview",),
        "collection": ("overview",),
        "segment": ("segment",),
    }
    texts["fleet"] = admin.get("/").content.decode()
    instance.refresh_from_db()
    for name in where.get(row.at, ()):
        said = texts[name] if name != "fleet" else instance.problem_code
        assert any(code in said for code in row.codes), f"{name} says none of {row.codes}"
    if row.at == "open":
        assert 'class="state tone-ok' not in texts["overview"]


def test_a_store_that_vanished_keeps_its_page_and_history(admin: Client, tmp_path: Path) -> None:
    instance = register(tmp_path / "gone")
    text = admin.get(reverse("admin:instance", args=[instance.pk])).content.decode()
    assert "MISSING" in text
    assert "Recent runs" in text
    assert admin.get(f"{reverse('admin:instance', args=[instance.pk])}?tab=runs").status_code == 200


def test_fifty_views_of_an_interrupted_store_leave_its_journal(admin: Client, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    store = stores.copy_of(stores.SMALL, tmp_path / "below" / "store")
    (row,) = [one for one in corpus.rows("Q5") if one.codes == ("NEEDS_RECOVERY",)][:1]
    instance = register(row.build(tmp_path, store))
    before = stores.manifest(Path(instance.path))
    for _ in range(50):
        assert "NEEDS_RECOVERY" in admin.get(reverse("admin:instance", args=[instance.pk])).content.decode()
    assert stores.manifest(Path(instance.path)) == before
