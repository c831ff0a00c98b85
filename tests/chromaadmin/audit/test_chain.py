"""The audit trail: what it records, what the database refuses, what verification finds."""

# ruff: noqa: S608 - the statements are those of somebody who may write any

import io
import json
import threading

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction

from chromaadmin.audit import anchor
from chromaadmin.audit.chain import seal
from chromaadmin.audit.models import GENESIS, AuditEntry
from chromaadmin.audit.selectors import verify
from chromaadmin.audit.services import record

TABLE = "audit_auditentry"


def write(count: int) -> None:
    for number in range(count):
        record("thing.done", kind="thing", object_id=number, object_name=f"thing {number}", detail={"number": number})


def run_sql(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def unguarded(*statements: str) -> None:
    """What somebody does who may change the database: the triggers go, the change is made, the triggers come back."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s", [TABLE])
        triggers = cursor.fetchall()
        assert len(triggers) == 4
        for name, _ in triggers:
            cursor.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            cursor.execute(statement)
        for _, sql in triggers:
            cursor.execute(sql)


@pytest.fixture(autouse=True)
def no_anchor(settings, tmp_path):
    settings.CHROMAADMIN_HOME = tmp_path


@pytest.mark.django_db
class TestRecording:
    def test_entries_have_no_gaps_and_follow_each_other(self):
        write(5)
        rows = list(AuditEntry.objects.order_by("seq").values_list("seq", "prev_hash", "hash"))
        assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
        assert [row[1] for row in rows] == [GENESIS, *(row[2] for row in rows[:-1])]
        assert verify().intact

    def test_an_entry_goes_with_what_it_tells_of(self):
        write(1)

        def begin() -> None:
            with transaction.atomic():
                record("thing.begun")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            begin()
        write(1)
        assert list(AuditEntry.objects.order_by("seq").values_list("seq", flat=True)) == [1, 2]
        assert verify().intact

    def test_an_account_can_be_deleted_what_it_did_can_not(self):
        user = User.objects.create_user("somebody")
        record("thing.done", actor=user)
        user.delete()
        entry = AuditEntry.objects.get()
        assert entry.actor is None
        assert entry.actor_name == "somebody"
        assert verify().intact

    @pytest.mark.parametrize("key", ["password", "auth_token", "Authorization", "client_secret"])
    def test_secrets_are_refused_at_any_depth(self, key):
        with pytest.raises(ValueError, match="audit"):
            record("thing.done", detail={"given": [{key: "x"}]})
        assert not AuditEntry.objects.exists()

    def test_text_of_any_kind_is_kept_and_verifies(self):
        nasty = "NUL \0 surrogate \udcff line\nfeed \u202e ' \" ; DROP"
        record("thing.done", object_name=nasty, reason=nasty * 500, detail={"text": nasty, "n": [1.5, None, True]})
        entry = AuditEntry.objects.get()
        assert entry.detail["text"] == nasty
        assert "\0" not in entry.object_name
        assert verify().intact


@pytest.mark.django_db
class TestTheDatabaseRefuses:
    @pytest.mark.parametrize(
        "statement",
        [
            f"UPDATE {TABLE} SET actor_name = 'nobody' WHERE seq = 2",
            f"UPDATE {TABLE} SET detail_json = '{{}}'",
            f"UPDATE {TABLE} SET seq = 99 WHERE seq = 3",
            f"UPDATE {TABLE} SET hash = prev_hash WHERE seq = 3",
            f"DELETE FROM {TABLE} WHERE seq = 3",
            f"DELETE FROM {TABLE}",
            f"INSERT INTO {TABLE} SELECT 7, at, actor_id, actor_name, actor_ref, ip, action, object_kind, object_id,"
            f" object_name, instance_id, run_id, detail_json, reason, 'p', 'h' FROM {TABLE} WHERE seq = 1",
            f"INSERT OR REPLACE INTO {TABLE} SELECT * FROM {TABLE} WHERE seq = 2",
        ],
    )
    def test_changes(self, statement):
        write(3)
        before = list(AuditEntry.objects.order_by("seq").values())
        if " SELECT 7," in statement:
            with connection.cursor() as cursor:
                cursor.execute(f"PRAGMA table_info({TABLE})")
                assert {row[1] for row in cursor.fetchall()} >= {"actor_id", "prev_hash"}
            columns = (
                "seq, at, actor_id, actor_name, actor_ref, ip, action, object_kind, object_id, object_name, "
                "instance_id, run_id, detail_json, reason, prev_hash, hash"
            )
            statement = statement.replace(f"INTO {TABLE} SELECT", f"INTO {TABLE} ({columns}) SELECT")
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            run_sql(statement)
        assert list(AuditEntry.objects.order_by("seq").values()) == before
        assert verify().intact

    def test_another_actor(self):
        user = User.objects.create_user("other")
        write(1)
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            run_sql(f"UPDATE {TABLE} SET actor_id = {user.pk}")


@pytest.mark.django_db
class TestVerification:
    """With the triggers out of the way, every change shows."""

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("at", "'2001-01-01 00:00:00'"), ("actor_name", "'nobody'"), ("actor_ref", "'1'"), ("ip", "'::1'"),
            ("action", "'thing.undone'"), ("object_kind", "'x'"), ("object_id", "'x'"), ("object_name", "'x'"),
            ("instance_id", "'x'"), ("run_id", "'x'"), ("detail_json", "'{\"number\": 9}'"), ("reason", "'because'"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("seq", [1, 3, 5])
    def test_an_edit(self, column, value, seq):
        write(5)
        unguarded(f"UPDATE {TABLE} SET {column} = {value} WHERE seq = {seq}")
        answer = verify()
        assert not answer.intact
        assert (answer.problems[0].seq, answer.problems[0].kind) == (seq, "edited")

    @pytest.mark.parametrize("seq", [1, 2, 3, 4])
    def test_a_deletion(self, seq):
        write(5)
        unguarded(f"DELETE FROM {TABLE} WHERE seq = {seq}")
        assert "missing" in {problem.kind for problem in verify().problems}

    @pytest.mark.parametrize("seq", [1, 2, 3, 4])
    def test_a_deletion_with_the_rest_renumbered(self, seq):
        write(5)
        later = [f"UPDATE {TABLE} SET seq = {number - 1} WHERE seq = {number}" for number in range(seq + 1, 6)]
        unguarded(f"DELETE FROM {TABLE} WHERE seq = {seq}", *later)
        answer = verify()
        assert {problem.kind for problem in answer.problems} >= {"edited", "order"}

    def test_a_swap(self):
        write(4)
        unguarded(
            f"UPDATE {TABLE} SET seq = -1 WHERE seq = 2",
            f"UPDATE {TABLE} SET seq = 2 WHERE seq = 3",
            f"UPDATE {TABLE} SET seq = 3 WHERE seq = -1",
        )
        assert not verify().intact

    def test_an_insertion_without_the_key(self):
        write(4)
        entry = AuditEntry.objects.get(seq=4)
        entry.seq, entry.prev_hash = 5, entry.hash
        entry.hash = "f" * 64
        unguarded()
        entry.save(force_insert=True)
        assert [(p.seq, p.kind) for p in verify().problems] == [(5, "edited")]

    def test_sealing_everything_anew_needs_the_key(self, settings):
        write(4)
        key = settings.CHROMAADMIN_AUDIT_KEY
        settings.CHROMAADMIN_AUDIT_KEY = "a guess"
        previous, statements = GENESIS, []
        for entry in AuditEntry.objects.order_by("seq"):
            entry.actor_name, entry.prev_hash = "nobody", previous
            previous = seal(vars(entry))
            statements.append(
                f"UPDATE {TABLE} SET actor_name = 'nobody', prev_hash = '{entry.prev_hash}', hash = '{previous}'"
                f" WHERE seq = {entry.seq}"
            )
        unguarded(*statements)
        settings.CHROMAADMIN_AUDIT_KEY = key
        assert verify().problem_count == 4

    def test_missing_triggers_show(self):
        write(2)
        run_sql("DROP TRIGGER audit_entry_delete")
        answer = verify()
        assert not answer.guarded
        assert [problem.kind for problem in answer.problems] == ["unguarded"]

    def test_no_false_alarm(self):
        write(300)
        answer = verify()
        assert answer.intact
        assert (answer.entries, answer.head_seq, answer.problems) == (300, 300, ())

    def test_an_empty_trail_is_whole(self):
        assert verify().intact


@pytest.mark.django_db
class TestTheTail:
    def test_a_cut_tail_can_not_be_told_without_an_anchor(self):
        write(5)
        unguarded(f"DELETE FROM {TABLE} WHERE seq > 3")
        answer = verify()
        assert answer.intact
        assert "can not be told" in answer.tail

    def test_a_cut_tail_shows_against_the_anchor(self):
        write(5)
        assert anchor.note() == 5
        write(2)
        assert verify().intact
        unguarded(f"DELETE FROM {TABLE} WHERE seq > 3")
        answer = verify()
        assert [(p.seq, p.kind) for p in answer.problems] == [(3, "tail")]
        write(1)
        assert anchor.note() == 4, "a shorter trail is not noted over a longer one"
        assert not verify().intact

    def test_a_trail_written_anew_with_the_key_shows_against_the_anchor(self):
        write(5)
        anchor.note()
        unguarded(f"DELETE FROM {TABLE} WHERE seq > 3")
        write(2)
        assert [(p.seq, p.kind) for p in verify().problems] == [(5, "edited")]

    def test_foreign_and_torn_lines_are_passed_over(self, tmp_path):
        write(2)
        anchor.note()
        with (tmp_path / anchor.NAME).open("a") as file:
            file.write('{"seq": 999, "hash": "aa", "seal": "bb"}\n{"seq": 3, "ha\n\n[1]\n')
        assert list(anchor.read()) == [2]
        assert verify().intact


@pytest.mark.django_db
def test_the_command_answers_with_status_and_json():
    write(3)
    out = io.StringIO()
    call_command("verify_audit", "--json", stdout=out)
    assert json.loads(out.getvalue()) | {"intact": True, "entries": 3} == json.loads(out.getvalue())
    unguarded(f"UPDATE {TABLE} SET action = 'x' WHERE seq = 2")
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("verify_audit", "--json", stdout=out)
    assert ended.value.code == 1
    assert json.loads(out.getvalue())["problems"][0]["seq"] == 2


@pytest.mark.django_db(transaction=True)
def test_many_writers_make_one_chain():
    failures: list[BaseException] = []

    def work() -> None:
        try:
            write(15)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert verify().entries == 90
    assert verify().intact
