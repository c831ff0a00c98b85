"""The database itself refuses to change, remove, renumber or fork the audit trail, on SQLite and on PostgreSQL."""

from django.db import migrations

# `actor` is the one column that may change, and only to NULL: an account can be deleted, what it did can not.
# The check before INSERT also stops INSERT OR REPLACE, which on SQLite deletes without asking DELETE triggers.
SQLITE = [
    """
    CREATE TRIGGER audit_entry_insert BEFORE INSERT ON audit_auditentry
    WHEN NEW.seq IS NOT (SELECT COALESCE(MAX(seq), 0) + 1 FROM audit_auditentry)
      OR NEW.prev_hash IS NOT COALESCE(
           (SELECT hash FROM audit_auditentry ORDER BY seq DESC LIMIT 1),
           '0000000000000000000000000000000000000000000000000000000000000000')
      OR EXISTS (SELECT 1 FROM audit_auditentry WHERE hash = NEW.hash)
    BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only: this is not the next entry'); END
    """,
    """
    CREATE TRIGGER audit_entry_update BEFORE UPDATE OF
      seq, at, actor_name, actor_ref, ip, action, object_kind, object_id, object_name, instance_id, run_id,
      detail_json, reason, prev_hash, hash ON audit_auditentry
    BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only: entries do not change'); END
    """,
    """
    CREATE TRIGGER audit_entry_actor BEFORE UPDATE OF actor_id ON audit_auditentry
    WHEN NEW.actor_id IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only: entries do not change'); END
    """,
    """
    CREATE TRIGGER audit_entry_delete BEFORE DELETE ON audit_auditentry
    BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only: entries are not deleted'); END
    """,
]
SQLITE_BACK = [f"DROP TRIGGER audit_entry_{name}" for name in ("insert", "update", "actor", "delete")]

POSTGRESQL = [
    """
    CREATE FUNCTION audit_entry_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the audit trail is append-only: entries neither change nor go'; END $$
    """,
    """
    CREATE FUNCTION audit_entry_next() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM audit_auditentry)
         OR NEW.prev_hash <> COALESCE((SELECT hash FROM audit_auditentry ORDER BY seq DESC LIMIT 1), repeat('0', 64))
      THEN RAISE EXCEPTION 'the audit trail is append-only: this is not the next entry'; END IF;
      RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER audit_entry_insert BEFORE INSERT ON audit_auditentry
    FOR EACH ROW EXECUTE FUNCTION audit_entry_next()
    """,
    """
    CREATE TRIGGER audit_entry_update BEFORE UPDATE ON audit_auditentry FOR EACH ROW
    WHEN (ROW(OLD.seq, OLD.at, OLD.actor_name, OLD.actor_ref, OLD.ip, OLD.action, OLD.object_kind, OLD.object_id,
              OLD.object_name, OLD.instance_id, OLD.run_id, OLD.detail_json, OLD.reason, OLD.prev_hash, OLD.hash)
          IS DISTINCT FROM
          ROW(NEW.seq, NEW.at, NEW.actor_name, NEW.actor_ref, NEW.ip, NEW.action, NEW.object_kind, NEW.object_id,
              NEW.object_name, NEW.instance_id, NEW.run_id, NEW.detail_json, NEW.reason, NEW.prev_hash, NEW.hash))
    EXECUTE FUNCTION audit_entry_refuse()
    """,
    """
    CREATE TRIGGER audit_entry_actor BEFORE UPDATE ON audit_auditentry FOR EACH ROW
    WHEN (NEW.actor_id IS NOT NULL AND OLD.actor_id IS DISTINCT FROM NEW.actor_id)
    EXECUTE FUNCTION audit_entry_refuse()
    """,
    """
    CREATE TRIGGER audit_entry_delete BEFORE DELETE ON audit_auditentry
    FOR EACH ROW EXECUTE FUNCTION audit_entry_refuse()
    """,
    """
    CREATE TRIGGER audit_entry_truncate BEFORE TRUNCATE ON audit_auditentry
    FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_refuse()
    """,
]
POSTGRESQL_BACK = [
    *(f"DROP TRIGGER audit_entry_{name} ON audit_auditentry" for name in ("insert", "update", "actor", "delete", "truncate")),
    "DROP FUNCTION audit_entry_refuse()",
    "DROP FUNCTION audit_entry_next()",
]


def protect(apps, schema_editor):
    for statement in {"sqlite": SQLITE, "postgresql": POSTGRESQL}[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def release(apps, schema_editor):
    for statement in {"sqlite": SQLITE_BACK, "postgresql": POSTGRESQL_BACK}[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]

    operations = [migrations.RunPython(protect, release)]
