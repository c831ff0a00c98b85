"""The template tags: what they render, that nothing from a store escapes, and that the content policy holds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from django import forms
from django.template import Context, Template, TemplateSyntaxError
from django.test import Client, RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from chromaadmin.templatetags import charts, formats, ui

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "templates"
STATIC = ROOT / "chromaadmin" / "static" / "chromaadmin"
NOW = datetime(2026, 11, 20, 3, 12, 44, tzinfo=UTC)
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' autofocus onfocus=alert(1) x='",
    "</title></textarea><svg/onload=alert(1)>",
    "{{ 7|add:7 }}{% now 'Y' %}",
    "a\u202egpj.exe",
    "zero\u200bwidth\u2066x",
    "\x1b[31mred\x07",
    "bad\udcffname",
    "line\nbreak\r",
]
GALLERY = ("components", "fleet", "instance", "plan", "run", "segment")
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


def render(source: str, /, path: str = "/", cookies: dict[str, str] | None = None, **values: Any) -> str:
    """A template's text with a request, as a page would render it."""
    request = RequestFactory().get(path)
    request.COOKIES.update(cookies or {})
    return Template(source).render(Context({"request": request, **values}))


class Page(HTMLParser):
    """The elements and attributes of a page, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if len(dict(attrs)) != len(attrs):
            self.wrong.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split()).replace(" ,", ",")

    def of(self, tag: str, css: str = "") -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and (not css or css in (attrs.get("class") or "").split())
        ]


# Filters --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234567, "1,234,567"),
        (0, "0"),
        (-41, "−41"),
        (0.5, "0.5"),
        (None, "—"),
        ("", "—"),
        (float("nan"), "—"),
        (True, "—"),
    ],
)
def test_grouped(value: object, shown: str) -> None:
    assert formats.grouped(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (4100, "4.1 kB"),
        (14_000, "14 kB"),
        (999_950, "1 MB"),
        (8_920_000, "8.92 MB"),
        (74_600_000, "74.6 MB"),
        (402_000_000, "402 MB"),
        (4_490_000_000, "4.49 GB"),
        (38_400_000_000, "38.4 GB"),
        (118_200_000_000, "118.2 GB"),
        (186_000_000_000, "186 GB"),
        (-1_820_000_000, "−1.82 GB"),
        (None, "—"),
    ],
)
def test_bytes(value: object, shown: str) -> None:
    assert formats.bytes_h(value).replace("\u00a0", " ") == shown


@given(st.integers(min_value=0, max_value=10**18))
def test_bytes_never_show_four_digits_before_the_point(size: int) -> None:
    figure, unit = formats.bytes_pair(size)
    assert float(figure) < 1000
    factor = 1000 ** ("B", "kB", "MB", "GB", "TB", "PB", "EB").index(unit)
    assert float(figure) * factor == pytest.approx(size, rel=0.06, abs=1)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0.0 s"),
        (0.02, "20 ms"),
        (0.4, "0.4 s"),
        (9.96, "10 s"),
        (46, "46 s"),
        (59.7, "1 min"),
        (552, "9 min 12 s"),
        (540, "9 min"),
        (3599.6, "1 h"),
        (7380, "2 h 03 min"),
        (90_000, "1 d 1 h"),
        (timedelta(minutes=5), "5 min"),
        (None, "—"),
        (-1, "—"),
    ],
)
def test_duration(value: object, shown: str) -> None:
    assert formats.duration(value) == shown


@pytest.mark.parametrize(
    ("delta", "shown"),
    [
        (1, "just now"),
        (-1, "just now"),
        (46, "46 s ago"),
        (370, "6 min ago"),
        (4 * 3600, "4 h ago"),
        (86400, "1 d ago"),
        (12 * 86400, "12 d ago"),
        (-48 * 60, "in 48 min"),
    ],
)
def test_ago(delta: int, shown: str) -> None:
    assert formats.ago(NOW - timedelta(seconds=delta), now=NOW) == shown


def test_times_are_named_utc_whatever_zone_they_came_in() -> None:
    elsewhere = NOW.astimezone(tz=None)
    assert formats.utc(elsewhere) == "Fri 20 Nov 2026, 03:12:44 UTC"
    assert [formats.utc(NOW, style) for style in ("day", "date", "time", "minute")] == [
        "20 Nov",
        "20 Nov 2026",
        "03:12:44",
        "03:12 UTC",
    ]
    assert formats.utc(None) == formats.ago("yesterday") == "—"


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (41, 100, "41 %"),
        (0, 5, "0 %"),
        (5, 5, "100 %"),
        (9999, 10000, "99.9 %"),
        (3, 1000, "0.3 %"),
        (1, 10**7, "< 0.1 %"),
        (1, 0, "—"),
        (None, 5, "—"),
    ],
)
def test_percent_never_rounds_to_all_or_nothing(part: object, whole: object, shown: str) -> None:
    assert formats.percent(part, whole).replace("\u00a0", " ") == shown


def test_hashes_and_ids() -> None:
    assert formats.short_hash("sha256:5f0c91ae" + "0" * 56) == "5f0c 91ae"
    assert formats.short_hash(b"\xa4\x1f\x09\xd2\x00") == "a41f 09d2"
    assert formats.short_id("7c1e9a04-52f3-4b6e-9d0b-e1f6a2c38b57") == "7c1e9a04"
    assert formats.short_id("lc-2024-118402-05") == "lc-2024-118402-05"
    assert formats.short_id("x" * 30) == "x" * 10 + "…" + "x" * 6


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\u202eb", "a\\u202eb"),
        ("tab\t", "tab\\t"),
        ("\x00\x1b", "\\x00\\x1b"),
        ("no\u00a0break", "no\\xa0break"),
        (b"caf\xe9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("Überfluß 日本 😀", "Überfluß 日本 😀"),
        ("\u2028", "\\u2028"),
    ],
)
def test_visible(value: object, shown: str) -> None:
    assert formats.visible(value) == shown


def test_visible_keeps_the_lines_of_a_document() -> None:
    assert formats.visible("one\ntwo\t\u202e", "text") == "one\ntwo\t\\u202e"


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_visible_text_can_be_sent_and_hides_nothing(value: str) -> None:
    shown = formats.visible(value)
    shown.encode()
    assert shown.isprintable()


def test_what_is_not_known_is_muted_in_a_page_and_plain_elsewhere() -> None:
    assert render("{{ n|grouped }}", n=None) == "<span class=none>—</span>"
    assert f"{formats.grouped(None)} free" == "— free"
    assert Page(render('{% figure "Memory" n %}', n=None)).text == "Memory —"
    assert Page(render('{% figure "Memory" never_given %}')).text == "Memory —"
    assert "none" in render('{% kv %}{% item "Owner" %}{% enditem %}{% endkv %}')
    for kind in ("meter done total", 'progress "Building" done total'):
        page = render("{% " + kind + " %}", done=None, total=None)
        assert "0 %" not in page
        assert "%" not in Page(page).text


# Tags -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ui._STATES))
def test_a_state_is_a_shape_a_word_and_a_tone(name: str) -> None:
    page = Page(render("{% state name %}", name=name))
    assert page.of("path")
    assert page.text == ui._STATES[name][2]
    assert re.search(r"tone-\w+", page.of("span")[0]["class"] or "")


@pytest.mark.parametrize("value", [None, "", "unknown", "something-new", "HEALTHYISH"])
def test_a_state_nobody_knows_is_never_green(value: object) -> None:
    text = render("{% state value %}", value=value)
    assert "tone-mute" in text
    assert "tone-ok" not in text


def test_no_two_tones_share_a_shape_so_that_colour_is_never_alone() -> None:
    tones: dict[str, set[str]] = {}
    for shape, tone, _ in ui._STATES.values():
        tones.setdefault(shape, set()).add(tone)
    assert {shape: seen for shape, seen in tones.items() if len(seen) > 1} == {}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "source",
    [
        "{% ident x %}",
        "{% ident x short=True %}",
        "{% tag x %}",
        "{% copy x %}",
        "{% document x %}",
        "{% code x %}",
        "{% crumb x '/' %}",
        "{% env x %}",
        "{% state x %}",
        "{% chip x x x remove='?' %}",
        "{% page_head x %}{% endpage_head %}",
        "{{ x|visible }}",
        "{% kv %}{% item x %}{{ x|visible }}{% enditem %}{% endkv %}",
        "{% record x %}{% endrecord %}",
        "{% log lines %}",
        "{% pager shown=1 after=x next=safe %}",
        "{% filterbox value=safe label=safe %}",
        "{% figure safe safe context=safe title=safe %}",
        "{% finding 'warning' safe code=safe %}{{ safe }}{% endfinding %}",
        "{% note 'bad' title=safe %}{{ safe }}{% endnote %}",
        "{% panel safe context=safe %}{{ safe }}{% part 'foot' %}{{ safe }}{% endpart %}{% endpanel %}",
        "{% toast 'info' safe %}",
        "{% empty safe %}{% endempty %}",
        "{% menu safe groups %}",
        "{% dialog 'd' safe %}{{ safe }}{% enddialog %}",
        "{% button safe title=safe %}",
        "{% button safe reason=safe %}",
        "{% changes rows %}",
        "{% checks rows %}",
        "{% phases rows %}",
        "{% line_chart labels series label=safe unit=safe note=safe %}",
        "{% call commands %}",
        "{% tabs rows 'k' %}",
        "{% progress safe 1 2 noun=safe eta=safe %}",
    ],
)
def test_untrusted_text_stays_text(source: str, text: str) -> None:
    safe = text.encode("utf-8", "replace").decode()  # what a page's own sentences may hold
    row = dict.fromkeys(
        ("what", "now", "after", "sentence", "code", "label", "detail", "time", "key", "name", "help", "reason"), safe
    )
    rendered = render(
        source,
        x=text,
        safe=safe,
        lines=[{"at": "1", "text": text}],
        rows=[row],
        labels=[safe, safe],
        series=[{"label": safe, "values": [1, 2]}],
        commands=[(safe, safe), (safe, safe)],
        groups=[{"title": safe, "meaning": safe, "items": [row | {"url": ""}]}],
    )
    rendered.encode()
    page = Page(rendered)
    assert page.wrong == []
    names = {name for name, _ in page.elements}
    assert not names & {"script", "img"}
    assert not [attr for _, attrs in page.elements for attr in attrs if attr.startswith("on") or attr == "style"]
    assert "49" not in page.text.replace("{{ 7|add:7 }}", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_what_hides_is_shown_but_the_copy_is_exact(text: str) -> None:
    page = Page(render("{% ident x %}", x=text))
    shown = formats.visible(text)
    assert "".join(page.texts) == shown
    carried = page.of("button")[0]["data-copy"] or ""
    # HTML itself turns a carriage return in an attribute into a line feed; a lone surrogate can not be sent at all.
    assert carried == (shown if "\udcff" in text else text)


def test_parts_belong_to_the_tag_around_them() -> None:
    source = """{% panel "Outer" %}{% part "actions" %}outer action{% endpart %}
      {% panel "Inner" %}inner body{% part "foot" %}inner foot{% endpart %}{% endpanel %}outer body{% endpanel %}"""
    text = Page(render(source)).text
    assert text == "Outer outer action Inner inner body inner foot outer body"
    inner = render(source).split("Inner", 1)[1]
    assert "outer action" not in inner
    with pytest.raises(TemplateSyntaxError):
        render('{% part "actions" %}lost{% endpart %}')


def test_parts_work_in_branches_and_loops() -> None:
    foot = '{% part "foot" %}{% for n in numbers %}{{ n }}{% endfor %}{% endpart %}'
    source = '{% panel "P" %}{% if yes %}' + foot + "{% endif %}{% endpanel %}"
    assert Page(render(source, yes=True, numbers=[1, 2])).text == "P 12"
    assert "panel-foot" not in render(source, yes=False, numbers=[1, 2])


@pytest.mark.parametrize(
    ("path", "default", "sort", "asked"),
    [
        ("/?tag=rag", "", "", "-records"),
        ("/?sort=-records&tag=rag", "", "descending", "records"),
        ("/?sort=records&tag=rag&after=9", "", "ascending", "-records"),
        ("/?tag=rag", "-records", "descending", "records"),
    ],
)
def test_heads_sort_and_keep_the_query(path: str, default: str, sort: str, asked: str) -> None:
    page = Page(render('{% th "Records" "records" num=True default=default %}', path, default=default))
    assert page.of("th")[0].get("aria-sort", "") == sort
    href = page.of("a")[0]["href"] or ""
    assert sorted(href[1:].split("&")) == sorted([f"sort={asked}", "tag=rag"])


def test_the_pager_keeps_the_query_and_says_what_is_shown() -> None:
    page = Page(render("{% pager shown=16 total=18204 after='lc-9' next='lc-25' %}", "/?q=x&after=lc-9"))
    assert page.text == "16 after lc-9 of 18,204 Previous Next"
    assert page.of("a")[0]["href"] in {"?q=x&after=lc-25", "?after=lc-25&q=x"}
    assert page.of("span", "btn")[0]["aria-disabled"] == "true"
    assert Page(render("{% pager shown=3 total=3 %}")).of("a") == []


def test_tabs_start_afresh_and_filters_keep_the_rest() -> None:
    items = [{"key": "", "label": "All", "count": 9}, {"key": "wal", "label": "WAL", "count": 412008}]
    tabs = Page(render("{% tabs items %}", "/?tab=wal&q=x", items=items))
    assert [a["href"] for a in tabs.of("a")] == ["?tab=", "?tab=wal"]
    assert [a.get("aria-current") for a in tabs.of("a")] == [None, "page"]
    assert "412,008" in tabs.text
    chosen = Page(render('{% segmented items param="state" %}', "/?q=x&after=7", items=items))
    assert [a["href"] for a in chosen.of("a")] == ["?q=x", "?q=x&state=wal"]


def test_a_button_that_is_off_says_why() -> None:
    page = Page(render('{% button "Restore…" href="/x" reason="You need the role approver." dialog="d" %}'))
    button = page.of("button")[0]
    assert "disabled" in button
    assert page.of("a") == []
    assert "data-dialog" not in button
    assert button["aria-describedby"] == page.of("span", "why")[0]["id"]


@pytest.mark.parametrize("attribute", ['onclick="x"', 'style="color:red"', 'on_load="x"'])
def test_attributes_that_the_content_policy_forbids_are_refused(attribute: str) -> None:
    with pytest.raises(TemplateSyntaxError):
        render('{% button "x" ' + attribute + " %}")


def test_attributes_pass_and_kinds_are_checked() -> None:
    page = Page(render('{% button "x" hx_get="/live/" name="a" value="1" type="submit" disabled=False %}'))
    assert page.of("button")[0] == {"class": "btn", "type": "submit", "hx-get": "/live/", "name": "a", "value": "1"}
    for source in ('{% button "x" kind="purple" %}', '{% note "purple" %}{% endnote %}'):
        with pytest.raises(TemplateSyntaxError):
            render(source)


class Form(forms.Form):
    m = forms.IntegerField(label="max_neighbors", min_value=2, help_text="Links per record.")
    pick = forms.MultipleChoiceField(
        choices=[("a", "A"), ("b", "B")], widget=forms.CheckboxSelectMultiple, required=False
    )
    sure = forms.BooleanField(required=False)
    secret = forms.CharField(widget=forms.HiddenInput, required=False)

    def clean(self) -> dict[str, Any]:
        raise forms.ValidationError("Neither will do.")


def test_a_field_says_what_holds_now() -> None:
    form = Form(initial={"m": 24})
    assert "now 16" in Page(render("{% field form.m old=16 %}", form=form)).text
    same = render("{% field form.m old=24 %}", form=form)
    assert "unchanged" in Page(same).text
    assert "is-unchanged" in same


def test_every_control_has_a_label_and_its_sentences_are_tied_to_it() -> None:
    page = Page(render("{% fields form %}", form=Form({"m": "1"})))
    assert page.wrong == []
    labelled = {attrs.get("for") for attrs in page.of("label")}
    controls = [attrs for attrs in page.of("input") if attrs.get("type") != "hidden"]
    assert {attrs["id"] for attrs in controls} <= labelled
    described = next(attrs for attrs in controls if attrs["name"] == "m")["aria-describedby"] or ""
    ids = {attrs.get("id") for _, attrs in page.elements}
    assert set(described.split()) == {"id_m_hint", "id_m_error"}
    assert set(described.split()) <= ids
    assert "Neither will do." in page.text


def test_findings_open_when_they_know_more_and_green_ones_stay_one_line() -> None:
    assert "finding-line" in render('{% finding "healthy" "No orphans." %}{% endfinding %}')
    warning = render('{% finding "warning" "x" %}{% part "end" %}b{% endpart %}{% endfinding %}')
    assert "finding-line" not in warning
    assert "finding-open" not in warning
    opened = render(
        '{% finding "critical" "x" when=at %}why{% part "cure" %}Repair{% endpart %}{% endfinding %}', at=NOW
    )
    assert "finding-open" in opened
    assert "since 20 Nov" in Page(opened).text


def test_the_commit_point_stands_after_its_phase() -> None:
    phases = [
        {"label": "Verifying", "state": "now", "time": 2.0, "commit": True},
        {"label": "Swapping", "state": "todo"},
        {"label": "Odd", "state": "no such state"},
    ]
    page = Page(render("{% phases phases %}", phases=phases))
    assert page.text == "Verifying, under way 2.0 s commit point Swapping, to come Odd, to come"
    assert [attrs.get("aria-current") for attrs in page.of("li")] == ["step", None, None, None]


def test_an_estimate_tells_what_it_knows() -> None:
    estimate = SimpleNamespace(
        rows=4,
        written_bytes=2_710_000_000,
        needed_bytes=2_980_000_000,
        free_bytes=None,
        freed_now_bytes=None,
        freed_at_expiry_bytes=1_780_000_000,
        shortest_s=540,
        longest_s=720,
    )
    text = Page(render("{% estimate e %}", e=estimate)).text.replace("\u00a0", " ")
    assert text == (
        "Rows changed 4 Bytes written 2.71 GB Free space — 2.98 GB needed Duration 9 – 12 min estimated "
        "Given back 1.78 GB when the undo expires"
    )
    nothing = SimpleNamespace()
    assert Page(render("{% estimate e %}", e=nothing)).text.count("—") == 5


@pytest.mark.parametrize(
    ("cookie", "theme"), [("dark", "dark"), ("light", "light"), ('"><script>', "auto"), ("", "auto")]
)
def test_the_theme_comes_from_the_cookie_and_only_from_its_three_words(cookie: str, theme: str) -> None:
    assert render("{% theme_name %}", cookies={ui.THEME_COOKIE: cookie}) == theme
    assert Template("{% theme_name %}").render(Context()) == "auto"
    pressed = Page(render("{% theme_switch %}", cookies={ui.THEME_COOKIE: cookie})).of("button")
    assert [b["data-theme-choice"] for b in pressed if b["aria-pressed"] == "true"] == [theme]


@pytest.mark.parametrize(
    ("path", "current"), [("/", "fleet"), ("/runs/", "runs"), ("/runs/1/log/", "runs"), ("/elsewhere/", None)]
)
def test_the_navigation_marks_the_present_place(path: str, current: str | None) -> None:
    nav = [
        {"key": "fleet", "label": "Fleet", "url": "/"},
        {"key": "runs", "label": "Runs", "url": "/runs/", "count": 0},
    ]
    links = Page(render("{% nav_list %}", path, nav=nav)).of("a")
    assert [a["data-nav"] for a in links if "aria-current" in a] == ([current] if current else [])


# Charts ---------------------------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-2, 1e9), st.integers(2, 12))
def test_ticks_are_even_and_cover_the_range(low: float, span: float, count: int) -> None:
    ticks = charts.nice_ticks(low, low + span, count)
    assert ticks == sorted(set(ticks))
    assert ticks[0] <= low + span * 1e-6 + 1e-9
    assert ticks[-1] >= low + span - span * 1e-6 - 1e-6
    assert len(ticks) <= 2 * count + 2


def test_the_slot_map_counts_every_block_once() -> None:
    values: list[float | None] = [1.0, 0.99, 0.7, 0.5, 0.1, 0.0, None, None]
    grid = charts.slot_map(values, columns=4)
    assert {one.key: one.count for one in grid.classes} == {
        "live": 2,
        "mostly": 1,
        "mixed": 1,
        "sparse": 1,
        "dead": 1,
        "free": 2,
    }
    assert sum(one.path.count("M") for one in grid.classes) == len(values)
    assert grid.box == "0 0 43 21"


def test_a_gap_stays_a_gap_in_the_chart_and_its_table() -> None:
    chart = charts.line_chart(["a", "b", "c"], [charts.SeriesInput(label="s", values=[1.0, None, 3.0])])
    assert chart is not None
    assert chart.series[0].path.count("M") == 2
    assert len(chart.series[0].points) == 2
    text = Page(
        render("{% line_chart labels series %}", labels=["a", "b"], series=[{"label": "s", "values": [1, None]}])
    ).text
    assert text.endswith("When s a 1 b —")


def test_stacked_areas_lie_on_each_other_within_the_axis() -> None:
    series = [
        charts.SeriesInput(label=name, values=[value, value]) for name, value in (("a", 10.0), ("b", 20.0), ("c", 5.0))
    ]
    chart = charts.line_chart(["x", "y"], series, stacked=True, height=100)
    assert chart is not None
    assert chart.left[-1].text == "40"
    tops = [float(re.match(r"M0 ([\d.]+)", one.path).group(1)) for one in chart.series]  # type: ignore[union-attr]
    assert tops == [75.0, 25.0, 12.5]
    assert [one.css for one in chart.series] == ["a3", "a2", "a1"]


@pytest.mark.parametrize("values", [[], [1], [None, None], [None, 3]])
def test_a_spark_needs_two_values(values: list[object]) -> None:
    assert render("{% spark values %}", values=values) == ""


def test_series_of_another_length_are_refused() -> None:
    with pytest.raises(TemplateSyntaxError):
        render("{% line_chart labels series %}", labels=["a"], series=[{"label": "s", "values": [1, 2]}])


def test_the_qr_code_holds_its_text_in_one_path() -> None:
    page = Page(render("{% qr text %}", text="otpauth://totp/x?secret=ABC"))
    size = int((page.of("svg")[0]["viewbox"] or "").split()[2])
    assert size in range(21, 60)
    assert (page.of("path")[0]["d"] or "").count("M") > size


# Whole pages ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def gallery(settings: Any) -> Client:
    settings.ROOT_URLCONF = "tests.gallery.urls"
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [TEMPLATES, ROOT / "tests/gallery/templates"]}]
    return Client(raise_request_exception=True)


PAGES = [f"/gallery/{name}/" for name in GALLERY]
ALONE = ["/accounts/login/", "/gallery/setup/", *(f"/gallery/error/{code}/" for code in (400, 403, 404, 500))]


def breaks_content_policy(page: Page) -> list[str]:
    """What a browser would refuse under ``default-src 'self'`` without unsafe-inline."""
    found = []
    for tag, attrs in page.elements:
        if tag == "style" or (tag == "script" and not attrs.get("src") and attrs.get("type") != "application/json"):
            found.append(f"inline <{tag}>")
        for name, value in attrs.items():
            if name == "style" or (name.startswith("on") and name != "one"):
                found.append(f"<{tag} {name}>")
            if name in {"src", "href", "action"} and re.match(
                r"\s*(javascript|data|https?):|//", value or "", re.IGNORECASE
            ):
                found.append(f"<{tag} {name}={value}>")
    return found


@pytest.mark.django_db
@pytest.mark.parametrize("path", PAGES + ALONE)
def test_pages_are_whole_and_hold_the_content_policy(gallery: Client, path: str) -> None:
    response = gallery.get(path)
    page = Page(response.content.decode())
    assert page.wrong == []
    assert page.open == []
    assert breaks_content_policy(page) == []
    ids = Counter(attrs["id"] for _, attrs in page.elements if attrs.get("id"))
    assert [one for one, times in ids.items() if times > 1] == []
    assert len(page.of("h1")) == 1 or path == "/gallery/components/"  # that page shows a title as a sample
    assert page.of("main")
    for attrs in page.of("button") + page.of("a"):
        assert attrs.get("href") != ""
    for tag, attrs in page.elements:
        for name in ("d", "viewbox", "width", "x", "y", "cx", "cy", "points"):
            if tag in {"svg", "path", "rect", "circle", "text", "line"} and attrs.get(name):
                assert "," not in (attrs[name] or ""), "a grouped number is no coordinate"


@pytest.mark.django_db
def test_the_frame_has_a_skip_link_navigation_search_theme_and_keys(gallery: Client) -> None:
    page = Page(gallery.get("/gallery/run/").content.decode())
    ids = {attrs.get("id") for _, attrs in page.elements}
    assert page.of("a", "skip")[0]["href"] == "#main"
    assert {"main", "search", "keys", "toasts"} <= ids
    assert "is-production" in (page.of("body")[0]["class"] or "")
    assert [a["data-nav"] for a in page.of("a", "nav-link") if a.get("aria-current")] == ["runs"]
    assert "g r" in page.text.replace("g  r", "g r") or "Runs" in page.text
    config = next(attrs for attrs in page.of("meta") if attrs.get("name") == "htmx-config")["content"] or ""
    assert '"includeIndicatorStyles": false' in config
    assert '"allowEval": false' in config


@pytest.mark.django_db
def test_the_error_page_says_first_that_no_store_was_touched_and_needs_no_context() -> None:
    for code in (400, 403, 404, 500):
        text = (TEMPLATES / f"{code}.html").read_text()
        page = Page(Template(text).render(Context()))
        assert page.wrong == []
        assert page.of("h1")
    assert "No store was touched." in Page(Template((TEMPLATES / "500.html").read_text()).render(Context())).text


@pytest.mark.django_db
def test_stock_admin_pages_belong_to_the_house(gallery: Client, admin_user: Any) -> None:
    gallery.force_login(admin_user)
    user = f"/auth/user/{admin_user.pk}"
    for path in (
        "/auth/user/",
        "/auth/user/?q=nobody",
        "/auth/user/add/",
        f"{user}/change/",
        f"{user}/history/",
        f"{user}/delete/",
        "/auth/group/add/",
        "/accounts/2fa/",
        "/accounts/password/change/",
        "/accounts/logout/",
    ):
        response = gallery.get(path, follow=True)
        assert response.status_code == 200, path
        page = Page(response.content.decode())
        assert breaks_content_policy(page) == [], path
        hrefs = [attrs.get("href") or "" for attrs in page.of("link")]
        assert any("chromaadmin/tokens.css" in href for href in hrefs), path
        assert not any("admin/css/base.css" in href or "dark_mode" in href for href in hrefs), path
        assert len(page.of("h1")) == 1, path


# Files ----------------------------------------------------------------------------------------------------------------


def own_templates() -> Iterator[Path]:
    for folder in ("ui", "admin", "account", "mfa", "allauth", "setup"):
        yield from sorted((TEMPLATES / folder).rglob("*.html"))
    yield from sorted(TEMPLATES.glob("*.html"))


def test_templates_hold_no_inline_style_script_or_handler_and_trust_no_data() -> None:
    for path in own_templates():
        text = path.read_text()
        assert not re.search(r"\sstyle=|\son[a-z]+=|javascript:|<style|<script(?![^>]*\ssrc=)", text), path
        assert not re.search(r"\|\s*safe\b|autoescape off", text), path


def test_every_icon_that_is_asked_for_is_in_the_sprite() -> None:
    sprite = ElementTree.parse(STATIC / "icons.svg")  # noqa: S314 - our own file
    there = {one.get("id") for one in sprite.iter("{http://www.w3.org/2000/svg}symbol")}
    asked = {name for path in own_templates() for name in re.findall(r'{% icon "([\w-]+)"', path.read_text())}
    asked |= {name for path in own_templates() for name in re.findall(r'icon="([\w-]+)"', path.read_text())}
    asked |= {"sun", "monitor", "moon", *ui._NOTE_ICONS.values(), "fleet", "instances", "runs", "audit", "team"}
    assert asked - there == set()


def rule_block(css: str, selector: str) -> dict[str, str]:
    body = css.split(selector, 1)[1].split("{", 1)[1].split("}", 1)[0]
    return dict(re.findall(r"--([\w-]+):\s*([^;]+);", body))


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def themes() -> dict[str, dict[str, str]]:
    css = (STATIC / "tokens.css").read_text()
    return {"light": rule_block(css, ":root {"[:-2]), "dark": rule_block(css, ':root[data-theme="dark"]')}


def test_both_dark_blocks_are_the_same_and_complete(themes: dict[str, dict[str, str]]) -> None:
    css = (STATIC / "tokens.css").read_text()
    assert rule_block(css, ':root:not([data-theme="light"])') == themes["dark"]
    colours = {name for name, value in themes["light"].items() if value.startswith("#")}
    assert colours <= set(themes["dark"])


TEXT_PAIRS = (
    [
        (text, ground)
        for text in ("text", "text-2", "text-3", "accent")
        for ground in ("canvas", "surface", "sunken", "nav", "raised", "hover")
        if (text, ground) != ("accent", "sunken")
    ]
    + [(tone, ground) for tone in ("ok", "warn", "bad", "busy", "mute") for ground in ("surface", f"{tone}-soft")]
    + [
        ("on-accent", "accent-fill"),
        ("on-accent", "accent-over"),
        ("on-bad", "bad-fill"),
        ("on-prod", "prod-fill"),
        ("prod", "surface"),
        ("accent", "accent-soft"),
        ("text-2", "warn-soft"),
        ("text-2", "bad-soft"),
        ("text-2", "busy-soft"),
        ("text-2", "ok-soft"),
        ("text", "accent-soft"),
        ("text-3", "mute-soft"),
    ]
)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT_PAIRS)
def test_text_can_be_read(themes: dict[str, dict[str, str]], theme: str, text: str, ground: str) -> None:
    assert contrast(themes[theme][text], themes[theme][ground]) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("line", "ground"),
    [("control", "surface"), ("control", "canvas"), ("chart-1", "surface"), ("chart-ink", "surface")],
)
def test_controls_and_lines_can_be_seen(themes: dict[str, dict[str, str]], theme: str, line: str, ground: str) -> None:
    assert contrast(themes[theme][line], themes[theme][ground]) >= 3


def test_styles_use_tokens_that_exist_and_no_colour_of_their_own(themes: dict[str, dict[str, str]]) -> None:
    known = set(themes["light"]) | {"tone", "tone-soft", "tone-line"}
    for name in ("components.css", "admin.css"):
        css = (STATIC / name).read_text()
        own = set(re.findall(r"--([\w-]+):", css))
        assert set(re.findall(r"var\(--([\w-]+)", css)) - known - own == set()
        colours = set(re.findall(r"#[0-9a-fA-F]{3,8}\b", re.sub(r"#[\w-]+(?=[\s.,:{>\[])", "", css)))
        # A QR code is dark on white in either theme, or cameras can not read it.
        assert colours <= {"#fff", "#14171f"}
        assert "url(http" not in css
        assert "@import" not in css


def test_every_tag_names_what_it_does_and_stands_in_the_reference() -> None:
    reference = ui.__doc__ or ""
    left_out = {"theme_name", "theme_switch", "nav_list", "part"}
    for name in set(ui.register.tags) - left_out:
        assert re.search(rf"{{% {name}\b", reference), name
    for name in set(ui.register.filters) - {"initials", "bytes_pair"}:
        assert f"|{name}" in reference, name
