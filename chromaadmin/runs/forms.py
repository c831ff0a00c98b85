"""The form of an operation, made from its declaration, and the form with which a plan is approved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from django import forms
from django.forms.boundfield import BoundField
from django.http import QueryDict

from chromaadmin.templatetags import formats
from ops.errors import BadParameters
from ops.operation import Operation
from ops.params import Parameter, parameters, parse
from ops.plan import Plan
from ops.selection import SelectsCollections

AnyClass = type[Operation[Any]]
NAMES, IDS = "collections", "collection_ids"  # what a parameter about collections takes
_KEEP = "as it is"
# Whoever chooses a collection from the list has named it; these are for what the list can not say.
_BESIDE_THE_LIST = frozenset(field.name for field in fields(SelectsCollections)) - {"collection_id"}


@dataclass(frozen=True, kw_only=True)
class CollectionChoice:
    """One collection that a form offers; the same name may stand in several databases."""

    id: str
    name: str
    tenant: str
    database: str

    @property
    def label(self) -> str:
        return f"{formats.visible(self.name)}  ·  {formats.visible(self.tenant)} / {formats.visible(self.database)}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One field of an operation's form as it is drawn: ``side`` is its unit or the value that holds now."""

    bound: BoundField
    side: str = ""
    unchanged: bool = False
    placeholder: str | None = None
    hint: str | None = None


class OperationForm(forms.Form):
    """One form for every operation. ``operation`` is the value it asks for, once it is valid.

    Fields only collect: what is right and wrong is said by ``parse()``, so that form and command line never differ.
    ``current`` maps parameter names to the values that hold in the store now, as text.
    """

    def __init__(
        self,
        operation_class: AnyClass,
        data: QueryDict | None = None,
        *,
        asked: QueryDict | None = None,
        collections: Sequence[CollectionChoice] = (),
        current: Mapping[str, str] | None = None,
    ) -> None:
        self.operation_class = operation_class
        self.parameters = parameters(operation_class)
        self.current = dict(current or {})
        self.about = ""
        self.operation: Operation[Any] | None = None
        super().__init__(data, initial=_initial(self.parameters, asked))
        all_meant = _all_meant(operation_class)
        for parameter in self.parameters:
            self.fields[parameter.name] = _field(parameter, collections, self._asked_for(parameter), all_meant)

    def clean(self) -> dict[str, Any]:
        """The operation value, or the sentence of every field that is wrong."""
        cleaned = super().clean() or {}
        try:
            operation = parse(self.operation_class, given(self._sent(), cleaned))
            self.operation = None if self.errors else operation
        except BadParameters as error:
            for name, sentence in error.details["fields"].items():  # type: ignore[attr-defined]
                place = self._place_of(name)
                if place is None or place not in self.errors:
                    self.add_error(place, sentence)
        return cleaned

    def _sent(self) -> list[Parameter]:
        """The parameters that were sent; what a page left out keeps its default, an unchecked box was sent as no."""
        return [
            one
            for one in self.parameters
            if not self.fields[one.name].widget.value_omitted_from_data(
                self.data, self.files, self.add_prefix(one.name)
            )
        ]

    def rows(self) -> list[Row]:
        """The fields that are always in view."""
        return [self._row(parameter) for parameter in self.parameters if not self._is_folded(parameter)]

    def folded(self) -> list[Row]:
        """The fields that few people need; they stand open when one of them was filled or is wrong."""
        return [self._row(parameter) for parameter in self.parameters if self._is_folded(parameter)]

    def folded_open(self) -> bool:
        """Whether something in the folded part has to be seen."""
        return any(
            bool(self[parameter.name].errors) or self[parameter.name].value() not in _nothing(parameter)
            for parameter in self.parameters
            if self._is_folded(parameter)
        )

    def chosen_collection(self) -> str:
        """The id of the one collection the form is about; empty for none and for several."""
        for parameter in self.parameters:
            if parameter.spec.source == IDS:
                asked = [value for value in self._asked_for(parameter) if value]
                return asked[0] if len(asked) == 1 else ""
        return ""

    def _is_folded(self, parameter: Parameter) -> bool:
        beside = issubclass(self.operation_class, SelectsCollections) and parameter.name in _BESIDE_THE_LIST
        return (parameter.spec.advanced or beside) and not parameter.required

    def _place_of(self, name: str) -> str | None:
        """The field at which an error stands: that of the list for a collection that nobody named."""
        if name not in self.fields:
            return None
        listed = {one.spec.source: one.name for one in self.parameters}
        return listed[IDS] if listed.get(NAMES) == name and IDS in listed and not self.cleaned_data.get(name) else name

    def _asked_for(self, parameter: Parameter) -> list[str]:
        if self.is_bound and isinstance(self.data, QueryDict):
            return self.data.getlist(parameter.name)
        asked = self.initial.get(parameter.name)
        return [str(one) for one in asked] if isinstance(asked, list | tuple) else [str(asked)] if asked else []

    def _row(self, parameter: Parameter) -> Row:
        bound = self[parameter.name]
        now = self.current.get(parameter.name)
        value = str(bound.value() or "")
        if parameter.spec.source == IDS:
            return Row(bound=bound, hint=self.about or None)
        if now is None or parameter.kind is bool or parameter.spec.source:
            return Row(bound=bound, side=parameter.spec.unit)
        unit = f" {parameter.spec.unit}" if parameter.spec.unit else ""
        if value in ("", now):
            return Row(
                bound=bound,
                side="unchanged" if not unit else f"{unit.strip()}, unchanged",
                unchanged=True,
                placeholder=now,
            )
        return Row(bound=bound, side=f"now {now}{unit}")


