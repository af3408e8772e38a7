"""What clients are told of an error, where its own words are for the operator alone."""

from ownlm.errors import BaseModelError, CopyError, OwnlmError, PoolError, StoreBusyError, StoreError, UnknownUserError


def told(error: OwnlmError) -> OwnlmError:
    """The error, or another in its place; without the operator's commands.

    Errors of the home, and of bases, name files of the server. Errors of pools name people: who took their consent back
    is nobody else's business.
    """
    if isinstance(error, UnknownUserError):  # may suggest another user's name
        return told(error.without_name())
    if isinstance(error, StoreBusyError):
        return StoreBusyError("The server's database is busy", hint="try again in some seconds")
    if isinstance(error, CopyError):
        return CopyError(
            "Nothing was deleted: a file that somebody put among the server's own holds a copy of it",
            hint="tell who runs this server to remove that file, which `ownlm doctor` names; then delete again",
        )
    if isinstance(error, StoreError | BaseModelError):
        return OwnlmError(
            "The server cannot read or write what it needs",
            hint="tell who runs this server: `ownlm doctor` and the log say why",
        )
    if isinstance(error, PoolError):
        return PoolError(
            "The pool of pieces cannot be used just now: it waits for a withdrawal, is too small, or is damaged",
            hint="try again later, or ask to be trained; the operator's `ownlm doctor` says why",
        )
    if error.command is not None or (error.hint and "`ownlm " in error.hint):  # what only the operator can do
        return type(error)(error.what, got=error.got, expected=error.expected, hint="ask who runs this server")
    return error
