"""The design system as template tags and filters: every part of a page, written once.

The library is built in (no ``{% load ui %}`` needed). Each tag renders ``templates/ui/<name>.html``, autoescaped.
Values from a store (names, ids, paths, documents) go through ``visible`` first. ``None`` renders as a muted dash.
A lookup that takes "objects" takes dataclasses, models or dicts with the named fields; missing fields are left out.

What base.html reads from the context
    ``nav``           list of {key, label, url, icon, count, apart}; count is text or None, apart starts a new group
    ``nav_current``   key of the current item; without it the item whose url begins the request's path longest
    ``nav_foot``      sentences at the nav's foot, such as "3 of 3 workers alive"
    ``environment``   production, staging, development …: the badge in the top bar; production adds the plum line
    ``search_url``    address of the search (GET, parameter q); without it there is no search box
    ``user_role``     the word behind the user's name, such as "operator"
    ``user``, ``request``, ``messages`` as Django gives them

Blocks of base.html
    title · environment · breadcrumbs (crumb tags) · page_head · content · extrahead · extrabody · dialogs
    The page is ``{% block content %}``: put ``{% page_head %}`` and panels in it; they are spaced by the layout.
Layout classes: columns + with-rail | with-form | halves | thirds; stack; row; spread; narrow; muted; num; two-lines.

Filters (None gives the muted dash)
    {{ n|grouped }} 1,234,567 · {{ n|bytes_h }} 4.49 GB · {% figure "Size" n|bytes_pair %} · {{ at|ago }} 6 min ago
    {{ at|distance }} 6 min · {{ at|utc }} Fri 20 Nov 2026, 03:12:44 UTC · {{ at|utc:"time" }} (day, date, minute)
    {{ s|duration }} 9 min 12 s · {{ part|percent:total }} 41 % · {{ x|ratio }} 0.914 · {{ d|short_hash }} 5f0c 91ae
    {{ id|short_id }} · {{ name|visible }} (ids, names, paths) · {{ document|visible:"text" }} (keeps line ends)

Small parts
    {% state run.state %} {% state run.state pill=True %} {% state "warning" word="12 d" title="the policy is 1 d" %}
    {% env instance.environment %} {% env "production" filled=True %} {% tag "rag" href=url %} {% kbd "g f" %}
    {% icon "download" %} {% copy text %} {% ident id %} {% ident id short=True copy=False %}
    {% when at %} 6 min ago · {% when at short=True %} 6 min · {% when at prefix="checked" %}
    {% button "Check now" href=url icon="findings" %} {% button "Approve and run" kind="primary" type="submit" %}
    {% button "Restore…" reason="You need the role approver on rag-prod-eu." %}  (disabled, reason beside it)
    {% button "Delete…" kind="destructive" dialog="delete" %}  (opens that dialog) · any hx_get=…, name=…, value=…
        kinds: default primary quiet destructive destructive-filled; small=True; wide=True; icon_only=True

Page
    {% crumb "Instances" url %} {% crumb name %}      inside {% block breadcrumbs %}; the one without url is the place
    {% page_head "rag-prod-eu" state="critical" context="checked 6 min ago" sub="…" pill=False %}
        … {% part "actions" %}{% button … %}{% endpart %} {% endpage_head %}    content: under the title
    {% tabs items current %}   items: objects {key, label, count, url}; url defaults to ?tab=<key>; param="tab"
    {% segmented items current param="state" %}   the same as a filter control
    {% chip "tag:" "rag" count=3 href=url on=True %} {% chip "jurisdiction" "$eq" '"DE"' remove=url %}
    {% filterbox name="q" value=q label="Filter by name, host, tag" %}   inside your own GET form

Panels and figures
    {% panel "Collections" context="largest 5 of 23" flush=True %} … {% part "actions" %}…{% endpart %}
        {% part "foot" %}…{% endpart %} {% endpanel %}
    {% section "Document" context="388 tokens" flush=True %} … {% endsection %}   a divided piece inside a flush panel
    {% strip flush=True %}{% figure "Size" size|bytes_pair context="in 23 collections" %}{% endstrip %}
        figure: label value unit="" context="" title="" state="" mono=False spark=values;  value may be (figure, unit)
    {% figure_states counts "of 9 instances" %}   first cell of {% strip lead=True %}; counts: {state: n} or pairs
    {% kv %}{% item "Owner" %}…{% enditem %}{% endkv %} or {% kv_list pairs %}   pairs: (label, value)
    {% note "warn" title="41 % of the slots are tombstones." %} … {% part "action" %}…{% endpart %} {% endnote %}
        kinds neutral busy ok warn bad; icon="info|shield|alert"; flush=True
    {% empty "No record matches these 3 filters." %}<a …>Remove the last one</a>{% endempty %}
    {% toast "succeeded" word="Moved" sentence="14 directories …" undo_url=url %}

Tables
    {% table label="Runs" keys=True middle=True %}<thead>…</thead><tbody>…</tbody>{% endtable %}
        dense, cards (rows become cards on phones: card-first, card-end, card-wide-cell, card-hide on cells), tall
    {% th "Records" "records" num=True default="-records" %}   link with ?sort=; without a key a plain head
    {% pager shown=16 total=18204 after=last_id next=cursor previous=cursor %}   parameters ?after= and ?before=
        labels "Previous,Next" or "Newer,Older"; noun="records"

Forms
    {% form_errors form %} {% fields form %} {% field form.ef_search unit="default 100" old=16 hint="…" %}
        old= shows "now 16" at the right when it differs and "unchanged" with a faint border when it does not

Findings, plans, runs
    {% finding "critical" sentence code="V-01" when=since open=True %} body {% part "facts" %}{% part "ids" %}
        {% part "cure" %}{% button … kind="primary" %} sentence{% endpart %} {% part "end" %}…{% endpart %}
        {% endfinding %}   a warning is a row with its small button in part "end"; a healthy or unknown one without
        body is one line of 31 px: {% finding "healthy" "No orphans." when=at %}{% endfinding %}
    {% facts pairs %}
    {% plan_lead plan.headline %} {% estimate plan.estimate %} {% changes plan.changes %} {% checks plan.checks %}
    {% call commands %}   pairs (label, text): tabs and a copy button
    {% phases items %}   objects {key, label, state done|now|todo|failed|skipped, detail, time, commit, commit_detail}
    {% progress "Building the index" done total noun="vectors" eta="about 3 min" %} {% meter done total small=True %}
    {% log lines %}   objects {at, text, level}; id= for following
    {% code text %} {% document text %} {% qr text %}
    {% record id close=url previous=url next=url %}sections {% part "actions" %}…{% endpart %} {% endrecord %}

Charts (SVG, server side, with a table behind)
    {% spark values stale=False label="Size, 90 days" %}
    {% slot_map shares columns=92 per_block=1693 note="…" %}   share of live slots per block, None is free
    {% line_chart labels series unit="recall@10" reference=0.95 reference_label="alert below 0.95" stacked=False %}
        labels: text or datetimes; series: objects {label, values, axis left|right, shape line|area}; right_unit="%"

What floats
    {% menu "Operations" groups %}   groups: objects {title, meaning, items: [{name, help, url, reason}]}
    {% dropdown "Columns" %}…{% enddropdown %}
    {% dialog "delete" "Delete 402 records" %} … {% part "actions" %}the deed{% endpart %} {% enddialog %}
        Cancel is added and has the focus; {% part "why" %} stands at the left of the foot
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from django import template
from django.template.base import Node, Parser, Token
from django.template.exceptions import TemplateSyntaxError
from django.utils.safestring import SafeString

from chromaadmin.templatetags import charts, formats

if TYPE_CHECKING:
    from django.forms import BaseForm, BoundField
    from django.template.context import Context

register = template.Library()

PARTS = "_ui_parts"
THEMES = ("light", "auto", "dark")
THEME_COOKIE = "chromaadmin_theme"

_numbers = count(1)

# Filters --------------------------------------------------------------------------------------------------------------

for _filter in (
    formats.grouped,
    formats.bytes_h,
    formats.bytes_pair,
    formats.duration,
    formats.percent,
    formats.ratio,
    formats.short_hash,
    formats.short_id,
    formats.visible,
    formats.utc,
):
    register.filter(_filter.__name__, _filter)


@register.filter
def ago(value: object) -> str:
    """A time seen from now: "6 min ago"."""
    return formats.ago(value)


@register.filter
def distance(value: object) -> str:
    """How far a time is from now, without a direction: "6 min"."""
    return formats.distance(value)


@register.filter
def initials(value: object) -> str:
    """Two letters for the round badge of a user: "operator-1" gives "O1"."""
    words = [word for word in "".join(c if c.isalnum() else " " for c in str(value)).split() if word]
    if not words:
        return "?"
    return (words[0][0] + (words[-1][0] if len(words) > 1 else words[0][1:2])).upper()


# Machinery ------------------------------------------------------------------------------------------------------------


class PartsNode(Node):
    """A block tag whose content may hold ``{% part "name" %}`` pieces; they never leak into a tag around it."""

    child_nodelists = ("nodelist",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.nodelist = inner.nodelist

    def render(self, context: Context) -> SafeString:
        with context.push(**{PARTS: {}}):
            rendered: SafeString = self.inner.render(context)
            return rendered


def _render(context: Context, name: str, data: Mapping[str, Any]) -> SafeString:
    """Render ui/<name>.html with these values only, and the request's CSRF token where there is one."""
    engine = context.template.engine  # type: ignore[union-attr]
    inner = context.new(dict(data))
    if (token := context.get("csrf_token")) is not None:
        inner["csrf_token"] = token
    rendered: SafeString = engine.get_template(f"ui/{name}.html").render(inner)
    return rendered


