"""The data directory: who may read it, how its keys are made, that one `up` uses it."""

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from chromaadmin.platform.home import Home, HomeInUse


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.prepare(tmp_path / "home")


def test_only_the_owner_may_enter(tmp_path: Path) -> None:
    loose = tmp_path / "home"
    loose.mkdir(mode=0o755)
    home = Home.prepare(loose)
    assert mode(home.path) == 0o700
    assert {mode(path) for path in (home.keys, home.runs, home.cache)} == {0o700}


def test_a_key_is_made_once_and_readable_by_the_owner_alone(home: Home) -> None:
    first = home.key("secret.key")
    assert len(first) == 44
    assert home.key("secret.key") == first
    assert home.key("field.key") != first
    assert mode(home.keys / "secret.key") == 0o600
    assert sorted(path.name for path in home.keys.iterdir()) == ["field.key", "secret.key"]


def test_keys_are_rotated_by_a_new_first_line(home: Home) -> None:
    old = home.key("field.key")
    (home.keys / "field.key").write_text(f"new\n{old}\n")
    assert home.key_lines("field.key") == ("new", old)


def test_an_empty_key_file_is_no_key(home: Home) -> None:
    (home.keys / "field.key").write_text("\n")
    with pytest.raises(ValueError, match=r"field\.key is empty"):
        home.key("field.key")


def _make_key(path: Path) -> str:
    return Home(path=path).key("raced.key")


def test_processes_that_start_together_get_the_same_key(home: Home) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(_make_key, [home.path] * 16))) == 1


def test_the_second_lock_is_refused_with_the_first_ones_pid(home: Home) -> None:
    lock = home.lock()
    with pytest.raises(HomeInUse, match=f"PID {os.getpid()}"):
        home.lock()
    lock.release()
    home.lock().release()
