"""The way of a user from the login to a repaired store, in a real browser against the whole application."""

import re

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

RECORDS = 4000
DELETED = 700

WRITE = """
random = numpy.random.default_rng(7)
hnsw = {"space": "cosine", "batch_size": 100, "sync_threshold": 500}
made = client.create_collection("tickets", configuration={"hnsw": hnsw}, embedding_function=None)
for start in range(0, given["records"], 500):
    numbers = range(start, start + 500)
    made.add(
        ids=[f"ticket-{n:05d}" for n in numbers],
        embeddings=random.normal(size=(500, 48)).astype("float32"),
        documents=[f"Ticket {n}: <b>the printer</b> is \\u202eon fire" for n in numbers],
        metadatas=[{"n": n, "share": n / 7, "open": n % 2 == 0, "team": f"team-{n % 5}"} for n in numbers],
    )
made.delete(ids=[f"ticket-{n:05d}" for n in range(0, 2 * given["deleted"], 2)])
client.create_collection("other", embedding_function=None).add(ids=["a"], embeddings=[[1.0, 2.0]])
"""

# Everything a reader can see of a record, vectors as their exact bytes.
READ = """
tickets = client.get_collection("tickets", embedding_function=None)
found = tickets.get(include=["documents", "metadatas", "embeddings"])
vectors = numpy.asarray(found["embeddings"], dtype="float32")
answer = {
    identifier: [document, metadata, vector.tobytes().hex()]
    for identifier, document, metadata, vector in zip(
        found["ids"], found["documents"], found["metadatas"], vectors, strict=True
    )
}
"""

QUERY = """
tickets = client.get_collection("tickets", embedding_function=None)
found = tickets.get(ids=given["ids"], include=["embeddings"])
vectors = numpy.asarray(found["embeddings"], dtype="float32")
nearest = tickets.query(query_embeddings=vectors, n_results=3, where={"team": {"$in": [f"team-{n}" for n in range(5)]}})
answer = [[asked, got[0]] for asked, got in zip(found["ids"], nearest["ids"], strict=True)]
"""

VIEWER = """
from django.contrib.auth.models import User
from chromaadmin.accounts.services import create_user, grant_role
admin = User.objects.get(username="admin")
grant_role(create_user("viewer-1", sys.argv[1], by=admin), "viewer", by=admin)
"""


