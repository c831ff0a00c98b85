"""The copy of the database that `up` makes before migrations."""

import sqlite3
from contextlib import closing
from pathlib import Path

from chromaadmin.platform.home import Home
from chromaadmin.platform.preparation import KEPT_BACKUPS, back_up


def test_the_copy_has_what_was_committed_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    home = Home.prepare(tmp_path / "home")
    with closing(sqlite3.connect(home.database)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (x)")
        copies = []
        for number in range(KEPT_BACKUPS + 2):
            writer.execute("INSERT INTO t VALUES (?)", (number,))
            writer.commit()
            copies.append(back_up(home))
    assert sorted(home.backups.iterdir()) == copies[-KEPT_BACKUPS:]
    assert copies[-1].stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copies[-1])) as copy:
        assert copy.execute("SELECT count(*) FROM t").fetchone() == (KEPT_BACKUPS + 2,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
