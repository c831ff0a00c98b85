"""The cache of JSON files keeps Django's promises, and no pickle."""

import json
import threading
from pathlib import Path

import pytest
import time_machine
from django.conf import settings

from chromaadmin.platform.cache import JsonFileCache


@pytest.fixture
def cache(tmp_path: Path) -> JsonFileCache:
    return JsonFileCache(str(tmp_path / "cache"), {"OPTIONS": {"MAX_ENTRIES": 10}})


def test_values_come_back(cache: JsonFileCache) -> None:
    for value in (1, 2.5, "text", True, None, [1, 2], {"a": [None]}):
        cache.set("key", value)
        assert cache.get("key", "missing") == value
    assert cache.delete("key")
    assert not cache.delete("key")
    assert cache.get("key", "missing") == "missing"


def test_values_expire(cache: JsonFileCache) -> None:
    with time_machine.travel(1_750_000_000, tick=False) as clock:
        cache.set("short", 1, timeout=10)
        cache.set("ever", 1, timeout=None)
        cache.set("never", 1, timeout=0)
        clock.shift(9)
        assert cache.get("short") == 1
        assert cache.touch("short", 10)
        clock.shift(9)
        assert "short" in cache
        clock.shift(1)
        assert cache.get("short") is None
        assert not cache.touch("short", 10)
        assert cache.get("ever") == 1
        assert cache.get("never") is None


def test_add_lets_one_of_many_win(cache: JsonFileCache) -> None:
    start = threading.Barrier(8)
    won: list[int] = []

    def race(number: int) -> None:
        start.wait()
        if cache.add("lock", number):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert cache.get("lock") == won[0]


def test_counters_count_every_step(cache: JsonFileCache) -> None:
    cache.set("count", 0)
    threads = [threading.Thread(target=lambda: [cache.incr("count") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.get("count") == 80


def test_what_is_not_json_is_refused(cache: JsonFileCache) -> None:
    with pytest.raises(TypeError):
        cache.set("key", object())
    assert cache.get("key") is None


def test_a_torn_file_is_a_miss(cache: JsonFileCache, tmp_path: Path) -> None:
    cache.set("key", 1)
    (file,) = (tmp_path / "cache").glob("*.json")
    file.write_text('{"expires_at": nu')
    assert cache.get("key", "missing") == "missing"


def test_the_number_of_files_is_bounded(cache: JsonFileCache, tmp_path: Path) -> None:
    for number in range(50):
        cache.set(f"key-{number}", number)
    files = list((tmp_path / "cache").glob("*.json"))
    assert len(files) <= 10
    assert cache.get("key-49") == 49
    assert all(json.loads(file.read_bytes())["value"] in range(50) for file in files)


def test_every_cache_of_the_project_is_of_this_kind() -> None:
    assert {options["BACKEND"] for options in settings.CACHES.values()} == {"chromaadmin.platform.cache.JsonFileCache"}
