"""Why a run is not accepted, as errors with a code, a sentence and a hint."""

from ops.errors import OpsError, Outcome


class NotAllowed(OpsError):
    """The person may not do this."""

    code = "NOT_ALLOWED"
    message = "{why}"
    hint = "Ask an administrator for a role on this instance."


class ApprovalInvalid(OpsError):
    """The approval does not fit this request."""

    code = "APPROVAL_INVALID"
    message = "The approval can not be used: {why}."
    hint = "Look at the plan again and approve it."


class PlanRefused(OpsError):
    """A check of the plan stands in the way."""

    code = "PLAN_REFUSED"
    message = "{why}"
    hint = "Do what the check says, then look at the plan again."


class NameNotTyped(OpsError):
    """The instance's name was not typed, or not rightly."""

    code = "NAME_NOT_TYPED"
    message = "This needs the name of the instance, {name}, typed exactly."
    hint = "Type the name as it stands above the form."
    outcome = Outcome.USAGE


class ReasonMissing(OpsError):
    """Nobody said why."""

    code = "REASON_MISSING"
    message = "This needs a reason; it is kept in the audit trail."
    hint = "Say in a few words why it is done, or name the ticket."
    outcome = Outcome.USAGE


class AttestationMissing(OpsError):
    """Only a person can know that nobody uses the store, and no person said so."""

    code = "IN_USE_UNKNOWN"
    message = "{why}"
    hint = "Make sure that no other process has the store open, then attest it; the attestation is recorded."


class NotCancellable(OpsError):
    """The run has ended, or is past its commit point."""

    code = "NOT_CANCELLABLE"
    message = "Run {number} can not be cancelled: {why}."
    hint = "Look at its page for how it ended."
