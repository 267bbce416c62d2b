"""Asks Go and Node what they read of every spelling, and writes it down."""

import json

from tests.support.form_readers import COMMANDS, RECORDED, by_command
from tests.support.form_readers.spellings import HONEST, SPELLINGS

_SHOWN_CHARACTERS_MAX = 200


def _shown(text: str) -> str:
    """The end of a long text: what fills it says nothing."""
    return text[-_SHOWN_CHARACTERS_MAX:]


def main() -> None:
    """Write tests/support/form_readers/readings.json."""
    forms = SPELLINGS | HONEST
    read = {reader: dict(zip(forms, by_command(reader, list(forms.values())), strict=True)) for reader in COMMANDS}
    shown = {
        reader: {form: [[*map(_shown, part)] for part in reading] for form, reading in readings.items()}
        for reader, readings in read.items()
    }
    RECORDED.write_text(json.dumps(shown, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