class ApprovalForm(forms.Form):
    """What a person adds to a plan: the name, the reason, what only a person can know. The service checks all of it."""

    FIELD_OF_CODE = {"NAME_NOT_TYPED": "typed_name", "REASON_MISSING": "reason", "IN_USE_UNKNOWN": "attest_unused"}

    parameters = forms.CharField(widget=forms.HiddenInput, max_length=1_000_000, strip=False)
    approval = forms.CharField(widget=forms.HiddenInput, max_length=4_000_000)
    typed_name = forms.CharField(label="Type the instance's name", required=False, max_length=200, strip=False)
    reason = forms.CharField(label="Reason", required=False, max_length=2000, help_text="Kept in the audit trail.")
    attest_unused = forms.BooleanField(label="No other process has this directory open.", required=False)

    prefix = "approve"

    def __init__(
        self,
        data: QueryDict | None = None,
        *,
        initial: Mapping[str, Any] | None = None,
        name: str = "",
        why_name: str = "",
    ) -> None:
        super().__init__(data, initial=dict(initial or {}))
        typed = self.fields["typed_name"]
        typed.help_text = why_name
        typed.widget.attrs |= {"autocomplete": "off", "spellcheck": "false", "autocapitalize": "off"}
        if name:
            typed.required = self.fields["reason"].required = True
            typed.widget.attrs["data-type-name"] = name
        self.asks_name = bool(name)


def given(known: Sequence[Parameter], cleaned: Mapping[str, Any]) -> dict[str, Any]:
    """What the fields said, for ``parse()``; a required text that was left empty was not given."""
    found = {}
    for parameter in known:
        value = cleaned.get(parameter.name)
        if parameter.many and isinstance(value, str):
            value = [line.strip("\r") for line in value.split("\n") if line.strip()]
        if value == "" and parameter.required:
            continue
        found[parameter.name] = value
    return found


def current_values(operation_class: AnyClass, plan: Plan) -> dict[str, str]:
    """The values that hold now, where the plan's changes name them as the parameters are named."""
    now = {change.what: change.now for change in plan.changes if change.now is not None}
    found = {}
    for parameter in parameters(operation_class):
        names = (parameter.name, parameter.label, *parameter.spec.aliases)
        value = next((now[name] for name in names if name in now), None)
        if value is not None:
            found[parameter.name] = value
    return found


def configured_values(operation_class: AnyClass, configuration: object) -> dict[str, str]:
    """The values of a configuration dataclass under the names of the parameters; empty for None."""
    if configuration is None:
        return {}
    values = {one.name: getattr(configuration, one.name) for one in fields(configuration)}  # type: ignore[arg-type]
    found = {}
    for parameter in parameters(operation_class):
        value = next((values[name] for name in (parameter.name, *parameter.spec.aliases) if name in values), None)
        if value is not None:
            found[parameter.name] = str(value)
    return found


def _initial(known: Sequence[Parameter], asked: QueryDict | None) -> dict[str, Any]:
    """Defaults, and over them what the address asks for; unknown names of the address are passed over."""
    initial: dict[str, Any] = {}
    for parameter in known:
        if asked is not None and parameter.name in asked:
            values = asked.getlist(parameter.name)
            if parameter.kind is bool and not parameter.many and not parameter.optional:
                initial[parameter.name] = values[-1].lower() in ("true", "1", "yes", "on")
            else:
                initial[parameter.name] = _shown(parameter, values) if parameter.many else values[-1]
        elif not parameter.required and parameter.default is not None:
            many = list(parameter.default) if parameter.many else parameter.default  # type: ignore[call-overload]
            initial[parameter.name] = _shown(parameter, many) if parameter.many else many
    return initial


