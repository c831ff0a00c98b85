"""What can be expected to fail when an instance is registered or looked for."""

from ops.errors import OpsError, Outcome


class DuplicateInstance(OpsError):
    """The same directory, by device and inode, is registered already."""

    code = "DUPLICATE_INSTANCE"
    message = "{path} is registered already, as {name}."
    hint = "Use that instance; one directory has one registration, by whatever path it is reached."


class NestedInstance(DuplicateInstance):
    """One directory lies inside the other: what is done to one would happen inside the other."""

    message = "{path} and {other}, registered as {name}, lie one inside the other."
    hint = "Give every store a directory of its own."


class NameTaken(OpsError):
    """Two instances can not share a name: it is what people type to confirm."""

    code = "NAME_TAKEN"
    message = "There is an instance called {name} already."
    hint = "Choose another name."
    outcome = Outcome.USAGE


class OutsideRoots(OpsError):
    """The path is not below a directory that may be registered from."""

    code = "OUTSIDE_ROOTS"
    message = "{path} does not lie below a directory from which stores may be registered."
    hint = (
        "An operator of this host can allow a directory with CHROMAADMIN_ROOTS,"
        " or register this one with `manage.py instance add`."
    )


class NoSuchInstance(OpsError):
    """There is no instance of that name."""

    code = "NO_SUCH_INSTANCE"
    message = "There is no instance called {name}."
    hint = "`manage.py instance list` shows all of them."
    outcome = Outcome.USAGE


class OtherHost(OpsError):
    """The directory lies on a machine that this process can not read."""

    code = "OTHER_HOST"
    message = "The directory of {name} lies on host {host}; this process runs on {here}."
    hint = "Run `manage.py worker` on that host; its figures are shown from the last look."
