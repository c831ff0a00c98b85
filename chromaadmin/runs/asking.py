"""The page on which a run is asked for: the form of an operation, its plan, and what a person adds to approve it."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.http import QueryDict

from chromaadmin.instances.access import store_access
from chromaadmin.instances.models import Instance
from chromaadmin.runs.calls import calls_for
from chromaadmin.runs.forms import (
    IDS,
    NAMES,
    ApprovalForm,
    CollectionChoice,
    OperationForm,
    configured_values,
    current_values,
)
from chromaadmin.runs.models import MaintenanceRun
from chromaadmin.runs.permissions import Decision, may_run
from chromaadmin.runs.selectors import active_writer, run_by_id
from chromaadmin.runs.services import attestation_needed, confirmation_needed, preview_run, request_run
from chromaadmin.runs.watching import UNDO
from ops import reads
from ops.errors import BadParameters, OpsError
from ops.execute import Failure
from ops.operation import Operation, explanation, title, words
from ops.params import parameters, parse
from ops.plan import Plan

OFFERED = 1000


@dataclass(kw_only=True)
class Asking:
    """Everything the page shows about one operation on one instance, step by step."""

    user: User
    instance: Instance
    operation_class: type[Operation[Any]]
    form: OperationForm
    decision: Decision
    plan: Plan | None = None
    approval: ApprovalForm | None = None
    error: Failure | None = None
    writer: MaintenanceRun | None = field(default=None)

    @classmethod
    def begin(
        cls,
        user: User,
        instance: Instance,
        operation_class: type[Operation[Any]],
        *,
        data: QueryDict | None = None,
        asked: QueryDict | None = None,
    ) -> "Asking":
        """The form, with what the store holds to choose from; a store that can not be read is told, not raised."""
        collections, error = _collections(instance, operation_class)
        form = OperationForm(operation_class, data, asked=asked, collections=collections)
        if error is None:
            form.current, form.about = _now(instance, form)
        return cls(
            user=user,
            instance=instance,
            operation_class=operation_class,
            form=form,
            decision=may_run(user, operation_class, instance),
            error=error,
            writer=active_writer(instance),
        )

    @property
    def operation(self) -> Operation[Any] | None:
        """The operation value once the form is valid."""
        return self.form.operation

    def preview(self, answers: dict[str, Any] | None = None) -> None:
        """Plan the operation; ``answers`` are those of an approval that was not accepted, to be shown again."""
        operation = self.operation
        if operation is None:
            return
        try:
            plan, approval = preview_run(self.user, self.instance, operation)
        except OpsError as error:
            self.fail(error)
            return
        self.plan = plan
        self.form.current |= current_values(self.operation_class, plan)
        if approval:
            sealed = {"parameters": operation.canonical(), "approval": approval}
            self.approval = self._approval_form(operation, plan, initial=(answers or {}) | sealed)

    def approve(self, data: QueryDict, *, ip: str | None) -> MaintenanceRun | None:
        """Request the run; None when something is missing, which then stands at its field with a fresh plan."""
        sent = ApprovalForm(data)
        if not sent.is_valid():
            self.fail(BadParameters({"approval": "The form was not complete; look at the plan again."}))
            return None
        answers = {name: sent.cleaned_data[name] for name in ("typed_name", "reason", "attest_unused")}
        try:
            operation = parse(self.operation_class, _decoded(sent.cleaned_data["parameters"]))
            self.form = self._filled(operation)
            return request_run(
                self.user, self.instance, operation, approval=sent.cleaned_data["approval"], ip=ip,
                undo_of=undone_run(self.user, operation), **answers,
            )  # fmt: skip
        except OpsError as error:
            self._answer_again(error, answers)
        return None

    def run_now(self, *, ip: str | None) -> MaintenanceRun | None:
        """Request a READ, which needs no plan; None when it was not accepted."""
        if self.operation is None:
            return None
        try:
            return request_run(self.user, self.instance, self.operation, ip=ip)
        except OpsError as error:
            self.fail(error)
        return None

    def fail(self, error: OpsError) -> None:
        """Show an error: at the fields it names, else as a note."""
        fields = (
            error.details.get("fields") if isinstance(error, BadParameters) or error.code == "BAD_PARAMETERS" else None
        )
        named = (
            {name: text for name, text in fields.items() if name in self.form.fields}
            if isinstance(fields, dict)
            else {}
        )
        for name, sentence in named.items():
            if self.form.is_bound and name not in self.form.errors:
                self.form.add_error(name, str(sentence))
        if not named or not self.form.is_bound:
            self.error = Failure.of(error)

    def context(self) -> dict[str, Any]:
        """The values of the template."""
        operation, effect = self.operation, self.operation_class.declared.effect
        if operation is not None:
            effect = operation.effect
        return {
            "asking": self,
            "instance": self.instance,
            "environment": self.instance.environment,
            "form": self.form,
            "effect": effect,
            "title": title(self.operation_class),
            "explanation": [" ".join(part.split()) for part in explanation(self.operation_class).split("\n\n") if part],
            "words": " ".join(words(self.operation_class)),
            "reads_only": effect.value == "read",
            "destroys": effect.value == "destructive",
            "calls": calls_for(operation, self.instance) if operation is not None else [],
            "attestation": attestation_needed(self.plan) if self.plan is not None else "",
        }

    def _approval_form(self, operation: Operation[Any], plan: Plan, **rest: Any) -> ApprovalForm:
        if confirmation_needed(operation, self.instance):
            why = "This is production." if self.instance.is_production else "This removes or replaces what is stored."
            return ApprovalForm(name=self.instance.name, why_name=why, **rest)
        return ApprovalForm(**rest)

    def _answer_again(self, error: OpsError, answers: dict[str, Any]) -> None:
        self.preview(answers)
        place = ApprovalForm.FIELD_OF_CODE.get(error.code)
        if self.approval is None or place is None:
            self.error = Failure.of(error)
            return
        # The fields are shown as they were sent; the plan and its approval are new.
        shown = self.approval.initial
        self.approval.is_bound = True
        self.approval.data = {self.approval.add_prefix(name): value for name, value in shown.items()}
        self.approval.full_clean()
        self.approval.errors.pop(place, None)
        self.approval.add_error(place, str(error))

    def _filled(self, operation: Operation[Any]) -> OperationForm:
        """The form as bound to an operation value, so that it can be shown and planned again."""
        data = QueryDict(mutable=True)
        for parameter in parameters(self.operation_class):
            value = getattr(operation, parameter.name)
            if isinstance(value, tuple):
                lines = not (parameter.spec.choices or parameter.spec.source == IDS)
                data.setlist(parameter.name, ["\n".join(map(str, value))] if lines else [str(one) for one in value])
            elif value is not None:
                data[parameter.name] = str(value).lower() if isinstance(value, bool) else str(value)
        collections, _ = _collections(self.instance, self.operation_class)
        form = OperationForm(self.operation_class, data, collections=collections)
        form.is_valid()
        return form


def undone_run(user: User, operation: Operation[Any]) -> MaintenanceRun | None:
    """The run that an operation undoes, when it is one that the user may see; a run of a bare path is none of ours."""
    if operation.name != UNDO:
        return None
    try:
        return run_by_id(user, UUID(str(getattr(operation, "run_id", ""))))
    except ValueError:
        return None


def _decoded(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BadParameters({"parameters": "The form was changed on its way."})
    return value


def _collections(
    instance: Instance, operation_class: type[Operation[Any]]
) -> tuple[list[CollectionChoice], Failure | None]:
    if not any(parameter.spec.source in (NAMES, IDS) for parameter in parameters(operation_class)):
        return [], None
    try:
        found = store_access(instance).read(reads.collection_choices, limit=OFFERED)
    except OpsError as error:
        return [], Failure.of(error)
    return [CollectionChoice(id=one.id, name=one.name, tenant=one.tenant, database=one.database) for one in found], None


def _now(instance: Instance, form: OperationForm) -> tuple[dict[str, str], str]:
    """What holds of the one collection the form is about: its configuration by parameter, and a sentence."""
    chosen = form.chosen_collection()
    if not chosen:
        return {}, ""
    try:
        found = store_access(instance).read(reads.collection, collection_id=chosen)
    except OpsError:
        return {}, ""
    row = found.row
    known = [(row.records, "records"), (row.tombstones, "tombstones")]
    about = ", ".join(f"{many:,} {noun}" for many, noun in known if many is not None)
    return configured_values(form.operation_class, found.configuration), about