def _shown(parameter: Parameter, values: Any) -> Any:
    """Several values as their widget takes them: a list for choices, lines for text."""
    if parameter.spec.choices or parameter.spec.source == IDS:
        return list(values)
    return "\n".join(str(value) for value in values)


def _nothing(parameter: Parameter) -> tuple[Any, ...]:
    default = parameter.default
    if parameter.many:
        default = _shown(parameter, default)
    return (None, "", [], default, str(default))


def _field(
    parameter: Parameter, collections: Sequence[CollectionChoice], asked: list[str], all_meant: bool
) -> forms.Field:
    spec = parameter.spec
    common: dict[str, Any] = {"label": parameter.label, "help_text": spec.help, "required": False}
    if collections and (spec.source == IDS or (spec.source == NAMES and not parameter.many)):
        return _collections_field(parameter, collections, asked, all_meant)
    if spec.choices or (parameter.kind is bool and parameter.optional):
        return _choice_field(parameter, common)
    if parameter.kind is bool:
        return forms.BooleanField(**common)
    attributes: dict[str, Any] = {"autocomplete": "off", "spellcheck": "false"}
    if parameter.many:
        common["help_text"] += " One per line."
        return forms.CharField(widget=forms.Textarea(attrs=attributes | {"rows": 2}), strip=False, **common)
    if parameter.kind in (int, float):
        attributes["inputmode"] = "numeric" if parameter.kind is int else "decimal"
    # Text is taken as it is typed: an id may begin or end with a space.
    field = forms.CharField(strip=parameter.kind is not str, widget=forms.TextInput(attrs=attributes), **common)
    field.required = parameter.required
    return field


def _choice_field(parameter: Parameter, common: dict[str, Any]) -> forms.Field:
    if parameter.kind is bool:
        choices = [("", _KEEP), ("true", "yes"), ("false", "no")]
    else:
        choices = [(choice, choice) for choice in parameter.spec.choices]
    if parameter.many:
        return forms.MultipleChoiceField(choices=choices, widget=forms.CheckboxSelectMultiple, **common)
    if parameter.optional and parameter.kind is not bool:
        choices.insert(0, ("", _KEEP))
    return forms.ChoiceField(choices=choices, **common)


class _OneOfMany(forms.MultipleChoiceField):
    """A list of which one is chosen, for a parameter that takes several."""

    def prepare_value(self, value: Any) -> Any:
        return (
            value[0]
            if isinstance(value, list | tuple) and value
            else ("" if isinstance(value, list | tuple) else value)
        )

    def to_python(self, value: Any) -> list[str]:
        return [one for one in super().to_python(value) if one]

    def validate(self, value: list[str]) -> None:
        # Required only in what the form says: a collection may be named in another field as well.
        for one in value:
            if not self.valid_value(one):
                raise forms.ValidationError(self.error_messages["invalid_choice"], params={"value": one})


class _OneSelect(forms.Select):
    """A plain select whose value travels as a list."""

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        return data.getlist(name) if hasattr(data, "getlist") else data.get(name)


def _collections_field(
    parameter: Parameter, collections: Sequence[CollectionChoice], asked: list[str], all_meant: bool
) -> forms.Field:
    """A list of what the store holds; what was asked for stays in it even where the store does not hold it."""
    choices = [(one.id if parameter.spec.source == IDS else one.name, one.label) for one in collections]
    held = {value for value, _ in choices}
    choices += [
        (value, f"{formats.visible(value)}  ·  not in this store") for value in asked if value and value not in held
    ]
    common: dict[str, Any] = {"label": "Collection", "required": False}
    if parameter.many and len([value for value in asked if value]) > 1:
        widget = forms.SelectMultiple(attrs={"size": min(8, len(choices))})
        return forms.MultipleChoiceField(choices=choices, widget=widget, **common)
    choices.insert(0, ("", "every collection" if all_meant else "choose a collection"))
    if parameter.many:
        return _OneOfMany(choices=choices, widget=_OneSelect, label="Collection", required=not all_meant)
    field = forms.ChoiceField(choices=choices, **common)
    field.required = parameter.required
    return field


def _all_meant(operation_class: AnyClass) -> bool:
    """Whether the operation takes no collection for all of them."""
    try:
        parse(operation_class, {})
    except BadParameters:
        return False
    return True
