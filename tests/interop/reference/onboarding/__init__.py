"""The onboarding protocol GSO v1, written from docs/protocol.md and the pages under it, and from nothing else of ours.

It is a reference, not a product: it holds keys in memory and draws nothing at random.
"""


class Refused(Exception):
    """A check that failed, with its code of docs/protocol.md."""

    def __init__(self, code, why=""):
        super().__init__(f"{code}: {why}")
        self.code = code


def must(holds, code, why=""):
    """The check of one sentence in docs/protocol/checks.md."""
    if not holds:
        raise Refused(code, why)