def test_from_login_to_a_repaired_store(application, visit, chroma):
    chroma.ask(WRITE, records=RECORDS, deleted=DELETED)
    before = chroma.ask(READ)
    live = RECORDS - DELETED
    assert len(before) == live

    admin = visit()
    page = admin.page
    page.goto("/")
    admin.picture("00-login")
    admin.sign_in("admin")
    admin.picture("01-welcome")

    # Register the directory: look first, then decide.
    page.goto("/instances/add/")
    page.locator("input[name=path]").fill(str(chroma.path))
    page.get_by_role("button", name="Probe").click()
    page.wait_for_selector("input[name=name]")
    page.locator("input[name=name]").fill("team-search")
    page.locator("select[name=environment]").select_option("production")
    admin.picture("02-probe")
    page.get_by_role("button", name="Register").click()
    page.wait_for_url(re.compile(r"/instances/[0-9a-f-]{36}/"))
    instance_url = page.url.split("?")[0]
    assert "team-search" in page.locator("h1").inner_text()
    admin.picture("03-instance")

    # A collection, one of its records, its vector segment.
    page.goto(f"{instance_url}?tab=collections")
    page.get_by_role("link", name="tickets").first.click()
    page.wait_for_url(re.compile(r"/collections/"))
    collection_url = page.url.split("?")[0]
    collection_id = collection_url.rstrip("/").rsplit("/", 1)[1]
    text = page.locator("main").inner_text()
    assert "ticket-00001" in text
    admin.picture("04-collection")
    page.locator("a.rec", has_text="ticket-00001").first.click()
    page.wait_for_selector(".record")
    record = page.locator(".record").inner_text()
    assert "Ticket 1: <b>the printer</b> is \\u202eon fire" in record, (
        "markup and direction marks are shown, not obeyed"
    )
    admin.picture("05-record")
    page.goto(f"{collection_url}segment/")
    segment = page.locator("main").inner_text()
    assert f"{DELETED:,}" in segment, "the tombstones are counted"
    admin.picture("06-segment")

    # Ask for a rebuild: form, plan, approval.
    page.locator(f"a[href*='/operations/hnsw_rebuild/'][href*='{collection_id}']").first.click()
    page.wait_for_url(re.compile(r"/operations/hnsw_rebuild/"))
    assert page.locator("#id_collection_id").input_value() == collection_id
    assert "unchanged" in page.locator(".field", has=page.locator("#id_m")).inner_text()
    admin.picture("07-form")
    page.locator("#id_m").fill("32")
    page.locator("#id_ef_construction").fill("1200")
    page.locator("#id_num_threads").fill("1")
    page.get_by_role("button", name="Make the plan").click()
    page.wait_for_selector("#plan")
    plan = page.locator("#plan").inner_text()
    assert f"{live:,} live vectors" in plan
    assert "max_neighbors" in plan
    assert page.evaluate("document.activeElement.textContent.trim()") == "Cancel"
    assert page.evaluate("window.scrollY") == 0, "the focus on Cancel does not hide what is approved"
    admin.picture("08-plan")
    deed = page.get_by_role("button", name="Approve and run")
    assert deed.is_disabled(), "production wants the name first"
    page.locator("#id_approve-typed_name").fill("team-search")
    page.locator("#id_approve-reason").fill("Tombstones, OPS-2291")
    if page.locator("#id_approve-attest_unused").count():
        page.locator("#id_approve-attest_unused").check()
    admin.picture("09-approve")
    deed.click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}/"))
    run_url = page.url

    # Watch it: the page moves by itself, says that nothing visible has changed, and turns into the result.
    page.wait_for_selector("#run-live")
    page.wait_for_selector(f"#run-live .counts:has-text('of {live:,} vectors'), #result", timeout=120_000)
    running = page.locator("main").inner_text()
    if f"of {live:,} vectors" in running:  # a fast machine is done before the first count is shown
        assert "Nothing visible has changed yet." in running
    admin.picture("10-running")
    page.wait_for_selector("#result", timeout=300_000)
    assert "Succeeded" in page.locator("#run-state").inner_text()
    result = page.locator("main").inner_text()
    assert f"Rebuilt from {live:,} live vectors" in result
    assert "Chain intact" in result
    for action in ("run.requested", "run.started", "store.committed", "run.finished"):
        assert action in result
    assert page.get_by_role("link", name="Undo…").first.is_visible()
    admin.picture("11-result")

    # Undo is a form with the run filled in.
    page.get_by_role("link", name="Undo…").first.click()
    page.wait_for_url(re.compile(r"/operations/run_undo/"))
    assert page.locator("#id_run_id").input_value() == run_url.rstrip("/").rsplit("/", 1)[1]
    admin.picture("12-undo")

    # The list, the trail, and the keyboard.
    page.goto("/runs/")
    assert "hnsw rebuild" in page.locator("tbody").inner_text()
    admin.picture("13-runs")
    page.goto("/audit/")
    page.get_by_role("button", name="Verify now").click()
    page.wait_for_selector(".strip >> text=Intact")
    assert "Tombstones, OPS-2291" in page.locator("tbody").inner_text()
    admin.picture("14-audit")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("g")
    page.keyboard.press("f")
    page.wait_for_url(re.compile(r"://[^/]+/$"))
    assert "team-search" in page.locator("main").inner_text()
    admin.picture("15-fleet")

    # Somebody who may look but not run is told why.
    application.python(VIEWER, "another long enough secret 7")
    viewer = visit()
    viewer.sign_in("viewer-1", "another long enough secret 7")
    viewer.page.goto(f"{instance_url}operations/hnsw_rebuild/")
    refused = viewer.page.locator("main").inner_text()
    assert "needs a role you do not have there" in refused
    assert viewer.page.get_by_role("button", name="Make the plan").count() == 0
    viewer.picture("16-viewer")

    # Chroma finds every record as it was, and its index answers.
    assert chroma.ask(READ) == before
    asked = sorted(before)[:: live // 60]
    answers = chroma.ask(QUERY, ids=asked)
    assert len(answers) == len(asked)
    assert all(asked_for == nearest for asked_for, nearest in answers)

    assert admin.complaints == []
    assert viewer.complaints == []