def block_tag(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Register a block tag: the function returns the values of ui/<name>.html, which also gets content and parts."""
    name = function.__name__.rstrip("_")

    @functools.wraps(function)
    def rendered(context: Context, content: SafeString, /, *args: Any, **kwargs: Any) -> SafeString:
        values = function(context, content, *args, **kwargs)
        inside = content if content.strip() else ""
        return _render(context, name, {"content": inside, "parts": context[PARTS], **values})

    register.simple_block_tag(rendered, takes_context=True, name=name)
    compile_inner = register.tags[name]

    def compile_tag(parser: Parser, token: Token) -> PartsNode:
        return PartsNode(compile_inner(parser, token))

    register.tag(name, compile_tag)
    return function


@register.simple_block_tag(takes_context=True)
def part(context: Context, content: SafeString, name: str) -> str:
    """A named piece of the block tag around it: actions, foot, cure …"""
    if PARTS not in context:
        raise TemplateSyntaxError(f"part {name!r} stands in no tag that takes parts")
    if content.strip():
        context[PARTS][name] = content
    return ""


def _get(thing: object, name: str, default: Any = None) -> Any:
    """A field of a dict, dataclass or model; ``default`` where it is missing or None."""
    value = thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
    return default if value is None else value


def _attributes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Extra attributes of a control: hx_get becomes hx-get; what the content policy forbids is refused at once."""
    out = {}
    for key, value in given.items():
        name = key.rstrip("_").replace("_", "-")
        if name == "style" or name.startswith("on"):
            raise TemplateSyntaxError(f"the attribute {name} is forbidden by the content policy")
        if value is not None and value is not False:
            out[name] = value
    return out


def _query(context: Context, **changes: object) -> str:
    """The present query string with some parameters set, or removed by None; always starts with "?"."""
    request = context.get("request")
    params = request.GET.copy() if request is not None else {}
    if not hasattr(params, "urlencode"):
        from django.http import QueryDict

        params = QueryDict(mutable=True)
    for key, value in changes.items():
        if value is None:
            params.pop(key, None)
        else:
            params[key] = str(value)
    return f"?{params.urlencode()}"


def _asked(context: Context, name: str) -> str:
    request = context.get("request")
    return request.GET.get(name, "") if request is not None else ""


# Small parts ----------------------------------------------------------------------------------------------------------

# Shapes in a box of 10 × 10: (filled path, stroked path, whether the stroke is dashed).
_SHAPES = {
    "dot": ("M5 1a4 4 0 1 1 0 8 4 4 0 0 1 0-8z", "", False),
    "triangle": ("M5 1.2 9.6 9.2H.4z", "", False),
    "diamond": ("M5 .5 9.5 5 5 9.5.5 5z", "", False),
    "octagon": ("M3.15.5h3.7L9.5 3.15v3.7L6.85 9.5h-3.7L.5 6.85v-3.7z", "", False),
    "ring": ("", "M5 1.45a3.55 3.55 0 1 1 0 7.1 3.55 3.55 0 0 1 0-7.1z", False),
    "half": ("M5 1.45a3.55 3.55 0 1 1 0 7.1z", "M5 1.45a3.55 3.55 0 1 1 0 7.1 3.55 3.55 0 0 1 0-7.1z", False),
    "dashed": ("", "M5 1.45a3.55 3.55 0 1 1 0 7.1 3.55 3.55 0 0 1 0-7.1z", True),
    "pause": ("M2.2 1h2v8h-2zM5.8 1h2v8h-2z", "", False),
    "square": ("", "M1.75 1.75h6.5v6.5h-6.5z", False),
    "bar": ("M1 4.2h8v1.6H1z", "", False),
}

# state: (shape, tone, word)
_STATES = {
    "healthy": ("dot", "ok", "Healthy"),
    "warning": ("triangle", "warn", "Warning"),
    "error": ("diamond", "bad", "Error"),
    "critical": ("octagon", "critical", "Critical"),
    "unknown": ("ring", "mute", "Unknown"),
    "info": ("bar", "mute", "Info"),
    "running": ("half", "busy", "Running"),
    "queued": ("dashed", "busy", "Queued"),
    "waiting": ("pause", "mute", "Waiting"),
    "awaiting_approval": ("pause", "mute", "Waiting"),
    "succeeded": ("dot", "ok", "Succeeded"),
    "refused": ("triangle", "warn", "Refused"),
    "failed": ("diamond", "bad", "Failed"),
    "errored": ("diamond", "bad", "Errored"),
    "lost": ("diamond", "bad", "Lost"),
    "needs_operator": ("octagon", "critical", "Needs operator"),
    "cancelled": ("square", "mute", "Cancelled"),
    "passed": ("dot", "ok", "Passed"),
    "attest": ("triangle", "warn", "You attest"),
}


def _state(value: object, word: object = None) -> dict[str, Any]:
    key = "unknown" if value is None else str(getattr(value, "value", value)).lower()
    shape, tone, default = _STATES.get(key, ("ring", "mute", formats.visible(key).replace("_", " ").capitalize()))
    if key == "ok":
        shape, tone, default = _STATES["healthy"]
    fill, line, dashed = _SHAPES[shape]
    return {
        "key": key,
        "tone": tone,
        "word": default if word is None else word,
        "fill": fill,
        "line": line,
        "dashed": dashed,
    }


@register.inclusion_tag("ui/state.html")
def state(
    value: object, word: object = None, title: str = "", pill: bool = False, plain: bool = False
) -> dict[str, Any]:
    """A state as shape, word and colour; an unheard-of one is muted with its own word, never green.

    ``pill`` is for the place beside a page title; ``plain`` takes the filled ground from critical.
    """
    return {**_state(value, word), "title": title, "pill": pill, "plain": plain}


@register.inclusion_tag("ui/env.html")
def env(value: object, filled: bool = False) -> dict[str, Any]:
    """The environment of an instance as a badge."""
    word = "" if value is None else formats.visible(getattr(value, "value", value))
    return {"word": word, "production": word.lower() == "production", "filled": filled}


@register.inclusion_tag("ui/icon.html")
def icon(name: str, label: str = "", css: str = "") -> dict[str, Any]:
    """An icon of the sprite; with a label it is an image to a screen reader, without it decoration."""
    return {"name": name, "label": label, "css": css}


@register.inclusion_tag("ui/copy.html")
def copy(text: object, label: str = "Copy") -> dict[str, Any]:
    """A button that copies exactly this text."""
    return {"text": _encodable(text), "label": label}


def _encodable(text: object) -> str:
    """The text itself, or its visible form where it holds lone surrogates, which no page can carry."""
    exact = str(text)
    try:
        exact.encode()
    except UnicodeEncodeError:
        return formats.visible(exact)
    return exact


@register.inclusion_tag("ui/ident.html")
def ident(value: object, short: bool = False, copy: bool = True, href: str = "") -> dict[str, Any]:
    """An id, path or hash in mono with a copy button; what hides in it is shown as escapes, the copy is exact."""
    known = value is not None and value != ""
    return {
        "known": known,
        "shown": formats.short_id(value) if short else formats.visible(value),
        "whole": formats.visible(value) if known else "",
        "exact": _encodable(value) if known else "",
        "short": short,
        "copy": copy and known,
        "href": href,
    }


@register.inclusion_tag("ui/kbd.html")
def kbd(keys: str) -> dict[str, Any]:
    """Keys, one after the other: "g f"."""
    return {"keys": keys.split()}


@register.inclusion_tag("ui/tag.html")
def tag(text: object, href: str = "", mono: bool = False) -> dict[str, Any]:
    """A small grey label: a tag, an effect, an id in a list of ids."""
    return {"text": formats.visible(text), "href": href, "mono": mono}


@register.inclusion_tag("ui/when.html")
def when(value: object, short: bool = False, prefix: str = "", absolute: str = "") -> dict[str, Any]:
    """A time relative to now, absolute on hover. ``absolute`` turns it round: a style of the utc filter."""
    relative = formats.distance(value) if short else formats.ago(value)
    is_time = isinstance(value, datetime)
    full = formats.utc(value)
    return {
        "known": is_time,
        "text": formats.utc(value, "" if absolute == "full" else absolute) if absolute else relative,
        "title": f"{full}, {formats.ago(value)}" if absolute else full,
        "machine": value.isoformat() if isinstance(value, datetime) else "",
        "prefix": prefix if is_time else "",
    }


_BUTTON_KINDS = frozenset({"default", "primary", "quiet", "destructive", "destructive-filled"})


@register.inclusion_tag("ui/button.html")
def button(
    label: str,
    href: str = "",
    kind: str = "default",
    icon: str = "",
    type: str = "button",
    small: bool = False,
    wide: bool = False,
    icon_only: bool = False,
    reason: str = "",
    dialog: str = "",
    focus: bool = False,
    **attributes: Any,
) -> dict[str, Any]:
    """A link or button of one look. With ``reason`` it is off and the reason stands beside it, in words."""
    if kind not in _BUTTON_KINDS:
        raise TemplateSyntaxError(f"button kind {kind!r} is none of {sorted(_BUTTON_KINDS)}")
    return {
        "label": label,
        "href": href,
        "kind": kind,
        "icon": icon,
        "type": type,
        "small": small,
        "wide": wide,
        "icon_only": icon_only,
        "reason": reason,
        "reason_id": f"why-{next(_numbers)}" if reason else "",
        "dialog": dialog,
        "focus": focus,
        "attributes": _attributes(attributes),
    }


# Page -----------------------------------------------------------------------------------------------------------------


@register.simple_tag(takes_context=True)
def theme_name(context: Context) -> str:
    """The theme this browser asked for: light, auto or dark, from the cookie, so that a page never flashes."""
    request = context.get("request")
    chosen = request.COOKIES.get(THEME_COOKIE, "") if request is not None else ""
    return chosen if chosen in THEMES else "auto"


@register.inclusion_tag("ui/theme_switch.html", takes_context=True)
def theme_switch(context: Context) -> dict[str, Any]:
    """Light, as the system, dark."""
    names = {"light": ("sun", "Light"), "auto": ("monitor", "As the system"), "dark": ("moon", "Dark")}
    chosen = theme_name(context)
    return {"themes": [(name, *names[name], name == chosen) for name in THEMES]}


@register.inclusion_tag("ui/nav_list.html", takes_context=True)
def nav_list(context: Context) -> dict[str, Any]:
    """The side navigation from ``nav``, with the present place marked."""
    names = ("key", "label", "url", "icon", "count", "apart")
    entries = [{name: _get(one, name, "") for name in names} for one in context.get("nav") or ()]
    current = context.get("nav_current") or ""
    request = context.get("request")
    if not current and request is not None:
        here = request.path
        inside = [one for one in entries if here == one["url"] or (len(one["url"]) > 1 and here.startswith(one["url"]))]
        current = max(inside, key=lambda one: len(one["url"]))["key"] if inside else ""
    return {"entries": entries, "current": current}


@register.inclusion_tag("ui/crumb.html")
def crumb(label: object, url: str = "") -> dict[str, Any]:
    """One step of the way here; the last one has no address."""
    return {"label": formats.visible(label), "url": url}


@block_tag
def page_head(
    context: Context,
    content: SafeString,
    /,
    title: object,
    state: object = "",
    sub: object = "",
    pill: bool = False,
    **rest: Any,
) -> dict[str, Any]:
    """Title, state, grey context (``context=``), the line under it, and the actions at the right."""
    return {
        "title": formats.visible(title),
        "state": state,
        "context": rest.get("context", ""),
        "sub": sub,
        "pill": pill,
    }


def _choices(
    context: Context, items: Iterable[Any], current: object, param: str, *, keep: bool
) -> list[dict[str, Any]]:
    chosen = _asked(context, param) if current is None else str(current)
    rows = []
    for item in items:
        key = str(_get(item, "key", ""))
        own = {param: key or None, "after": None, "before": None}
        url = _get(item, "url") or (_query(context, **own) if keep else f"?{param}={key}")
        amount = _get(item, "count")
        rows.append(
            {
                "label": _get(item, "label", key),
                "count": formats.grouped(amount) if isinstance(amount, int) else amount,
                "url": url,
                "current": key == chosen,
            }
        )
    if rows and not chosen and not any(row["current"] for row in rows):
        rows[0]["current"] = True
    return rows


@register.inclusion_tag("ui/tabs.html", takes_context=True)
def tabs(
    context: Context, items: Iterable[Any], current: object = None, param: str = "tab", label: str = "Views"
) -> dict[str, Any]:
    """Tabs with counts, in the address; a tab starts with an empty query otherwise."""
    return {"tabs": _choices(context, items, current, param, keep=False), "label": label}


@register.inclusion_tag("ui/segmented.html", takes_context=True)
def segmented(
    context: Context, items: Iterable[Any], current: object = None, param: str = "state", label: str = "Filter"
) -> dict[str, Any]:
    """A filter as one joined control; it keeps the rest of the query, and goes back to the first page."""
    return {"choices": _choices(context, items, current, param, keep=True), "label": label}


@register.inclusion_tag("ui/chip.html")
def chip(
    first: object,
    second: object = "",
    third: object = "",
    count: object = None,
    href: str = "",
    on: bool = False,
    remove: str = "",
    add: bool = False,
) -> dict[str, Any]:
    """One filter as a chip: word, bold word, value; with ``remove`` it can be taken away."""
    words = [formats.visible(word) for word in (first, second, third)]
    return {
        "first": words[0],
        "second": words[1],
        "third": words[2],
        "count": count,
        "href": href,
        "on": on,
        "remove": remove,
        "add": add,
    }


@register.inclusion_tag("ui/filterbox.html")
def filterbox(name: str = "q", value: object = "", label: str = "Filter", icon: str = "filter") -> dict[str, Any]:
    """A search field inside a page's own GET form."""
    return {"name": name, "value": value or "", "label": label, "icon": icon}


# Panels and figures ---------------------------------------------------------------------------------------------------


@block_tag
def panel(
    context: Context,
    content: SafeString,
    /,
    title: object = "",
    flush: bool = False,
    id: str = "",
    sunken: bool = False,
    prose: bool = False,
    **rest: Any,
) -> dict[str, Any]:
    """Head (title, grey ``context=``, actions), body, foot. ``flush``: the body brings its own padding."""
    return {
        "title": title,
        "context": rest.get("context", ""),
        "flush": flush,
        "id": id,
        "sunken": sunken,
        "prose": prose,
    }


@block_tag
def section(
    context: Context, content: SafeString, /, title: object = "", flush: bool = False, **rest: Any
) -> dict[str, Any]:
    """A divided piece of a flush panel with a small head and grey ``context=``."""
    return {"title": title, "context": rest.get("context", ""), "flush": flush}


@block_tag
def strip(context: Context, content: SafeString, /, flush: bool = False, lead: bool = False) -> dict[str, Any]:
    """Three to six figures in a row. ``lead``: the first cell is as wide as it needs (figure_states)."""
    return {"flush": flush, "lead": lead}


@register.inclusion_tag("ui/figure.html")
def figure(
    label: str,
    value: object,
    unit: str = "",
    title: str = "",
    state: object = "",
    mono: bool = False,
    spark: Sequence[object] = (),
    **rest: Any,
) -> dict[str, Any]:
    """One figure: label, value with a small unit, one line of grey ``context=``. An int is grouped."""
    if isinstance(value, tuple) and len(value) == 2:
        value, unit = value
    if value is None or value == "":
        value, unit = formats.UNKNOWN, ""
    elif isinstance(value, int) and not isinstance(value, bool):
        value = formats.grouped(value)
    return {
        "label": label,
        "value": value,
        "unit": unit,
        "context": rest.get("context", ""),
        "title": title,
        "state": state,
        "mono": mono,
        "spark": spark,
    }


@register.inclusion_tag("ui/figure_states.html")
def figure_states(counts: Any, sentence: str = "", links: str = "") -> dict[str, Any]:
    """How many are in each state, worst first as given. ``links``: address to which the state is added."""
    pairs = counts.items() if isinstance(counts, Mapping) else counts
    return {"counts": [(key, amount, f"{links}{key}" if links else "") for key, amount in pairs], "sentence": sentence}


@block_tag
def kv(context: Context, content: SafeString, /, wide: bool = False) -> dict[str, Any]:
    """A list of labels and values; its rows are ``item`` tags."""
    return {"wide": wide}


@block_tag
def item(context: Context, content: SafeString, /, label: object) -> dict[str, Any]:
    """One row of a kv list."""
    return {"label": formats.visible(label)}


@register.inclusion_tag("ui/kv_list.html")
def kv_list(pairs: Any, wide: bool = False) -> dict[str, Any]:
    """A kv list from (label, value) pairs or a dict."""
    return {"pairs": list(pairs.items() if isinstance(pairs, Mapping) else pairs), "wide": wide}


_NOTE_ICONS = {"neutral": "info", "busy": "shield", "ok": "shield", "warn": "alert", "bad": "alert"}


@block_tag
def note(
    context: Context,
    content: SafeString,
    /,
    kind: str = "neutral",
    title: object = "",
    icon: str = "",
    flush: bool = False,
    id: str = "",
) -> dict[str, Any]:
    """Icon, bold sentence, grey continuation; at most one coloured one per screen."""
    if kind not in _NOTE_ICONS:
        raise TemplateSyntaxError(f"note kind {kind!r} is none of {sorted(_NOTE_ICONS)}")
    return {"kind": kind, "title": title, "icon": icon or _NOTE_ICONS[kind], "flush": flush, "id": id}


@block_tag
def empty(context: Context, content: SafeString, /, sentence: object = "") -> dict[str, Any]:
    """Why there is nothing, and the way out."""
    return {"sentence": sentence}


@register.inclusion_tag("ui/toast.html", takes_context=True)
def toast(
    context: Context,
    state: object = "info",
    sentence: object = "",
    word: object = None,
    undo_url: str = "",
    undo_label: str = "Undo",
) -> dict[str, Any]:
    """What is done, with Undo where there is one; never an error."""
    return {
        "state": state,
        "sentence": sentence,
        "word": word,
        "undo_url": undo_url,
        "undo_label": undo_label,
        "csrf_token": context.get("csrf_token"),
    }


# Tables ---------------------------------------------------------------------------------------------------------------


@block_tag
def table(
    context: Context,
    content: SafeString,
    /,
    label: str = "",
    keys: bool = False,
    dense: bool = False,
    middle: bool = False,
    cards: bool = False,
    tall: bool = False,
    id: str = "",
) -> dict[str, Any]:
    """A table that scrolls inside itself. ``keys``: j and k move its rows, Enter opens the first link of one."""
    return {"label": label, "keys": keys, "dense": dense, "middle": middle, "cards": cards, "tall": tall, "id": id}


@register.inclusion_tag("ui/th.html", takes_context=True)
def th(
    context: Context,
    label: str,
    key: str = "",
    num: bool = False,
    default: str = "",
    param: str = "sort",
    first: str = "",
    title: str = "",
) -> dict[str, Any]:
    """A table head; with a key a link that sorts. ``default`` is the order without ?sort=, such as "-records".

    ``first`` "desc" sorts downwards at the first click; numbers do so anyway.
    """
    order = _asked(context, param) or default
    up, down = order == key and bool(key), order == f"-{key}" and bool(key)
    downwards = up or (not down and (num or first == "desc"))
    return {
        "label": label,
        "num": num,
        "title": title,
        "sort": "ascending" if up else "descending" if down else "",
        "url": _query(context, **{param: f"-{key}" if downwards else key, "after": None, "before": None})
        if key
        else "",
    }


@register.inclusion_tag("ui/pager.html", takes_context=True)
def pager(
    context: Context,
    shown: int,
    total: int | None = None,
    after: object = "",
    next: object = None,
    previous: object = None,
    labels: str = "Previous,Next",
    noun: str = "",
    next_param: str = "after",
    previous_param: str = "before",
) -> dict[str, Any]:
    """The foot of a list that is paged by key: what is shown, and the way on. Cursors are None at an end."""
    back, on = labels.split(",")
    other = {next_param: None, previous_param: None}
    return {
        "shown": shown,
        "total": total,
        "after": formats.visible(after) if after else "",
        "noun": noun,
        "back": back,
        "on": on,
        "previous_url": _query(context, **{**other, previous_param: previous}) if previous is not None else "",
        "next_url": _query(context, **{**other, next_param: next}) if next is not None else "",
    }


# Forms ----------------------------------------------------------------------------------------------------------------


@register.inclusion_tag("ui/form_errors.html")
def form_errors(form: BaseForm) -> dict[str, Any]:
    """The errors that belong to no single field, and those of hidden fields."""
    hidden = [error for field in form.hidden_fields() for error in field.errors]
    return {"errors": [*form.non_field_errors(), *hidden]}


@register.inclusion_tag("ui/fields.html")
def fields(form: BaseForm) -> dict[str, Any]:
    """All fields of a form, hidden ones and general errors included."""
    return {"form": form}


@register.inclusion_tag("ui/field.html")
def field(
    bound: BoundField,
    unit: object = "",
    old: object = None,
    hint: object = None,
    unchanged: bool = False,
    label: object = None,
    **attributes: Any,
) -> dict[str, Any]:
    """A form field with its label, the unit or old value at the right, hint, and error sentence.

    ``old`` is the value that holds now: it is shown as "now 16" while the field differs, else as "unchanged".
    """
    widget = bound.field.widget
    input_type = getattr(widget, "input_type", "")
    if input_type == "radio" or (input_type == "checkbox" and hasattr(widget, "allow_multiple_selected")):
        shape = "choices"
    elif input_type == "checkbox":
        shape = "check"
    elif input_type == "select":
        shape = "select"
    else:
        shape = "text" if input_type else "area"
    side = unit
    if old is not None:
        same = str(bound.value()) == str(old)
        unchanged = unchanged or same
        side = side or ("unchanged" if same else f"now {formats.visible(old)}")
    ident_ = bound.id_for_label or bound.auto_id
    text = bound.help_text if hint is None else hint
    described = [f"{ident_}_{suffix}" for suffix, there in (("hint", text), ("error", bound.errors)) if there]
    given = _attributes(attributes)
    if described:
        given["aria-describedby"] = " ".join(described)
    return {
        "field": bound,
        "control": bound.as_widget(attrs=given),
        "shape": shape,
        "label": bound.label if label is None else label,
        "id": ident_,
        "side": side,
        "hint": text,
        "unchanged": unchanged and not bound.errors,
        "errors": bound.errors,
        "optional": not bound.field.required,
        "multiple": bool(getattr(widget, "allow_multiple_selected", False)),
    }


# Findings, plans, runs ------------------------------------------------------------------------------------------------


@block_tag
def finding(
    context: Context,
    content: SafeString,
    /,
    state: object,
    sentence: object,
    code: str = "",
    when: object = None,
    open: bool = False,
    id: str = "",
    href: str = "",
) -> dict[str, Any]:
    """One finding: a line when healthy, muted when unknown, a row with its button, or opened with all it knows."""
    shown = _state(state)
    opened = open or bool(content.strip()) or any(name in context[PARTS] for name in ("facts", "ids", "cure"))
    quiet = not opened and "end" not in context[PARTS] and shown["tone"] in {"ok", "mute"}
    return {
        "state": state,
        "tone": shown["tone"],
        "sentence": sentence,
        "code": code,
        "when": when,
        "open": opened,
        "quiet": quiet,
        "id": id,
        "href": href,
    }


@register.inclusion_tag("ui/facts.html")
def facts(pairs: Any) -> dict[str, Any]:
    """Labels with bold values in a row."""
    return {"pairs": list(pairs.items() if isinstance(pairs, Mapping) else pairs)}


@register.inclusion_tag("ui/plan_lead.html")
def plan_lead(sentence: object) -> dict[str, Any]:
    """What the plan would do, in one sentence."""
    return {"sentence": sentence}


def _span(shortest: float | None, longest: float | None) -> tuple[str, str]:
    """A duration between two bounds as figure and unit: ("9 – 12", "min")."""
    if longest is None:
        return formats.UNKNOWN, ""
    second = formats.duration(longest)
    first = second if shortest is None else formats.duration(shortest)
    if second.count(" ") == 1:
        figure, _, unit = second.partition(" ")
        if first == second:
            return figure, unit
        if first.count(" ") == 1 and first.endswith(f" {unit}"):
            return f"{first.partition(' ')[0]} – {figure}", unit
    return (second if first == second else f"{first} – {second}"), ""


@register.inclusion_tag("ui/estimate.html")
def estimate(value: Any, tables: str = "") -> dict[str, Any]:
    """The five figures of a plan from its estimate; what can not be told is a dash."""
    shortest, longest = _get(value, "shortest_s"), _get(value, "longest_s")
    time = _span(shortest, longest)
    now, later = _get(value, "freed_now_bytes"), _get(value, "freed_at_expiry_bytes")
    needed = _get(value, "needed_bytes")
    given_back = later if now is None or (later or 0) > now else now
    return {
        "rows": _get(value, "rows"),
        "written": formats.bytes_pair(_get(value, "written_bytes")),
        "free": formats.bytes_pair(_get(value, "free_bytes")),
        "needed": formats.bytes_h(needed) if needed is not None else "",
        "time": time,
        "time_note": "" if longest is None else "estimated",
        "given_back": formats.bytes_pair(given_back),
        "given_back_when": "" if given_back is None else "when the undo expires" if given_back != now else "at once",
        "tables": tables,
    }


@register.inclusion_tag("ui/changes.html")
def changes(rows: Iterable[Any], mono: bool = False) -> dict[str, Any]:
    """What will change: objects {what, now, after}."""
    return {"rows": [{name: _get(row, name) for name in ("what", "now", "after")} for row in rows], "mono": mono}


@register.inclusion_tag("ui/checks.html")
def checks(items: Iterable[Any]) -> dict[str, Any]:
    """What was looked at before the start: objects {state passed|attest|refused, sentence, code}."""
    return {"items": [{name: _get(one, name, "") for name in ("state", "sentence", "code")} for one in items]}


@register.inclusion_tag("ui/call.html")
def call(commands: Iterable[tuple[str, str]], title: str = "The same call") -> dict[str, Any]:
    """The same request at the other doors: (label, text) pairs as tabs with a copy button."""
    number = next(_numbers)
    return {"commands": [(f"call-{number}-{index}", *pair) for index, pair in enumerate(commands)], "title": title}


_PHASE_STATES = frozenset({"done", "now", "todo", "failed", "skipped"})


@register.inclusion_tag("ui/phases.html")
def phases(items: Iterable[Any]) -> dict[str, Any]:
    """The phases of a run with the commit point: objects {key, label, state, detail, time, commit, commit_detail}."""
    rows = []
    for one in items:
        where = str(_get(one, "state", "todo"))
        spent = _get(one, "time", "")
        rows.append(
            {
                "label": _get(one, "label", ""),
                "state": where if where in _PHASE_STATES else "todo",
                "detail": _get(one, "detail", ""),
                "time": formats.duration(spent)
                if isinstance(spent, int | float)
                else formats.utc(spent, "time")
                if isinstance(spent, datetime)
                else spent,
                "commit": bool(_get(one, "commit", False)),
                "commit_detail": _get(one, "commit_detail", ""),
            }
        )
    return {"rows": rows}


def _share(done: object, total: object) -> dict[str, Any]:
    part_, whole = charts.known(done), charts.known(total)
    if part_ is None or whole is None or whole <= 0:
        return {"known": False, "width": "0", "percent": formats.UNKNOWN}
    share = min(1.0, max(0.0, part_ / whole))
    return {"known": True, "width": charts.trim(100 * share), "percent": formats.percent(share)}


@register.inclusion_tag("ui/meter.html")
def meter(
    done: object, total: object, label: str = "Progress", small: bool = False, big: bool = False, tone: str = ""
) -> dict[str, Any]:
    """A bar of a share; empty and said to be unknown when the total is."""
    return {
        **_share(done, total),
        "label": label,
        "small": small,
        "big": big,
        "tone": tone,
        "done": done,
        "total": total,
    }


@register.inclusion_tag("ui/progress.html")
def progress(
    title: object, done: object, total: object, noun: str = "", eta: object = "", small: bool = False
) -> dict[str, Any]:
    """A phase with its bar, percentage, both counts and what is left."""
    return {
        **_share(done, total),
        "title": title,
        "done": done,
        "total": total,
        "noun": noun,
        "eta": eta,
        "small": small,
    }


@register.inclusion_tag("ui/log.html")
def log(lines: Iterable[Any], id: str = "log", label: str = "Log") -> dict[str, Any]:
    """Log lines: objects {at, text, level}; level warning and error are toned."""
    rows = []
    for line in lines:
        at = _get(line, "at", "")
        level = str(_get(line, "level", "")).lower()
        rows.append(
            {
                "at": formats.utc(at, "time") if isinstance(at, datetime) else at,
                "text": formats.visible(_get(line, "text", "")),
                "tone": "warn" if level.startswith("warn") else "bad" if level in {"error", "critical", "bad"} else "",
            }
        )
    return {"lines": rows, "id": id, "label": label}


@register.inclusion_tag("ui/code.html")
def code(text: object, label: str = "Copy") -> dict[str, Any]:
    """A command or a piece of data in mono with a copy button."""
    return {"text": _encodable(text), "label": label}


@register.inclusion_tag("ui/document.html")
def document(text: object) -> dict[str, Any]:
    """A document of a record: untrusted text, line ends kept, what hides shown."""
    return {"text": None if text is None else formats.visible(text, "text")}


@register.inclusion_tag("ui/qr.html")
def qr(text: str, label: str = "QR code") -> dict[str, Any]:
    """A QR code as one SVG path, so that no data: address is needed under the content policy."""
    from qrcode.constants import ERROR_CORRECT_M
    from qrcode.main import QRCode

    built: Any = QRCode(border=0, error_correction=ERROR_CORRECT_M)
    built.add_data(text)
    matrix = built.get_matrix()
    path = "".join(f"M{x} {y}h1v1h-1z" for y, row in enumerate(matrix) for x, dark in enumerate(row) if dark)
    return {"size": str(len(matrix)), "path": path, "label": label}


@block_tag
def record(
    context: Context, content: SafeString, /, id: object, close: str = "", previous: str = "", next: str = ""
) -> dict[str, Any]:
    """The panel of one record: id, way to its neighbours, actions, then sections."""
    return {"id": id, "close": close, "previous": previous, "next": next}


# Charts ---------------------------------------------------------------------------------------------------------------


@register.inclusion_tag("ui/spark.html")
def spark(
    values: Sequence[object] | None, stale: bool = False, label: str = "Trend", width: int = 64, height: int = 24
) -> dict[str, Any]:
    """A small line, muted when its data is stale; nothing below two known values."""
    return {"spark": charts.spark(list(values or ()), width, height), "stale": stale, "label": label}


@register.inclusion_tag("ui/slot_map.html")
def slot_map(
    values: Sequence[object], columns: int = 92, per_block: int | None = None, note: str = ""
) -> dict[str, Any]:
    """The slots of an index in the order of insertion, a block each, with a legend and counts behind."""
    return {"map": charts.slot_map(list(values), columns), "per_block": per_block, "note": note}


@register.inclusion_tag("ui/line_chart.html")
def line_chart(
    labels: Sequence[object],
    series: Iterable[Any],
    unit: str = "",
    right_unit: str = "",
    height: int = 160,
    low: float | None = None,
    high: float | None = None,
    reference: float | None = None,
    reference_label: str = "",
    stacked: bool = False,
    label: str = "Chart",
    note: str = "",
    legend: bool = True,
) -> dict[str, Any]:
    """A line or stacked area chart with axes, units, direct labels, and its table behind it."""
    given = [
        charts.SeriesInput(
            label=str(_get(one, "label", "")),
            values=[charts.known(value) for value in _get(one, "values", ())],
            axis=str(_get(one, "axis", "left")),
            shape=str(_get(one, "shape", "line")),
        )
        for one in series
    ]
    texts = [formats.utc(one, "day") if isinstance(one, datetime) else str(one) for one in labels]
    for one in given:
        if len(one.values) != len(texts):
            raise TemplateSyntaxError(f"series {one.label!r} has {len(one.values)} values for {len(texts)} labels")
    return {
        "chart": charts.line_chart(
            texts, given, height=height, low=low, high=high, reference=reference, stacked=stacked
        ),
        "series": given,
        "unit": unit,
        "unit_on_axis": 0 < len(unit) <= 4,
        "right_unit": right_unit,
        "reference_label": reference_label,
        "label": label,
        "note": note,
        "legend": legend and not stacked,
    }


# What floats ----------------------------------------------------------------------------------------------------------


@register.inclusion_tag("ui/menu.html")
def menu(label: str, groups: Iterable[Any], all_url: str = "", all_label: str = "") -> dict[str, Any]:
    """The operations in their groups; the group says what its effect means, an item why it is not to be had."""
    shown = []
    for group in groups:
        items = _get(group, "items", ())
        if callable(items):  # a dict's own method where a plain dict was given without the key
            items = ()
        shown.append(
            {
                "title": _get(group, "title", ""),
                "meaning": _get(group, "meaning", ""),
                "items": [{name: _get(one, name, "") for name in ("name", "help", "url", "reason")} for one in items],
            }
        )
    return {"label": label, "groups": shown, "all_url": all_url, "all_label": all_label}


@block_tag
def dropdown(
    context: Context,
    content: SafeString,
    /,
    label: str,
    value: object = "",
    small: bool = True,
    left: bool = False,
    icon: str = "",
) -> dict[str, Any]:
    """A button that opens a box with whatever stands in it (menu-item menu-plain for plain lines)."""
    return {"label": label, "value": value, "small": small, "left": left, "icon": icon}


@block_tag
def dialog(
    context: Context, content: SafeString, /, id: str, title: object, action: str = "", **rest: Any
) -> dict[str, Any]:
    """A native dialog. Cancel has the focus; the deed is in part "actions". With ``action`` it is a POST form."""
    return {"id": id, "title": title, "action": action}
