"""What every test may use."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from django.db.backends.sqlite3.base import DatabaseWrapper


@pytest.fixture(scope="session", autouse=True)
def _flush_in_spite_of_the_audit_trail() -> Iterator[None]:
    """Django empties all tables after a test with real transactions; the audit trail's triggers refuse that.

    For the moment of the flush they are taken away, and put back as they were.
    """
    operations = DatabaseWrapper.ops_class
    execute = operations.execute_sql_flush

    def flush(self: Any, sql_list: Iterable[str]) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            triggers = cursor.fetchall()
            for name, _ in triggers:
                cursor.execute(f"DROP TRIGGER {self.quote_name(name)}")
            execute(self, sql_list)
            for _, statement in triggers:
                cursor.execute(statement)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "execute_sql_flush", flush)
        yield
