"""The one error class of the package."""


class MaskcliError(Exception):
    """What a user did that cannot work.

    The message is one sentence with the offending value, what was expected and what to do next.
    `maskcli.cli.main` prints it on standard error and exits with 2.
    """
