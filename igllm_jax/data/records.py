"""Prepared TFDS data sets as sources."""

RECORDS_PREFIX = "tfds:"


def is_records(spec: object) -> bool:
    """Whether it names a split of a prepared TFDS data set, `tfds:NAME/SPLIT` or `tfds:FOLDER/SPLIT`."""
    return str(spec).startswith(RECORDS_PREFIX)


class Records:
    @classmethod
    def open(cls, spec: str):
        raise NotImplementedError

    spec: str

    def scenes(self, task: str):
        raise NotImplementedError
