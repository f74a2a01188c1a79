"""The one exception that means: the user's input is wrong."""


class UserError(ValueError):
    """Ends a command with one line and exit code 2.

    The message says what is wrong, which value, and what to do. Anything else that is raised is our
    fault, keeps its traceback and ends with exit code 1.
    """
