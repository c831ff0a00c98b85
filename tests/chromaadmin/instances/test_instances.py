"""Registering, probing, sampling; a probe changes no byte, one directory is one instance."""

import io
import json
import os
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from chromaadmin.accounts.models import Role, RoleGrant, Scope
from chromaadmin.audit.models import AuditEntry
from chromaadmin.instances import services
from chromaadmin.instances.access import store_access
from chromaadmin.instances.errors import DuplicateInstance, NameTaken, OutsideRoots
from chromaadmin.instances.models import Instance, Sample
from chromaadmin.instances.selectors import fleet, instance_named
from chromaadmin.instances.services import probe, refresh_sample, register_directory
from chromaadmin.instances.verdict import verdict
from ops import sampling
from ops.errors import BadPath, IdentityChanged, Missing, OpsError

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> User:
    return User.objects.create_superuser("boss")


def manifest(path: Path) -> list[tuple]:
    files = sorted([path, *path.rglob("*")])
    return [(str(f), (s := f.lstat()).st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for f in files]


class TestRegistering:
    def test_probes_first_and_changes_no_byte(self, store):
        before = manifest(store)
        instance = register_directory(" Orders  EU ", store, "production", ("shop", " shop", "eu"), notes="n")
        assert manifest(store) == before
        assert (instance.name, instance.slug, instance.path) == ("Orders EU", "orders-eu", str(store))
        assert instance.identity == (store.stat().st_dev, store.stat().st_ino)
        assert instance.tag_names == {"shop", "eu"}
        assert instance.is_production
        assert instance.queue == "host-testhost"
        sample = instance.sample
        assert (sample.collections, sample.records, sample.tenants, sample.databases, sample.orphans) == (
            1,
            400,
            1,
            1,
            0,
        )
        assert sample.size_bytes == sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
        assert sample.release.startswith("1.")
        entry = AuditEntry.objects.get(action="instance.registered")
        assert entry.instance_id == str(instance.pk)

    def test_one_directory_is_one_instance(self, store, tmp_path, make_store):
        register_directory("one", store, "staging")
        link = tmp_path / "link"
        link.symlink_to(store)
        for path in (store, link, f"{store}/../{store.name}", f"{store}/"):
            with pytest.raises(DuplicateInstance):
                register_directory("two", path, "staging")
        inside = make_store()
        inside.rename(store / "inside")
        with pytest.raises(DuplicateInstance, match="one inside the other"):
            register_directory("two", store / "inside", "staging")

    def test_names_are_unique_whatever_their_case(self, store, make_store):
        register_directory("Orders", store, "staging")
        with pytest.raises(NameTaken):
            register_directory("orders", make_store(), "staging")

    @pytest.mark.parametrize(
        ("make", "code"),
        [
            (lambda p: (p / "x").mkdir() or p / "x", "NOT_CHROMA"),
            (lambda p: p / "nothing", "MISSING"),
            (lambda p: (p / "file").write_text("x") and p / "file", "BAD_PATH"),
            (lambda p: os.mkfifo(p / "fifo") or p / "fifo", "BAD_PATH"),
            (lambda p: (p / "loop").symlink_to(p / "loop") or p / "loop", "BAD_PATH"),
            (lambda p: "", "BAD_PATH"),
            (lambda p: f"{p}\0x", "BAD_PATH"),
        ],
    )
    def test_what_is_no_store_is_refused(self, tmp_path, make, code):
        with pytest.raises(OpsError) as refused:
            register_directory("x", make(tmp_path), "staging")
        assert refused.value.code == code
        assert not Instance.objects.exists()
        assert not AuditEntry.objects.exists()

    def test_an_empty_database_is_refused_and_stays_empty(self, tmp_path):
        (tmp_path / "chroma.sqlite3").touch()
        with pytest.raises(OpsError) as refused:
            register_directory("x", tmp_path, "staging")
        assert refused.value.code == "SQLITE_EMPTY"
        assert (tmp_path / "chroma.sqlite3").stat().st_size == 0


class TestInTheBrowser:
    def test_only_below_the_allowed_roots(self, admin, store, tmp_path, make_store, settings):
        settings.CHROMAADMIN_ROOTS = ()
        with pytest.raises(OutsideRoots):
            register_directory("x", store, "staging", by=admin)
        root = tmp_path / "root"
        root.mkdir()
        settings.CHROMAADMIN_ROOTS = (root,)
        (root / "link").symlink_to(store)
        (tmp_path / "root2").mkdir()
        escapes = [
            store, root / "link", f"{root}/../{store.name}", f"{root}2", "/", "/etc", "/etc/passwd", "/proc/self/root",
            f"{root}/../nothing", f"{root}\n/../x",
        ]  # fmt: skip
        for path in escapes:
            with pytest.raises(OutsideRoots):
                register_directory("x", path, "staging", by=admin)
            with pytest.raises(OutsideRoots):
                probe(path, by=admin)
        for path in ("relative", "~/x", "~root", "%2e%2e/x", "file:///x"):
            with pytest.raises(BadPath):
                probe(path, by=admin)
        inside = root / "store"
        make_store().rename(inside)
        assert register_directory("x", inside, "staging", by=admin).created_by == admin

    def test_only_by_administrators_of_everything(self, store, tmp_path, settings):
        settings.CHROMAADMIN_ROOTS = (tmp_path,)
        for role in (Role.VIEWER, Role.OPERATOR, Role.APPROVER, Role.AUDITOR):
            user = User.objects.create_user(role)
            RoleGrant.objects.create(user=user, role=role, scope=Scope.EVERYTHING)
            with pytest.raises(PermissionDenied):
                register_directory("x", store, "staging", by=user)


class TestIdentity:
    def test_another_directory_at_the_path_is_not_read(self, admin, store, make_store):
        instance = register_directory("x", store, "staging")
        store.rename(store.with_name("away"))
        make_store().rename(store)
        with pytest.raises(IdentityChanged):
            store_access(instance)
        assert refresh_sample(instance) is None
        instance.refresh_from_db()
        assert instance.problem_code == "IDENTITY_CHANGED"
        assert instance.sample is not None, "the last good figures stay"
        services.confirm_identity(instance, by=admin)
        assert store_access(instance).read(sampling.sample).records == 400
        assert not Instance.objects.get().problem_code
        detail = AuditEntry.objects.get(action="instance.identity_confirmed").detail
        assert detail["was"] != detail["now"]

    def test_a_new_device_with_the_same_inode_and_collections_is_kept_and_audited(self, store):
        instance = register_directory("x", store, "staging")
        Instance.objects.update(device="999999")
        instance.refresh_from_db()
        store_access(instance)
        assert Instance.objects.get().identity == (store.stat().st_dev, store.stat().st_ino)
        assert AuditEntry.objects.filter(action="instance.device_changed").count() == 1

    def test_a_new_device_with_other_collections_is_not(self, store):
        instance = register_directory("x", store, "staging")
        Instance.objects.update(device="999999", collections_digest="0" * 64)
        instance.refresh_from_db()
        with pytest.raises(IdentityChanged):
            store_access(instance)

    def test_a_directory_that_is_gone(self, store):
        instance = register_directory("x", store, "staging")
        store.rename(store.with_name("away"))
        with pytest.raises(Missing):
            store_access(instance)
        assert refresh_sample(instance) is None
        assert (instance.problem_code, Instance.objects.get().problem_code) == ("MISSING", "MISSING")
        store.with_name("away").rename(store)
        assert refresh_sample(instance) is not None
        assert not Instance.objects.get().problem_code


class TestSamples:
    def test_an_unchanged_store_adds_none(self, store):
        instance = register_directory("x", store, "staging")
        for _ in range(3):
            refresh_sample(instance)
        assert Sample.objects.count() == 1
        (store / "note.txt").write_text("more bytes")
        refresh_sample(instance)
        assert Sample.objects.count() == 2
        assert instance.sample.size_bytes == Sample.objects.earliest("at").size_bytes + 10

    def test_the_fleet_reads_stored_samples_in_two_queries(self, store, make_store, admin):
        register_directory("x", store, "staging", ("a",))
        register_directory("y", make_store(), "staging", ("a", "b"))
        store.rename(store.with_name("away"))
        with CaptureQueriesContext(connection) as queries:
            rows = [(each.name, each.sample.records, each.tag_names) for each in fleet(admin)]
        assert rows == [("x", 400, {"a"}), ("y", 400, {"a", "b"})]
        assert len(queries) == 2

    def test_hostile_directories_become_problems_not_crashes(self, store):
        instance = register_directory("x", store, "staging")
        for content in (b"", b"<html>", b"SQLite format 3\0" + b"\xff" * 4000):
            (store / "chroma.sqlite3").write_bytes(content)
            assert refresh_sample(instance) is None
            assert instance.problem_code
            assert instance.problem_text


class TestRemoving:
    def test_touches_no_file_and_takes_the_grants(self, admin, store):
        instance = register_directory("x", store, "staging")
        user = User.objects.create_user("u")
        RoleGrant.objects.create(user=user, role=Role.ADMIN, scope=Scope.INSTANCE, instance_id=instance.pk)
        before = manifest(store)
        services.remove_instance(instance, by=admin)
        assert manifest(store) == before
        assert not RoleGrant.objects.exists()
        assert not Instance.objects.exists()
        assert AuditEntry.objects.filter(action="instance.removed").count() == 1


class TestCommand:
    def run(self, *arguments: str) -> dict:
        out = io.StringIO()
        call_command("instance", *arguments, "--json", stdout=out)
        return json.loads(out.getvalue())

    def test_add_list_probe(self, store):
        before = manifest(store)
        seen = self.run("probe", str(store))
        assert seen["probe"]["figures"]["records"] == 400
        assert seen["instance"] is None
        added = self.run(
            "add", str(store), "--name", "Orders", "--environment", "production", "--tag", "a", "--tag", "b"
        )
        assert added["instance"]["tags"] == ["a", "b"]
        assert [each["name"] for each in self.run("list")["instances"]] == ["Orders"]
        assert self.run("probe", str(store))["instance"]["name"] == "Orders"
        assert manifest(store) == before
        for name in ("Orders", "orders", str(Instance.objects.get().pk)):
            assert instance_named(name).name == "Orders"
        with pytest.raises(OpsError, match="no instance"):
            instance_named("nothing")

    def test_refusals_have_code_and_status(self, tmp_path):
        out = io.StringIO()
        with pytest.raises(SystemExit) as ended:
            call_command("instance", "add", str(tmp_path / "nothing"), "--name", "x", "--json", stdout=out)
        assert ended.value.code == 2
        assert json.loads(out.getvalue())["error"]["code"] == "MISSING"


class TestSampling:
    def test_a_damaged_index_is_known_to_the_fleet(self, store):
        instance = register_directory("Orders", store, "production")
        assert verdict(instance).state == "healthy"
        (id_map,) = store.glob("*/index_metadata.pickle")
        id_map.unlink()
        refresh_sample(instance)
        seen = verdict(instance)
        assert (seen.state, seen.code) == ("critical", "INDEX_METADATA_MISSING")
        assert "docs" in seen.sentence

    def test_an_index_that_was_not_looked_at_is_not_called_healthy(self, store):
        instance = register_directory("Orders", store, "production")
        instance.sample.judged = 0
        assert verdict(instance).state == "unknown"
