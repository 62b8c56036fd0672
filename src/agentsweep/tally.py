"""What a process says that it has written to a file, for whoever finds that file later."""

from hashlib import sha256


class Tally:
    """Counts what is written to one file: records, bytes, and the SHA-256 of all of them."""

    def __init__(self) -> None:
        self._records = self._bytes = 0
        self._sha256 = sha256()

    def add(self, data: bytes | memoryview, records: int = 1) -> None:
        """Count data that is in the file now."""
        self._records += records
        self._bytes += len(data)
        self._sha256.update(data)

    def facts(self) -> dict[str, int | str]:
        """{records, bytes, sha256}, as `seal.make` compares them with the file."""
        return {
            "records": self._records,
            "bytes": self._bytes,
            "sha256": self._sha256.hexdigest(),
        }
