"""What msgspec refuses, in OpenAI's words: a wrong parameter by its name, anything else as unparsable (rules E3, H12).

Cannot fail: an error whose words are not known becomes the 400 of a body that cannot be parsed.
"""

import re
from typing import Final

import msgspec

from sentinel.ops.errors import BadRequestError

# What msgspec raises on malformed text: more than its own errors (rule H12).
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

PARSE_MESSAGE: Final = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. "
    "The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)

# msgspec's words, held by tests/openai/test_wire.py.
_WRONG_TYPE: Final = re.compile(r"Expected `([a-z| ]+)`, got `([a-z]+)`(?: - at `\$\.?([a-z_\[\]\d]*)`)?$")
_WRONG_SIZE: Final = re.compile(r"Expected `(int|str|array)`( of length)? (>=|<=) (\d+) - at `\$\.([a-z_]+)`$")
_MISSING: Final = re.compile(r"Object missing required field `([a-z_]+)`$")
_WORDS: Final = {
    "int": "an integer",
    "float": "a decimal number",
    "str": "a string",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_SIZE_CODES: Final = {
    ("int", ">="): "integer_below_min_value",
    ("int", "<="): "integer_above_max_value",
    ("str", ">="): "empty_string",
    ("str", "<="): "string_above_max_length",
}


def refusal(error: Exception) -> BadRequestError:
    """The 400 for what msgspec raised, in OpenAI's wording: a wrong parameter by name, anything else as unparsable."""
    text = str(error) if isinstance(error, msgspec.ValidationError) else ""
    absent = _MISSING.match(text)
    if absent:
        return missing(absent[1])
    wrong = _WRONG_TYPE.match(text)
    if wrong:
        expected = " or ".join(_WORDS.get(kind, kind) for kind in wrong[1].split(" | ") if kind != "null")
        where = f"'{wrong[3]}'" if wrong[3] else "the request body"
        return BadRequestError(
            f"Invalid type for {where}: expected {expected}, but got {_WORDS.get(wrong[2], wrong[2])} instead.",
            param=wrong[3] or None,
            code="invalid_type",
        )
    size = _WRONG_SIZE.match(text)
    if size:
        kind, length, side, bound, name = size.groups()
        if (kind, side) == ("array", ">="):
            return empty_array(name)
        measure = f"{_WORDS[kind]} of length" if length else "a value"
        return BadRequestError(
            f"Invalid '{name}': expected {measure} {side} {bound}.", param=name, code=_SIZE_CODES[kind, side]
        )
    return BadRequestError(PARSE_MESSAGE)


def missing(name: str) -> BadRequestError:
    """The 400 for a parameter that must be given."""
    return BadRequestError(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def empty_array(name: str) -> BadRequestError:
    """The 400 for an array that must hold something."""
    message = f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    return BadRequestError(message, param=name, code="empty_array")


def mixed_array(name: str) -> BadRequestError:
    """The 400 for an array that is of no one kind (rule T4)."""
    return BadRequestError(
        f"Invalid type for '{name}': expected a string, an array of strings, an array of integers or an array of arrays of "
        "integers, but got a mixed array instead.",
        param=name,
        code="invalid_type",
    )
