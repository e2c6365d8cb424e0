"""What one breakage is."""

from typing import NamedTuple


class Breakage(NamedTuple):
    """One edit that breaks a promise of docs/guarantees.md, and the tests that must fail with it."""

    promise: str
    """Its number there, such as `G4`."""
    name: str
    """What no longer holds, as a sentence."""
    file: str
    """Path from the repository's root."""
    old: str
    """Text that occurs once in the file."""
    new: str
    """What stands there instead."""
    tests: str
    """Arguments for pytest, as in a shell: few tests, for they run for this breakage alone."""

    def apply(self, text: str) -> str:
        """The broken file.

        Raises:
            ValueError: `old` does not occur exactly once.
        """
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: its text occurs {found} times in {self.file}")
        return text.replace(self.old, self.new)
